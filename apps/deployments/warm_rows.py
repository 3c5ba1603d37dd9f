"""Rows of the ladder: starts with their timelines, and shared pools. Part of `models`."""

from django.db import models


class Start(models.Model):
    """One start of a replica with its measured timeline: what the next ETA is made from."""

    id = models.BigAutoField(primary_key=True)
    deployment = models.ForeignKey(
        "deployments.Deployment", on_delete=models.CASCADE, related_name="starts"
    )
    replica = models.UUIDField()
    host = models.CharField(max_length=63)
    model = models.CharField(max_length=170)
    """`<catalog slug>:<variant>`: starts of one model are compared, whatever serves it."""
    engine = models.CharField(max_length=32)
    engine_version = models.CharField(max_length=40, default="")
    rung = models.CharField(max_length=8)
    """`agents.wire.Rung`."""
    began_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    seconds = models.FloatField()
    stages = models.JSONField(default=list)
    """`[{stage, seconds, bytes}]` in order; bytes null where not known."""
    failure = models.CharField(max_length=32, default="")
    """Code of the reason where it did not come to serve; empty when it did."""
    reason = models.TextField(default="")

    class Meta:
        indexes = [
            models.Index(fields=["deployment", "-id"], name="start_by_deployment"),
            models.Index(fields=["model", "host", "rung"], name="start_by_model"),
        ]

    def __str__(self) -> str:
        return f"{self.model} on {self.host}: {self.seconds:.1f} s"


class WarmPool(models.Model):
    """Slots shared by the deployments that want one: at most so many sleep beyond their own."""

    gpu_kind = models.CharField(max_length=80, primary_key=True)
    """A kind of GPU, as `l4`, or `cpu`."""
    slots = models.PositiveIntegerField()
    changed_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.gpu_kind}: {self.slots}"
