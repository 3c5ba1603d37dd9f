"""Roles and what each may do."""

from enum import StrEnum


class Role(StrEnum):
    """Each role may do all that the ones before it may."""

    VIEWER = "viewer"  # reads everything but secrets
    OPERATOR = "operator"  # deploys, scales, makes API keys
    ADMIN = "admin"  # people, hosts, join tokens, settings


_RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


def allows(held: Role, needed: Role) -> bool:
    """Return whether someone with role `held` may do what needs `needed`."""
    return _RANK[held] >= _RANK[needed]
