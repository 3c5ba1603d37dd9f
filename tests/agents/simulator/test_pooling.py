"""Embeddings, scores and ranks of the simulator."""

import base64
import math
import struct

import pytest

from tests.simulator_host import MODEL, running


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    with running(tmp_path_factory.mktemp("pooling"), "--task=embed") as one:
        yield one


@pytest.fixture
async def client(simulator):
    async with simulator.client() as one:
        yield one


def cosine(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_vectors_have_length_one_and_texts_that_share_words_are_near(client):
    texts = ["the cat sat on the mat", "a cat on a mat", "quarterly revenue grew"]

    reply = (await client.post("/v1/embeddings", json={"model": MODEL, "input": texts})).json()

    cats, cat, revenue = (item["embedding"] for item in reply["data"])
    assert math.sqrt(cosine(cats, cats)) == pytest.approx(1.0)
    assert cosine(cats, cat) > cosine(cats, revenue) + 0.2
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] > 0


async def test_base64_holds_the_same_numbers_as_little_endian_floats(client):
    body = {"model": MODEL, "input": "hello world"}

    plain = (await client.post("/v1/embeddings", json=body)).json()["data"][0]["embedding"]
    packed = (await client.post("/v1/embeddings", json=body | {"encoding_format": "base64"})).json()

    data = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack(f"<{len(plain)}f", data) == pytest.approx(plain, abs=1e-6)


async def test_rerank_puts_the_closest_document_first(client):
    body = {"query": "cat on a mat", "documents": ["stock prices", "the cat on the mat", "a dog"]}

    results = (await client.post("/v1/rerank", json=body | {"top_n": 2})).json()["results"]

    assert results[0]["index"] == 1
    assert len(results) == 2
    assert results[0]["document"] == {"text": "the cat on the mat"}


async def test_score_compares_one_text_with_each_document(client):
    body = {"text_1": "cat", "text_2": ["cat", "dog"]}

    data = (await client.post("/v1/score", json=body)).json()["data"]

    assert data[0]["score"] == pytest.approx(1.0)
    assert data[1]["score"] < 0.9


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": "a", "dimensions": 64}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ("/v1/rerank", {"documents": ["a"]}, "query"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "queries"),
    ],
    ids=["empty", "dimensions", "format", "no-query", "counts"],
)
async def test_a_bad_body_is_refused_with_the_field(client, path, body, param):
    reply = await client.post(path, json=body)

    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


async def test_a_pooling_engine_generates_nothing_and_counts_no_output(client):
    await client.post("/v1/embeddings", json={"input": "hello"})

    assert (await client.post("/v1/chat/completions", json={})).status_code == 404
    assert (
        'vllm:generation_tokens_total{engine="0",model_name="sim"} 0.0'
        in (await client.get("/metrics")).text
    )
