"""Judgements from files: TREC qrels, CSV, JSONL; pure.

TREC has topic and document only, so its questions come along as `{topic: text}`. CSV needs the
columns `question`, `document`, `grade` and may have `key`; JSONL has the same members.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST_ROWS = 200_000
HIGHEST_GRADE = 100


class WrongJudgements(ValueError):
    """The text is no judgements; the message names the line."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One judgement as imported."""

    key: str
    """Topic, or made from the question."""
    question: str
    """Empty when the file has topics only."""
    document: str
    grade: int


def read(text: str, form: str) -> list[Judged]:
    """Return the judgements in `text`; `form`: `trec`, `csv`, `jsonl`. Raises WrongJudgements."""
    readers = {"trec": _trec, "csv": _csv, "jsonl": _jsonl}
    if form not in readers:
        raise WrongJudgements(f"format: use one of {', '.join(readers)}.")
    rows = readers[form](text)
    if not rows:
        raise WrongJudgements("there is no judgement in it.")
    if len(rows) > MOST_ROWS:
        raise WrongJudgements(f"there are {len(rows)} rows; give at most {MOST_ROWS}.")
    return rows


def documents_by_name(names: Sequence[str]) -> dict[str, str]:
    """Return what a judgement may call each document: its name, and its name without extension.

    A stem that two documents share means neither.
    """
    stems: dict[str, set[str]] = {}
    for name in names:
        stems.setdefault(name.rsplit(".", 1)[0], set()).add(name)
    unique = {stem: next(iter(found)) for stem, found in stems.items() if len(found) == 1}
    return {**unique, **{name: name for name in names}}


def _trec(text: str) -> list[Judged]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 4:
            raise WrongJudgements(f"line {number}: a TREC line has topic, 0, document, grade.")
        rows.append(_judged(number, parts[0], "", parts[2], parts[3]))
    return rows


def _csv(text: str) -> list[Judged]:
    reader = csv.DictReader(io.StringIO(text))
    _need(set(reader.fieldnames or ()), 1)
    try:
        return [_row(number, row) for number, row in enumerate(reader, 2)]
    except csv.Error as error:
        raise WrongJudgements(f"line {reader.line_num}: {error}.") from error


def _jsonl(text: str) -> list[Judged]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise WrongJudgements(f"line {number}: it is no JSON.") from error
        if not isinstance(row, dict):
            raise WrongJudgements(f"line {number}: each line is an object.")
        _need(set(row), number)
        rows.append(_row(number, {key: str(value) for key, value in row.items()}))
    return rows


def _need(names: set[str], number: int) -> None:
    missing = {"question", "document", "grade"} - names
    if missing:
        raise WrongJudgements(f"line {number}: {', '.join(sorted(missing))} is missing.")


def _row(number: int, row: Mapping[str, str | None]) -> Judged:
    question = (row.get("question") or "").strip()
    if not question:
        raise WrongJudgements(f"line {number}: question is empty.")
    key = (row.get("key") or "").strip() or question_key(question)
    return _judged(
        number, key, question, (row.get("document") or "").strip(), row.get("grade") or ""
    )


def question_key(question: str) -> str:
    """Return the key of a question that came without one."""
    return hashlib.sha256(question.encode()).hexdigest()[:16]


def _judged(number: int, key: str, question: str, document: str, grade: str) -> Judged:
    try:
        value = int(grade)
    except ValueError as error:
        raise WrongJudgements(f"line {number}: grade {grade[:20]!r} is no whole number.") from error
    if not document or len(document) > 255 or len(key) > 80:
        raise WrongJudgements(f"line {number}: document (or topic) is empty or too long.")
    # TREC collections use negative grades for documents that were judged not relevant.
    return Judged(
        key=key, question=question, document=document, grade=min(max(value, 0), HIGHEST_GRADE)
    )
