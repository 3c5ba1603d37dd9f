"""Free-form arguments of `vllm serve`: which are known, which are never allowed, which are typed.

The flags are the engine's own, read from its argument parser (`scripts/dump_engine.py`) and kept
per version beside this file. Called by the control plane before an order is taken and by the agent
before an engine is started. Reads one packaged file, once; otherwise pure.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from agents.engine_settings import SETTINGS

DATA = Path(__file__).with_name("engine_data")
NEWEST = "0.32.0"
MOST_ARGUMENTS = 64
MOST_CHARACTERS = 2000

_CODE = "it would run code that is not the model's"
_FILES = "it would read or write files of the host"
_REACH = "it would open a way into or out of the engine"
_SECRET = "a credential does not belong into arguments, which others can read"
_PROMPTS = "prompts and answers are not logged"
_PARTS = "it hands over objects that Hearth cannot judge"

DENIED: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "--middleware",
            "--tool-parser-plugin",
            "--reasoning-parser-plugin",
            "--io-processor-plugin",
            "--logits-processors",
            "--worker-cls",
            "--worker-extension-cls",
            "--scheduler-cls",
            "--model-class-overrides",
            "--code-revision",
            "--distributed-executor-backend",
            "--ray-workers-use-nsight",
        ),
        _CODE,
    ),
    **dict.fromkeys(
        (
            "--compilation-config",
            "--kernel-config",
            "--attention-config",
            "--additional-config",
            "--aux-output-config",
            "--profiler-config",
            "--weight-transfer-config",
            "--ec-manager-config",
            "--eplb-config",
            "--fault-tolerance-config",
            "--model-loader-extra-config",
            "--pt-load-map-location",
            "--enable-prompt-embeds",
            "--enable-mm-embeds",
            "--trust-request-chat-template",
            "--trust-request-mm-kwargs",
            "--ir-op-priority",
            "--engram-config",
            "--watermark-config",
        ),
        _PARTS,
    ),
    **dict.fromkeys(
        (
            "--config",
            "--download-dir",
            "--allowed-local-media-path",
            "--chat-template",
            "--log-config-file",
            "--logging-config",
            "--tokenizer",
            "--hf-config-path",
            "--generation-config",
            "--lora-modules",
            "--model",
            "--mm-encoder-fp8-scale-path",
            "--mm-encoder-fp8-scale-save-path",
        ),
        _FILES,
    ),
    **dict.fromkeys(
        (
            "--kv-transfer-config",
            "--ec-transfer-config",
            "--kv-events-config",
            "--otlp-traces-endpoint",
            "--tool-server",
            "--host",
            "--port",
            "--uds",
            "--master-addr",
            "--master-port",
            "--nnodes",
            "--node-rank",
            "--headless",
            "--data-parallel-address",
            "--data-parallel-rpc-port",
            "--data-parallel-start-rank",
            "--data-parallel-hybrid-lb",
            "--data-parallel-external-lb",
            "--data-parallel-rank",
            "--allowed-media-domains",
            "--allowed-origins",
            "--allowed-methods",
            "--allowed-headers",
            "--allow-credentials",
            "--enable-tokenizer-info-endpoint",
            "--enable-scale-out",
            "--root-path",
            "--grpc",
            "--grpc-port",
            "--enable-elastic-ep",
            "--enable-fault-tolerance",
            "--collect-detailed-traces",
        ),
        _REACH,
    ),
    **dict.fromkeys(("--hf-token", "--api-key"), _SECRET),
    **dict.fromkeys(("--enable-log-requests", "--enable-log-outputs"), _PROMPTS),
}
"""Flag -> why nobody may give it."""
DENIED_PREFIXES = ("--ssl-",)

OWN = (
    "--served-model-name",
    "--enable-prompt-tokens-details",
    "--enable-request-id-headers",
    "--shutdown-timeout",
    "--disable-uvicorn-access-log",
    "--disable-fastapi-docs",
    "--runner",
    "--convert",
    "--enable-auto-tool-choice",
    "--enable-lora",
    "--enable-sleep-mode",
    "--revision",
    "--tokenizer-revision",
    "--speculative-config",
    "--spec-method",
    "--spec-model",
    "--spec-tokens",
)
"""Flags that the agent writes itself."""


class BadArgument(ValueError):
    """An extra argument cannot be given; the message names it and the fix."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag of the engine."""

    name: str
    takes: str
    """`none`, `one`, `optional` or `many` values."""
    kind: str = "str"
    """`str`, `int`, `float` or `json`."""
    choices: tuple[str, ...] = ()


