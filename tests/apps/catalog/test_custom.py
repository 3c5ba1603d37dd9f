"""Models outside the catalog: a card from what their files say, from a folder and from a hub."""

import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from apps.accounts.states import Role
from apps.catalog import catalog
from apps.catalog.config_shapes import BadConfig, shape_of
from apps.catalog.entry import Device, LayerKind
from apps.catalog.shapes import kv_bytes_per_token
from tests.apps.accounts.people import make_client

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
TENSORS = {
    "__metadata__": {"format": "pt"},
    "model.embed_tokens.weight": {
        "dtype": "BF16", "shape": [1000, 64], "data_offsets": [0, 128000],
    },
    "lm_head.weight": {"dtype": "BF16", "shape": [1000, 64], "data_offsets": [128000, 256000]},
}  # fmt: skip


def safetensors(header=TENSORS) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * 64


@pytest.fixture
def own(tmp_path, settings, db):
    settings.DATA_DIR = tmp_path / "data"
    catalog.installed.cache_clear()
    yield settings.DATA_DIR / "catalog"
    catalog.installed.cache_clear()


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "Our-Model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(LLAMA))
    (made / "model.safetensors").write_bytes(safetensors())
    return made


@pytest.fixture
def admin(own):
    return make_client(Role.ADMIN)


def add(client, source: str, **more):
    return client.post("/api/v1/catalog/", {"source": source, **more}, format="json")


class TestFolder:
    def test_makes_a_card_that_is_served_at_once(self, admin, folder, own):
        answer = add(admin, f"path:{folder}")

        assert answer.status_code == 201, answer.content
        assert answer["Location"] == "/api/v1/catalog/our-model/"
        entry = catalog.get("our-model")
        variant = entry.variants[0]
        assert (variant.weight_bytes, entry.parameters.total) == (256_000, 128_000)
        assert variant.engine.max_model_len == 32_768
        assert set(variant.devices) == {Device.CPU, Device.CUDA}
        assert (own / "our-model.yaml").exists()

    def test_reads_the_index_of_shards(self, admin, folder):
        (folder / "model.safetensors").unlink()
        index = {"metadata": {"total_size": 5_000_000}, "weight_map": {"a": "x.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

        assert add(admin, f"path:{folder}").status_code == 201
        assert catalog.get("our-model").variants[0].weight_bytes == 5_000_000
        assert catalog.get("our-model").variants[0].shape.tied_embeddings is True

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"num_hidden_layers": None}, "no `num_hidden_layers`"),
            ({"quantization_config": {"quant_method": "bitsandbytes"}}, "`bitsandbytes`"),
            ({"num_key_value_heads": 3}, "multiple of"),
        ],
        ids=["a size is missing", "no kernel", "does not add up"],
    )
    def test_says_what_its_config_lacks(self, admin, folder, own, change, words):
        (folder / "config.json").write_text(json.dumps({**LLAMA, **change}))

        answer = add(admin, f"path:{folder}")

        assert answer.status_code == 400
        assert words in answer.json()["detail"]
        assert list(own.glob("*.yaml")) == []

    def test_refuses_weights_that_can_hold_code(self, admin, folder):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"pickle")

        assert "can hold code" in add(admin, f"path:{folder}").json()["detail"]

    def test_refuses_a_header_that_claims_too_much(self, admin, folder):
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60))

        assert add(admin, f"path:{folder}").status_code == 400

    def test_refuses_a_slug_that_is_taken(self, admin, folder):
        assert add(admin, f"path:{folder}", slug="qwen3-8b").json()["code"] == "slug_taken"
        assert add(admin, f"path:{folder}").status_code == 201
        assert add(admin, f"path:{folder}").status_code == 409

    def test_says_that_there_is_no_such_folder(self, admin):
        assert add(admin, "path:/nowhere").status_code == 404
        assert add(admin, "ftp:somewhere").status_code == 400

    def test_is_for_admins(self, own, folder):
        assert add(make_client(Role.OPERATOR), f"path:{folder}").status_code == 403


class _Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = {
            "/api/models/org/Our-Model/revision/main": json.dumps(
                {"sha": "abc123", "gated": "manual", "cardData": {"license": "mit"}}
            ).encode(),
            "/org/Our-Model/resolve/abc123/config.json": json.dumps(LLAMA).encode(),
            "/org/Our-Model/resolve/abc123/model.safetensors": safetensors(),
        }
        body = answers.get(self.path)
        if body is None:
            self.send_error(404)
            return
        status = 200
        if span := self.headers.get("Range"):
            first, last = span.removeprefix("bytes=").split("-")
            body, status = body[int(first) : int(last) + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join(5)
    server.server_close()


class TestHub:
    def test_reads_the_card_and_pins_the_commit(self, admin, hub):
        assert add(admin, "hf:org/Our-Model").status_code == 201

        entry = catalog.get("our-model")
        assert entry.variants[0].sources[0].source == "hf:org/Our-Model@abc123"
        assert (entry.licence.name, entry.gated, entry.maker) == ("mit", True, "org")
        assert entry.parameters.total == 128_000

    def test_says_that_the_hub_has_no_such_model(self, admin, hub):
        assert add(admin, "hf:org/other").json()["code"] == "unknown_model"

    def test_says_that_the_hub_does_not_answer(self, admin, monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

        assert add(admin, "hf:org/Our-Model").json()["code"] == "hub_unreachable"


class TestShapes:
    def test_tells_sliding_layers_from_full_ones(self):
        gemma = {**LLAMA, "sliding_window": 512, "sliding_window_pattern": 4}

        groups = {group.kind: group.layers for group in shape_of(gemma).groups}

        assert groups == {LayerKind.FULL: 1, LayerKind.SLIDING: 3}

    def test_tells_the_latent_of_mla(self):
        shape = shape_of({**LLAMA, "kv_lora_rank": 512, "qk_rope_head_dim": 64})

        assert kv_bytes_per_token(shape, element_bytes=2) == 4 * 576 * 2

    def test_tells_linear_layers_with_their_state(self):
        hybrid = {
            **LLAMA,
            "layer_types": [*["linear_attention"] * 3, "full_attention"],
            "linear_num_value_heads": 8,
            "linear_value_head_dim": 16,
            "linear_num_key_heads": 4,
            "linear_key_head_dim": 16,
        }

        groups = {group.kind: group for group in shape_of(hybrid).groups}

        assert groups[LayerKind.LINEAR].layers == 3
        assert groups[LayerKind.LINEAR].state.value_heads == 8

    def test_takes_the_language_model_of_a_multimodal_config(self):
        nested = {"model_type": "vlm", "text_config": LLAMA}

        assert shape_of(nested).layers == 4

    def test_names_what_is_missing(self):
        with pytest.raises(BadConfig, match="vocab_size"):
            shape_of({k: v for k, v in LLAMA.items() if k != "vocab_size"})
