"""How chunks move between retrievals of one question; pure but for reading the traces."""

from collections.abc import Sequence
from typing import Any

from apps.rag.retrieval import Trace


def movements(traces: Sequence[Trace]) -> dict[str, Any]:
    """Return each chunk's rank in every trace (None: not there), best first, and the overlap."""
    ranks = [{hit.chunk.pk: hit.rank for hit in trace.hits} for trace in traces]
    names = {hit.chunk.pk: hit.chunk.document.name for trace in traces for hit in trace.hits}
    places = {chunk: [column.get(chunk) for column in ranks] for chunk in names}
    best = {chunk: min(rank for rank in row if rank is not None) for chunk, row in places.items()}
    rows = [
        {"chunk": chunk, "document": names[chunk], "ranks": places[chunk]}
        for chunk in sorted(names, key=lambda chunk: (best[chunk], chunk))
    ]
    shared = sum(None not in row for row in places.values())
    return {"movements": rows, "overlap": shared / len(rows) if rows else 1.0}
