"""Addresses of deployments and events, relative to `/api/v1/`."""

from django.urls import URLPattern, path

from apps.deployments import (
    api,
    api_as_code,
    api_parts,
    api_placement,
    api_rollouts,
    warmth_api,
)

_ONE = "deployments/<str:name>/"

api_patterns: list[URLPattern] = [
    path("deployments/", api.DeploymentList.as_view(), name="deployments-list"),
    path("deployments/plan/", api.DeploymentPlan.as_view(), name="deployments-plan"),
    path(_ONE, api.DeploymentDetail.as_view(), name="deployments-detail"),
    path(f"{_ONE}start/", api.DeploymentStart.as_view(), name="deployments-start"),
    path(f"{_ONE}stop/", api.DeploymentStop.as_view(), name="deployments-stop"),
    path(
        f"{_ONE}rollback/", api_rollouts.DeploymentRollback.as_view(), name="deployments-rollback"
    ),
    path(f"{_ONE}promote/", api_rollouts.DeploymentPromote.as_view(), name="deployments-promote"),
    path(f"{_ONE}pause/", api_rollouts.DeploymentPause.as_view(), name="deployments-pause"),
    path(f"{_ONE}resume/", api_rollouts.DeploymentResume.as_view(), name="deployments-resume"),
    path(f"{_ONE}export/", api_as_code.DeploymentExport.as_view(), name="deployments-export"),
    path("apply/", api_as_code.Apply.as_view(), name="apply"),
    path(f"{_ONE}rollouts/", api_rollouts.RolloutList.as_view(), name="deployments-rollouts"),
    path(f"{_ONE}replicas/", api_parts.ReplicaList.as_view(), name="deployments-replicas"),
    path(
        f"{_ONE}replicas/<str:replica_id>/restart/",
        api_parts.ReplicaRestart.as_view(),
        name="deployments-replicas-restart",
    ),
    path(f"{_ONE}revisions/", api_rollouts.RevisionList.as_view(), name="deployments-revisions"),
    path(f"{_ONE}events/", api_parts.DeploymentEvents.as_view(), name="deployments-events"),
    path(f"{_ONE}decisions/", api_parts.DecisionList.as_view(), name="deployments-decisions"),
    path(
        f"{_ONE}placement/",
        api_placement.DeploymentPlacement.as_view(),
        name="deployments-placement",
    ),
    path(f"{_ONE}starts/", warmth_api.StartList.as_view(), name="deployments-starts"),
    path("pool/", warmth_api.Pool.as_view(), name="warm-pool"),
    path("pool/<str:gpu_kind>/", warmth_api.SharedPool.as_view(), name="warm-pool-slots"),
    path(f"{_ONE}logs/", api_parts.DeploymentLog.as_view(), name="deployments-logs"),
    path("events/", api_parts.EventList.as_view(), name="events-list"),
    path(
        "hosts/<str:name>/declare-lost/",
        api_parts.HostDeclareLost.as_view(),
        name="hosts-declare-lost",
    ),
]
