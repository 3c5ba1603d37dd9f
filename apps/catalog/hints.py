"""How to mend a mistake in a catalog file, in one sentence for the person who wrote it.

Takes what the conversion says ("Expected `str`, got `float`") and the field where it says so.
Called by `apps.catalog.reading`. Pure.
"""

import difflib
import re
from collections.abc import Iterable
from enum import StrEnum

from agents.wire import Task
from apps.catalog.entry import Device, Feature, LayerKind, Quantization

FORMS = {
    "slug": "use lower-case letters, digits, dots and dashes, as in `my-model-8b`",
    "name": "use lower-case letters, digits, dots, dashes and underscores, as in `fp8`",
    "sha256": "give the 64 hexadecimal digits that `sha256sum` prints for the file",
    "min_vllm": 'give a whole version in quotes, as in `"0.10.0"`',
    "min_compute_capability": 'give it in quotes with one decimal, as in `"8.9"`',
    "url": "give an address that starts with https://",
    "convert": "leave it out, or write `gguf`",
}
"""Field -> how its text must look."""

WORDS: dict[str, type[StrEnum]] = {
    "task": Task,
    "quantization": Quantization,
    "kind": LayerKind,
    "devices": Device,
    "capabilities": Feature,
}
"""Field -> the words that it takes."""

TYPES = {
    "str": "text; put it in quotes",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "a mapping of fields",
    "array": "a list",
}


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint at the word of `known` that `word` was meant to be, or at all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"


def explain(message: str, path: str) -> tuple[str, str]:
    """Return (path, sentence) for the conversion's `message` about the field at `path`."""
    path = path.removeprefix("key` in `")
    field = re.sub(r"\[[^\]]*\]", "", path).rpartition(".")[2]
    if missing := re.search(r"missing required field `(\w+)`", message):
        return path, f"`{missing[1]}` is missing: add it"
    if unknown := re.search(r"Invalid enum value '(.*)'", message):
        known = [str(word) for word in WORDS[field]]
        return path, f"`{unknown[1]}` is not known here: {nearest(unknown[1], known)}"
    if wrong := re.search(r"Expected `(\w+)(?: \| null)?`, got `(\w+)`", message):
        wanted = FORMS.get(field) or f"give {TYPES.get(wrong[1], wrong[1])}"
        return path, f"has the wrong type, {wrong[2]}: {wanted}"
    if "matching regex" in message:
        return path, f"does not have the right form: {FORMS[field]}"
    return path, message
