"""Measure profiles on judged questions, in slices, and say which is better and how surely."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.db import transaction
from django.db.models import Q

from apps.accounts.actions import audit
from apps.accounts.models import User
from apps.lib.problems import Problem
from apps.rag import actions, asking, embedding, judging, metrics
from apps.rag.judging import Judged, WrongJudgements
from apps.rag.metrics import Figures
from apps.rag.models import Evaluation, Judgement, KnowledgeBase, Question
from apps.rag.retrieval import Asked, search
from apps.rag.served import ServedRefused
from apps.rag.settings import settings_of

DEPTH = 100
"""Documents of a ranking that is measured."""
LEASE = timedelta(seconds=120)
MOST_PROFILES = 4


def import_judgements(
    base: KnowledgeBase, *, text: str, form: str, questions: Mapping[str, str], user: User
) -> dict[str, Any]:
    """Add or replace judgements; return how many, and what named documents that are not here.

    Raises Problem 400 for text that is no judgements, or of which nothing can be used.
    """
    try:
        rows = judging.read(text, form)
    except WrongJudgements as error:
        raise Problem(400, "invalid", f"text: {error}", extra={"field": "text"}) from error
    names = judging.documents_by_name(
        list(base.documents.filter(deleted_at__isnull=True).values_list("name", flat=True))
    )
    usable = [row for row in rows if row.document in names and _words(row, questions)]
    unknown = sorted({row.document for row in rows if row.document not in names})
    silent = sorted({row.key for row in rows if not _words(row, questions)})
    if not usable:
        raise Problem(
            400,
            "nothing_usable",
            f"No judgement can be used: {len(unknown)} documents are not here "
            f"({', '.join(unknown[:3])}…), {len(silent)} topics have no text in `questions`.",
            extra={"unknown_documents": unknown[:100], "topics_without_text": silent[:100]},
        )
    _store(base, usable, names, questions, user)
    return {
        "questions": base.questions.count(),
        "imported": len(usable),
        "unknown_documents": unknown[:100],
        "unknown_documents_total": len(unknown),
        "topics_without_text": silent[:100],
    }


def _words(row: Judged, questions: Mapping[str, str]) -> str:
    return row.question or questions.get(row.key, "")


@transaction.atomic
def _store(
    base: KnowledgeBase,
    rows: Sequence[Judged],
    names: Mapping[str, str],
    questions: Mapping[str, str],
    user: User,
) -> None:
    texts = {row.key: _words(row, questions) for row in rows}
    Question.objects.bulk_create(
        [Question(knowledge_base=base, key=key, text=text) for key, text in texts.items()],
        update_conflicts=True,
        unique_fields=["knowledge_base", "key"],
        update_fields=["text"],
    )
    known = {row.key: row for row in base.questions.filter(key__in=list(texts))}
    graded = {(row.key, names[row.document]): row.grade for row in rows}
    Judgement.objects.bulk_create(
        [
            Judgement(question=known[key], document=name, grade=grade, source="import")
            for (key, name), grade in graded.items()
        ],
        update_conflicts=True,
        unique_fields=["question", "document"],
        update_fields=["grade", "source"],
        batch_size=1000,
    )
    audit(
        actor=user.username,
        action="judgements.imported",
        target=base.slug,
        data={"questions": len(texts), "judgements": len(graded)},
    )
    actions.changed(base)


@transaction.atomic
def thumb(base: KnowledgeBase, *, question: str, document: str, is_up: bool) -> None:
    """Judge one document for a question as its reader did. Raises Problem 404."""
    if not base.documents.filter(name=document, deleted_at__isnull=True).exists():
        raise Problem(404, "not_found", f"{base.slug} has no document {document}.")
    row, _ = Question.objects.get_or_create(
        knowledge_base=base, key=judging.question_key(question), defaults={"text": question}
    )
    Judgement.objects.update_or_create(
        question=row, document=document, defaults={"grade": int(is_up), "source": "thumb"}
    )
    actions.changed(base)


@transaction.atomic
def begin(
    base: KnowledgeBase, *, profiles: Sequence[str], part: str, user: User, now: datetime
) -> Evaluation:
    """Queue a measurement of `profiles` on `all`, `odd` or `even` questions.

    Odd and even are by their place in the set: tune on one half, report on the other.
    Raises Problem 404 for an unknown profile, 409 without judged questions.
    """
    if not 1 <= len(profiles) <= MOST_PROFILES:
        raise Problem(400, "invalid", f"profiles: name 1 to {MOST_PROFILES}.")
    frozen = []
    for name in profiles:
        label, settings = asking.chosen(base, name)
        frozen.append({"profile": label, "settings": msgspec.to_builtins(settings)})
    keys = _keys(base, part)
    if not keys:
        raise Problem(409, "no_judgements", "Import judgements first, or give thumbs to answers.")
    return Evaluation.objects.create(
        knowledge_base=base,
        build=base.live_build,
        state="queued",
        profiles=frozen,
        results={"part": part, "keys": keys, "figures": {}},
        questions_total=len(keys),
        created_by=user.username,
        created_at=now,
    )


def _keys(base: KnowledgeBase, part: str) -> list[str]:
    rows = base.questions.filter(judgements__grade__gt=0).distinct().order_by("id")
    keys = list(rows.values_list("key", flat=True))
    return {"odd": keys[0::2], "even": keys[1::2]}.get(part, keys)


def take_next(now: datetime) -> Evaluation | None:
    """Return a measurement that nobody works on, now this worker's."""
    rows = Evaluation.objects.filter(_free(now), state__in=("queued", "running"))
    for row in rows.select_related("knowledge_base", "knowledge_base__owner", "build")[:4]:
        if take(row, now):
            return row
    return None


