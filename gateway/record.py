"""The usage record of one admitted request: as it opens, and as it ends. Pure.

Called by `gateway.exchange`; `gateway.spool` keeps what is built here.
"""

from dataclasses import dataclass

from gateway.meter import Usage
from gateway.wire import Outcome, UsageRecord


@dataclass(slots=True)
class Ending:
    """How a request ended, as the exchange saw it."""

    outcome: Outcome
    status: int
    error: str
    replica: str
    total_seconds: float
    ttft_seconds: float | None
    usage: Usage | None
    prompt_estimate_tokens: int
    """Counts only if an engine had the request and its usage never came."""
    chunks: int
    bytes_out: int
    retries: int


def ended(opened: UsageRecord, ending: Ending) -> UsageRecord:
    """Return the final record of the request that `opened` admitted."""
    usage = ending.usage
    is_estimated = usage is None and (ending.chunks > 0 or ending.prompt_estimate_tokens > 0)
    return UsageRecord(
        id=opened.id,
        key_id=opened.key_id,
        deployment=opened.deployment,
        replica=ending.replica,
        model=opened.model,
        path=opened.path,
        stream=opened.stream,
        admitted_at=opened.admitted_at,
        queue_seconds=opened.queue_seconds,
        ttft_seconds=ending.ttft_seconds,
        total_seconds=ending.total_seconds,
        prompt_tokens=usage.prompt if usage else ending.prompt_estimate_tokens,
        cached_tokens=usage.cached if usage else None,
        output_tokens=usage.output if usage else ending.chunks,
        reasoning_tokens=usage.reasoning if usage else None,
        estimated=is_estimated,
        outcome=ending.outcome,
        status=ending.status,
        error=ending.error,
        bytes_in=opened.bytes_in,
        bytes_out=ending.bytes_out,
        retries=ending.retries,
        parent_id=opened.parent_id,
    )
