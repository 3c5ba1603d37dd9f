"""The two forms of the gateway: the compiled one runs when it fits the sources, and only then."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import forms

ROOT = Path(__file__).parents[2]


def gateway(*arguments: str, form: str = "", at: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HEARTH_GATEWAY_FORM": form}
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=at, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def copy(tmp_path) -> Path:
    shutil.copytree(ROOT / "gateway", tmp_path / "gateway")
    (tmp_path / "scripts").mkdir()
    shutil.copy(forms.RECIPE, tmp_path / "scripts")
    return tmp_path


class TestChoice:
    def test_the_compiled_form_runs_where_these_very_sources_were_compiled(self, copy):
        expected = "compiled" if forms.built() else "interpreted"

        assert gateway("--version", at=copy).stdout == f"hearth gateway, {expected}\n"

    @pytest.mark.parametrize("name", ["sse.py", "wire.py"])
    def test_any_other_source_is_interpreted(self, copy, name):
        with (copy / "gateway" / name).open("a") as file:
            file.write("# a change\n")

        assert gateway("--version", at=copy).stdout == "hearth gateway, interpreted\n"

    def test_what_is_not_compiled_may_change(self, copy):
        before = gateway("--version", at=copy).stdout
        with (copy / "gateway" / "program.py").open("a") as file:
            file.write("# a change\n")

        assert gateway("--version", at=copy).stdout == before

    def test_another_recipe_is_another_form(self, copy):
        (copy / "scripts" / forms.RECIPE.name).write_text("# compile otherwise\n")

        assert gateway("--version", at=copy).stdout == "hearth gateway, interpreted\n"

    def test_whoever_wants_it_interpreted_gets_it_so(self):
        assert gateway("--version", form="interpreted").stdout == "hearth gateway, interpreted\n"

    def test_whoever_insists_on_the_compiled_form_hears_that_it_is_not_there(self, copy):
        (copy / "gateway" / "sse.py").write_text("")

        ended = gateway("--version", form="compiled", at=copy)

        assert (ended.returncode, ended.stdout) == (2, "")
        assert "compile_gateway.py" in ended.stderr

    def test_a_form_that_does_not_exist_is_refused_by_name(self):
        ended = gateway("--version", form="fast")

        assert ended.returncode == 2
        assert "'fast'" in ended.stderr


class TestThisRun:
    def test_these_tests_run_the_compiled_form_where_there_is_one(self):
        """`scripts/test.sh` compiles first, and fails where a compiler is there and it does not."""
        wants_it = os.environ.get("HEARTH_GATEWAY_FORM") != "interpreted"

        assert (forms.active() == "compiled") == (wants_it and forms.built() is not None)

    def test_the_interpreted_form_passes_too(self):
        """The sources as they stand are what runs where nothing can be compiled."""
        if forms.active() == "interpreted":
            return
        files = [f"tests/gateway/test_{name}.py" for name in ("server", "sse", "router", "peers")]
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", *files],
            cwd=ROOT, env={**os.environ, "HEARTH_GATEWAY_FORM": "interpreted"},
            capture_output=True, text=True, timeout=110, check=False,
        )  # fmt: skip

        assert ended.returncode == 0, ended.stdout[-3000:]
