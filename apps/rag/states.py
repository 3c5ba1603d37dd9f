"""Life of a document and of an index build, and how a build gets its vectors."""

from enum import StrEnum


class DocumentState(StrEnum):
    """How far a document is in the live build.

    queued -> parsing -> embedding -> ready
              parsing, embedding -> failed -> queued (tried again by a person)
              ready -> embedding (its words go into a build once more)
    """

    QUEUED = "queued"  # stored; no worker has taken it
    PARSING = "parsing"  # a confined child process reads the file
    EMBEDDING = "embedding"  # chunks go through the embedder into Milvus
    READY = "ready"  # every chunk is in Milvus, counted against SQL
    FAILED = "failed"  # `reason` says what to mend


class BuildState(StrEnum):
    """Life of one index build, that is of one Milvus collection.

    building -> ready -> live -> retired -> dropped
    building, ready -> retired (given up)
    """

    BUILDING = "building"  # documents go in beside the live build
    READY = "ready"  # complete; may be compared with the live one, and flipped to
    LIVE = "live"  # answers
    RETIRED = "retired"  # answers nothing new; its collection is dropped after a while
    DROPPED = "dropped"  # the collection is gone


class EmbedderKind(StrEnum):
    """Where a build's vectors come from."""

    DEPLOYMENT = "deployment"  # an embedding deployment, through the gateway
    LOCAL = "local"  # the optional MiniLM in the worker, by ONNX
    NONE = "none"  # no vectors: words only


FILLING = (BuildState.BUILDING, BuildState.READY, BuildState.LIVE)
"""Builds that new documents go into."""
UNFINISHED = (DocumentState.QUEUED, DocumentState.PARSING, DocumentState.EMBEDDING)
