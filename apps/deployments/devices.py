"""Refuse an order for a device, a kind of GPU or a host that is nowhere, naming the field. Pure.

Without this the answer would be each host's own reason, and a typing error would read like a full
fleet. Called by `recipes` for orders that do not wait for room.
"""

from collections.abc import Sequence
from difflib import get_close_matches

from apps.catalog.entry import Device
from apps.catalog.rooms import HostRoom
from apps.deployments.orders import PlacementWish
from apps.lib.problems import Problem, of_field


def check_somewhere(wish: PlacementWish, rooms: Sequence[HostRoom]) -> None:
    """Raise Problem 422 `device_unknown` if no ready host has what `wish` names.

    A fleet without any ready host is another matter: the fit says so.
    """
    if not rooms:
        return
    names = sorted(room.name for room in rooms)
    kinds = sorted({gpu.kind for room in rooms for gpu in room.gpus})
    if wish.host and wish.host not in names:
        raise _nowhere("placement.host", f"no ready host is called {wish.host!r}", wish.host, names)
    if wish.gpu_kind and wish.gpu_kind not in kinds:
        words = f"no ready host has a GPU of kind {wish.gpu_kind!r}"
        raise _nowhere("placement.gpu_kind", words, wish.gpu_kind, kinds)
    devices = sorted({str(device) for room in rooms for device in room.devices})
    if wish.device in set(Device) and wish.device not in devices:
        words = f"no ready host runs engines on {wish.device}"
        raise _nowhere("placement.device", words, wish.device, devices)


def _nowhere(field: str, words: str, given: str, known: Sequence[str]) -> Problem:
    near = get_close_matches(given, known, n=1)
    there_is = f"there is {', '.join(known[:20])}" if known else "there is none"
    message = f"{words}; {f'did you mean {near[0]}? ' if near else ''}{there_is}"
    wait = "With `placement.wait` the order waits until there is one."
    return of_field(422, "device_unknown", field, message, detail=f"{field}: {message}. {wait}")
