"""The shape of the code: small functions, files of one subject."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("agents", "apps", "controlplane", "gateway")
LONGEST_FUNCTION_LINES = 60
LONGEST_FILE_LINES = 400


def source_files() -> list[Path]:
    found = [path for name in SOURCES for path in sorted((ROOT / name).rglob("*.py"))]
    return [path for path in found if "migrations" not in path.parts]


def functions() -> Iterator[tuple[int, str]]:
    """Yield (lines, where) of every function."""
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                yield node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.name}"


def test_functions_stay_small():
    lengths = sorted(functions())

    assert statistics.median(lines for lines, _ in lengths) <= 10
    assert [where for lines, where in lengths if lines > LONGEST_FUNCTION_LINES] == []


def test_files_keep_to_one_subject():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in source_files()
    }

    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE_LINES} == {}


def test_every_module_says_what_it_is_for():
    silent = [
        str(path.relative_to(ROOT))
        for path in source_files()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]

    assert [name for name in silent if not name.endswith("/apps.py")] == []
