"""What is asked of the kernel before an engine reads its weights."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from agents import pages

MIB = 1 << 20


@pytest.fixture
def advised(monkeypatch):
    """Files that the kernel was asked to read ahead, with their lengths, smallest first."""
    asked: list[tuple[str, int]] = []

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert (offset, advice) == (0, os.POSIX_FADV_WILLNEED)
        asked.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return asked


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(pages.psutil, "virtual_memory", lambda: SimpleNamespace(available=count))


def weights(folder: Path, **sizes: int) -> Path:
    for name, size in sizes.items():
        path = folder / name.replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as out:
            out.truncate(size)
    return folder


def test_the_weights_are_read_ahead_whole_and_nothing_else(tmp_path, monkeypatch, advised):
    free(monkeypatch, 100 * MIB)
    folder = weights(tmp_path, a_safetensors=2 * MIB, b_safetensors=MIB, tokenizer_json=MIB)

    asked = pages.bring(folder)

    assert asked == 3 * MIB
    assert advised == [("b.safetensors", MIB), ("a.safetensors", 2 * MIB)]


def test_no_more_than_half_of_the_free_memory_is_filled(tmp_path, monkeypatch, advised):
    free(monkeypatch, 5 * MIB)
    folder = weights(tmp_path, a_safetensors=2 * MIB, b_safetensors=MIB)

    assert pages.bring(folder) == MIB
    assert advised == [("b.safetensors", MIB)]


def test_the_kernel_takes_the_advice_and_no_file_stays_open(tmp_path):
    folder = weights(tmp_path, a_safetensors=MIB)
    before = len(os.listdir("/proc/self/fd"))

    assert pages.bring(folder) == MIB
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_without_safetensors_asks_for_nothing(tmp_path, advised):
    assert pages.bring(weights(tmp_path, model_gguf=MIB)) == 0
    assert advised == []