@cache
def flags_of(version: str = NEWEST) -> Mapping[str, Flag]:
    """Return the flags of that version of vLLM by every name they have."""
    data: dict[str, Any] = json.loads((DATA / f"vllm-{version}.json").read_bytes())
    found = {}
    for name, row in data["flags"].items():
        flag = Flag(
            name=name,
            takes=row["takes"],
            kind=row.get("kind", "str"),
            choices=tuple(row.get("choices", ())),
        )
        found.update(dict.fromkeys((name, *row.get("also", ())), flag))
    return found


def checked(arguments: Sequence[str], version: str = NEWEST) -> tuple[str, ...]:
    """Return `arguments` as they may be put on the command line, one flag after the other.

    Raises BadArgument for a flag that is unknown (naming the nearest), denied, a typed setting,
    the agent's own or given twice, and for a value of a wrong kind.
    """
    if len(arguments) > MOST_ARGUMENTS or sum(map(len, arguments)) > MOST_CHARACTERS:
        raise BadArgument(
            f"too long: at most {MOST_ARGUMENTS} arguments and {MOST_CHARACTERS} characters"
        )
    words = _split(arguments)
    seen: set[str] = set()
    out: list[str] = []
    while words:
        word = words.pop(0)
        flag = _flag(word, version)
        if flag.name in seen:
            raise BadArgument(f"{word} is given twice: give it once")
        seen.add(flag.name)
        values = []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        out += [word, *_values(flag, word, values)]
    return tuple(out)


def _split(arguments: Sequence[str]) -> list[str]:
    """Return one word for each flag and value; `--flag=value` are two."""
    words: list[str] = []
    for argument in arguments:
        if argument.startswith("--") and "=" in argument:
            name, _, value = argument.partition("=")
            words += [name.replace("_", "-"), value]
        else:
            words.append(argument.replace("_", "-") if argument.startswith("--") else argument)
    return words


def _flag(word: str, version: str) -> Flag:
    if not word.startswith("--"):
        raise BadArgument(f"{word!r} is no flag: begin with one, such as `--max-log-len 100`")
    known = flags_of(version)
    flag = known.get(word)
    if flag is None:
        near = difflib.get_close_matches(word, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "see `vllm serve --help=all`"
        raise BadArgument(f"{word} is no flag of vLLM {version}: {hint}")
    why = DENIED.get(flag.name) or (_REACH if flag.name.startswith(DENIED_PREFIXES) else "")
    if why:
        raise BadArgument(f"{word} is not allowed: {why}; leave it out")
    if typed := _TYPED.get(flag.name):
        raise BadArgument(f"{word} is the setting `engine.{typed}`: set that instead")
    if flag.name in OWN:
        raise BadArgument(f"{word} is set by Hearth itself: leave it out")
    return flag


_TYPED = {setting.flag: name for name, setting in SETTINGS.items() if setting.flag}


def _values(flag: Flag, word: str, values: list[str]) -> list[str]:
    if flag.takes == "none" or word.startswith("--no-"):
        if values:
            raise BadArgument(f"{word} takes no value: leave out {values[0]!r}")
        return []
    if flag.takes in ("one", "many") and not values:
        raise BadArgument(f"{word} needs a value: write it behind the flag")
    if flag.takes != "many" and len(values) > 1:
        raise BadArgument(f"{word} takes one value: leave out {values[1]!r}")
    return [_value(flag, word, value) for value in values]


def _value(flag: Flag, word: str, value: str) -> str:
    if flag.choices and value not in flag.choices:
        near = difflib.get_close_matches(value, flag.choices, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"give one of {', '.join(flag.choices)}"
        raise BadArgument(f"{word} is {value!r}: {hint}")
    try:
        if flag.kind == "int":
            int(value)
        elif flag.kind == "float":
            float(value)
        elif flag.kind == "json":
            return json.dumps(json.loads(value))
    except ValueError as error:
        raise BadArgument(f"{word} is {value!r}: give {_KINDS[flag.kind]}") from error
    if value.startswith("-") and flag.kind == "str":
        raise BadArgument(f"{word} is {value!r}: a value does not begin with a dash")
    return value


_KINDS = {"int": "a whole number", "float": "a number", "json": "JSON"}
