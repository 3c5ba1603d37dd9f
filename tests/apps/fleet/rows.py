"""Hosts and enrolments for tests: plain functions."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec

from agents.wire import EnrolRequest, GpuInfo, Inventory, RuntimeKind, encode
from apps.fleet import actions
from apps.fleet.models import Host
from apps.lib import secrets

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
GIB = 1024**3


def make_gpu(index: int = 0, name: str = "NVIDIA H100 80GB HBM3") -> GpuInfo:
    return GpuInfo(
        uuid=f"GPU-{index}",
        index=index,
        name=name,
        memory_total_bytes=80 * GIB,
        memory_used_bytes=0,
        compute_capability="9.0",
    )


def make_inventory(**changes: Any) -> Inventory:
    values = {
        "hostname": "machine",
        "cpu_count": 8,
        "memory_total_bytes": 16 * GIB,
        "memory_available_bytes": 12 * GIB,
        "disk_total_bytes": 100 * GIB,
        "disk_free_bytes": 90 * GIB,
        "runtime": RuntimeKind.PROCESS,
    }
    return Inventory(**{**values, **changes})


def make_host(*, name: str = "alpha", gpus: tuple[GpuInfo, ...] = (), **columns: Any) -> Host:
    values = {
        "install_id": uuid4().hex,
        "credential_sha256": secrets.digest(uuid4().hex),
        "relay_key": "relay-key",
        "state_at": NOW,
        "last_seen_at": NOW,
        "created_at": NOW,
        "inventory": msgspec.json.decode(encode(make_inventory(gpus=gpus))),
    }
    return Host.objects.create(name=name, **{**values, **columns})


def make_request(*, token: str = "", host_name: str = "gpu-1", install_id: str = "folder-1"):
    """Return an enrolment with a fresh join token, unless one is given."""
    return EnrolRequest(
        token=token or actions.create_join_token(actor="ada", now=NOW)[1],
        host_name=host_name,
        install_id=install_id,
        inventory=make_inventory(),
    )
