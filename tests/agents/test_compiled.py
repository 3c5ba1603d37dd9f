"""Folders of compiled kernels: shared by what compiles the same, and by nothing else."""

import os
from pathlib import Path

import pytest

from agents import compiled
from agents.wire import EngineKind, EngineSettings, EngineSpec, RuntimeKind, WeightsRef


def spec(**changes: object) -> EngineSpec:
    given: dict[str, object] = {
        "engine": EngineKind.VLLM,
        "device": "cpu",
        "weights": WeightsRef(key="m", source="hf:a/m@main"),
        "served_names": ("m",),
    }
    return EngineSpec(**(given | changes))


def folder(root: Path, version: str = "1", hardware: str = "amd", **changes: object) -> Path:
    return compiled.folder(root, spec(**changes), version, hardware, RuntimeKind.PROCESS)


def test_replicas_of_the_same_model_and_settings_share_one(tmp_path):
    assert folder(tmp_path, served_names=("a",)) == folder(tmp_path, served_names=("b",))


@pytest.mark.parametrize(
    "other",
    [
        {"version": "2"},
        {"hardware": "intel"},
        {"device": "cuda"},
        {"weights": WeightsRef(key="n", source="hf:a/m@main")},
        {"weights": WeightsRef(key="m", source="hf:b/m@main")},
        {"settings": EngineSettings(max_model_len=17)},
        {"gpu_uuids": ("GPU-1", "GPU-2")},
    ],
)
def test_what_compiles_otherwise_has_its_own(tmp_path, other):
    assert folder(tmp_path) != folder(tmp_path, **other)


def test_containers_and_processes_run_as_other_users_and_share_nothing(tmp_path):
    contained = compiled.folder(tmp_path, spec(), "1", "amd", RuntimeKind.DOCKER)

    assert contained != folder(tmp_path)


def test_nobody_else_can_look_into_it(tmp_path):
    assert folder(tmp_path).stat().st_mode & 0o077 == 0


def test_those_not_used_for_longest_go(tmp_path):
    found = [folder(tmp_path, version=str(n)) for n in range(4)]
    for age, path in enumerate([0, 30, 20, 10]):
        os.utime(found[age], (1000 - path, 1000 - path))

    compiled.prune(tmp_path, keep=2)

    assert [path.exists() for path in found] == [True, False, False, True]
