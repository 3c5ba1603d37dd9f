"""pymilvus behind `vectors.Store`. Works with Milvus Lite 2.5 and 3.2, Milvus servers and Zilliz.

What differs between them is probed once a connection and kept to: Lite accepts index types that it
cannot build and answers by brute force, so the types are an allow-list here; it reads index
parameters only when they are nested; its BM25 scores are negative. Loaded only by `vectors`.
"""

import functools
import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from pymilvus import DataType, Function, FunctionType, MilvusClient
from pymilvus.client import entity_helper
from pymilvus.exceptions import MilvusException

from apps.rag.vectors import (
    Capabilities,
    Found,
    NoSuchCollection,
    Row,
    Vector,
    VectorsAway,
    VectorsRefused,
)

# It logs each error with its traceback before it raises it; the callers here say what matters.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

# For a row's text it looks at each letter; `_data` has cut it to what Milvus takes.
entity_helper.CHECK_STR_ARRAY = False

TIMEOUT_SECONDS = 10.0
"""Of one call; a search takes milliseconds, a batch of rows under a second."""
SLOW_TIMEOUT_SECONDS = 60.0
"""Of making a collection, whose indexes are waited for."""
WORDS_LIMIT_BYTES = 65_535
"""Longest VARCHAR of Milvus."""
_BM25 = {"bm25_k1": 2.0, "bm25_b": 0.75}
"""A word that is said again counts longer than by the usual 1.2 or 1.5: better on Cranfield's odd
questions, which are for choosing."""
ERRORS = (MilvusException, grpc.RpcError)
_AWAY_CODES = (2, 14)  # pymilvus: could not connect; gRPC: UNAVAILABLE
_GRPC_LATE = 4  # DEADLINE_EXCEEDED; to pymilvus 4 means something else
_AWAY_WORDS = (
    "unavailable",
    "deadline",
    "connect",
    "timed out",
    "timeout",
    "channel",
    "recovering",
)
_LOCAL_OPTIONS = {
    "grpc.keepalive_time_ms": 2**31 - 1,
    "grpc.keepalive_permit_without_calls": False,
}
"""pymilvus pings its server every ten seconds and gives it five to answer. A busy Milvus Lite may
answer late, or take the pings for an attack (GOAWAY, `too_many_pings`): both cut the connection. A
local socket says by itself when its other end is gone."""
_RELEASED_WORDS = ("released", "not loaded", "load()")
_ABSENT = 100


def _told[**P, R](call: Callable[P, R]) -> Callable[P, R]:
    """Turn pymilvus' errors into the two that callers tell apart."""

    @functools.wraps(call)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except ERRORS as error:
            raise _named(error) from error
        except (ValueError, ConnectionError) as error:  # a closed channel is a ValueError
            if "channel" in str(error).lower() or isinstance(error, ConnectionError):
                raise VectorsAway(f"the connection was lost ({error}).") from error
            raise

    return checked


def _named(error: Exception) -> VectorsAway | VectorsRefused:
    text = str(getattr(error, "message", "") or error)[:300]
    code = getattr(error, "code", None)
    if isinstance(error, grpc.RpcError):
        code = code().value[0] if callable(code) else None
        text = "no answer before the deadline" if code == _GRPC_LATE else f"gRPC status {code}"
    if code in _AWAY_CODES or any(word in text.lower() for word in _AWAY_WORDS):
        return VectorsAway(text.split("\n")[0])
    lowered = text.lower()
    is_absent = "not found" in lowered or "not exist" in lowered or "can't find" in lowered
    if "collection" in lowered and (code == _ABSENT or (is_absent and "field" not in lowered)):
        return NoSuchCollection(text)
    return VectorsRefused(text)


