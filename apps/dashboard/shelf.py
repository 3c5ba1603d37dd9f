"""The catalog as cards: each entry with where it fits now, on the hosts that are there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from django.http import QueryDict

from agents.custom import CustomEngine
from apps.catalog import catalog
from apps.catalog.entry import Device, Entry, UnknownVariant, Variant
from apps.catalog.fit import (
    DoesNotFit,
    HostFit,
    HostRoom,
    Wish,
    choose_variant,
    fit,
    with_remedies,
)
from apps.catalog.settings import BadSetting
from apps.dashboard import units
from apps.deployments.dry_run import HostAnswer, priced
from apps.deployments.learning import starts_of
from apps.deployments.room import fit_rooms

TASK_WORDS = {
    "chat": "Chat",
    "embed": "Embeddings",
    "rerank": "Reranking",
    "image": "Images",
    "http": "Own API",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """One catalog entry with its fit."""

    entry: Entry
    task: str
    fits: bool
    fit_line: str
    variant: str
    """The variant that one click takes; the first recommended one if none fits."""
    weight_bytes: int

    @property
    def text(self) -> str:
        """All that a search looks through."""
        e = self.entry
        names = (v.name for v in e.variants)
        return " ".join([e.slug, e.name, e.maker, e.family, *e.capabilities, *names]).lower()


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What the page's URL asks for."""

    q: str = ""
    task: str = ""
    fits: bool = False

    @classmethod
    def of(cls, query: QueryDict) -> "Filter":
        """Return the filter that a URL names; unknown tasks count as none."""
        task = query.get("task", "")
        return cls(
            q=query.get("q", "").strip()[:100],
            task=task if task in TASK_WORDS else "",
            fits=query.get("fits") == "1",
        )

    def takes(self, card: Card) -> bool:
        """Return whether `card` is shown."""
        return (
            all(word in card.text for word in self.q.lower().split())
            and self.task in ("", card.entry.task)
            and (card.fits or not self.fits)
        )


def cards() -> list[Card]:
    """Return every entry as a card: what fits first, small before large."""
    rooms = fit_rooms()
    made = [card(entry, rooms) for entry in catalog.entries()]
    return sorted(made, key=lambda c: (not c.fits, c.entry.parameters.total, c.entry.slug))


def card(entry: Entry, rooms: Sequence[HostRoom] | None = None) -> Card:
    """Return `entry` with its fit on `rooms`, by default on the hosts as they are now."""
    plan_ = plan(entry, Wish(), rooms)
    name = plan_.variant or entry.recommended[0]
    return Card(
        entry=entry,
        task=TASK_WORDS[entry.task],
        fits=plan_.fits,
        fit_line=plan_.line,
        variant=name,
        weight_bytes=entry.variant(name).weight_bytes,
    )


def tasks(whole: Sequence[Card]) -> list[tuple[str, str, int]]:
    """Return (key, word, count) of each task that the catalog has."""
    count = Counter(str(card.entry.task) for card in whole)
    return [(key, word, count[key]) for key, word in TASK_WORDS.items() if count[key]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where a wish would go."""

    fits: bool
    line: str
    """One sentence for people."""
    variant: str = ""
    best: HostFit | None = None
    hosts: tuple[HostFit, ...] = ()
    nearest: HostFit | None = None
    group: str = ""
    """Hosts that would hold it together, in a sentence; empty if none would, or one does."""

    @property
    def work_bytes(self) -> int:
        """What the engine takes besides weights and KV cache."""
        need = self.best.need if self.best else None
        return need.fixed_bytes - need.weights_bytes if need else 0


def plan(entry: Entry, wish: Wish, rooms: Sequence[HostRoom] | None = None) -> Plan:
    """Return where `wish` fits now, or why it does not."""
    rooms = fit_rooms() if rooms is None else rooms
    if not rooms:
        return Plan(fits=False, line="No host has joined yet")
    if entry.custom is not None:
        return _of_own_engine(entry.custom, rooms)
    try:
        choice = choose_variant(entry, rooms, wish)
    except DoesNotFit as error:
        return _no(entry, wish, rooms, error)
    except (BadSetting, UnknownVariant) as error:
        return Plan(fits=False, line=str(error))
    variants = [choice.variant]
    return Plan(
        fits=True,
        line=_yes(choice.best, len(choice.hosts)),
        variant=choice.variant.name,
        best=choice.best,
        hosts=fit(entry, variants, rooms, wish).hosts,
    )


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What an order would become, before the click: the plan, and what each host says and costs."""

    plan: Plan
    hosts: tuple[HostAnswer, ...]


def preview(entry: Entry, wish: Wish) -> Preview:
    """Return where `wish` would go now, what it costs there, and what would help elsewhere."""
    rooms, wish = fit_rooms(), replace(wish, learned=starts_of(entry.slug))
    plan_ = plan(entry, wish, rooms)
    if not plan_.hosts:  # an engine of its own, or a wrong setting: no host was asked
        return Preview(plan=plan_, hosts=())
    return Preview(plan=plan_, hosts=priced(with_remedies(entry, plan_.hosts, rooms, wish)))


def _of_own_engine(engine: CustomEngine, rooms: Sequence[HostRoom]) -> Plan:
    """Return where an engine has room that says its memory itself."""
    needed = engine.memory_bytes
    for room in rooms:
        free = sum(gpu.free_bytes >= needed for gpu in room.gpus)
        if free >= engine.gpus if engine.gpus else room.memory_available_bytes >= needed:
            where = f"{engine.gpus} GPU" if engine.gpus else "CPU"
            return Plan(fits=True, line=f"Fits {room.name} now · {where}")
    what = f"{engine.gpus} GPU with " if engine.gpus else ""
    return Plan(fits=False, line=f"Does not fit: it needs {what}{units.bytes_(needed)} free")


def target(entry: Entry, wish: Wish) -> tuple[Variant, Device]:
    """Return the variant and device that `wish` would get now, or would prefer."""
    seen = plan(entry, wish)
    name = seen.variant or wish.variant or entry.recommended[0]
    variant = entry.variant(name)
    return variant, seen.best.device if seen.best else next(iter(variant.devices))


def _yes(best: HostFit, hosts: int) -> str:
    where = f"{len(best.gpu_uuids)} GPU" if best.gpu_uuids else "CPU"
    where = f"{where}s" if len(best.gpu_uuids) > 1 else where
    count = best.host if hosts == 1 else f"{hosts} hosts"
    return f"Fits {count} now · {best.variant} on {where}"


def _no(entry: Entry, wish: Wish, rooms: Sequence[HostRoom], error: DoesNotFit) -> Plan:
    variants = [entry.variant(wish.variant)] if wish.variant else list(entry.ranked_variants)
    answers = fit(entry, variants, rooms, wish)
    short = min((a for a in answers.hosts if a.missing_bytes), key=_missing, default=None)
    if short is not None:
        line = f"Too big now: {units.bytes_(short.missing_bytes)} short on {short.host}"
    else:
        line = f"Does not fit: {answers.hosts[0].reason}" if answers.hosts else str(error)
    if (group := answers.group) is not None:
        where = f"{len(group.hosts)} hosts together · {group.fit.variant}"
        return Plan(
            fits=True,
            line=f"Fits {where} on {group.gpus_each * len(group.hosts)} GPUs",
            variant=group.fit.variant,
            best=group.fit,
            hosts=answers.hosts,
            group=str(group),
        )
    return Plan(fits=False, line=line, hosts=answers.hosts, nearest=answers.nearest)


def _missing(answer: HostFit) -> int:
    return answer.missing_bytes
