"""Rows and files to test with."""

import io
from datetime import UTC, datetime

from django.core.files.uploadedfile import SimpleUploadedFile

from apps.accounts.models import User
from apps.accounts.states import Role
from apps.deployments.models import Deployment, Revision
from apps.lib import clock
from apps.rag import actions, embedding, ingest, queries
from apps.rag.models import Document, KnowledgeBase
from tests.apps.traffic import world

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HANDBOOK = b"""# Holidays

Every person has thirty days of holiday a year. They are asked for in the calendar.

# Travel

Trains are paid for. Taxis are paid for after ten in the evening only.

# Security

Laptops are encrypted. A lost laptop is told within an hour to the people of security.
"""


def user(name: str = "ada", team: str = "default", role: Role = Role.OPERATOR) -> User:
    return User.objects.create(username=name, role=role, team=team)


def embedder(name: str = "minilm") -> Deployment:
    """Make an embedding deployment, as far as knowledge bases look at one."""
    return _served(name, "all-minilm-l6-v2", "embed", 256)


def chat(name: str = "smol", context_tokens: int = 2048) -> Deployment:
    return _served(name, "smollm2-135m-instruct", "chat", context_tokens)


def _served(name: str, slug: str, task: str, context_tokens: int) -> Deployment:
    settings = world.EngineSettings(max_model_len=context_tokens, block_size=16)
    row = world.deployment(name, engine_spec=world.spec(name, task=task, settings=settings))
    Deployment.objects.filter(pk=row.pk).update(catalog_slug=slug)
    Revision.objects.filter(deployment=row).update(task=task)
    return row


def base(owner: User, name: str = "Handbook", *, embedding_deployment: str = "") -> KnowledgeBase:
    """Make a knowledge base; with the tests' gateway its vectors have 32 numbers."""
    made = actions.create(
        name=name,
        description="",
        embedder=embedding.choose(embedding_deployment),
        user=owner,
        now=NOW,
    )
    made.builds.update(dimension=None)
    return queries.knowledge_base(owner, made.slug)


def file(content: bytes, name: str) -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content)


def upload(
    to: KnowledgeBase, by: User, content: bytes = HANDBOOK, name: str = "handbook.md", **meta
):
    """Upload a file; return its document."""
    file = SimpleUploadedFile(name, content)
    return actions.upload(to, name=name, file=file, metadata=meta, user=by, now=NOW)[0]


def ingested(document: Document) -> Document:
    """Bring a document as far as it goes; return it as it is then."""
    for _ in range(6):
        taken = ingest.take_next(clock.now())
        if taken is None:
            break
        ingest.work_on(taken, seconds=30)
    ingest.tell_rest()  # as the task does when nothing is left
    return Document.objects.get(pk=document.pk)


def pdf(pages: list[str], *, white: bool = False) -> bytes:
    """Return a PDF with a line of text on each page."""
    kids = " ".join(f"{4 + 2 * at} 0 R" for at in range(len(pages)))
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for at, text in enumerate(pages):
        colour = "1 1 1 rg " if white else ""
        stream = f"BT {colour}/F1 12 Tf 72 700 Td ({text}) Tj ET".encode()
        parts.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * at)
        )
        parts.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    out = io.BytesIO()
    out.write(b"%PDF-1.4\n")
    places = []
    for number, part in enumerate(parts, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, part))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(parts) + 1))
    for place in places:
        out.write(b"%010d 00000 n \n" % place)
    out.write(
        b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(parts) + 1, start)
    )
    return out.getvalue()
