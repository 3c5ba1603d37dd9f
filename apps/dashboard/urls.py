"""Addresses of the pages."""

from django.urls import URLPattern, path

from apps.accounts.views import SignIn, SignOut
from apps.dashboard.views import (
    activity,
    catalog,
    deployment,
    deployments,
    hosts,
    keys,
    overview,
    palette,
    playground,
    settings,
    usage,
)

urlpatterns: list[URLPattern] = [
    path("sign-in/", SignIn.as_view(), name="sign-in"),
    path("sign-out/", SignOut.as_view(), name="sign-out"),
    path("", overview.show, name="overview"),
    path("palette/", palette.entries, name="palette"),
    path("catalog/", catalog.index, name="catalog"),
    path("catalog/<str:slug>/", catalog.settings, name="deploy-settings"),
    path("catalog/<str:slug>/check/", catalog.check, name="deploy-check"),
    path("catalog/<str:slug>/deploy/", catalog.deploy, name="deploy"),
    path("deployments/", deployments.index, name="deployments"),
    path("deployments/<slug:name>/", deployment.show, name="deployment"),
    path("deployments/<slug:name>/log/", deployment.log, name="deployment-log"),
    path("deployments/<slug:name>/start/", deployments.start, name="deployment-start"),
    path("deployments/<slug:name>/stop/", deployments.stop, name="deployment-stop"),
    path("deployments/<slug:name>/delete/", deployments.delete, name="deployment-delete"),
    path("deployments/<slug:name>/scale/", deployments.scale, name="deployment-scale"),
    path(
        "deployments/<slug:name>/replicas/<replica_id>/restart/",
        deployments.restart,
        name="replica-restart",
    ),
    path("hosts/", hosts.index, name="hosts"),
    path("hosts/join/", hosts.join, name="host-join"),
    path("hosts/<slug:name>/price/", hosts.price, name="host-price"),
    path("hosts/<slug:name>/drain/", hosts.drain, name="host-drain"),
    path("hosts/<slug:name>/uncordon/", hosts.uncordon, name="host-uncordon"),
    path("hosts/<slug:name>/delete/", hosts.delete, name="host-delete"),
    path("playground/", playground.show, name="playground"),
    path("playground/stream/", playground.stream, name="playground-stream"),
    path("keys/", keys.index, name="keys"),
    path("keys/<uuid:key_id>/revoke/", keys.revoke, name="key-revoke"),
    path("usage/", usage.index, name="usage"),
    path("activity/", activity.events, name="activity"),
    path("audit/", activity.audit, name="audit"),
    path("settings/", settings.index, name="settings"),
    path("settings/prices/<kind>/", settings.price, name="settings-price"),
    path("settings/password/", settings.password, name="settings-password"),
]
