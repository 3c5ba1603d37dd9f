"""Print what an installed vLLM knows of flags, as `agents/engine_data/vllm-<version>.json` has it.

Run it with the engine's own Python: `<engine environment>/bin/python scripts/dump_engine.py`.
`--words` prints its parsers and attention backends instead (`agents/engine_words.py`).
"""

import argparse
import json
import sys
from importlib.metadata import version
from typing import Any

from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.attention.backends.registry import AttentionBackendEnum

KINDS = {
    "int": "int",
    "human_readable_int": "int",
    "float": "float",
    "parse_dataclass": "json",
    "loads": "json",
    "union_dict_and_str": "json",
}


def main() -> None:
    """Print the flags, or the words."""
    found = words() if "--words" in sys.argv else flags()
    json.dump(found, sys.stdout, indent=1, sort_keys=True)


def flags() -> dict[str, Any]:
    """Return every flag of `vllm serve` with what it takes."""
    parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
    rows = {a.option_strings[0]: _row(a) for a in parser._actions if a.option_strings}
    rows.pop("-h", None)
    return {"engine": "vllm", "version": version("vllm").partition("+")[0], "flags": rows}


def _row(action: argparse.Action) -> dict[str, Any]:
    takes = {0: "none", "+": "many", "*": "many", "?": "optional"}.get(action.nargs, "one")
    row: dict[str, Any] = {"takes": takes}
    kind = KINDS.get(getattr(action.type, "__name__", ""), "str")
    if takes != "none" and kind != "str":
        row["kind"] = kind
    if action.choices:
        row["choices"] = [str(choice) for choice in action.choices if choice is not None]
    if also := action.option_strings[1:]:
        row["also"] = list(also)
    return row


def words() -> dict[str, list[str]]:
    """Return the names of parsers and attention backends."""
    return {
        "tool_call_parsers": _names(ToolParserManager, "tool_parsers"),
        "reasoning_parsers": _names(ReasoningParserManager, "reasoning_parsers"),
        "attention_backends": [backend.name for backend in AttentionBackendEnum],
    }


def _names(manager: object, eager: str) -> list[str]:
    return sorted({*getattr(manager, eager, {}), *getattr(manager, "lazy_parsers", {})})


if __name__ == "__main__":
    main()
