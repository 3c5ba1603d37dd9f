"""What engines of a model said of their memory. The catalog itself is files, not rows."""

from django.db import models


class Measurement(models.Model):
    """What an engine said of its memory at its start, beside the estimate; corrects the next one.

    One row a model, variant, kind of device and settings: the newest start.
    """

    catalog_slug = models.CharField(max_length=80)
    variant = models.CharField(max_length=80)
    device_kind = models.CharField(max_length=80)
    """`cpu`, or a kind of GPU as `h100`."""
    digest = models.CharField(max_length=16)
    """Of the engine's settings and version, as in `apps.catalog.learned`."""
    measured_at = models.DateTimeField()
    starts = models.PositiveIntegerField(default=1)
    replica = models.UUIDField()
    """Whose start was the newest."""
    engine_version = models.CharField(max_length=40, default="")
    settings = models.JSONField(default=dict)
    """`agents.wire.EngineSettings` as JSON."""
    estimated = models.JSONField(default=dict)
    """By part: what the arithmetic alone gives."""
    predicted = models.JSONField(default=dict)
    """By part: what the revision was ordered with, corrected by earlier starts."""
    measured = models.JSONField(default=dict)
    """By part: what the engine said."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["catalog_slug", "variant", "device_kind", "digest"],
                name="measurement_once_per_settings",
            )
        ]

    def __str__(self) -> str:
        return f"{self.catalog_slug} {self.variant} on {self.device_kind}"
