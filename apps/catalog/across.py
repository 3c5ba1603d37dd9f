"""A model that outgrows every host: tensor parallel inside each host, one pipeline stage a host.

Tensor parallelism wants the links inside a host, pipeline stages pass little between them: vLLM's
own advice for several nodes. The hosts that are tried together are asked as one room, so memory,
kinds and learned parts count as everywhere; the GPU with the least room decides. Pure; called by
`apps.catalog.fit` when no host fits alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from agents.wire import EngineSettings
from apps.catalog.answer import HostFit, Wish, ask
from apps.catalog.entry import Device, Variant
from apps.catalog.rooms import GpuRoom, HostRoom
from apps.catalog.settings import BadSetting, engine_settings, splits_evenly

MOST_HOSTS = 8
"""More stages than that leave most GPUs waiting for the others."""


@dataclass(frozen=True, kw_only=True)
class GroupFit:
    """Hosts that hold a model together."""

    hosts: tuple[str, ...]
    """By how much room they have; placement gives them their ranks."""
    gpu_kind: str
    gpus_each: int
    fit: HostFit
    """The answer of all of them as one; its settings hold both ways of splitting."""

    def __str__(self) -> str:
        names = ", ".join(self.hosts)
        settings = self.fit.settings or EngineSettings()
        gpus = f"{self.gpus_each} GPU{'s' * (self.gpus_each != 1)}"
        return (
            f"{names} hold {self.fit.variant} together: {gpus} of kind "
            f"{self.gpu_kind} each, `tensor_parallel_size` {settings.tensor_parallel_size} within "
            f"a host and `pipeline_parallel_size` {settings.pipeline_parallel_size} across them"
        )


@dataclass(frozen=True)
class _Offer:
    """What one host has free of one kind, the emptiest GPU first."""

    room: HostRoom
    gpus: tuple[GpuRoom, ...]


def across_hosts(variant: Variant, rooms: Sequence[HostRoom], wish: Wish) -> GroupFit | None:
    """Return the fewest hosts, and of those the fewest GPUs, that hold `variant` together.

    None where none do, and for orders that name a host or take a fraction of a GPU.
    """
    if wish.host or wish.gpu_ratio is not None or Device.CUDA not in variant.devices:
        return None
    try:
        settings = engine_settings(variant, Device.CUDA, wish.engine)
    except BadSetting:
        return None
    kinds = {gpu.kind or gpu.name for room in rooms for gpu in room.gpus}
    offers = {kind: _offers(kind, rooms) for kind in sorted(kinds)}
    for hosts, each in _sizes(variant, settings, wish):
        for kind, all_offers in offers.items():
            chosen = _roomiest(all_offers, hosts, each)
            if chosen and (fit := _together(variant, settings, chosen, each, wish)):
                return GroupFit(
                    hosts=tuple(offer.room.name for offer in chosen),
                    gpu_kind=kind,
                    gpus_each=each,
                    fit=fit,
                )
    return None


def _sizes(variant: Variant, settings: EngineSettings, wish: Wish) -> Iterator[tuple[int, int]]:
    """Yield (hosts, GPUs on each) to try: the fewest hosts first, then the fewest GPUs."""
    stages, split = settings.pipeline_parallel_size, settings.tensor_parallel_size
    hosts = (stages,) if stages > 1 else range(2, MOST_HOSTS + 1)
    each = (split,) if "tensor_parallel_size" in wish.engine else (1, 2, 4, 8, 16)
    for count in hosts:
        for gpus in each:
            if 1 < count <= variant.shape.layers and splits_evenly(variant.shape, gpus):
                yield count, gpus


def _offers(kind: str, rooms: Sequence[HostRoom]) -> list[_Offer]:
    return [
        _Offer(
            room,
            tuple(
                sorted(
                    (g for g in room.gpus if (g.kind or g.name) == kind and _is_free(g)),
                    key=lambda gpu: (-gpu.free_bytes, gpu.uuid),
                )
            ),
        )
        for room in rooms
    ]


def _is_free(gpu: GpuRoom) -> bool:
    return not (gpu.taken or gpu.shared or gpu.is_slice)


def _roomiest(offers: Sequence[_Offer], hosts: int, each: int) -> list[_Offer]:
    """Return the `hosts` whose fullest GPU of `each` has the most room; empty if they are fewer."""
    able = [offer for offer in offers if len(offer.gpus) >= each]
    able.sort(key=lambda offer: (-offer.gpus[each - 1].free_bytes, offer.room.name))
    return able[:hosts] if len(able) >= hosts else []


def _together(
    variant: Variant, settings: EngineSettings, offers: Sequence[_Offer], each: int, wish: Wish
) -> HostFit | None:
    """Return the answer of the offers as one room, None if it is no."""
    first = offers[0].room
    # NVLink ends at the host, and each host's uuids are its own.
    gpus = tuple(
        replace(gpu, nvlink_group=None, uuid=f"{offer.room.name}/{gpu.uuid}")
        for offer in offers
        for gpu in offer.gpus[:each]
    )
    if sum(gpu.free_bytes for gpu in gpus) < variant.weight_bytes:
        return None  # most sizes end here, without the whole question
    room = replace(
        first,
        name=" + ".join(offer.room.name for offer in offers),
        gpus=gpus,
        labels={k: v for k, v in first.labels.items() if _all_have(offers, k, v)},
    )
    split = msgspec.structs.replace(
        settings, tensor_parallel_size=each, pipeline_parallel_size=len(offers)
    )
    # A size that the order gives is not tried in others' place.
    asked = {"tensor_parallel_size": each, "pipeline_parallel_size": len(offers)}
    fit = ask(variant, Device.CUDA, room, split, replace(wish, engine={**wish.engine, **asked}))
    return fit if fit.fits else None


def _all_have(offers: Sequence[_Offer], label: str, value: str) -> bool:
    return all(offer.room.labels.get(label) == value for offer in offers)
