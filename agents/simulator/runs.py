"""A run: one sequence that a simulated engine generates, and where it stands.

`core` moves runs; whoever submitted one reads it. Times are those that were passed to the core.
"""

from collections.abc import Sequence
from enum import StrEnum


class Outcome(StrEnum):
    """How a run ended; the words are vLLM's finish reasons."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


class Run:
    """One sequence to generate, and where it stands. Times are those passed to `Core`."""

    __slots__ = (
        "arrived_at",
        "blocks",
        "cached_tokens",
        "computed_tokens",
        "ending",
        "finished_at",
        "first_token_at",
        "gap_seconds",
        "held_blocks",
        "host_tokens",
        "last_token_at",
        "named_blocks",
        "outcome",
        "output_tokens",
        "preemptions",
        "produced",
        "prompt_tokens",
        "scheduled_at",
        "turn_at",
    )

    def __init__(
        self,
        *,
        prompt_tokens: int,
        output_tokens: int,
        blocks: Sequence[int] = (),
        ending: Outcome = Outcome.LENGTH,
    ) -> None:
        """`blocks`: chained hashes of the leading full blocks of prompt and output, as far as
        known; `ending`: the outcome once all `output_tokens` came."""
        if prompt_tokens < 1 or output_tokens < 1:
            raise ValueError("a run needs at least one prompt token and one output token")
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.blocks = blocks
        self.ending = ending
        self.outcome: Outcome | None = None
        self.produced = 0
        self.cached_tokens = 0
        self.host_tokens = 0
        self.computed_tokens = 0
        self.preemptions = 0
        self.held_blocks = 0
        self.named_blocks = 0
        self.turn_at = 0
        self.arrived_at = 0.0
        self.scheduled_at: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at = 0.0
        self.gap_seconds = 0.0
        self.finished_at: float | None = None

    @property
    def known_tokens(self) -> int:
        """Tokens that the engine must have computed before it can give the next one."""
        return self.prompt_tokens + self.produced
