"""Which role a page's action needs; pages hide what a person may not do, and this refuses it."""

from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Concatenate, cast

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from apps.accounts.models import User
from apps.accounts.permissions import role_of
from apps.accounts.states import Role, allows

type View[**P] = Callable[Concatenate[HttpRequest, P], HttpResponse]


def user_of(request: HttpRequest) -> User:
    """Return the signed-in user; LoginRequiredMiddleware has made sure there is one."""
    return cast(User, request.user)


def may(user: User, needed: Role) -> bool:
    """Return whether `user` may do what needs the role `needed`."""
    return allows(role_of(user), needed)


def needs[**P](role: Role) -> Callable[[View[P]], View[P]]:
    """Make a view answer 403 with a page that names the missing role."""

    def decorate(view: View[P]) -> View[P]:
        def checked(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
            if not may(user_of(request), role):
                return refused(request, role)
            return view(request, *args, **kwargs)

        return cast(View[P], wraps(view)(checked))

    return decorate


def refused(request: HttpRequest, role: Role) -> HttpResponse:
    """Return the 403 page: which role is needed, and which one the person has."""
    context = {"needed": role, "held": role_of(user_of(request))}
    return render(request, "dashboard/refused.html", context, status=HTTPStatus.FORBIDDEN)
