"""Input and output of the knowledge bases' API."""

import json
from typing import Any

import msgspec
from rest_framework import serializers

from apps.lib.strict import StrictSerializer
from apps.rag import filters
from apps.rag.retrieval import LONGEST_QUERY_CHARACTERS
from apps.rag.settings import DEFAULTS, Retrieval
from apps.rag.states import BuildState, DocumentState, EmbedderKind


class BuildSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    state = serializers.ChoiceField(choices=[(s.value, s.value) for s in BuildState])
    embedder = serializers.ChoiceField(choices=[(k.value, k.value) for k in EmbedderKind])
    embedding_deployment = serializers.CharField()
    embedding_model = serializers.CharField()
    dimension = serializers.IntegerField(allow_null=True)
    input_tokens = serializers.IntegerField(allow_null=True)
    chunk_characters = serializers.IntegerField()
    overlap_characters = serializers.IntegerField()
    collection = serializers.CharField(help_text="In Milvus.")
    lexical = serializers.BooleanField(help_text="False where this Milvus has no BM25.")
    reason = serializers.CharField()
    flip_when_ready = serializers.BooleanField()
    created_at = serializers.DateTimeField()
    live_at = serializers.DateTimeField(allow_null=True)


class KnowledgeBaseSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    slug = serializers.CharField(help_text="Its name in addresses and in model aliases.")
    description = serializers.CharField()
    embedding_deployment = serializers.CharField()
    team = serializers.CharField()
    owner = serializers.CharField(help_text="On whose internal key deployments are called.")
    profile = serializers.CharField(help_text="The promoted profile, as `name@version`.")
    live_build = BuildSerializer(allow_null=True)
    notice = serializers.CharField(help_text="What its searches lack; empty if nothing.")
    documents = serializers.IntegerField()
    documents_queued = serializers.IntegerField()
    documents_parsing = serializers.IntegerField()
    documents_embedding = serializers.IntegerField()
    documents_ready = serializers.IntegerField()
    documents_failed = serializers.IntegerField()
    chunks = serializers.IntegerField()
    tokens = serializers.IntegerField()
    created_at = serializers.DateTimeField()


class NewKnowledgeBase(StrictSerializer):
    name = serializers.CharField(max_length=80)
    description = serializers.CharField(
        max_length=500, required=False, default="", allow_blank=True, help_text="For the prompt."
    )
    embedding_deployment = serializers.CharField(
        max_length=63,
        required=False,
        allow_blank=True,
        allow_null=True,
        help_text="Left out: the oldest embedding deployment, if any. Empty: keywords only.",
    )


class KnowledgeBasePatch(StrictSerializer):
    name = serializers.CharField(max_length=80, required=False)
    description = serializers.CharField(max_length=500, required=False, allow_blank=True)
    take_over = serializers.BooleanField(
        required=False, help_text="Become its owner: deployments are called on your key then."
    )


class ProgressSerializer(serializers.Serializer[Any]):
    chunks_done = serializers.IntegerField()
    chunks_total = serializers.IntegerField(allow_null=True)
    ratio = serializers.FloatField(allow_null=True)


class FlagSerializer(serializers.Serializer[Any]):
    kind = serializers.CharField(
        help_text="`hidden-text`, `instruction-like`, `mislabelled`, `garbled`."
    )
    detail = serializers.CharField()


class DocumentSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    state = serializers.ChoiceField(choices=[(s.value, s.value) for s in DocumentState])
    reason = serializers.CharField(help_text="Why it failed, or what it waits for.")
    code = serializers.CharField(help_text="Stable word for the reason.")
    progress = ProgressSerializer()
    kind = serializers.CharField()
    size_bytes = serializers.IntegerField()
    pages = serializers.IntegerField(allow_null=True)
    characters = serializers.IntegerField(allow_null=True)
    chunks = serializers.IntegerField()
    tokens = serializers.IntegerField()
    metadata = serializers.DictField()
    flags = FlagSerializer(many=True)
    sha256 = serializers.CharField()
    uploaded_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    changed_at = serializers.DateTimeField()


