"""`manage.py prepare`: bring database, static files and credentials up to date.

Run by `up` before every start; idempotent. Prints one JSON object: `password` when the
administrator was made just now, `join_token` while the local host has no credential yet.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand

from apps.accounts import actions as accounts
from apps.fleet import actions as fleet
from apps.lib import clock, secrets
from apps.traffic import actions as traffic

DATA_DIR: Path = settings.DATA_DIR


class Command(BaseCommand):
    help = "Bring database, static files and credentials up to date."
    requires_system_checks = ()

    def handle(self, **_options: Any) -> None:  # noqa: ANN401 - Django's signature
        call_command("migrate", interactive=False, verbosity=0)
        _collect_static()
        found: dict[str, str] = {}
        if password := _make_admin():
            found["password"] = password
        fleet.incarnation()
        traffic.ensure_gateway_credential("local", DATA_DIR / "gateway_credential")
        if not _is_enrolled():
            found["join_token"] = fleet.create_join_token(actor="up", now=clock.now())[1]
        self.stdout.write(json.dumps(found))


def _is_enrolled() -> bool:
    """Return whether the local agent has a credential that this database knows."""
    try:
        identity = json.loads((DATA_DIR / "agent" / "identity.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return fleet.authenticate(identity.get("credential") or "-") is not None


def _make_admin() -> str | None:
    """Make the administrator if there is none; return the password if it was made up here."""
    file = DATA_DIR / "admin_password"
    password, _ = secrets.read_or_create(file, settings.ADMIN_PASSWORD or None)
    made = accounts.ensure_admin(password)
    return password if made and not settings.ADMIN_PASSWORD else None


def _collect_static() -> None:
    """Collect static files if they changed since the last time; hashing takes a second."""
    stamp = Path(settings.STATIC_ROOT) / ".stamp"
    wanted = _fingerprint(settings.BASE_DIR / "static")
    if stamp.exists() and stamp.read_text() == wanted:
        return
    call_command("collectstatic", interactive=False, verbosity=0, clear=True)
    stamp.write_text(wanted)


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        stat = path.stat()
        digest.update(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    digest.update(os.environ.get("DJANGO_SETTINGS_MODULE", "").encode())
    return digest.hexdigest()
