"""Which single change would make a model fit on a host that has too little memory for it.

Each change is tried by asking the host again with that change alone, so what is offered does fit.
At most one of each kind, the least painful first. Called by `apps.catalog.fit`. Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from apps.catalog import shapes
from apps.catalog.answer import HostFit, Wish, answers
from apps.catalog.entry import Device, Entry
from apps.catalog.need import DEFAULT_SEQUENCES
from apps.catalog.rooms import HostRoom

_PARALLEL_SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One change of the order after which it fits."""

    kind: str
    """`host`, `variant`, `kv_cache_dtype`, `tensor_parallel`, `concurrency` or `context`."""
    value: str | int
    sentence: str
    engine: Mapping[str, Any] = field(default_factory=dict)
    """The engine setting to change, where it is one."""


def remedies(
    entry: Entry, no: HostFit, room: HostRoom, others: Sequence[HostFit], wish: Wish
) -> tuple[Remedy, ...]:
    """Return the changes that make the answer `no` of `room` a yes; empty if no single one does.

    `others` are the answers of all hosts to the same wish.
    """
    case = _Case(entry, no, room, wish)
    tried = (
        _other_host(no, others),
        next(case.variants(), None),
        next(case.cache_types(), None),
        next(case.splits(), None),
        next(case.concurrencies(), None),
        next(case.contexts(), None),
    )
    return tuple(remedy for remedy in tried if remedy is not None)


def _other_host(no: HostFit, others: Sequence[HostFit]) -> Remedy | None:
    yes = next((other for other in others if other.fits and other.host != no.host), None)
    if yes is None:
        return None
    return Remedy(kind="host", value=yes.host, sentence=f"it fits on {yes.host}")


@dataclass(frozen=True)
class _Case:
    entry: Entry
    no: HostFit
    room: HostRoom
    wish: Wish

    def variants(self) -> Iterator[Remedy]:
        for variant in self.entry.ranked_variants:
            if variant.name == self.no.variant:
                continue
            for device in (Device.CUDA, Device.CPU):
                wish = replace(self.wish, variant=variant.name)
                if any(a.fits for a in answers(variant, device, [self.room], wish)):
                    yield Remedy(
                        kind="variant",
                        value=variant.name,
                        sentence=f"variant {variant.name} fits on {device}",
                    )

    def cache_types(self) -> Iterator[Remedy]:
        shape = self.entry.variant(self.no.variant).shape
        if self.wish.engine.get("kv_cache_dtype") or not shapes.keeps_cache(shape):
            return
        if self._fits_with(kv_cache_dtype="fp8"):
            yield Remedy(
                kind="kv_cache_dtype",
                value="fp8",
                sentence="with `kv_cache_dtype` fp8 it fits: half the KV cache",
                engine={"kv_cache_dtype": "fp8"},
            )

    def splits(self) -> Iterator[Remedy]:
        if self.no.device is not Device.CUDA:
            return
        for size in _PARALLEL_SIZES:
            if self._fits_with(tensor_parallel_size=size):
                yield Remedy(
                    kind="tensor_parallel",
                    value=size,
                    sentence=f"with `tensor_parallel_size` {size} it fits",
                    engine={"tensor_parallel_size": size},
                )

    def concurrencies(self) -> Iterator[Remedy]:
        for requests in range(self.wish.full_length_requests - 1, 0, -1):
            if self._fits(replace(self.wish, full_length_requests=requests)):
                yield Remedy(
                    kind="concurrency",
                    value=requests,
                    sentence=f"for {requests} requests of full length at once it fits",
                )
        now = self.wish.engine.get("max_num_seqs") or DEFAULT_SEQUENCES[self.no.device]
        fewer = int(now) // 2 if isinstance(now, int) else 0
        while fewer >= 1:
            if self._fits_with(max_num_seqs=fewer):
                yield Remedy(
                    kind="concurrency",
                    value=fewer,
                    sentence=f"with `max_num_seqs` {fewer} it fits",
                    engine={"max_num_seqs": fewer},
                )
            fewer //= 2

    def contexts(self) -> Iterator[Remedy]:
        length = self.no.largest_context_tokens
        if length and self._fits_with(max_model_len=length):
            yield Remedy(
                kind="context",
                value=length,
                sentence=f"with `max_model_len` {length} it fits",
                engine={"max_model_len": length},
            )

    def _fits_with(self, **engine: object) -> bool:
        return self._fits(replace(self.wish, engine={**self.wish.engine, **engine}))

    def _fits(self, wish: Wish) -> bool:
        variant = self.entry.variant(self.no.variant)
        return any(a.fits for a in answers(variant, self.no.device, [self.room], wish))
