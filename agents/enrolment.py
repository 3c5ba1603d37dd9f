"""Become a host of the control plane: trade the join token for a credential, once.

Called by `agents.__main__` at every start; with a credential on the disk it does nothing.
"""

import asyncio
import logging

import msgspec

from agents.assembly import engine_versions
from agents.inventory import Host
from agents.link import Backoff, Link, Refused, Unreachable
from agents.settings import Settings, UsageError
from agents.store import Identity, Store
from agents.wire import EnrolRequest

log = logging.getLogger("hearth.agent")


async def enrolled(given: Settings, store: Store, link: Link, host: Host) -> Identity:
    """Return who this host is and give `link` its credential; enrol if it has none.

    Tries for as long as the control plane cannot be reached. Raises UsageError if there is no
    token or it is refused.
    """
    identity = store.identity()
    if not identity.credential:
        identity = await _enrol(given, identity, link, host)
        store.save_identity(identity)
    link.credential = identity.credential
    return identity


async def _enrol(given: Settings, identity: Identity, link: Link, host: Host) -> Identity:
    if not given.join_token:
        raise UsageError(
            "this host is not enrolled yet: make a join token on the page Hosts "
            "and give it with --join-token"
        )
    request = EnrolRequest(
        token=given.join_token,
        host_name=given.host_name,
        install_id=identity.install_id,
        inventory=host.inventory(engine_versions(), relay_url=""),
    )
    backoff = Backoff(0.5, 15.0)
    while True:
        try:
            reply = await link.enrol(request)
        except Refused as refusal:
            raise UsageError(f"the control plane refused this host: {refusal}") from refusal
        except Unreachable as error:
            level = logging.DEBUG if backoff.failures else logging.WARNING
            log.log(level, "cannot reach %s to enrol, trying on: %s", given.control_plane, error)
            await asyncio.sleep(backoff.next_seconds())
        else:
            return msgspec.structs.replace(
                identity,
                host_id=reply.host_id,
                host_name=reply.host_name,
                credential=reply.credential,
            )
