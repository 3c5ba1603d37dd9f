"""Who may lend a host the weights that it may have to bring: what its agent asks before the source.

A host lends what lies there whole, by its own word, while it is ready and its relay is up. Whether
the weights are for a replica or were ordered ahead makes no difference. Called by `desired`.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import reduce
from operator import or_
from typing import NamedTuple
from uuid import UUID

from django.db.models import Q

from agents.wire import EngineSpec, Lenders, Peer, WeightsRef
from apps.fleet.models import Host
from apps.fleet.states import HostState
from apps.lib import secrets

MOST_PEERS = 3
"""Hosts named to one that is to copy weights."""


class _Lender(NamedTuple):
    name: str
    url: str
    relay_key: str
    weights: dict[str, str]


def weights_key(relay_key: str) -> str:
    """Return the key with which other hosts copy weights: it opens no model."""
    return secrets.digest(f"weights:{relay_key}")


def keys_of(spec: EngineSpec) -> Iterator[str]:
    """Yield the keys of everything that a start of `spec` brings."""
    yield from keys_of_weights(spec.weights)
    for adapter in spec.adapters:
        yield from keys_of_weights(adapter.weights)
    if spec.draft is not None:
        yield from keys_of_weights(spec.draft)


def keys_of_weights(ref: WeightsRef) -> Iterator[str]:
    """Yield the key of `ref` and of all that would do instead."""
    yield ref.key
    for other in ref.alternatives:
        yield from keys_of_weights(other)


def for_host(host_id: UUID, keys: Collection[str]) -> tuple[Lenders, ...]:
    """Return who else has weights of these keys whole. One query, none without a key."""
    if not keys:
        return ()
    hosts = list(_holding(host_id, keys))
    named = (_named(host_id, key, hosts) for key in sorted(keys))
    return tuple(lenders for lenders in named if lenders is not None)


def _holding(host_id: UUID, keys: Iterable[str]) -> Iterator[_Lender]:
    """Yield the hosts that could lend any of `keys`, those first that were enrolled first."""
    holds = reduce(or_, (Q(inventory__weights__has_key=key) for key in keys))
    rows = (
        Host.objects.filter(holds, state=HostState.READY)
        .exclude(pk=host_id)
        .exclude(relay_key="")
        .order_by("created_at", "id")
        .values_list("name", "inventory__relay_url", "relay_key", "inventory__weights")
    )
    return (_Lender(*row) for row in rows if row[1])


def _named(host_id: UUID, key: str, hosts: Iterable[_Lender]) -> Lenders | None:
    """Return those that have `key` as most hosts have it; of a tie, as the first of them has it.

    Each borrower gets them in an order of its own, so that many do not ask one.
    """
    having = [host for host in hosts if key in host.weights]
    if not having:
        return None
    ((checksum, _),) = Counter(host.weights[key] for host in having).most_common(1)
    same = [host for host in having if host.weights[key] == checksum]
    same.sort(key=lambda host: secrets.digest(f"{host_id}:{host.name}"))
    peers = (
        Peer(host=host.name, url=host.url, key=weights_key(host.relay_key))
        for host in same[:MOST_PEERS]
    )
    return Lenders(weights_key=key, tree_sha256=checksum, peers=tuple(peers))
