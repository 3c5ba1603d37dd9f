"""Names of deployments: what is allowed, and the next free one. Pure."""

import itertools
import re
from collections.abc import Iterable

from apps.lib.problems import of_field

MAX_LENGTH = 63
RESERVED = frozenset({"plan"})
"""Names that are addresses of their own beside the deployments'."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def check(name: str) -> None:
    """Raise Problem 400 unless `name` can be a model name, a URL part and a DNS label."""
    if name in RESERVED:
        message = f"{name!r} is reserved, choose another name"
    elif len(name) <= MAX_LENGTH and _NAME.fullmatch(name):
        return
    else:
        message = (
            f"{name!r} is not a name: use up to {MAX_LENGTH} characters a-z, 0-9 and -, "
            "beginning and ending with a letter or digit"
        )
    raise of_field(400, "invalid", "name", message, detail=f"name: {message}.")


def free_name(slug: str, taken: Iterable[str]) -> str:
    """Return `slug`, or `slug-2`, `slug-3` … : the first that is not in `taken`."""
    base = base_name(slug)
    used = set(taken)
    numbered = (f"{base}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([base], numbered) if name not in used)


def base_name(slug: str) -> str:
    """Return a catalog slug as a name; slugs may hold dots, names may not."""
    return re.sub(r"[^a-z0-9-]+", "-", slug.lower()).strip("-")[: MAX_LENGTH - 4]
