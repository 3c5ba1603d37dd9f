"""Load pymilvus without pandas, which it imports for helpers that nothing here calls.

pandas and what it brings are half of the second and 65 of the 117 MB that pymilvus costs a web
process. While pymilvus loads, an empty module of that name stands in; afterwards the real pandas
can be imported as ever, unless `forbid` keeps it out. Call either before anything else names
pymilvus.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

_NAMES = ("pandas", "pandas.api", "pandas.api.types")


class _Empty(ModuleType):
    """A module in which every name is a class that nothing is an instance of."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - stands in for whatever is asked
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def load() -> None:
    """Load pymilvus; without pandas unless that is loaded already."""
    if "pymilvus" in sys.modules or "pandas" in sys.modules:
        return
    for name in _NAMES:
        sys.modules[name] = _Empty(name)
    try:
        import_module("pymilvus")
    finally:
        for name in _NAMES:
            sys.modules.pop(name, None)


class _Gone(MetaPathFinder):
    """Tells whoever imports pandas that it is not there."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("this process has no pandas", name=fullname)


def forbid() -> None:
    """Load pymilvus, and let nobody import pandas in this process: pyarrow does where it can."""
    load()
    if not any(isinstance(finder, _Gone) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Gone())
