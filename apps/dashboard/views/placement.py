"""The Placement tab: where the replicas are, why there, and how well the memory was predicted."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from apps.dashboard import tabs
from apps.deployments import placements

PART_WORDS = {
    "weights_bytes": "Weights",
    "kv_bytes": "KV cache",
    "kv_tokens": "KV cache, tokens",
    "activation_bytes": "Activations",
    "graph_bytes": "CUDA graphs",
    "runtime_bytes": "Engine",
    "packed_bytes": "Output head, packed",
    "total_bytes": "In all",
}
TERM_WORDS = {
    "spread": "spread",
    "binpack": "packing",
    "nvlink": "NVLink",
    "cached": "weights there",
    "price": "price",
    "room": "room left",
    "welcome": "not avoided",
}


@require_safe
def show(request: HttpRequest, name: str) -> HttpResponse:
    """Show the tab of the deployment `name`."""
    seen = tabs.seen_or_404(name)
    whereabouts = placements.of_deployment(seen.deployment)
    predicted = [
        (PART_WORDS[part], part, size)
        for part, size in whereabouts.predicted.items()
        if size and part in PART_WORDS
    ]
    context = {
        "whereabouts": whereabouts,
        "predicted": predicted,
        "part_words": PART_WORDS,
        "term_words": TERM_WORDS,
        "wish": {key: value for key, value in seen.deployment.placement.items() if value},
    }
    return tabs.page(request, "placement", seen, context)