class UploadSerializer(serializers.Serializer[Any]):
    file = serializers.FileField(allow_empty_file=True, max_length=1000)
    metadata = serializers.CharField(
        required=False, default="{}", help_text='A flat JSON object, as {"year": 2026}.'
    )

    def validate_metadata(self, value: str) -> dict[str, Any]:
        """Return the object. Raises ValidationError."""
        try:
            found = json.loads(value)
        except ValueError as error:
            raise serializers.ValidationError(f"It is no JSON: {error}.") from error
        if not isinstance(found, dict):
            raise serializers.ValidationError('Give a JSON object, as {"year": 2026}.')
        return found


class ConditionSerializer(StrictSerializer):
    field = serializers.CharField(
        help_text=f"{', '.join(filters.FIELDS)} or `metadata.<name>`.", max_length=60
    )
    op = serializers.ChoiceField(choices=[(op, op) for op in filters.OPERATORS], default="eq")
    value = serializers.JSONField()


class SettingsSerializer(StrictSerializer):
    """Settings of a retrieval; what is left out has its default."""

    mode = serializers.ChoiceField(
        choices=[(word, word) for word in ("hybrid", "dense", "lexical")], default=DEFAULTS.mode
    )
    top_k = serializers.IntegerField(min_value=1, max_value=100, default=DEFAULTS.top_k)
    candidates = serializers.IntegerField(
        min_value=1, max_value=500, default=DEFAULTS.candidates, help_text="Asked of each leg."
    )
    fusion = serializers.ChoiceField(
        choices=[("rrf", "rrf"), ("min-max", "min-max")], default=DEFAULTS.fusion
    )
    rrf_k = serializers.IntegerField(min_value=1, max_value=1000, default=DEFAULTS.rrf_k)
    dense_weight = serializers.FloatField(
        min_value=0, max_value=1, default=DEFAULTS.dense_weight, help_text="Words have the rest."
    )
    feedback_words = serializers.IntegerField(
        min_value=0,
        max_value=50,
        default=DEFAULTS.feedback_words,
        help_text="Words added to the question from its best passages.",
    )
    feedback_vectors = serializers.IntegerField(
        min_value=0,
        max_value=20,
        default=DEFAULTS.feedback_vectors,
        help_text="Best passages whose mean vector is added to the question's.",
    )
    mmr = serializers.FloatField(
        min_value=0,
        max_value=1,
        default=None,
        allow_null=True,
        help_text="Balance of maximal marginal relevance; 1 is relevance only.",
    )
    rerank_deployment = serializers.CharField(max_length=63, default="", allow_blank=True)
    rerank_candidates = serializers.IntegerField(
        min_value=1, max_value=100, default=DEFAULTS.rerank_candidates
    )
    token_budget = serializers.IntegerField(
        min_value=50, max_value=200_000, default=None, allow_null=True
    )

    def settings(self) -> Retrieval:
        """Return the validated settings."""
        return msgspec.convert(dict(self.validated_data), Retrieval)


class SearchInput(StrictSerializer):
    query = serializers.CharField(
        max_length=LONGEST_QUERY_CHARACTERS,
        error_messages={
            "max_length": f"A question has at most {LONGEST_QUERY_CHARACTERS:,} characters."
        },
    )
    top_k = serializers.IntegerField(min_value=1, max_value=100, required=False)
    profile = serializers.CharField(
        max_length=80,
        required=False,
        allow_blank=True,
        allow_null=True,
        help_text="`name` or `name@version`; left out: the promoted one.",
    )
    settings = SettingsSerializer(required=False, help_text="In place of a profile, to try.")
    filters = ConditionSerializer(many=True, required=False, default=list)
    pinned = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=2**62),
        required=False,
        default=list,
        max_length=20,
        help_text="Chunks that should be found: each is told why it is not.",
    )
    build = serializers.IntegerField(
        min_value=1, required=False, help_text="A build beside the live one, to compare."
    )


class PlaceSerializer(serializers.Serializer[Any]):
    rank = serializers.IntegerField()
    score = serializers.FloatField()


class FusedSerializer(PlaceSerializer):
    dense_share = serializers.FloatField(help_text="Part of the score that the vectors gave.")


