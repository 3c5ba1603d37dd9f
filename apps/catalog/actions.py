"""Add a model that is not in the catalog: read what its files say, write a card, serve it.

Reads config.json and the safetensors' index or headers, at most a few megabytes, and never code: a
model of which only its own code knows how to run it gets a card all the same, and the engine
refuses it. The card is a file in the operators' catalog folder, as if written by hand.
"""

import os
from pathlib import Path

import yaml
from django.conf import settings

from agents.wire import Task
from apps.accounts.actions import audit
from apps.catalog import catalog, model_files
from apps.catalog.cards import Wish, as_file, card, slug_of, title
from apps.catalog.config_shapes import BadConfig
from apps.catalog.entry import Entry
from apps.catalog.reading import BadFile, read_entry
from apps.lib.problems import Problem, of_field


def add_model(
    *, source: str, slug: str = "", name: str = "", task: Task | None = None, actor: str
) -> Entry:
    """Make a card for the model at `source`, and keep it. Returns the entry.

    Raises Problem 400 for a source that is none or files that lack something, 404 when there is no
    such model, 409 `slug_taken`, 502 when the hub does not answer.
    """
    asked = Wish(source=source, slug=slug, name=name, task=task)
    if model_files.HUB.fullmatch(source):
        wish, read = model_files.on_hub(asked)
    elif found := model_files.FOLDER.fullmatch(source):
        wish, read = asked, model_files.in_folder(Path(found["folder"]))
    else:
        raise _wrong("source", f"{source!r} is no source: give hf:<org>/<name> or path:/folder")
    _check_free(slug or slug_of(name or title(source)))
    try:
        entry = card(wish, model_files.config_of(read), model_files.weights_of(read))
    except BadConfig as error:
        raise _wrong("source", f"{source}: {error}") from error
    except (TypeError, ValueError) as error:
        raise _wrong("source", f"{source}: its card would be wrong: {error}") from error
    kept = _keep(entry)
    audit(actor=actor, action="catalog.added", target=kept.slug, data={"source": source})
    return kept


def _check_free(slug: str) -> None:
    if any(entry.slug == slug for entry in catalog.entries()):
        raise Problem(
            409,
            "slug_taken",
            f"slug: the catalog has an entry {slug} already; give another slug.",
            extra={"field": "slug"},
        )


def _keep(entry: Entry) -> Entry:
    """Write the card beside the operators' files, only if it reads back."""
    folder: Path = settings.DATA_DIR / "catalog"
    folder.mkdir(parents=True, exist_ok=True)
    drafts = folder / ".drafts"
    drafts.mkdir(exist_ok=True)
    draft = drafts / f"{entry.slug}.yaml"
    draft.write_text(yaml.safe_dump(as_file(entry), sort_keys=False, allow_unicode=True))
    try:
        kept = read_entry(draft)
        os.link(draft, folder / draft.name)
    except BadFile as error:
        raise _wrong("source", f"its card would be wrong: {error}") from error
    except FileExistsError:
        _check_free(entry.slug)
        raise
    finally:
        draft.unlink(missing_ok=True)
    return kept


def _wrong(field: str, message: str) -> Problem:
    return of_field(400, "invalid", field, message)
