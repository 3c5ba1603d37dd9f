from django.apps import AppConfig


class RagConfig(AppConfig):
    name = "apps.rag"
