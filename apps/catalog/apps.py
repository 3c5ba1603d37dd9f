"""The catalog as a Django app: it has pages and an API; its one table is what engines measured."""

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    name = "apps.catalog"
    label = "catalog"
    verbose_name = "Catalog"

    def ready(self) -> None:
        """Read the catalog once at start, so that a broken built-in file stops the process."""
        from apps.catalog import catalog  # noqa: PLC0415  Django's settings are not ready before

        catalog.installed()
