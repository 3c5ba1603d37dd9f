"""Settings of the tests: the product's own, with all state in a folder of this run.

pytest-django imports this before any conftest, so the environment is set here. Child processes of
a test inherit the environment and load the product's settings.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

_folder = Path(tempfile.mkdtemp(prefix="hearth-test-"))
(_folder / "static").mkdir()  # WhiteNoise warns of a folder that is not there
atexit.register(shutil.rmtree, _folder, ignore_errors=True)

_database_url = os.environ.pop("HEARTH_TEST_DATABASE_URL", "")
"""Empty: SQLite in the folder; `tests/postgres.py` sets it."""
_KEPT = "HEARTH_CACHE_DIR"  # where engines and weights are kept between runs
for _name in [name for name in os.environ if name.startswith(("HEARTH_", "MILVUS_"))]:
    if _name != _KEPT:
        del os.environ[_name]
os.environ["DATABASE_URL"] = _database_url
os.environ["HEARTH_DATA_DIR"] = str(_folder)
os.environ["REDIS_URL"] = f"unix://{_folder}/redis.sock"
os.environ["DJANGO_SETTINGS_MODULE"] = "controlplane.settings"

from controlplane.settings import *  # noqa: E402, F403

if not _database_url:
    # A file, as in real life: in memory, writers in two threads fail at once instead of waiting.
    DATABASES["default"]["TEST"] = {"NAME": _folder / "test.sqlite3"}  # noqa: F405
