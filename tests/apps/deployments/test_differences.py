"""What differs between two specs: what somebody changed, however each of them was stored."""

import msgspec

from agents.wire import EngineKind, EngineSettings, EngineSpec, WeightsRef
from apps.deployments import differences


def spec(**changes: object) -> EngineSpec:
    given: dict[str, object] = {
        "engine": EngineKind.VLLM,
        "weights": WeightsRef(key="m", source="hf:a/m@main"),
        "served_names": ("m",),
    }
    return EngineSpec(**(given | changes))


def stored(**changes: object) -> dict:
    """Return a spec as its row holds it, defaults that were given included."""
    return msgspec.json.decode(msgspec.json.encode(spec())) | changes


def changed(old, new) -> dict:
    found = differences.between(
        differences.flat_spec("bf16", old), differences.flat_spec("bf16", new)
    )
    return {d.field: (d.old, d.new) for d in found}


def test_a_default_that_was_stored_is_no_change():
    old = stored(device="cpu", task="chat", settings={"enforce_eager": False})

    assert changed(old, spec()) == {}
    assert changed(old, spec(device="cuda")) == {"device": ("cpu", "cuda")}


def test_a_setting_is_named_with_both_values():
    old = spec(settings=EngineSettings(max_model_len=2048))
    new = spec(settings=EngineSettings(max_model_len=1024, enforce_eager=True))

    assert changed(old, new) == {
        "settings.max_model_len": (2048, 1024),
        "settings.enforce_eager": (None, True),
    }
