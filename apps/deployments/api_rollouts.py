"""Revisions and rollouts over REST: list, promote, roll back, pause, go on."""

from collections.abc import Callable

from drf_spectacular.utils import extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.api import caller
from apps.accounts.idempotency import IdempotentWrites
from apps.deployments import queries, rollout_orders
from apps.deployments.api import NAME, deployment_answer
from apps.deployments.models import Deployment, Revision, Rollout
from apps.deployments.presenting import revision_row
from apps.deployments.rollout_presenting import changes_of, rolling_row, state_of
from apps.deployments.rollout_shapes import RevisionOutput, RollbackInput, RollingOutput
from apps.deployments.serializers import DeploymentOutput
from apps.deployments.states import ReplicaPhase
from apps.lib import clock
from apps.lib.paging import Pages


@extend_schema(parameters=[NAME])
class RevisionList(GenericAPIView[Revision]):
    """The revisions of a deployment with what each changed, newest first."""

    serializer_class = RevisionOutput
    pagination_class = Pages

    @extend_schema(operation_id="deployments_revisions", responses=RevisionOutput(many=True))
    def get(self, request: Request, name: str) -> Response:
        deployment = queries.get(name)
        ready = queries.replicas_of(deployment).filter(phase=ReplicaPhase.READY)
        serving = set(ready.values_list("revision__number", flat=True))
        history = queries.history_of(deployment)
        page = self.paginate_queryset(deployment.revisions.order_by("-number")) or []
        rows = [
            revision_row(
                one,
                serving,
                state_of(one, deployment.live_id, history.rollouts),
                changes_of(one, history.before(one)),
            )
            for one in page
        ]
        return self.get_paginated_response(rows)


@extend_schema(parameters=[NAME])
class RolloutList(GenericAPIView[Rollout]):
    """The rollouts of a deployment with their verdicts, newest first."""

    serializer_class = RollingOutput
    pagination_class = Pages

    @extend_schema(operation_id="deployments_rollouts", responses=RollingOutput(many=True))
    def get(self, request: Request, name: str) -> Response:
        page = self.paginate_queryset(queries.rollouts_of(queries.get(name))) or []
        return self.get_paginated_response([rolling_row(one) for one in page])


@extend_schema(parameters=[NAME])
class DeploymentRollback(IdempotentWrites, GenericAPIView[Deployment]):
    """Go back: from an open rollout at once, else by a new revision with earlier settings."""

    serializer_class = DeploymentOutput
    pagination_class = None

    @extend_schema(operation_id="deployments_rollback", request=RollbackInput)
    def post(self, request: Request, name: str) -> Response:
        order = RollbackInput(data=request.data)
        order.is_valid(raise_exception=True)
        rollout_orders.rollback(
            queries.get(name),
            order.validated_data.get("revision"),
            actor=caller(request).username,
            now=clock.now(),
        )
        return deployment_answer(request, name)


class _RolloutOrder(IdempotentWrites, GenericAPIView[Deployment]):
    """An order that needs nothing but the deployment's name."""

    serializer_class = DeploymentOutput
    pagination_class = None
    order: Callable[..., Deployment]

    def _carry_out(self, request: Request, name: str) -> Response:
        type(self).order(queries.get(name), actor=caller(request).username, now=clock.now())
        return deployment_answer(request, name)


@extend_schema(parameters=[NAME], request=None, responses=DeploymentOutput)
class DeploymentPromote(_RolloutOrder):
    """Let the candidate take over without waiting for a verdict."""

    order = staticmethod(rollout_orders.promote)

    @extend_schema(operation_id="deployments_promote")
    def post(self, request: Request, name: str) -> Response:
        return self._carry_out(request, name)


@extend_schema(parameters=[NAME], request=None, responses=DeploymentOutput)
class DeploymentPause(_RolloutOrder):
    """Stop the rollout where it is."""

    order = staticmethod(rollout_orders.pause)

    @extend_schema(operation_id="deployments_pause")
    def post(self, request: Request, name: str) -> Response:
        return self._carry_out(request, name)


@extend_schema(parameters=[NAME], request=None, responses=DeploymentOutput)
class DeploymentResume(_RolloutOrder):
    """Go on with a paused rollout."""

    order = staticmethod(rollout_orders.resume)

    @extend_schema(operation_id="deployments_resume")
    def post(self, request: Request, name: str) -> Response:
        return self._carry_out(request, name)