def take(evaluation: Evaluation, now: datetime) -> bool:
    """Hold `evaluation`; return whether nobody else does."""
    taken = Evaluation.objects.filter(_free(now), pk=evaluation.pk).update(
        lease_until=now + LEASE, state="running"
    )
    evaluation.state = "running"
    return bool(taken)


def _free(now: datetime) -> Q:
    return Q(lease_until__isnull=True) | Q(lease_until__lt=now)


def work_on(evaluation: Evaluation, *, seconds: float, now: datetime) -> bool:
    """Measure for about `seconds`; return whether it is done. Faults fail it with their reason."""
    end = time.monotonic() + seconds
    figures: dict[str, list[list[float]]] = evaluation.results["figures"]
    keys = evaluation.results["keys"]
    try:
        while evaluation.questions_done < len(keys) and time.monotonic() < end:
            key = keys[evaluation.questions_done]
            figures[key] = _measured(evaluation, key)
            evaluation.questions_done += 1
    except (Problem, ServedRefused) as error:
        evaluation.state, evaluation.reason = "failed", str(error)[:500]
        evaluation.finished_at = now
    else:
        if evaluation.questions_done == len(keys):
            evaluation.results |= {"profiles": _summary(evaluation), "by_question": _rows(figures)}
            evaluation.state, evaluation.finished_at = "done", now
    evaluation.lease_until = None
    evaluation.save()
    actions.changed(evaluation.knowledge_base, "evaluation")
    return evaluation.state in ("done", "failed")


def _measured(evaluation: Evaluation, key: str) -> list[list[float]]:
    """Return one question's figures for each profile."""
    base = evaluation.knowledge_base
    question = base.questions.get(key=key)
    grades = dict(question.judgements.values_list("document", "grade"))
    rows = []
    for profile in evaluation.profiles:
        ranking = _ranking(evaluation, question.text, profile["settings"])
        rows.append(list(asdict(metrics.figures(ranking, grades)).values()))
    return rows


def _ranking(evaluation: Evaluation, text: str, settings: Mapping[str, Any]) -> list[str]:
    """Return documents, best first: each stands where its best chunk does."""
    base = evaluation.knowledge_base
    wanted = {**settings, "top_k": DEPTH, "token_budget": None}
    trace = search(
        Asked(
            base=base,
            query=text,
            settings=settings_of(wanted),
            profile="evaluation",
            key=embedding.key_of(base.owner),
            run=str(evaluation.pk),
            build=evaluation.build,
        )
    )
    return list(dict.fromkeys(hit.chunk.document.name for hit in trace.hits))


def _summary(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return each profile's means with intervals, and how it does against the first."""
    figures = evaluation.results["figures"]
    keys = evaluation.results["keys"]
    by_profile = [
        [Figures(**dict(zip(_NAMES, figures[key][at], strict=True))) for key in keys]
        for at in range(len(evaluation.profiles))
    ]
    first = [row.ndcg for row in by_profile[0]]
    summary = []
    for profile, rows in zip(evaluation.profiles, by_profile, strict=True):
        values = [row.ndcg for row in rows]
        low, high = metrics.interval(values)
        summary.append(
            {
                "profile": profile["profile"],
                **metrics.mean(rows),
                "ndcg_at_10_low": low,
                "ndcg_at_10_high": high,
                "against_first": asdict(metrics.compare(values, first)),
            }
        )
    return summary


_NAMES = ("ndcg", "reciprocal_rank", "recall", "precision", "unjudged")


def _rows(figures: Mapping[str, list[list[float]]]) -> list[dict[str, Any]]:
    """Return each question's nDCG@10 by profile, the widest differences first."""
    rows = [
        {"question": key, "ndcg_at_10": [values[0] for values in by_profile]}
        for key, by_profile in figures.items()
    ]
    return sorted(rows, key=lambda row: min(row["ndcg_at_10"]) - max(row["ndcg_at_10"]))
