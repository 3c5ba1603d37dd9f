"""What can be said of one setting: group, sentence, flag, range, where it cannot be set and why.

`declared` reads it from the types of a struct, where each field carries its `Setting`. Pure.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from enum import StrEnum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec


class Group(StrEnum):
    """Headings of the form and of the docs page, in their order."""

    MODEL = "Model"
    QUANTIZATION = "Quantization"
    PARALLELISM = "Parallelism"
    MEMORY = "Memory"
    BATCHING = "Batching"
    CACHING = "Prefix caching"
    SPECULATION = "Speculative decoding"
    KERNELS = "Kernels"
    LOADING = "Loading"
    ADAPTERS = "LoRA adapters"
    PARSERS = "Parsers"
    EXTRA = "Extra arguments"


class Form(StrEnum):
    """How a setting becomes arguments of `vllm serve`."""

    VALUE = "value"  # --flag value
    SWITCH = "switch"  # --flag when true
    TOGGLE = "toggle"  # --flag or --no-flag, nothing when unset
    GIB = "gib"  # --flag with bytes as GiB
    LIST = "list"  # --flag a b c
    OWN = "own"  # the engine's or the agent's code knows how


@dataclass(frozen=True)
class Setting:
    """What is known of one engine setting; bounds are inclusive."""

    group: Group
    help: str
    """One sentence."""
    _: KW_ONLY
    flag: str = ""
    """Of `vllm serve`; empty where it is no flag."""
    form: Form = Form.VALUE
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    multiple_of: Mapping[str, int] = field(default_factory=dict)
    """Device -> step."""
    unit: str = ""
    default: str = ""
    """What the engine does when it is left out, in words; empty where the default says it."""
    refused_on: Mapping[str, str] = field(default_factory=dict)
    """Device -> why it cannot be set there, a whole sentence."""
    admin_only: bool = False
    changes_answers: bool = False
    """True if a wrong value can make a model answer wrongly without an error."""
    name: str = ""
    kind: type = str
    """int, float, bool, str, dict (names to sources) or tuple."""
    initial: Any = None
    """Value when nothing is set."""

    def step(self, device: str) -> int:
        """Return of what a number must be a multiple on `device`; 0 for none."""
        return self.multiple_of.get(device, 0)


def declared(struct: type[msgspec.Struct]) -> dict[str, Setting]:
    """Return the settings of `struct` by name, in the order of its fields."""
    hints = get_type_hints(struct, include_extras=True)
    found = {}
    for part in msgspec.structs.fields(struct):
        kind, setting = get_args(hints[part.name])
        initial = (
            part.default_factory()
            if part.default is msgspec.NODEFAULT and part.default_factory is not msgspec.NODEFAULT
            else part.default
        )
        found[part.name] = replace(setting, name=part.name, kind=_bare(kind), initial=initial)
    return found


def _bare(kind: Any) -> type:  # noqa: ANN401 - a type expression
    """Return `int` for `int | None`, `tuple` for `tuple[int, ...]`."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(option for option in get_args(kind) if option is not type(None))
    bare: type = get_origin(kind) or kind
    return bare


def plain(number: float) -> str:
    """Return `number` as people write it: whole ones without a point or an exponent."""
    return str(int(number)) if number == int(number) else f"{number:g}"
