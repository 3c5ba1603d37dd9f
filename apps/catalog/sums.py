"""The arithmetic of one variant with one set of settings, corrected by what was measured. Pure."""

from dataclasses import dataclass, replace

import msgspec

from agents.wire import EngineSettings
from apps.catalog import need as needs
from apps.catalog.entry import Device, Variant
from apps.catalog.learned import NOTHING_LEARNED, Lesson
from apps.catalog.need import Need


@dataclass(frozen=True)
class Sums:
    """What `variant` with `settings` takes on `device`, by the estimate and `lesson` over it."""

    variant: Variant
    settings: EngineSettings
    device: Device
    lesson: Lesson = NOTHING_LEARNED

    def having(self, **settings: object) -> "Sums":
        """Return the same with other settings."""
        return replace(self, settings=msgspec.structs.replace(self.settings, **settings))

    @property
    def full_length_tokens(self) -> int:
        return needs.full_length_tokens(self.variant, self.settings)

    def need(self) -> Need:
        """Return what a replica needs at the least."""
        need = self.lesson.correct(needs.estimate(self.variant, self.settings, self.device))
        if self.settings.kv_cache_bytes is not None:
            return need
        return replace(need, kv_bytes=int(need.kv_bytes * self._kv_ratio))

    def request_bytes(self, tokens: int) -> int:
        """Return the KV cache of one request of `tokens` tokens, on each device."""
        whole = needs.request_bytes(self.variant, self.settings, tokens)
        return int(whole * self._kv_ratio)

    def kv_tokens(self, kv_bytes: int) -> int:
        """Return how many tokens a KV cache of `kv_bytes` holds."""
        return needs.kv_tokens(self.variant, self.settings, self.device, self._nominal(kv_bytes))

    def largest_context_tokens(self, kv_bytes: int) -> int:
        """Return the longest request whose KV cache fits into `kv_bytes`."""
        return needs.largest_context_tokens(self.variant, self.settings, self._nominal(kv_bytes))

    def _nominal(self, kv_bytes: int) -> int:
        return int(kv_bytes / self._kv_ratio)

    @property
    def _kv_ratio(self) -> float:
        return self.lesson.ratio("kv_bytes")