class MovedSerializer(PlaceSerializer):
    moved = serializers.IntegerField(help_text="Ranks up (+) or down (-) against the fused rank.")


class ChunkSerializer(serializers.Serializer[Any]):
    chunk = serializers.IntegerField()
    document = serializers.CharField()
    document_id = serializers.UUIDField()
    text = serializers.CharField()
    start = serializers.IntegerField(help_text="Characters into the document's clean text.")
    end = serializers.IntegerField()
    page = serializers.IntegerField(allow_null=True)
    heading = serializers.CharField()
    tokens = serializers.IntegerField()
    tokens_exact = serializers.BooleanField()
    flags = serializers.ListField(child=serializers.CharField())


class HitSerializer(ChunkSerializer):
    rank = serializers.IntegerField()
    dense = PlaceSerializer(allow_null=True)
    lexical = PlaceSerializer(allow_null=True)
    fused = FusedSerializer()
    rerank = MovedSerializer(allow_null=True)
    matched_terms = serializers.ListField(child=serializers.CharField())


class LeftOutSerializer(serializers.Serializer[Any]):
    chunk = serializers.IntegerField()
    why_not = serializers.CharField()


class PinnedSerializer(LeftOutSerializer):
    rank = serializers.IntegerField(allow_null=True)


class TraceSerializer(serializers.Serializer[Any]):
    run = serializers.UUIDField()
    query = serializers.CharField()
    profile = serializers.CharField()
    build = serializers.IntegerField()
    hits = HitSerializer(many=True)
    left_out = LeftOutSerializer(many=True)
    pinned = PinnedSerializer(many=True)
    added_words = serializers.ListField(
        child=serializers.CharField(), help_text="Stems that feedback added to the question."
    )
    notices = serializers.ListField(child=serializers.CharField())
    timings = serializers.DictField(child=serializers.FloatField(), help_text="Seconds by stage.")
    take_home = serializers.DictField(
        child=serializers.CharField(), help_text="This call as `curl`, `python` and `openai`."
    )


class BuildInput(StrictSerializer):
    embedding_deployment = serializers.CharField(
        max_length=63, required=False, allow_blank=True, allow_null=True
    )
    chunk_characters = serializers.IntegerField(min_value=100, max_value=20_000, required=False)
    overlap_characters = serializers.IntegerField(min_value=0, max_value=10_000, required=False)
    flip_when_ready = serializers.BooleanField(required=False, default=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse an overlap as long as the chunk."""
        size = attrs.get("chunk_characters")
        if size is not None and attrs.get("overlap_characters", 0) >= size:
            raise serializers.ValidationError(
                {"overlap_characters": "It must be less than chunk_characters."}
            )
        return attrs


class ProfileSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    version = serializers.IntegerField()
    settings = SettingsSerializer()
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()


class NewProfile(StrictSerializer):
    name = serializers.RegexField(
        r"\A[a-z0-9][a-z0-9-]{0,62}\Z",
        error_messages={"invalid": "Use a-z, 0-9 and -, at most 63 characters."},
    )
    settings = SettingsSerializer()


class PromoteInput(StrictSerializer):
    profile = serializers.CharField(max_length=80, help_text="`name@version`, or `default`.")


class TextSerializer(serializers.Serializer[Any]):
    text = serializers.CharField(help_text="The clean text, in which chunks have their places.")
    pages = serializers.ListField(
        child=serializers.DictField(child=serializers.IntegerField()),
        help_text="`{number, start, end}` of each page.",
    )


class PlaceOnPageSerializer(ChunkSerializer):
    boxes = serializers.ListField(
        child=serializers.ListField(child=serializers.FloatField()),
        help_text="On a PDF's page: left, top, width, height, each 0-1.",
    )


class VectorsSerializer(serializers.Serializer[Any]):
    reachable = serializers.BooleanField()
    address = serializers.CharField(help_text="`embedded`, or the server's host.")
    version = serializers.CharField()
    lexical = serializers.BooleanField()
    aliases = serializers.BooleanField()
    index = serializers.CharField()
    reason = serializers.CharField()
