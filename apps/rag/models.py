"""Knowledge bases, their documents and chunks, index builds, profiles, runs and judgements.

SQL is the source of truth: Milvus holds only what can be made again from these rows and the files.
Everything public is named by UUID; the integer ids are the primary keys in Milvus.
"""

import uuid
from enum import StrEnum

from django.db import models
from django.db.models import Q

from apps.accounts.models import User
from apps.rag.states import BuildState, DocumentState, EmbedderKind


def _choices(kind: type[StrEnum]) -> list[tuple[str, str]]:
    return [(member.value, member.value) for member in kind]


def _known(field: str, kind: type[StrEnum], name: str) -> models.CheckConstraint:
    values = [member.value for member in kind]
    return models.CheckConstraint(condition=Q(**{f"{field}__in": values}), name=name)


class KnowledgeBase(models.Model):
    """Documents that questions are answered from. Seen by the people of one team only."""

    id = models.BigAutoField(primary_key=True)
    uid = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    team = models.CharField(max_length=63)
    name = models.CharField(max_length=80)
    slug = models.CharField(max_length=63)
    """`handbook` in `model: "smollm2+handbook"` and in addresses."""
    description = models.CharField(max_length=500, default="", blank=True)
    embedding_deployment = models.CharField(max_length=63, default="", blank=True)
    """What was asked for; the live build says what its vectors were made with."""
    owner = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    """On whose internal key the embedder is called."""
    live_build = models.ForeignKey("Build", null=True, on_delete=models.SET_NULL, related_name="+")
    profile = models.ForeignKey("Profile", null=True, on_delete=models.SET_NULL, related_name="+")
    """The promoted one; None: the built-in defaults."""
    created_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True)
    """Gone for people; the row stays until Milvus and the files are clean."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["team", "slug"],
                condition=Q(deleted_at__isnull=True),
                name="one_knowledge_base_per_name",
            )
        ]

    def __str__(self) -> str:
        return self.slug


class Build(models.Model):
    """One index: how texts were cut and embedded, and the Milvus collection that holds them."""

    id = models.BigAutoField(primary_key=True)
    knowledge_base = models.ForeignKey(
        KnowledgeBase, on_delete=models.CASCADE, related_name="builds"
    )
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=_choices(BuildState))
    embedder = models.CharField(max_length=16, choices=_choices(EmbedderKind))
    embedding_deployment = models.CharField(max_length=63, default="")
    embedding_model = models.CharField(max_length=200, default="")
    """Catalog slug and variant of the deployment when the build began."""
    dimension = models.PositiveIntegerField(null=True)
    """Length of a vector; None until the embedder has answered once, or without one."""
    input_tokens = models.PositiveIntegerField(null=True)
    """The embedder cuts longer texts."""
    chunk_characters = models.PositiveIntegerField()
    overlap_characters = models.PositiveIntegerField()
    collection = models.CharField(max_length=80, unique=True)
    collection_made = models.BooleanField(default=False)
    lexical = models.BooleanField(default=True)
    """False where this Milvus has no BM25: dense only."""
    flip_when_ready = models.BooleanField(default=False)
    """Take the live build's place as soon as every document is in."""
    reason = models.CharField(max_length=500, default="")
    created_at = models.DateTimeField()
    live_at = models.DateTimeField(null=True)
    retired_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["knowledge_base", "number"], name="build_number_once"),
            _known("state", BuildState, "build_state_known"),
            _known("embedder", EmbedderKind, "build_embedder_known"),
        ]

    def __str__(self) -> str:
        return self.collection


class Document(models.Model):
    """One uploaded file and how far it is."""

    id = models.BigAutoField(primary_key=True)
    uid = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    knowledge_base = models.ForeignKey(
        KnowledgeBase, on_delete=models.CASCADE, related_name="documents"
    )
    name = models.CharField(max_length=255)
    """As its uploader called it; never a path."""
    sha256 = models.CharField(max_length=64)
    size_bytes = models.PositiveBigIntegerField()
    kind = models.CharField(max_length=16)
    """`pdf`, `docx`, `html`, `markdown`, `text`, `csv`: by content."""
    state = models.CharField(max_length=16, choices=_choices(DocumentState))
    reason = models.CharField(max_length=500, default="")
    code = models.CharField(max_length=40, default="")
    """Stable word for `reason`."""
    metadata = models.JSONField(default=dict)
    """Flat: text, numbers and truth values that filters can ask for."""
    flags = models.JSONField(default=list)
    """`[{"kind": "hidden-text", "detail": …}]`: what a reader should know before trusting it."""
    pages = models.PositiveIntegerField(null=True)
    characters = models.PositiveBigIntegerField(null=True)
    parsed = models.BooleanField(default=False)
    """Its clean text lies in the store."""
    replaces = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, related_name="+")
    """The document of the same name that goes when this one is ready."""
    uploaded_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    changed_at = models.DateTimeField()
    lease_until = models.DateTimeField(null=True)
    """A worker holds it until then."""
    attempts = models.PositiveIntegerField(default=0)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            _known("state", DocumentState, "document_state_known"),
            models.UniqueConstraint(
                fields=["knowledge_base", "sha256"],
                condition=Q(deleted_at__isnull=True),
                name="one_document_per_content",
            ),
        ]
        indexes = [models.Index(fields=["knowledge_base", "state"], name="document_by_state")]

    def __str__(self) -> str:
        return self.name


