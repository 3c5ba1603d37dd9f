"""Weights from a bucket: the signature, the list, the files, the refusals."""

import hashlib
from datetime import UTC, datetime

import pytest

from agents.weights import s3
from agents.weights.fault import WeightsFault
from agents.wire import WeightsRef
from tests.agents.weights.shelf import Item

TENSORS = b"\x07" * 200_000
REF = WeightsRef(key="bucket-model", source="s3:models/llama/8b")
EXAMPLE = s3.Store(
    access_key="AKIAIOSFODNN7EXAMPLE", secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)


@pytest.fixture
def bucket(shelf, monkeypatch):
    """A bucket with a model and what no engine may load."""
    files = {"model.safetensors": TENSORS, "config.json": b"{}", "evil.py": b"boom"}
    listed = ""
    for name, body in files.items():
        tag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        shelf.items[f"/models/llama/8b/{name}"] = Item(body)
        listed += (
            f"<Contents><Key>llama/8b/{name}</Key><Size>{len(body)}</Size>"
            f"<ETag>&quot;{tag}&quot;</ETag></Contents>"
        )
    page = f'<L xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{listed}</L>'
    shelf.items["/models?list-type=2&prefix=llama%2F8b%2F"] = Item(page.encode())
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", shelf.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return shelf


async def test_brings_what_an_engine_loads_by_signed_requests(bucket, store, told):
    folder = await store.ensure(REF, told.append)

    assert (folder / "model.safetensors").read_bytes() == TENSORS
    assert not (folder / "evil.py").exists()
    [asked] = bucket.asked_for("/models/llama/8b/model.safetensors")
    assert asked.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=me/")


async def test_keeps_no_file_whose_checksum_is_wrong(bucket, store, told):
    bucket.items["/models/llama/8b/model.safetensors"].body = b"\x08" * len(TENSORS)

    with pytest.raises(WeightsFault, match="MD5"):
        await store.ensure(REF, told.append)


async def test_says_which_keys_to_check_when_it_is_refused(bucket, store, told):
    bucket.items["/models?list-type=2&prefix=llama%2F8b%2F"].status = 403

    with pytest.raises(WeightsFault, match="AWS_ACCESS_KEY_ID"):
        await store.ensure(REF, told.append)


def test_signs_as_the_service_expects():
    """The example of AWS's documentation, with the headers that are sent here."""
    at = datetime(2013, 5, 24, tzinfo=UTC)

    headers = s3.signed(EXAMPLE, "https://examplebucket.s3.amazonaws.com/?lifecycle=", at)

    assert headers["authorization"].endswith(
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    )


@pytest.mark.parametrize("source", ["s3:models", "s3:UPPER/x", "s3:models/../x", "s3:"])
async def test_refuses_what_is_no_bucket_and_prefix(store, told, source):
    with pytest.raises(WeightsFault):
        await store.ensure(WeightsRef(key="x", source=source), told.append)
