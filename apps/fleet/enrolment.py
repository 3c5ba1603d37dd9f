"""How a machine becomes a host: one-time join tokens, and the credential they are traded for.

Only digests of tokens and credentials are kept. An enrolment whose answer was lost on the way may
be repeated with the same token by the same agent folder (`install_id`) until the token expires.
"""

import re
from datetime import datetime, timedelta

import msgspec
from django.db import IntegrityError, transaction

from agents.wire import EnrolReply, EnrolRequest, encode
from apps.accounts.actions import audit
from apps.fleet.models import Host, JoinToken
from apps.fleet.states import HostState
from apps.lib import doorbell, live, secrets
from apps.lib.problems import Problem

JOIN_TOKEN_LIFE = timedelta(hours=1)

_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")
_NAME_LIMIT = 63
_INSTALL_ID_LIMIT = 64


@transaction.atomic
def create_join_token(*, actor: str, now: datetime) -> tuple[JoinToken, str]:
    """Make a token that enrols one host within an hour; return it and its secret, kept nowhere."""
    secret = secrets.make("hearth-join")
    token = JoinToken.objects.create(
        sha256=secrets.digest(secret),
        created_by=actor,
        created_at=now,
        expires_at=now + JOIN_TOKEN_LIFE,
    )
    audit(actor=actor, action="join_token.created", target=str(token.pk))
    return token, secret


@transaction.atomic
def revoke_join_token(*, token: JoinToken, actor: str, now: datetime) -> None:
    """Make `token` useless from now on; a used or expired one stays as it is."""
    if JoinToken.objects.filter(pk=token.pk, used_at=None, expires_at__gt=now).update(
        expires_at=now
    ):
        audit(actor=actor, action="join_token.revoked", target=str(token.pk))


@transaction.atomic
def enrol(request: EnrolRequest, incarnation: str, now: datetime) -> tuple[Host, EnrolReply]:
    """Trade a join token for a host's credential.

    The same `install_id` under the same name is the same host: it gets a new credential and the
    old one dies. Raises Problem 401 `join_token_unknown|_used|_expired`, 409 `host_name_taken` or
    `install_id_taken`, 422 `host_name_invalid` or `install_id_invalid`.
    """
    token = _usable_token(request, now)
    name = _host_name(request.host_name)
    _check_install_id(request.install_id)
    host = _host_to_enrol(name, request.install_id)
    credential = secrets.make("hearth-host")
    is_new = host is None
    if host is None:
        host = _new_host(name, request.install_id, now)
    host.credential_sha256 = secrets.digest(credential)
    host.inventory = msgspec.json.decode(encode(request.inventory))
    host.last_seen_at = now
    _save(host, is_new=is_new)
    _use(token, host, now)
    audit(
        actor=token.created_by,
        action="host.enrolled" if is_new else "host.enrolled_again",
        target=host.name,
        data={"join_token": token.pk, "hostname": request.inventory.hostname},
    )
    doorbell.ring(doorbell.CONTROLLER)
    live.publish(live.FLEET, "host", host=host.name)
    return host, EnrolReply(
        host_id=str(host.pk), host_name=host.name, credential=credential, incarnation=incarnation
    )


def _usable_token(request: EnrolRequest, now: datetime) -> JoinToken:
    digest = secrets.digest(request.token)
    token = JoinToken.objects.select_for_update(of=("self",)).filter(sha256=digest).first()
    if token is None:
        raise _refused("join_token_unknown", "The join token is not known.")
    if token.expires_at <= now:
        raise _refused("join_token_expired", "The join token is no longer valid.")
    if token.used_at is not None and not _is_repeat(token, request):
        raise _refused("join_token_used", "The join token was used before; it is good for once.")
    return token


def _refused(code: str, sentence: str) -> Problem:
    return Problem(401, code, f"{sentence} Make a new one on the page Hosts.")


def _is_repeat(token: JoinToken, request: EnrolRequest) -> bool:
    return token.host is not None and token.host.install_id == request.install_id


def _use(token: JoinToken, host: Host, now: datetime) -> None:
    if token.used_at is not None:
        return
    changed = JoinToken.objects.filter(pk=token.pk, used_at=None).update(used_at=now, host=host)
    if not changed:
        raise _refused("join_token_used", "The join token was used by another host just now.")


def _host_name(given: str) -> str:
    """Return `given` as a host's name: `GPU_01.lan` -> `gpu-01-lan`."""
    name = _NOT_IN_NAMES.sub("-", given.lower())[:_NAME_LIMIT].strip("-")
    if not name:
        raise Problem(
            422,
            "host_name_invalid",
            f"host_name: {given!r} has no letter or digit; start the agent with --name.",
            extra={"field": "host_name"},
        )
    return name


def _check_install_id(install_id: str) -> None:
    if not 1 <= len(install_id) <= _INSTALL_ID_LIMIT:
        raise Problem(
            422,
            "install_id_invalid",
            f"install_id: give 1 to {_INSTALL_ID_LIMIT} characters.",
            extra={"field": "install_id"},
        )


def _host_to_enrol(name: str, install_id: str) -> Host | None:
    """Return the host that this agent folder already is, None if it is to be a new one."""
    same_folder = Host.objects.select_for_update().filter(install_id=install_id).first()
    if same_folder is not None and same_folder.name != name:
        raise Problem(
            409,
            "install_id_taken",
            f"This agent's folder is enrolled as the host `{same_folder.name}` already. If it was "
            "copied from another machine, empty it and enrol again.",
            extra={"field": "install_id"},
        )
    if same_folder is None and Host.objects.filter(name=name).exists():
        raise _name_taken(name)
    return same_folder


def _save(host: Host, *, is_new: bool) -> None:
    """Write `host`; of two that enrol under one name at the same moment, one is refused."""
    try:
        with transaction.atomic():
            host.save(force_insert=is_new)
    except IntegrityError as error:
        raise _name_taken(host.name) from error


def _name_taken(name: str) -> Problem:
    return Problem(
        409,
        "host_name_taken",
        f"A host `{name}` exists already. Start this agent with another --name, or delete "
        "that host first.",
        extra={"field": "host_name"},
    )


def _new_host(name: str, install_id: str, now: datetime) -> Host:
    return Host(
        name=name,
        install_id=install_id,
        relay_key=secrets.make("hearth-relay"),
        state=HostState.READY,
        state_at=now,
        last_seen_at=now,
        created_at=now,
    )
