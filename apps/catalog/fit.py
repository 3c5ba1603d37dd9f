"""Where a model fits: which variant, on which hosts, with how much KV cache, or why not.

Decides over all hosts: the variant that stands first in the entry's `recommended` list wins, on
GPUs before CPU. One host's answer is `apps.catalog.answer`, the arithmetic `apps.catalog.need`.
Called by the deployments app for plans and placement, and by the catalog's pages; what they need
of the fit is imported from here. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from apps.catalog.across import GroupFit, across_hosts
from apps.catalog.answer import HostFit, Wish, answers, refuse
from apps.catalog.entry import Device, Entry, Variant
from apps.catalog.need import Need, estimate
from apps.catalog.remedies import remedies
from apps.catalog.rooms import GpuRoom, HostRoom
from apps.catalog.settings import BadSetting, engine_settings

__all__ = [
    "Choice",
    "DoesNotFit",
    "Fit",
    "GpuRoom",
    "GroupFit",
    "HostFit",
    "HostRoom",
    "Need",
    "Wish",
    "choose_variant",
    "estimate",
    "fit",
    "with_remedies",
]


HELPED_HOSTS = 20
"""For so many hosts that are too full the change is looked for that would help."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One answer a host, the hosts in the order they were given."""

    hosts: tuple[HostFit, ...]
    nearest: HostFit | None = None
    """When nothing that was wished fits: another variant that does."""
    group: GroupFit | None = None
    """When no host fits alone: hosts that hold it together."""

    @property
    def fits(self) -> bool:
        return any(host.fits for host in self.hosts)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A variant that fits, and the hosts that can take it, the roomiest first."""

    variant: Variant
    device: Device
    hosts: tuple[HostFit, ...]

    @property
    def best(self) -> HostFit:
        return self.hosts[0]


class DoesNotFit(Exception):
    """No host can take the model alone; says why for each host, and what would fit."""

    def __init__(self, slug: str, fit: Fit) -> None:
        self.reasons = tuple(f"{host.host}: {host.reason}" for host in fit.hosts)
        self.nearest = fit.nearest
        self.missing_bytes = min((h.missing_bytes for h in fit.hosts if h.missing_bytes), default=0)
        why = "; ".join(self.reasons) or "no host has joined yet"
        hint = f". Nearest that fits: {_named(fit.nearest)}" if fit.nearest else ""
        self.group = fit.group
        super().__init__(f"{slug} fits no host: {why}{hint}.")


def choose_variant(entry: Entry, rooms: Sequence[HostRoom], wish: Wish) -> Choice:
    """Return the first recommended variant that fits a host, GPUs before CPU.

    Raises DoesNotFit with the reasons, UnknownVariant for a wish that does not exist, and
    BadSetting if the wished settings are wrong for every variant.
    """
    variants = _wished_variants(entry, wish)
    for device in (Device.CUDA, Device.CPU):
        for variant in variants:
            taken = [a for a in answers(variant, device, rooms, wish) if a.fits]
            if taken:
                taken.sort(key=lambda answer: (-answer.kv_tokens, answer.host))
                return Choice(variant=variant, device=device, hosts=tuple(taken))
    raise DoesNotFit(entry.slug, fit(entry, variants, rooms, wish))


def fit(entry: Entry, variants: Sequence[Variant], hosts: Sequence[HostRoom], wish: Wish) -> Fit:
    """Return for each host the first of `variants` that fits, else the one that misses least."""
    found = tuple(_best_on_host(variants, room, wish) for room in hosts)
    if any(answer.fits for answer in found):
        return Fit(hosts=found)
    others = [variant for variant in entry.ranked_variants if variant not in variants]
    free = replace(wish, variant=None)
    groups = (across_hosts(variant, hosts, wish) for variant in variants)
    return Fit(
        hosts=found,
        nearest=_first_that_fits(others, hosts, free),
        group=next((group for group in groups if group), None),
    )


def with_remedies(
    entry: Entry, found: Sequence[HostFit], hosts: Sequence[HostRoom], wish: Wish
) -> tuple[HostFit, ...]:
    """Return the answers of `hosts` with the changes that would help where memory is short.

    Tries some ten orders on each of at most HELPED_HOSTS: for a page of one model, not for a list.
    """
    helped = 0
    answered = []
    for answer, room in zip(found, hosts, strict=True):
        if not answer.fits and answer.missing_bytes and helped < HELPED_HOSTS:
            helped += 1
            answer = replace(answer, remedies=remedies(entry, answer, room, found, wish))
        answered.append(answer)
    return tuple(answered)


def _wished_variants(entry: Entry, wish: Wish) -> tuple[Variant, ...]:
    """Return the variants to try in order. Raises BadSetting if the settings suit none of them."""
    if wish.variant is not None:
        variants: tuple[Variant, ...] = (entry.variant(wish.variant),)
    else:
        variants = entry.ranked_variants
    errors = [_wrong_settings(variant, wish) for variant in variants]
    if all(errors) and errors[0] is not None:
        raise errors[0]
    return variants


def _wrong_settings(variant: Variant, wish: Wish) -> BadSetting | None:
    """Return the first error if the wish's settings are wrong on every wished device."""
    devices = [wish.device] if wish.device else list(variant.devices)
    errors: list[BadSetting] = []
    for device in devices:
        try:
            engine_settings(variant, device, wish.engine)
        except BadSetting as error:
            errors.append(error)
    return errors[0] if len(errors) == len(devices) else None


def _first_that_fits(
    variants: Sequence[Variant], hosts: Sequence[HostRoom], wish: Wish
) -> HostFit | None:
    for variant in variants:
        for device in (Device.CUDA, Device.CPU):
            for answer in answers(variant, device, hosts, wish):
                if answer.fits:
                    return answer
    return None


def _best_on_host(variants: Sequence[Variant], room: HostRoom, wish: Wish) -> HostFit:
    found = [
        answer
        for device in (Device.CUDA, Device.CPU)
        for variant in variants
        for answer in answers(variant, device, [room], wish)
    ]
    if not found:
        return _device_missing(variants[0], room, wish)
    fitting = [answer for answer in found if answer.fits]
    if fitting:
        return fitting[0]
    # What the host's own devices say tells more than that it has no others.
    return min(found, key=lambda a: (a.device not in room.devices, a.missing_bytes or math.inf))


def _device_missing(variant: Variant, room: HostRoom, wish: Wish) -> HostFit:
    wanted = wish.device or next(iter(variant.devices))
    runs_on = ", ".join(variant.devices)
    return refuse(variant, wanted, room, f"it runs on {runs_on}, the order wants {wanted}")


def _named(answer: HostFit) -> str:
    return f"variant {answer.variant} on {answer.device} of {answer.host}"
