"""How an engine tells of its KV cache: vLLM's `--kv-events-config`, on sockets in its folder.

Gateways of the same host connect to them beside the engine's own socket; the control plane knows
the names (`apps.traffic.routing`). Pure; called by the engines.
"""

import json
from collections.abc import Iterator

from agents.wire import EVENTS_SOCKET, REPLAY_SOCKET, EngineSpec, Task

BUFFER_BATCHES = 10_000
"""What a gateway that starts later can still ask for."""


def flags(spec: EngineSpec, folder: str) -> Iterator[str]:
    """Yield the flag that makes the engine tell, if the order wants it; `folder` as it sees it."""
    settings = spec.settings
    if not (settings.kv_events and settings.enable_prefix_caching and spec.task is Task.CHAT):
        return
    config = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"ipc://{folder}/{EVENTS_SOCKET}",
        "replay_endpoint": f"ipc://{folder}/{REPLAY_SOCKET}",
        "buffer_steps": BUFFER_BATCHES,
    }
    yield from ("--kv-events-config", json.dumps(config, separators=(",", ":")))
