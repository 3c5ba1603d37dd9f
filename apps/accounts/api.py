"""The audit log, API tokens and users over REST."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.fields import empty
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts import actions, queries
from apps.accounts.exports import ROWS_LIMIT, CsvRenderer, JsonLinesRenderer
from apps.accounts.idempotency import IdempotentWrites
from apps.accounts.models import DEFAULT_TEAM, ApiToken, AuditEntry, User
from apps.accounts.permissions import role_of
from apps.accounts.states import Role
from apps.lib import clock
from apps.lib.paging import Pages
from apps.lib.problems import Problem
from apps.lib.rendering import JsonRenderer
from apps.lib.strict import StrictSerializer

_ROLES = [(role.value, role.value) for role in Role]


def caller(request: Request) -> User:
    """Return the signed-in user; `RolePermission` has let nobody else in."""
    assert isinstance(request.user, User)
    return request.user


class AuditEntrySerializer(serializers.ModelSerializer[AuditEntry]):
    class Meta:
        model = AuditEntry
        fields = ["id", "at", "actor", "action", "target", "data", "sha256"]


class AuditQuery(serializers.Serializer[Any]):
    actor = serializers.CharField(required=False, help_text="User name.")
    action = serializers.CharField(
        required=False, help_text="`deployment.created`, or `deployment` for all of its kind."
    )
    target = serializers.CharField(required=False, help_text="Name of what was changed.")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """Return the fields; `from` is no name that a class body can assign."""
        return {
            **super().get_fields(),
            "from": serializers.DateTimeField(source="since", required=False),
            "to": serializers.DateTimeField(source="until", required=False),
        }


class AuditList(GenericAPIView[AuditEntry]):
    """Who changed what, newest first; `?format=csv` and `?format=jsonl` give the whole list."""

    serializer_class = AuditEntrySerializer
    renderer_classes = [JsonRenderer, JsonLinesRenderer, CsvRenderer]
    pagination_class = Pages

    @extend_schema(
        operation_id="audit_list",
        parameters=[AuditQuery],
        responses=AuditEntrySerializer(many=True),
    )
    def get(self, request: Request) -> Response:
        query = AuditQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        entries = queries.audit_entries(queries.AuditFilter(**query.validated_data))
        if request.accepted_renderer.format != JsonRenderer.format:
            return Response(list(AuditEntrySerializer(entries[:ROWS_LIMIT], many=True).data))
        page = self.paginate_queryset(entries)
        return self.get_paginated_response(AuditEntrySerializer(page, many=True).data)


class ChainCheckSerializer(serializers.Serializer[queries.ChainCheck]):
    entries = serializers.IntegerField(help_text="Entries that were checked and are right.")
    head_sha256 = serializers.CharField(
        help_text="Hash of the last right entry. Kept elsewhere, it proves that none were cut off."
    )
    broken_at = serializers.IntegerField(
        allow_null=True, help_text="First entry that was changed, or before which one is missing."
    )


class AuditCheck(GenericAPIView[Any]):
    """Walk the audit log's hash chain and tell whether any entry was changed or removed."""

    serializer_class = ChainCheckSerializer
    pagination_class = None
    required_role = {"GET": Role.ADMIN}

    @extend_schema(operation_id="audit_check", responses=ChainCheckSerializer)
    def get(self, request: Request) -> Response:
        return Response(ChainCheckSerializer(queries.verify_chain()).data)


class TokenSerializer(serializers.ModelSerializer[ApiToken]):
    user = serializers.CharField(source="user.username", read_only=True)

    class Meta:
        model = ApiToken
        fields = ["id", "user", "name", "created_at", "last_used_at", "expires_at"]
        read_only_fields = ["id", "created_at", "last_used_at"]


class NewTokenSerializer(StrictSerializer):
    name = serializers.CharField(max_length=80, help_text="What it is for.")
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None)


class MadeTokenSerializer(TokenSerializer):
    token = serializers.CharField(help_text="The secret; shown this once, kept nowhere.")

    class Meta(TokenSerializer.Meta):
        fields = [*TokenSerializer.Meta.fields, "token"]


class TokenList(IdempotentWrites, GenericAPIView[ApiToken]):
    """Tokens for automation. Each acts as its user; everyone makes and sees their own."""

    serializer_class = TokenSerializer
    pagination_class = Pages
    required_role = {"GET": Role.VIEWER, "POST": Role.VIEWER}

    @extend_schema(operation_id="tokens_list", responses=TokenSerializer(many=True))
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(_visible_tokens(caller(request)))
        return self.get_paginated_response(TokenSerializer(page, many=True).data)

    @extend_schema(
        operation_id="tokens_create",
        request=NewTokenSerializer,
        responses={201: MadeTokenSerializer},
    )
    def post(self, request: Request) -> Response:
        order = NewTokenSerializer(data=request.data)
        order.is_valid(raise_exception=True)
        user = caller(request)
        token, secret = actions.create_token(
            user=user, actor=user.username, now=clock.now(), **order.validated_data
        )
        return Response({**TokenSerializer(token).data, "token": secret}, status=201)


