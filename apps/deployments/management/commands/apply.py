"""`manage.py apply FILE|DIR`: make deployments as YAML files say."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.deployments.as_code import manifest
from apps.deployments.as_code.apply import Wish, apply, problem_of
from apps.deployments.as_code.manifest import BadManifest, Document
from apps.lib import clock
from apps.lib.problems import Problem

ACTOR = "manage.py apply"
_SUFFIXES = {".yaml", ".yml"}


class Command(BaseCommand):
    help = "Make deployments as YAML files say; show what differs."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", type=Path, help="a file, or a folder of *.yaml and *.yml")
        parser.add_argument("--dry-run", action="store_true", help="show what differs, and end")
        parser.add_argument(
            "--prune", action="store_true", help="delete what the set owns and no file names"
        )
        parser.add_argument("--set", default="default", help="the name these files go by")
        parser.add_argument(
            "--take-over", action="store_true", help="also deployments of another set"
        )

    def handle(self, **options: Any) -> None:  # noqa: ANN401 - Django's signature
        try:
            wish = Wish(
                documents=_read(options["path"]),
                owner=options["set"],
                prune=options["prune"],
                dry_run=options["dry_run"],
                take_over=options["take_over"],
                by_admin=True,  # who runs commands here has the database anyway
            )
            done = apply(wish, actor=ACTOR, now=clock.now())
        except BadManifest as error:
            raise CommandError(problem_of(error).detail) from error
        except Problem as problem:
            raise CommandError(problem.detail) from problem
        for one in done:
            self.stdout.write("\n".join(one.says()))
        if options["dry_run"]:
            self.stdout.write("Nothing was changed: this was a dry run.")


def _read(path: Path) -> list[Document]:
    """Return the documents of a file, or of a folder's files by name. Raises CommandError."""
    if not path.exists():
        raise CommandError(f"{path} does not exist")
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
    if not files:
        raise CommandError(f"{path} holds no *.yaml or *.yml")
    try:
        texts = [(file, file.read_text()) for file in files]
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from error
    return [one for file, text in texts for one in manifest.parse(text, str(file))]
