"""What an order is told that cannot be: Problems that name the field and the fix. Pure."""

from collections.abc import Sequence

from apps.catalog.fit import DoesNotFit
from apps.catalog.rooms import HostRoom
from apps.deployments.orders import NewDeployment
from apps.lib.problems import Problem


def does_not_fit(error: DoesNotFit) -> Problem:
    """Return the Problem of an order that no host, and no hosts together, can take."""
    nearest = error.nearest
    return Problem(
        422,
        "does_not_fit",
        str(error),
        extra={
            "reasons": list(error.reasons),
            "missing_bytes": error.missing_bytes,
            "nearest": None
            if nearest is None
            else {"variant": nearest.variant, "host": nearest.host, "device": nearest.device},
        },
    )


def check_memory(order: NewDeployment, rooms: Sequence[HostRoom]) -> None:
    """Raise Problem 422 if the order wants more memory than any host has free."""
    wanted = order.resources.memory_bytes or 0
    most = max((room.memory_available_bytes for room in rooms), default=0)
    if wanted > most:
        raise Problem(
            422,
            "does_not_fit",
            f"resources.memory_bytes: {wanted} bytes are {wanted - most} more than the roomiest "
            f"host has free; ask for at most {most}.",
            extra={
                "field": "resources.memory_bytes",
                "reasons": [f"{room.name}: {room.memory_available_bytes} bytes" for room in rooms],
                "missing_bytes": wanted - most,
                "nearest": None,
            },
        )
