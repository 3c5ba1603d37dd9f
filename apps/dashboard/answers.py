"""How a page answers an order: carried out and back to where it came from, or refused with why."""

from collections.abc import Callable
from http import HTTPStatus

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.http import url_has_allowed_host_and_scheme

from apps.lib.problems import Problem


def carry_out(
    request: HttpRequest, order: Callable[[], object], *, done: str, to: str
) -> HttpResponse:
    """Run `order` and go to `next` or `to`, with `done` or the refusal as a message."""
    try:
        order()
    except Problem as problem:
        messages.error(request, problem.detail)
    else:
        if done:
            messages.success(request, done)
    return back(request, to)


def back(request: HttpRequest, to: str) -> HttpResponseRedirect:
    """Return a redirect (303) to the form's `next` when it is a page of ours, else to `to`."""
    wanted = request.POST.get("next", "")
    ours = url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    response = HttpResponseRedirect(wanted if ours else to)
    response.status_code = HTTPStatus.SEE_OTHER
    return response


def or_404[T](read: Callable[[], T]) -> T:
    """Return what `read` finds. Raises Http404 with its sentence when it finds nothing."""
    try:
        return read()
    except Problem as problem:
        raise Http404(problem.detail) from problem


def name_was_typed(request: HttpRequest, name: str) -> bool:
    """Return whether the dialog's typed name is the right one; else leave a message."""
    if request.POST.get("confirm", "").strip() == name:
        return True
    messages.error(request, f"Nothing was deleted: type {name} to confirm.")
    return False
