"""The folder of one started replica, and what this host allows to be started in it.

`<run root>/<replica id>-g<generation>/` is 0700 and holds the engine's socket, its log and
`order.json`, the order as it was started: an agent that finds the instance later, even one that no
order names, knows from it how to reach and probe it.
"""

import re
import shutil
from pathlib import Path

import msgspec

from agents import wire
from agents.custom import CustomEngine, package_names
from agents.runtimes.base import LABEL_DEPLOYMENT, LABEL_GENERATION, LABEL_HOST, LABEL_REPLICA
from agents.settings import REPLICA_ID_LIMIT, Policy
from agents.store import write_atomically
from agents.wire import EngineKind, ReplicaOrder, RuntimeKind, WeightsRef

_ORDER = "order.json"
_REPLICA_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{REPLICA_ID_LIMIT}}}")
_SOURCES = ("wheel:", "hf:", "s3:", "path:", "bundled:")


class Refused(Exception):
    """This host does not do what was ordered; the message names the rule and the way out."""

    code = "refused"


class GpuGone(Refused):
    """A GPU that the order names was there when it was placed, and is not now."""

    code = "gpu_gone"


def run_dir(run_root: Path, replica_id: str, generation: int) -> Path:
    return run_root / f"{replica_id}-g{generation}"


def address(run_root: Path, replica_id: str, generation: int) -> str:
    """Return where the engine of that replica listens, as an `Endpoint.address`."""
    return f"unix:{run_dir(run_root, replica_id, generation) / 'engine.sock'}"


def make_run_dir(run_root: Path, order: ReplicaOrder) -> Path:
    """Make the folder of `order`, keep the order in it, and return it."""
    folder = run_dir(run_root, order.replica_id, order.generation)
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    write_atomically(folder / _ORDER, wire.encode(order))
    return folder


def started_order(folder: Path) -> ReplicaOrder | None:
    """Return the order that was started in `folder`, None if it cannot be read any more."""
    try:
        return wire.decode(ReplicaOrder, (folder / _ORDER).read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def remove_run_dir(folder: Path) -> None:
    """Remove the folder of a replica that is gone; fine if it is not there."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_all_run_dirs(run_root: Path, replica_id: str) -> None:
    """Remove the folders of every generation: also of those whose start never came to anything."""
    own = re.compile(rf"{re.escape(replica_id)}-g\d+")
    for folder in run_root.iterdir():
        if own.fullmatch(folder.name):
            remove_run_dir(folder)


def instance_name(order: ReplicaOrder) -> str:
    """Return the name that the same order always gets: starting twice cannot make two."""
    return f"hearth-{order.replica_id}-g{order.generation}"


def labels(order: ReplicaOrder, host_id: str) -> dict[str, str]:
    """Return the labels by which an instance is found and adopted again."""
    return {
        LABEL_REPLICA: order.replica_id,
        LABEL_GENERATION: str(order.generation),
        LABEL_DEPLOYMENT: order.deployment,
        LABEL_HOST: host_id,
    }


def check_id(replica_id: str) -> None:
    """Raise Refused unless `replica_id` may become part of a path and of a container's name."""
    if not _REPLICA_ID.fullmatch(replica_id):
        raise Refused(
            f"replica id {replica_id[:80]!r} is not made of up to {REPLICA_ID_LIMIT} letters, "
            "digits, - and _"
        )


def check_image(image: str, policy: Policy) -> None:
    """Raise Refused unless the policy of this host allows `image`."""
    for allowed in policy.allowed_images:
        rest = image.removeprefix(allowed)
        if rest != image and (allowed.endswith("/") or rest[:1] in ("", ":", "@")):
            return
    raise Refused(
        f"this host does not run the image {image!r}: "
        f"add its repository to HEARTH_ALLOWED_IMAGES (now {', '.join(policy.allowed_images)})"
    )


def check_weights(ref: WeightsRef, policy: Policy) -> None:
    """Raise Refused unless this host may serve `ref`: a known source, a folder it opened up."""
    if not ref.source.startswith(_SOURCES):
        raise Refused(
            f"weights source {ref.source!r} is unknown: use wheel:, hf:, s3:, path: or bundled:"
        )
    if not ref.source.startswith("path:"):
        return
    folder = Path(ref.source.removeprefix("path:")).resolve()
    if not any(folder.is_relative_to(root.resolve()) for root in policy.weights_roots):
        raise Refused(
            f"this host does not serve weights from {folder}: "
            "add a folder above it to HEARTH_WEIGHTS_ROOTS"
        )


def check_custom(engine: CustomEngine, runtime: RuntimeKind, policy: Policy) -> None:
    """Raise Refused unless this host runs what `engine` declares: its packages, or its image."""
    if runtime is RuntimeKind.DOCKER:
        if not engine.image:
            raise Refused("this engine has no image, and this host runs replicas in Docker")
        return
    if not engine.requirements:
        raise Refused("this engine is an image, and this host runs replicas as processes")
    for name in package_names(engine.requirements):
        if name not in policy.allowed_packages:
            raise Refused(
                f"this host does not install {name!r} for an engine: add it to "
                f"HEARTH_ALLOWED_PACKAGES (now {', '.join(policy.allowed_packages)})"
            )


def check(order: ReplicaOrder, image: str, runtime: RuntimeKind, policy: Policy) -> None:
    """Raise Refused unless this host may run `order`; `image` matters to Docker alone."""
    check_id(order.replica_id)
    if order.spec.custom is not None:
        check_custom(order.spec.custom, runtime, policy)
    if runtime is RuntimeKind.DOCKER and image != policy.engine_images.get(order.spec.device):
        check_image(image, policy)
    if order.spec.engine is not EngineKind.SIMULATOR:
        check_weights(order.spec.weights, policy)
    for adapter in order.spec.adapters:
        check_weights(adapter.weights, policy)
    if order.spec.draft is not None:
        check_weights(order.spec.draft, policy)
