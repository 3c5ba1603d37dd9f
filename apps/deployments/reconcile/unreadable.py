"""Rows that cannot be read: another version wrote them, or somebody by hand.

One of them must stop nobody but itself: a controller that ends at it would leave every deployment
alone, again after each of its restarts.
"""

import msgspec

UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, LookupError, AttributeError)
"""What reading such a row raises."""


def reason_of(error: Exception) -> str:
    """Return what its deployment says meanwhile."""
    return (
        f"What is stored of it cannot be read ({type(error).__name__}: {error}). Its replicas are "
        "left as they are until it can; other deployments go on."
    )
