"""Time series of what serves: buckets of added-up samples, and the ticks that wrote them."""

from django.db import models

from apps.telemetry.states import Step, Subject


class Rollup(models.Model):
    """What one subject did in one bucket of time.

    All numbers add up, so that two buckets merge into one: `sums` and `histograms` by addition,
    `peaks` by maximum. Names of measures are in `apps.telemetry.buckets`.
    """

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=12)
    subject = models.CharField(max_length=63)
    """Name of a deployment or host, UUID of a replica: outlives what it names."""
    step_seconds = models.PositiveIntegerField()
    start_at = models.DateTimeField()
    sums = models.JSONField()
    peaks = models.JSONField()
    histograms = models.JSONField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "subject", "step_seconds", "start_at"], name="one_rollup_a_bucket"
            ),
            models.CheckConstraint(
                condition=models.Q(kind__in=[k.value for k in Subject]), name="rollup_kind_known"
            ),
            models.CheckConstraint(
                condition=models.Q(step_seconds__in=[int(s) for s in Step]),
                name="rollup_step_known",
            ),
        ]
        indexes = [models.Index(fields=["step_seconds", "start_at"], name="rollup_by_age")]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject} {self.start_at} +{self.step_seconds} s"


class Tick(models.Model):
    """One due time of one periodic job: whoever inserts the row does the work."""

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=64)
    due_at = models.DateTimeField()
    done_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "due_at"], name="one_tick_a_time")]

    def __str__(self) -> str:
        return f"{self.name} {self.due_at}"
