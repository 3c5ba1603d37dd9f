"""The answer of one host: does this variant fit here, on which GPUs, with what settings.

Decides what stands in the way first (labels, engine version, GPU generation), then memory, on the
fewest GPUs of one kind that can share the model. The settings it answers are complete: the share
of GPU memory is lowered to what is free, since the engine refuses to start when it finds less than
its share. Assumes that rooms say what is really free. Called by `apps.catalog.fit`. Pure.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from agents import engine_support
from agents.wire import EngineSettings
from apps.catalog import need as needs
from apps.catalog import shapes
from apps.catalog.entry import Device, Variant
from apps.catalog.learned import NOTHING_LEARNED, Lesson, Start, learn
from apps.catalog.need import Need
from apps.catalog.rooms import GpuRoom, HostRoom
from apps.catalog.settings import (
    BadSetting,
    cpu_refusal,
    engine_settings,
    gpu_refusal,
    splits_evenly,
)
from apps.catalog.sums import Sums

if TYPE_CHECKING:
    from apps.catalog.remedies import Remedy

GPU_SHARE_RATIO = 0.92
"""The engine's own default for `gpu_memory_utilization`."""

_CONTEXT_WORTH_TOKENS = 1024
"""A shorter context is not offered as a way out."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What an order asks for; None leaves the choice to Hearth."""

    variant: str | None = None
    device: Device | None = None
    host: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that a host must have, with these values."""
    engine: Mapping[str, object] = field(default_factory=dict)
    """Engine settings above those of the catalog."""
    full_length_requests: int = 1
    """How many requests of full length must be held at once."""
    gpu_kind: str = ""
    """As `h100`; empty takes any GPU that is new enough."""
    gpu_ratio: float | None = None
    """Fraction of one GPU to take, the rest is for others; None takes whole GPUs."""
    learned: tuple[Start, ...] = ()
    """Measured starts of this model, the newest first: they correct the estimate."""


@dataclass(frozen=True, kw_only=True)
class HostFit:
    """The answer of one host for one variant on one kind of device."""

    host: str
    variant: str
    device: Device
    fits: bool
    reason: str
    """One sentence for people, whether it fits or not."""
    settings: EngineSettings | None = None
    gpu_uuids: tuple[str, ...] = ()
    need: Need | None = None
    """Of the whole replica on CPU, of each GPU on CUDA."""
    reserve_bytes: int = 0
    """What the engine will take of each device; book this."""
    kv_tokens: int = 0
    """In each data-parallel copy."""
    full_length_requests: int = 0
    """In all copies."""
    missing_bytes: int = 0
    """How much is missing on each device; 0 when something else than memory is in the way."""
    largest_context_tokens: int = 0
    """When only the KV cache is too large: the `max_model_len` that would fit here."""
    remedies: tuple["Remedy", ...] = ()
    """Single changes after which it fits; only with a no for want of memory."""
    lesson: Lesson = NOTHING_LEARNED
    """Which parts of the need are corrected by what an engine said at an earlier start."""


def ask(
    variant: Variant, device: Device, room: HostRoom, settings: EngineSettings, wish: Wish
) -> HostFit:
    """Return whether `room` can take `variant` with `settings`, which suit the variant."""
    return _Case(variant, device, room, wish).answer(settings)


def answers(
    variant: Variant, device: Device, rooms: Sequence[HostRoom], wish: Wish
) -> list[HostFit]:
    """Return the answer of each room for `variant` on `device`; none if it is out of question."""
    if device not in variant.devices or wish.device not in (None, device):
        return []
    try:
        settings = engine_settings(variant, device, wish.engine)
    except BadSetting as error:
        return [refuse(variant, device, room, str(error)) for room in rooms]
    return [ask(variant, device, room, settings, wish) for room in rooms]


def refuse(variant: Variant, device: Device, room: HostRoom, reason: str) -> HostFit:
    """Return a no for a `reason` that has nothing to do with memory."""
    return HostFit(host=room.name, variant=variant.name, device=device, fits=False, reason=reason)


@dataclass(frozen=True)
class _Case:
    """One question: this variant on this kind of device in this room."""

    variant: Variant
    device: Device
    room: HostRoom
    wish: Wish

    def answer(self, settings: EngineSettings) -> HostFit:
        barrier = self._barrier()
        if barrier:
            return self.no(barrier)
        if self.device is Device.CPU:
            return self._on_cpu(settings)
        return self._on_gpus(settings)

    def no(self, reason: str, missing_bytes: int = 0, largest_context_tokens: int = 0) -> HostFit:
        return replace(
            refuse(self.variant, self.device, self.room, reason),
            missing_bytes=missing_bytes,
            largest_context_tokens=largest_context_tokens,
        )

    def _barrier(self) -> str:
        """Return what stands in the way before memory is looked at, empty if nothing does."""
        if self.wish.host not in (None, self.room.name):
            return f"the order wants host {self.wish.host}"
        for label, value in self.wish.labels.items():
            if self.room.labels.get(label) != value:
                return f"label {label}={value} is missing"
        if self.device not in self.room.devices:
            return f"it has no {'GPU' if self.device is Device.CUDA else 'CPU engine'} to run it on"
        version = self.room.engine_version
        if version and _numbers(version) < _numbers(self.variant.min_vllm):
            return f"it has vLLM {version}, the model needs {self.variant.min_vllm} or later"
        return ""

    def _on_cpu(self, settings: EngineSettings) -> HostFit:
        """Answer in the format that this CPU computes fastest, else in the model's own."""
        if why := cpu_refusal(self.variant, settings, self.room.cpu_features):
            return self.no(why)
        fast = self._fastest(settings)
        if fast is None:
            return self._computed_as_it_is(settings)
        answer = self._computed_as_it_is(fast)
        if answer.fits:
            return answer
        plain = self._computed_as_it_is(settings)
        return plain if plain.fits else answer

    def _fastest(self, settings: EngineSettings) -> EngineSettings | None:
        """Return `settings` with the fast format, None if the model's own is it or one is given.

        A KV cache that the order left to the catalog keeps its tokens.
        """
        features, variant = self.room.cpu_features, self.variant
        free = settings.dtype is None and settings.quantization is None
        if features is None or not free or not needs.is_unquantized(variant):
            return None
        dtype = engine_support.fast_cpu_dtype(features)
        if dtype is None:
            return None
        cache = settings.kv_cache_bytes
        if cache is not None and "kv_cache_bytes" not in self.wish.engine:
            kind = settings.kv_cache_dtype
            own = shapes.kv_element_bytes(variant.shape, None, kind)
            cache = cache * shapes.kv_element_bytes(variant.shape, dtype, kind) // own
        return msgspec.structs.replace(settings, dtype=dtype, kv_cache_bytes=cache)

    def _computed_as_it_is(self, settings: EngineSettings) -> HostFit:
        sums = self._sums(settings, str(Device.CPU))
        need = sums.need()
        if settings.kv_cache_bytes is None:
            # Without it the engine wants 92 % of the memory free, whatever it needs (vLLM 0.32).
            sums = sums.having(kv_cache_bytes=max(need.kv_bytes, needs.SMALLEST_CPU_KV_BYTES))
        free = self.room.memory_available_bytes
        short = self._too_short(sums, need)
        if short:
            return short
        if need.total_bytes > free:
            return self._too_large(sums, need, free, "of memory")
        return self._yes(sums, need, (), need.total_bytes)

    def _sums(self, settings: EngineSettings, device_kind: str) -> Sums:
        lesson = learn(self.wish.learned, self.variant, settings, device_kind)
        return Sums(self.variant, settings, self.device, lesson)

    def _on_gpus(self, settings: EngineSettings) -> HostFit:
        gpus = self._usable_gpus()
        if not gpus:
            return self.no(self._why_no_gpu())
        refusals = [gpu_refusal(self.variant, settings, gpu.compute_capability) for gpu in gpus]
        gpus = [gpu for gpu, refusal in zip(gpus, refusals, strict=True) if not refusal]
        if not gpus:
            return self.no(refusals[0])
        answers = [
            self._on_group(sized, group)
            for sized in self._sizes(settings, len(gpus))
            for group in _groups(gpus, _group_size(sized))
        ]
        if not answers:
            wanted = _group_size(settings)
            return self.no(f"it needs {wanted} GPUs of one kind and the host has {len(gpus)}")
        fitting = [answer for answer in answers if answer.fits]
        if fitting:
            return fitting[0]
        return min(answers, key=lambda answer: answer.missing_bytes)

    def _usable_gpus(self) -> list[GpuRoom]:
        """Return the GPUs that can run it, the emptiest first; what is another's counts as full."""
        oldest = self.variant.devices[Device.CUDA].min_compute_capability
        usable = [
            gpu if self._may_take(gpu) else replace(gpu, free_bytes=0)
            for gpu in self.room.gpus
            if _new_enough(gpu.compute_capability, oldest) and self.wish.gpu_kind in ("", gpu.kind)
        ]
        return sorted(usable, key=lambda gpu: (-gpu.free_bytes, gpu.uuid))

    def _may_take(self, gpu: GpuRoom) -> bool:
        return not gpu.taken and (self.wish.gpu_ratio is not None or not gpu.shared)

    def _why_no_gpu(self) -> str:
        if self.wish.gpu_kind and all(g.kind != self.wish.gpu_kind for g in self.room.gpus):
            return f"it has no GPU of kind {self.wish.gpu_kind}"
        oldest = self.variant.devices[Device.CUDA].min_compute_capability
        return f"{self.variant.name} needs GPUs of compute capability {oldest} or later"

    def _sizes(self, settings: EngineSettings, gpu_count: int) -> list[EngineSettings]:
        """Return the settings with each tensor-parallel size to try, the smallest first."""
        if "tensor_parallel_size" in self.wish.engine or settings.tensor_parallel_size > 1:
            return [settings]
        stages = settings.pipeline_parallel_size * settings.data_parallel_size
        most = 1 if self.wish.gpu_ratio is not None else gpu_count
        sizes = [2**power for power in range(7) if 2**power * stages <= most]
        return [
            msgspec.structs.replace(settings, tensor_parallel_size=size)
            for size in sizes
            if splits_evenly(self.variant.shape, size)
        ]

    def _on_group(self, settings: EngineSettings, group: Sequence[GpuRoom]) -> HostFit:
        """Answer for these GPUs; the one with the least room decides for all."""
        sums = self._sums(settings, group[0].kind)
        need = sums.need()
        total = min(gpu.total_bytes for gpu in group)
        free = min(gpu.free_bytes for gpu in group)
        share = settings.gpu_memory_utilization or GPU_SHARE_RATIO
        share = min(share, self.wish.gpu_ratio or share)
        budget = min(free, int(share * total))
        uuids = tuple(gpu.uuid for gpu in group)
        if settings.kv_cache_bytes is not None or not shapes.keeps_cache(self.variant.shape):
            return self._fixed_cache(sums, budget, total, uuids)
        need = replace(need, kv_bytes=need.kv_bytes * self.wish.full_length_requests)
        ratio = _rounded_down(budget / total)
        taken = int(ratio * total)
        if need.total_bytes > taken:
            return self._too_large(sums, need, taken, _on_each(group))
        need = replace(need, kv_bytes=taken - need.fixed_bytes)
        return self._yes(sums.having(gpu_memory_utilization=ratio), need, uuids, taken)

    def _fixed_cache(self, sums: Sums, budget: int, total: int, uuids: tuple[str, ...]) -> HostFit:
        """Answer when the size of the KV cache is given: take only what is needed."""
        need = sums.need()
        short = self._too_short(sums, need)
        if short:
            return short
        ratio = _rounded_up(need.total_bytes / total)
        taken = int(ratio * total)
        if taken > budget:
            where = f"on each of {len(uuids)} GPUs" if len(uuids) > 1 else "on a GPU"
            return self._too_large(sums, need, budget, where)
        return self._yes(sums.having(gpu_memory_utilization=ratio), need, uuids, taken)

    def _too_short(self, sums: Sums, need: Need) -> HostFit | None:
        """Answer no if the given KV cache cannot hold the requests; the engine would not start."""
        tokens = sums.full_length_tokens
        requests = self.wish.full_length_requests
        wanted = sums.request_bytes(tokens) * requests
        if wanted <= need.kv_bytes:
            return None
        largest = sums.largest_context_tokens(need.kv_bytes // requests)
        return self.no(
            f"`kv_cache_bytes` is {_size(need.kv_bytes)} and {requests} "
            f"request(s) of {tokens} tokens need {_size(wanted)}: give that much, or a "
            f"`max_model_len` of {largest}",
            wanted - need.kv_bytes,
            largest,
        )

    def _too_large(self, sums: Sums, need: Need, free: int, where: str) -> HostFit:
        missing = need.total_bytes - free
        room = max(0, free - need.fixed_bytes)
        largest = 0
        if sums.settings.kv_cache_bytes is None or self.device is Device.CPU:
            largest = sums.largest_context_tokens(room // self.wish.full_length_requests)
        helps = largest >= _CONTEXT_WORTH_TOKENS
        hint = f"; a `max_model_len` of {largest} would fit" if helps else ""
        return self.no(
            f"{self.variant.name} needs {_size(need.total_bytes)} {where} and "
            f"{_size(max(0, free))} is free: {_size(missing)} short{hint}",
            missing,
            largest if helps else 0,
        )

    def _yes(
        self, sums: Sums, need: Need, gpu_uuids: tuple[str, ...], reserve_bytes: int
    ) -> HostFit:
        tokens = sums.kv_tokens(need.kv_bytes)
        copies = sums.settings.data_parallel_size
        in_each = f" in each of {copies} copies" if copies > 1 else ""
        holds = f", KV cache for {tokens} tokens{in_each}" if tokens else ""
        on = f"{len(gpu_uuids)} GPU(s)" if gpu_uuids else "CPU"
        return HostFit(
            host=self.room.name,
            variant=self.variant.name,
            device=self.device,
            fits=True,
            reason=f"{self.variant.name} takes {_size(reserve_bytes)} on {on}{holds}",
            settings=sums.settings,
            gpu_uuids=gpu_uuids,
            need=need,
            reserve_bytes=reserve_bytes,
            kv_tokens=tokens,
            full_length_requests=tokens // sums.full_length_tokens * copies,
            lesson=sums.lesson,
        )


def _groups(gpus: Sequence[GpuRoom], size: int) -> list[tuple[GpuRoom, ...]]:
    """Return the groups of `size` GPUs to try, each of one kind: linked ones first, then for each
    kind those with the most room. A MIG slice works alone."""
    kinds: dict[str, list[GpuRoom]] = {}
    linked: dict[tuple[str, int], list[GpuRoom]] = {}
    for gpu in gpus:
        if gpu.is_slice and size > 1:
            continue
        kinds.setdefault(gpu.name, []).append(gpu)
        if gpu.nvlink_group is not None and size > 1:
            linked.setdefault((gpu.name, gpu.nvlink_group), []).append(gpu)
    pools = [*linked.values(), *kinds.values()]
    return [tuple(pool[:size]) for pool in pools if len(pool) >= size]


def _group_size(settings: EngineSettings) -> int:
    return needs.split_of(settings).gpus


def _new_enough(capability: str, oldest: str | None) -> bool:
    """Compare compute capabilities; a GPU that does not tell its own is let through."""
    if not oldest or not capability:
        return True
    return _numbers(capability) >= _numbers(oldest)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version such as `0.32.0+cpu`, three of them."""
    found = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)


def _rounded_down(ratio: float) -> float:
    return math.floor(ratio * 1000) / 1000


def _rounded_up(ratio: float) -> float:
    return math.ceil(ratio * 1000) / 1000


def _on_each(group: Sequence[GpuRoom]) -> str:
    return f"on each of {len(group)} GPUs" if len(group) > 1 else "on a GPU"


def _size(amount: int) -> str:
    return f"{amount / 1e9:.2f} GB" if amount >= 1e9 else f"{amount / 1e6:.0f} MB"
