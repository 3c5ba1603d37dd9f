"""What a role may do in the REST API: deny unless the role reaches what the view asks for.

A view declares `required_role = {"GET": Role.VIEWER, "POST": Role.ADMIN}`; a method that the
mapping does not name is refused for everyone. Without a mapping, reading needs `viewer` and
writing needs `operator`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from apps.accounts.models import User
from apps.accounts.states import Role, allows

if TYPE_CHECKING:  # this module is loaded while `rest_framework.views` is
    from rest_framework.views import APIView


class RolePermission(BasePermission):
    """Lets a signed-in user pass whose role is at least the one that the view needs."""

    message = "Your role does not allow this."

    def has_permission(self, request: Request, view: "APIView") -> bool:
        """Return whether the request may go on; False without a user makes DRF answer 401."""
        if not isinstance(request.user, User):
            return False
        needed = needed_role(view, request.method or "")
        if needed is None:
            self.message = f"{request.method} is not allowed here."
            return False
        held = role_of(request.user)
        self.message = f"This needs the role `{needed}`; you are `{held}`."
        return allows(held, needed)


def needed_role(view: "APIView", method: str) -> Role | None:
    """Return the least role for `method` on `view`; None when nobody may."""
    declared: Mapping[str, Role] | None = getattr(view, "required_role", None)
    if declared is None:
        return Role.VIEWER if method in SAFE_METHODS else Role.OPERATOR
    if method in ("HEAD", "OPTIONS"):
        return declared.get(method, declared.get("GET", Role.VIEWER))
    return declared.get(method)


def role_of(user: User) -> Role:
    """Return the role that counts: a superuser is an admin, whatever the column says."""
    return Role.ADMIN if user.is_superuser else Role(user.role)
