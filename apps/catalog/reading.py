"""Turns one YAML file into an `Entry`, or says where and how it is wrong.

Decides how a mistake is reported: file, line, field, what is wrong and how to mend it, all
unknown keys of a file at once. Called by `apps.catalog.catalog` and by tests. Reads no folder
and keeps nothing; YAML is loaded by the safe loader, so a file cannot run code.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec.inspect import (
    DictType,
    Metadata,
    StructType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from agents.wire import EngineSettings
from apps.catalog.entry import Entry, Shape
from apps.catalog.hints import explain, nearest
from apps.catalog.settings import BadSetting, engine_settings

MAX_FILE_BYTES = 256 * 1024
"""An entry is a few kilobytes; more is a mistake, such as a model file with a wrong name."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's safe loader where PyYAML was built with it: ten times faster, the same values."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake in one file."""

    file: str
    line: int | None
    field: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        field = f" {self.field}:" if self.field else ""
        return f"{where}:{field} {self.message}"


class BadFile(ValueError):
    """A catalog file is wrong; `problems` says where and how, never empty."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, problems)))


def read_entry(path: Path) -> Entry:
    """Return the entry in the file at `path`. Raises BadFile; the file's stem must be its slug."""
    lines: dict[str, int] = {}
    try:
        raw = _load(path, lines)
        problems = list(_unknown_keys(_ENTRY, raw, "$"))
        if problems:
            raise _Wrong(problems)
        entry = msgspec.convert(_spread(raw), Entry)
        _check(entry, path.stem)
    except _Wrong as wrong:
        found = [_problem(path, lines, *mistake) for mistake in wrong.mistakes]
        raise BadFile(list(dict.fromkeys(found))) from wrong
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `")
        field, sentence = explain(message, where.rstrip("`") or "$")
        raise BadFile([_problem(path, lines, field, sentence)]) from error
    return entry


class _Wrong(Exception):
    """Mistakes as (path of the field, message), before their lines are known."""

    def __init__(self, mistakes: list[tuple[str, str]]) -> None:
        self.mistakes = mistakes
        super().__init__(mistakes)


def _load(path: Path, lines: dict[str, int]) -> dict[str, Any]:
    """Return the YAML of `path` as plain values and fill `lines` with the line of every field."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _Wrong([("$", f"is larger than {MAX_FILE_BYTES // 1024} KiB: not an entry")])
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is not None:
            lines.update(_lines_of(node, "$"))
        raw = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        lines["$"] = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _Wrong([("$", f"is not YAML: {error.problem or error.context}")]) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _Wrong([("$", f"cannot be read: {error}")]) from error
    if not isinstance(raw, dict):
        raise _Wrong([("$", "must be a mapping of fields such as `slug: my-model`")])
    return raw


def _lines_of(node: yaml.Node, path: str) -> Iterator[tuple[str, int]]:
    """Yield the line of every field under `node`. Raises _Wrong for a key that stands twice."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _lines_of(item, f"{path}[{index}]")
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        name = f"{path}.{key.value}"
        yield name, key.start_mark.line + 1
        if name in seen:
            raise _Wrong([(name, "stands twice: keep one")])
        seen.add(name)
        yield from ((field, line) for field, line in _lines_of(value, name) if field != name)


def _unknown_keys(kind: Type, value: object, path: str) -> Iterator[tuple[str, str]]:
    """Yield every key under `value` that its type has no field for, with the nearest that it has.

    A value of a wrong type is left to the conversion.
    """
    if isinstance(kind, StructType) and isinstance(value, dict):
        yield from _unknown_fields(kind, value, path)
        return
    for inner, item, where in _inside(kind, value, path):
        yield from _unknown_keys(inner, item, where)


def _inside(kind: Type, value: object, path: str) -> Iterator[tuple[Type, object, str]]:
    """Yield what `kind`, not a struct, is made of, with the values and paths of its parts."""
    if isinstance(kind, Metadata):
        yield kind.type, value, path
    elif isinstance(kind, UnionType):
        yield from ((option, value, path) for option in kind.types)
    elif isinstance(kind, DictType) and isinstance(value, dict):
        yield from ((kind.value_type, item, f"{path}.{key}") for key, item in value.items())
    elif isinstance(kind, VarTupleType) and isinstance(value, list):
        yield from ((kind.item_type, item, f"{path}[{i}]") for i, item in enumerate(value))


