"""Rows of replicas that take several hosts. Part of `models`."""

from django.db import models

from apps.deployments.states import ReplicaPhase


class Member(models.Model):
    """One host's part of a replica that takes several. Rank 0 is the head: it alone serves.

    All ranks have a row; the replica's own `host` and `gpu_uuids` are those of the head. The
    reconciler writes where it is, reports of its host write how it is.
    """

    replica = models.ForeignKey(
        "deployments.Replica", on_delete=models.CASCADE, related_name="members"
    )
    rank = models.PositiveSmallIntegerField()
    host = models.ForeignKey("fleet.Host", on_delete=models.CASCADE, related_name="members")
    gpu_uuids = models.JSONField(default=list)

    phase = models.CharField(max_length=16, default=ReplicaPhase.PENDING)
    """Of `ReplicaPhase` what an agent says; `stopped` once nothing of it is left on its host."""
    phase_at = models.DateTimeField()
    reason = models.TextField(default="")
    code = models.CharField(max_length=32, default="")
    log_tail = models.JSONField(default=list)
    """Last lines of its log, once it failed."""

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["replica", "rank"], name="member_rank_once"),
            models.UniqueConstraint(fields=["replica", "host"], name="member_host_once"),
            models.CheckConstraint(
                condition=models.Q(phase__in=[phase.value for phase in ReplicaPhase]),
                name="member_phase_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.replica_id} rank {self.rank} {self.phase}"
