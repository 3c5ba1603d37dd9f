"""Addresses of the browsers' sockets."""

from django.urls import URLPattern, path

from apps.dashboard.consumers import LiveConsumer

websocket_urlpatterns: list[URLPattern] = [path("ws/live/", LiveConsumer.as_asgi())]