class Indexing(models.Model):
    """How far one document is in one build."""

    id = models.BigAutoField(primary_key=True)
    build = models.ForeignKey(Build, on_delete=models.CASCADE, related_name="indexings")
    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="indexings")
    done = models.BooleanField(default=False)
    chunks_total = models.PositiveIntegerField(null=True)
    """None until the text is cut."""
    chunks_done = models.PositiveIntegerField(default=0)
    tokens = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["build", "document"], name="one_indexing_per_build")
        ]

    def __str__(self) -> str:
        return f"{self.document_id} in {self.build_id}"


class Chunk(models.Model):
    """One passage of a document in one build: `text` is `document[start:end]` exactly."""

    id = models.BigAutoField(primary_key=True)
    build = models.ForeignKey(Build, on_delete=models.CASCADE, related_name="chunks")
    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="chunks")
    ordinal = models.PositiveIntegerField()
    text = models.TextField()
    start = models.PositiveBigIntegerField()
    end = models.PositiveBigIntegerField()
    heading = models.CharField(max_length=200, default="")
    """The one above it, or the document's title where it has none."""
    page = models.PositiveIntegerField(null=True)
    tokens = models.PositiveIntegerField(default=0)
    tokens_exact = models.BooleanField(default=False)
    """Counted by the embedder's own tokenizer, not estimated."""
    sha256 = models.CharField(max_length=64)
    flags = models.JSONField(default=list)
    stored = models.BooleanField(default=False)
    """Acknowledged by Milvus."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["build", "document", "ordinal"], name="one_chunk_per_place"
            )
        ]
        indexes = [models.Index(fields=["document", "build"], name="chunk_by_document")]

    def __str__(self) -> str:
        return f"{self.document_id}#{self.ordinal}"


class Profile(models.Model):
    """One version of a way to retrieve. Never changes; a change is the next version."""

    id = models.BigAutoField(primary_key=True)
    knowledge_base = models.ForeignKey(
        KnowledgeBase, on_delete=models.CASCADE, related_name="profiles"
    )
    name = models.CharField(max_length=63)
    version = models.PositiveIntegerField()
    settings = models.JSONField()
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["knowledge_base", "name", "version"], name="one_profile_version"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Alias(models.Model):
    """A knowledge base in front of a deployment, as one model name for OpenAI clients."""

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=128, unique=True)
    """`smollm2+handbook`."""
    knowledge_base = models.ForeignKey(
        KnowledgeBase, on_delete=models.CASCADE, related_name="aliases"
    )
    deployment = models.CharField(max_length=63)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class Conversation(models.Model):
    """The exact rendered turns of one person's conversation, sealed, for a day."""

    uid = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    knowledge_base = models.ForeignKey(
        KnowledgeBase, on_delete=models.CASCADE, related_name="conversations"
    )
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    deployment = models.CharField(max_length=63)
    sealed = models.TextField()
    turns = models.PositiveIntegerField(default=0)
    changed_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return str(self.uid)


class Run(models.Model):
    """Figures of one search or answer. Holds ids and numbers, no question and no text."""

    uid = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    knowledge_base = models.ForeignKey(KnowledgeBase, on_delete=models.CASCADE, related_name="runs")
    build = models.ForeignKey(Build, null=True, on_delete=models.SET_NULL, related_name="+")
    profile = models.CharField(max_length=80)
    kind = models.CharField(max_length=8)
    """`search` or `ask`."""
    user = models.CharField(max_length=150)
    at = models.DateTimeField(db_index=True)
    timings = models.JSONField(default=dict)
    usage = models.JSONField(default=dict)
    hits = models.JSONField(default=list)

    def __str__(self) -> str:
        return str(self.uid)


class Question(models.Model):
    """A question of the evaluation set. `key` is its topic in imported judgements."""

    id = models.BigAutoField(primary_key=True)
    knowledge_base = models.ForeignKey(
        KnowledgeBase, on_delete=models.CASCADE, related_name="questions"
    )
    key = models.CharField(max_length=80)
    text = models.TextField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["knowledge_base", "key"], name="one_question_per_key")
        ]

    def __str__(self) -> str:
        return self.key


class Judgement(models.Model):
    """How relevant a document is to a question: 0 not at all, higher is better."""

    id = models.BigAutoField(primary_key=True)
    question = models.ForeignKey(Question, on_delete=models.CASCADE, related_name="judgements")
    document = models.CharField(max_length=255)
    """Name of the document, so that it outlives a replacement."""
    grade = models.PositiveSmallIntegerField()
    source = models.CharField(max_length=8)
    """`import` or `thumb`."""

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["question", "document"], name="one_judgement")
        ]

    def __str__(self) -> str:
        return f"{self.question_id} {self.document} {self.grade}"


class Evaluation(models.Model):
    """One measurement of two or more profiles on the judged questions."""

    uid = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    knowledge_base = models.ForeignKey(
        KnowledgeBase, on_delete=models.CASCADE, related_name="evaluations"
    )
    build = models.ForeignKey(Build, null=True, on_delete=models.SET_NULL, related_name="+")
    state = models.CharField(max_length=16)
    """`queued`, `running`, `done`, `failed`."""
    reason = models.CharField(max_length=500, default="")
    profiles = models.JSONField()
    results = models.JSONField(default=dict)
    questions_total = models.PositiveIntegerField(default=0)
    questions_done = models.PositiveIntegerField(default=0)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    lease_until = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return str(self.uid)