def _unknown_fields(
    kind: StructType, value: Mapping[Any, object], path: str
) -> Iterator[tuple[str, str]]:
    known = {field.name: field.type for field in kind.fields}
    if kind.cls is Entry:
        known.update(SHARED)
    for key, item in value.items():
        here = f"{path}.{key}"
        if key in known:
            yield from _unknown_keys(known[key], item, here)
        else:
            yield here, f"is not a known field: {nearest(str(key), known)}"


_ENTRY = type_info(Entry)

FREE_OF_SHAPE: dict[str, Any] = {
    "context_tokens": 1,
    "min_vllm": "0.0.0",
    "parameters": {"total": 1, "active": 1},
    "engine": {"max_model_len": 1},
    "shape": dict.fromkeys(
        (
            "layers",
            "hidden_size",
            "attention_heads",
            "kv_heads",
            "head_dim",
            "intermediate_size",
            "vocab_size",
        ),
        1,
    ),
}
"""What the fit asks of every entry; a custom engine has no answer to it and says its memory."""

SHARED = {"shape": type_info(Shape), "engine": type_info(EngineSettings)}
"""Fields of a variant that an entry may give once for all its variants."""


def _spread(raw: dict[str, Any]) -> dict[str, Any]:
    """Return `raw` with what an entry says once copied into each of its variants."""
    raw = {**FREE_OF_SHAPE, **raw} if "custom" in raw else raw
    entry = {key: value for key, value in raw.items() if key not in SHARED}
    variants = raw.get("variants")
    if not isinstance(variants, list) or not all(isinstance(item, dict) for item in variants):
        return entry
    parsers = {
        key: raw[key]
        for key in ("tool_call_parser", "reasoning_parser")
        if raw.get(key) is not None
    }
    shared = {key: raw[key] for key in ("shape", "context_tokens", "min_vllm") if key in raw}
    engines = [(raw.get("engine") or {}), *((item.get("engine") or {}) for item in variants)]
    if not all(isinstance(engine, dict) for engine in engines):
        return entry
    entry["variants"] = [
        {**shared, **item, "engine": {**parsers, **engines[0], **(item.get("engine") or {})}}
        for item in variants
    ]
    return entry


def _check(entry: Entry, stem: str) -> None:
    """Raise _Wrong for what only the whole entry or the settings' rules can tell."""
    mistakes = []
    if entry.slug != stem:
        mistakes.append(("$.slug", f"`{entry.slug}` must be the file's name, `{stem}`"))
    for index, variant in enumerate(entry.variants):
        for device in variant.devices:
            try:
                engine_settings(variant, device, {})
            except BadSetting as error:
                where = f"$.variants[{index}].devices.{device}.engine.{error.field}"
                mistakes.append((where, str(error)))
    if mistakes:
        raise _Wrong(mistakes)


def _problem(path: Path, lines: Mapping[str, int], field: str, message: str) -> Problem:
    """Return the mistake with the line of `field`, or of the nearest thing that contains it.

    What an entry says for all variants is looked for at the entry too, since a mistake in it is
    found in the first variant.
    """
    shared = re.sub(
        r"^\$\.variants\[\d+\](?:\.devices\.\w+)?(?=\.(?:shape|engine|context_tokens))", "$", field
    )
    outer = re.sub(r"\.devices\.\w+(?=\.engine)", "", field)
    place = next((name for name in (field, outer, shared) if name in lines), field)
    line = next((lines[name] for name in _outwards(place) if name in lines), None)
    return Problem(
        file=path.name, line=line, field=place.removeprefix("$").removeprefix("."), message=message
    )


def _outwards(field: str) -> Iterator[str]:
    """Yield `field` and then what contains it, from the inside out."""
    yield field
    while match := re.search(r"(?:\.[^.\[\]]*|\[[^\]]*\])$", field):
        field = field[: match.start()]
        yield field
