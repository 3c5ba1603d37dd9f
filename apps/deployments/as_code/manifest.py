"""Deployments as YAML: text to values that know their lines, and values to text. Pure.

A file holds one document a deployment, parted by `---`. A document is the whole wish: what it
leaves out is the default. Anchors, tags and keys that stand twice are refused, so that what a
reader sees is what is meant.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

MOST_BYTES = 1024 * 1024
MOST_DOCUMENTS = 1000
FIELDS = (
    "name", "catalog", "variant", "engine", "scaling", "rollout", "placement", "resources",
)  # fmt: skip


class BadManifest(ValueError):
    """Text that cannot be meant; `line` counts from 1."""

    def __init__(self, source: str, line: int, path: str, message: str) -> None:
        super().__init__(message)
        self.source = source
        self.line = line
        self.path = path


@dataclass(frozen=True, kw_only=True)
class Document:
    """One deployment as written."""

    source: str
    """File that it stands in; empty for text from the API."""
    line: int
    value: dict[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)
    """Line of each member, by path: `scaling.min_replicas`."""

    @property
    def name(self) -> str:
        return str(self.value["name"])

    def line_of(self, path: str) -> int:
        """Return the line of a member, or of the nearest one around it."""
        while path and path not in self.lines:
            path = path.rpartition(".")[0]
        return self.lines.get(path, self.line)


def parse(text: str, source: str = "") -> list[Document]:
    """Return the documents in `text`; empty ones are skipped. Raises BadManifest."""
    if len(text.encode()) > MOST_BYTES:
        raise BadManifest(source, 1, "", f"more than {MOST_BYTES} bytes; split it")
    try:
        nodes = list(_nodes(text, source))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise BadManifest(source, line, "", f"no YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise BadManifest(source, 1, "", f"no YAML: {error}") from None
    if len(nodes) > MOST_DOCUMENTS:
        raise BadManifest(source, 1, "", f"more than {MOST_DOCUMENTS} documents; split it")
    return [_document(node, source) for node in nodes]


def dump(values: list[dict[str, Any]]) -> str:
    """Return deployments as YAML; `parse` reads them back."""
    # Plain ASCII: what is written raw of the rest (as U+0085) does not read back as it was.
    return yaml.safe_dump_all(values, sort_keys=False, width=100, explicit_start=len(values) > 1)


def _nodes(text: str, source: str) -> Iterator[yaml.Node]:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            mark = event.start_mark
            line = mark.line + 1 if mark else 1
            raise BadManifest(source, line, "", "anchors and aliases are not read; write it out")
    for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
        is_empty = isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"
        if node is not None and not is_empty:
            yield node


def _document(node: yaml.Node, source: str) -> Document:
    lines: dict[str, int] = {}
    value = _value(node, "", lines, source)
    line = node.start_mark.line + 1
    if not isinstance(value, dict):
        raise BadManifest(source, line, "", "a document is a mapping, as `name: chat`")
    for name in value:
        if name not in FIELDS:
            raise BadManifest(source, lines[name], name, _unknown(name))
    for name in ("name", "catalog"):
        if not isinstance(value.get(name), str):
            raise BadManifest(source, lines.get(name, line), name, "is missing or is no text")
    return Document(source=source, line=line, value=value, lines=lines)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, FIELDS, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(FIELDS)}"
    return f"there is no such key; {hint}"


def _value(node: yaml.Node, path: str, lines: dict[str, int], source: str) -> Any:  # noqa: ANN401
    """Return the node's value, noting the line of every member below it."""
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = f"{path}.{key}".lstrip(".")
            line = key_node.start_mark.line + 1
            if key in found:
                raise BadManifest(source, line, here, f"stands twice, first on line {lines[here]}")
            lines[here] = line
            found[key] = _value(value_node, here, lines, source)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(one, f"{path}.{number}", lines, source) for number, one in enumerate(node.value)
        ]
    return _scalar(node, path, source)


_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str"))


def _scalar(node: yaml.Node, path: str, source: str) -> Any:  # noqa: ANN401
    if node.tag not in _TAGS:
        line = node.start_mark.line + 1
        raise BadManifest(source, line, path, "write plain text, a number, true or false")
    return yaml.SafeLoader("").construct_object(node)