class TokenDetail(IdempotentWrites, GenericAPIView[ApiToken]):
    """One token: revoke it here."""

    serializer_class = TokenSerializer
    pagination_class = None
    required_role = {"DELETE": Role.VIEWER}

    @extend_schema(operation_id="tokens_delete", responses={204: None})
    def delete(self, request: Request, token_id: UUID) -> Response:
        token = _visible_tokens(caller(request)).filter(pk=token_id).first()
        if token is None:
            raise Problem(404, "token_unknown", f"You have no token {token_id}.")
        actions.revoke_token(token=token, actor=caller(request).username)
        return Response(status=204)


def _visible_tokens(user: User) -> QuerySet[ApiToken]:
    return queries.tokens_of(user, everyone=role_of(user) is Role.ADMIN)


class TeamField(serializers.RegexField):
    """A team's name; may be left out."""

    def __init__(self, default: str | None = None) -> None:
        pattern, given = r"\A[a-z0-9][a-z0-9-]{0,62}\Z", default if default is not None else empty
        super().__init__(pattern, required=False, default=given)
        self.error_messages["invalid"] = "Use a-z, 0-9 and -, at most 63 characters."


class UserSerializer(serializers.Serializer[User]):
    username = serializers.CharField(read_only=True)
    role = serializers.ChoiceField(choices=_ROLES)
    is_active = serializers.BooleanField()
    team = serializers.CharField(help_text="Its members share knowledge bases and cached prefixes.")
    last_login = serializers.DateTimeField(read_only=True, allow_null=True)


class NewUserSerializer(StrictSerializer):
    username = serializers.RegexField(
        r"\A[\w.@+-]+\Z",
        max_length=150,
        error_messages={"invalid": "Use letters, digits and @ . + - _ only."},
    )
    password = serializers.CharField(max_length=200, trim_whitespace=False)
    role = serializers.ChoiceField(choices=_ROLES, default=Role.VIEWER.value)
    team = TeamField(default=DEFAULT_TEAM)


class UserPatchSerializer(StrictSerializer):
    role = serializers.ChoiceField(choices=_ROLES, required=False)
    team = TeamField()
    is_active = serializers.BooleanField(required=False)
    password = serializers.CharField(max_length=200, trim_whitespace=False, required=False)


class UserList(IdempotentWrites, GenericAPIView[User]):
    """People who may sign in, and what each may do."""

    serializer_class = UserSerializer
    pagination_class = Pages
    required_role = {"GET": Role.ADMIN, "POST": Role.ADMIN}

    @extend_schema(operation_id="users_list", responses=UserSerializer(many=True))
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(queries.users())
        return self.get_paginated_response([UserSerializer(user).data for user in page or []])

    @extend_schema(
        operation_id="users_create", request=NewUserSerializer, responses={201: UserSerializer}
    )
    def post(self, request: Request) -> Response:
        order = NewUserSerializer(data=request.data)
        order.is_valid(raise_exception=True)
        wanted = order.validated_data
        user = actions.create_user(
            username=wanted["username"],
            password=wanted["password"],
            role=Role(wanted["role"]),
            team=wanted["team"],
            actor=caller(request).username,
        )
        return Response(UserSerializer(user).data, status=201)


@extend_schema(parameters=[OpenApiParameter("username", OpenApiTypes.STR, OpenApiParameter.PATH)])
class UserDetail(IdempotentWrites, GenericAPIView[User]):
    """One user."""

    serializer_class = UserSerializer
    pagination_class = None
    required_role = {"GET": Role.ADMIN, "PATCH": Role.ADMIN}

    @extend_schema(operation_id="users_retrieve")
    def get(self, request: Request, username: str) -> Response:
        return Response(UserSerializer(queries.user(username)).data)

    @extend_schema(operation_id="users_update", request=UserPatchSerializer)
    def patch(self, request: Request, username: str) -> Response:
        patch = UserPatchSerializer(data=request.data)
        patch.is_valid(raise_exception=True)
        user, actor = queries.user(username), caller(request).username
        wanted = patch.validated_data
        if not wanted:
            raise ValidationError("Give at least one of role, team, is_active, password.")
        actions.change_user(
            user=user,
            role=Role(wanted["role"]) if "role" in wanted else None,
            active=wanted.get("is_active"),
            password=wanted.get("password"),
            team=wanted.get("team"),
            actor=actor,
        )
        return Response(UserSerializer(user).data)