class Milvus:
    """One connection. Threads may share it."""

    def __init__(self, uri: str, token: str) -> None:
        self._uri, self._token = uri, token
        self._embedded = uri.startswith("unix:")
        self._lock = threading.Lock()
        self._client: MilvusClient | None = None
        self._capabilities: Capabilities | None = None

    @_told
    def capabilities(self) -> Capabilities:
        """Return what this Milvus can do: tried once, by making a small collection."""
        if self._capabilities is None:
            lexical = self._makes_lexical()
            self._capabilities = Capabilities(
                version=self._version(),
                lexical=lexical,
                aliases=self._knows(lambda c: c.list_aliases(timeout=TIMEOUT_SECONDS)),
                index="HNSW" if self._builds_hnsw() else "FLAT",
                embedded=self._embedded,
            )
        return self._capabilities

    @_told
    def create(self, collection: str, dimension: int | None) -> None:
        """Make the collection unless it is there: vectors of `dimension`, words where it can."""
        able = self.capabilities()
        if self._connect().has_collection(collection, timeout=TIMEOUT_SECONDS):
            return
        self._create(collection, dimension, lexical=able.lexical, index=able.index)

    @_told
    def upsert(self, collection: str, rows: Sequence[Row]) -> None:
        """Write `rows`, replacing those with the same ids. Acknowledged means kept."""
        able = self.capabilities()
        data = [_data(row, lexical=able.lexical) for row in rows]
        self._loaded(
            collection,
            lambda client: client.upsert(collection, data, timeout=SLOW_TIMEOUT_SECONDS),
        )

    @_told
    def delete_document(self, collection: str, document: int) -> None:
        """Remove every row of a document. A collection that is gone has none."""
        try:
            self._loaded(
                collection,
                lambda client: client.delete(
                    collection, filter=f"doc == {document}", timeout=SLOW_TIMEOUT_SECONDS
                ),
            )
        except ERRORS as error:
            if not isinstance(_named(error), NoSuchCollection):
                raise

    @_told
    def count(self, collection: str, document: int | None = None) -> int:
        """Return how many rows there are, of one document if given, after all writes so far."""
        found = self._loaded(
            collection,
            lambda client: client.query(
                collection,
                filter="" if document is None else f"doc == {document}",
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=TIMEOUT_SECONDS,
            ),
        )
        return int(found[0]["count(*)"])

    @_told
    def dense(self, collection: str, vector: Vector, limit: int, where: str) -> list[Found]:
        """Return the nearest chunks by cosine."""
        params = {"ef": max(64, limit)} if self.capabilities().index == "HNSW" else {}
        return self._search(collection, "dense", [list(vector)], limit, where, params)

    @_told
    def lexical(self, collection: str, words: str, limit: int, where: str) -> list[Found]:
        """Return the best chunks by BM25 for stemmed `words`."""
        return self._search(collection, "sparse", [words], limit, where, {})

    @_told
    def passes(self, collection: str, chunk: int, where: str) -> bool:
        """Return whether the chunk is there and passes the filter."""
        rows = self._loaded(
            collection,
            lambda client: client.query(
                collection,
                filter=f"id == {chunk} and ({where})",
                output_fields=["id"],
                timeout=TIMEOUT_SECONDS,
            ),
        )
        return bool(rows)

    @_told
    def vectors(self, collection: str, ids: Sequence[int]) -> dict[int, Vector]:
        """Return the vectors of these chunks, for their likeness to each other."""
        rows = self._loaded(
            collection,
            lambda client: client.get(
                collection, list(ids), output_fields=["id", "dense"], timeout=TIMEOUT_SECONDS
            ),
        )
        return {int(row["id"]): row["dense"] for row in rows}

    @_told
    def point(self, alias: str, collection: str) -> None:
        """Let `alias` mean `collection` from now on, where this Milvus has aliases."""
        if not self.capabilities().aliases:
            return
        client = self._connect()
        try:
            client.alter_alias(collection, alias, timeout=TIMEOUT_SECONDS)
        except ERRORS as error:
            if isinstance(_named(error), VectorsAway):
                raise
            client.create_alias(collection, alias, timeout=TIMEOUT_SECONDS)

    @_told
    def drop(self, collection: str) -> None:
        """Remove the collection, with the aliases that mean it. Fine if it is gone."""
        client = self._connect()
        if not client.has_collection(collection, timeout=TIMEOUT_SECONDS):
            return
        if self.capabilities().aliases:
            told = client.list_aliases(collection, timeout=TIMEOUT_SECONDS)
            for alias in told.get("aliases", ()) if isinstance(told, dict) else told:
                client.drop_alias(alias, timeout=TIMEOUT_SECONDS)
        client.drop_collection(collection, timeout=SLOW_TIMEOUT_SECONDS)

    @_told
    def collections(self) -> list[str]:
        """Return the names of all collections."""
        return list(self._connect().list_collections(timeout=TIMEOUT_SECONDS))

    def _connect(self) -> MilvusClient:
        with self._lock:
            if self._client is None:
                self._client = MilvusClient(
                    uri=self._uri,
                    token=self._token,
                    timeout=TIMEOUT_SECONDS,
                    grpc_options=_LOCAL_OPTIONS if self._embedded else {},
                )
            return self._client

    def _loaded(self, collection: str, call: Callable[[MilvusClient], Any]) -> Any:  # noqa: ANN401
        """Return what `call` does; a collection that a restart put out of memory is loaded first.

        Milvus Lite begins with every collection released; a server's administrator may do the same.
        """
        client = self._connect()
        try:
            return call(client)
        except MilvusException as error:
            text = str(error.message or error).lower()
            if not any(word in text for word in _RELEASED_WORDS):
                raise
        client.load_collection(collection, timeout=SLOW_TIMEOUT_SECONDS)
        return call(client)

    def _search(
        self,
        collection: str,
        field: str,
        data: list[Any],
        limit: int,
        where: str,
        params: dict[str, Any],
    ) -> list[Found]:
        found = self._loaded(
            collection,
            lambda client: client.search(
                collection,
                data=data,
                anns_field=field,
                limit=limit,
                filter=where,
                output_fields=["id"],
                search_params={"params": params},
                timeout=TIMEOUT_SECONDS,
            ),
        )
        scale = abs if field == "sparse" else float
        return [Found(int(hit["id"]), scale(float(hit["distance"]))) for hit in found[0]]

    def _create(self, collection: str, dimension: int | None, *, lexical: bool, index: str) -> None:
        client = self._connect()
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("doc", DataType.INT64)
        schema.add_field("meta", DataType.JSON)
        indexes = client.prepare_index_params()
        if dimension is not None:
            schema.add_field("dense", DataType.FLOAT_VECTOR, dim=dimension)
            indexes.add_index("dense", index_type=index, metric_type="COSINE", **_built(index))
        if lexical:
            schema.add_field(
                "lex",
                DataType.VARCHAR,
                max_length=WORDS_LIMIT_BYTES,
                enable_analyzer=True,
                analyzer_params={"type": "standard"},
            )
            schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
            schema.add_function(Function("bm25", FunctionType.BM25, ["lex"], ["sparse"]))
            indexes.add_index(
                "sparse",
                index_type="SPARSE_INVERTED_INDEX",
                metric_type="BM25",
                # Lite reads the nested ones alone, servers the flat ones.
                params={**_BM25, "params": _BM25},
            )
        client.create_collection(
            collection, schema=schema, index_params=indexes, timeout=SLOW_TIMEOUT_SECONDS
        )

    def _tries(self, dimension: int | None, *, lexical: bool, index: str) -> bool:
        """Return whether such a collection can be made; leaves nothing behind."""
        name = f"hearth_probe_{uuid.uuid4().hex[:12]}"
        try:
            self._create(name, dimension, lexical=lexical, index=index)
        except ERRORS as error:
            if isinstance(_named(error), VectorsAway):
                raise
            return False
        finally:
            self._knows(lambda c: c.drop_collection(name, timeout=TIMEOUT_SECONDS))
        return True

    def _makes_lexical(self) -> bool:
        return self._tries(None, lexical=True, index="FLAT")

    def _builds_hnsw(self) -> bool:
        return self._tries(8, lexical=False, index="HNSW")

    def _knows(self, call: Callable[[MilvusClient], Any]) -> bool:
        try:
            call(self._connect())
        except ERRORS as error:
            if isinstance(_named(error), VectorsAway):
                raise
            return False
        return True

    def _version(self) -> str:
        try:
            return str(self._connect().get_server_version(timeout=TIMEOUT_SECONDS))
        except ERRORS:
            return "unknown"


def _built(index: str) -> dict[str, Any]:
    """Return the build parameters, nested and flat: Lite reads the one, servers the other."""
    if index != "HNSW":
        return {}
    return {"params": {"M": 16, "efConstruction": 100}}


def _data(row: Row, *, lexical: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"id": row.id, "doc": row.document, "meta": row.meta}
    if row.vector is not None:
        data["dense"] = row.vector
    if lexical:
        data["lex"] = row.words.encode()[: WORDS_LIMIT_BYTES - 4].decode(errors="ignore")
    return data
