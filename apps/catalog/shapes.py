"""Bytes that follow from a model's shape: KV cache, states, and weights on each GPU.

What is counted, for each kind of layer: full attention keeps 2 x heads x head_dim elements of every
token; a sliding window the same for its last tokens and those still being computed; MLA one latent
of every token, a copy on every GPU; linear attention and Mamba-2 a state whose size does not
depend on length; encoders and layers that read another layer's cache nothing. Blocks are not
rounded up here. Source: vLLM 0.32, `v1/kv_cache_interface.py`, `max_memory_usage_bytes`.
Called by `apps.catalog.need`. Pure arithmetic: no Django, no clock, no files.
"""

from dataclasses import dataclass

from apps.catalog.entry import LayerGroup, LayerKind, LinearState, Shape

KV_ELEMENT_BYTES = {"fp8": 1, "fp8_e4m3": 1, "bfloat16": 2, "float16": 2}
MODEL_ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True)
class CacheLayout:
    """How the engine keeps the cache of one request."""

    element_bytes: int = 2
    tensor_parallel: int = 1
    in_flight_tokens: int = 0
    """Tokens that are scheduled and not yet settled: a sliding window cannot drop them."""
    states_per_layer: int = 1
    """Copies of a linear layer's state: two with prefix caching, one of them at a block's end."""


_GROWING = (LayerKind.FULL, LayerKind.MLA)


def kv_element_bytes(shape: Shape, dtype: str | None, kv_cache_dtype: str | None) -> int:
    """Return the bytes of one number in the KV cache; both names are the engine's, None is auto."""
    model = MODEL_ELEMENT_BYTES.get(dtype or "auto", shape.weight_element_bytes)
    return KV_ELEMENT_BYTES.get(kv_cache_dtype or "auto", model)


def kv_bytes_per_token(shape: Shape, *, element_bytes: int, tensor_parallel: int = 1) -> int:
    """Return what every further token of a long request adds to the KV cache, on each GPU."""
    return sum(
        group.layers * _token_bytes(shape, group, element_bytes, tensor_parallel)
        for group in shape.groups
        if group.kind in _GROWING
    )


def kv_bytes_of_request(shape: Shape, tokens: int, layout: CacheLayout) -> int:
    """Return the KV cache and states that one request of `tokens` tokens needs, on each GPU."""
    return sum(group.layers * _layer_bytes(shape, group, tokens, layout) for group in shape.groups)


def keeps_cache(shape: Shape) -> bool:
    """Say whether the model keeps anything between two steps; encoders do not."""
    return any(
        group.kind in (*_GROWING, LayerKind.SLIDING, LayerKind.LINEAR) for group in shape.groups
    )


@dataclass(frozen=True, kw_only=True)
class Split:
    """How the GPUs of one replica share the model."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    """Copies of all that is not an expert, each with a KV cache of its own."""
    deals_experts: bool = False
    """Whole experts to each GPU in place of a slice of every one."""

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline * self.data


def weight_bytes_per_gpu(shape: Shape, weight_bytes: int, split: Split) -> int:
    """Return the weights on the fullest GPU.

    Tensor parallelism splits every matrix evenly (the norms it copies are below 0.1 %).
    Pipeline stages hold whole layers; the embedding is on the first, the output head on the last.
    Data parallelism copies all but the experts, which all GPUs of a stage share: in slices, or as
    whole experts (vLLM 0.32, `fused_moe/config.py`, FusedMoEParallelConfig.make).
    """
    experts = expert_bytes(shape, weight_bytes)
    sharers = split.tensor * split.data
    dealt = -(-experts // sharers)
    if split.deals_experts and shape.experts is not None:
        most = -(-shape.experts.count // sharers)
        dealt = -(-experts * most // shape.experts.count)
    rest = weight_bytes - experts
    if split.pipeline == 1:
        return -(-rest // split.tensor) + dealt
    ends = embedding_bytes(shape) * (1 if shape.tied_embeddings else 2)
    body = max(0, rest - ends)
    layers = -(-shape.layers // split.pipeline)
    stage = -(-(body * layers // shape.layers + embedding_bytes(shape)) // split.tensor)
    return stage + -(-dealt * layers // shape.layers)


def expert_bytes(shape: Shape, weight_bytes: int) -> int:
    """Return what of the weights are routed experts; 0 for a dense model.

    Experts and attention are stored in the same format, the embeddings unquantized: so the bytes
    of an element follow from the whole.
    """
    experts = shape.experts
    if experts is None:
        return 0
    of_experts = (
        experts.layers * experts.count * experts.matrices * shape.hidden_size * experts.width
    )
    heads = 2 * shape.attention_heads + 2 * shape.kv_heads
    of_attention = shape.layers * shape.hidden_size * shape.head_dim * heads
    ends = embedding_bytes(shape) * (1 if shape.tied_embeddings else 2)
    body = max(0, weight_bytes - ends)
    return body * of_experts // (of_experts + of_attention)


def embedding_bytes(shape: Shape) -> int:
    """Return the size of the input embedding, which quantizations leave as it is."""
    return shape.vocab_size * shape.hidden_size * shape.weight_element_bytes


def _layer_bytes(shape: Shape, group: LayerGroup, tokens: int, layout: CacheLayout) -> int:
    if group.kind is LayerKind.LINEAR and group.state is not None:
        state = state_bytes(group.state, tensor_parallel=layout.tensor_parallel)
        return state * layout.states_per_layer
    kept = tokens
    if group.kind is LayerKind.SLIDING and group.window_tokens is not None:
        kept = min(tokens, group.window_tokens - 1 + layout.in_flight_tokens)
    return kept * _token_bytes(shape, group, layout.element_bytes, layout.tensor_parallel)


def _token_bytes(shape: Shape, group: LayerGroup, element_bytes: int, tensor_parallel: int) -> int:
    """Return what one layer of `group` keeps of one token, on each GPU."""
    if group.kind is LayerKind.MLA and group.latent_dim is not None:
        return group.latent_dim * element_bytes
    if group.kind not in (LayerKind.FULL, LayerKind.SLIDING):
        return 0
    heads = max(1, (group.kv_heads or shape.kv_heads) // tensor_parallel)
    return 2 * heads * (group.head_dim or shape.head_dim) * element_bytes


def state_bytes(state: LinearState, *, tensor_parallel: int = 1) -> int:
    """Return the recurrent and convolution state of one layer for one request, on each GPU."""
    values = state.value_heads * state.value_head_dim
    recurrent = values * state.key_head_dim * state.recurrent_element_bytes
    channels = values + 2 * state.key_heads * state.key_head_dim
    convolution = channels * (state.conv_kernel - 1) * state.conv_element_bytes
    return -(-(recurrent + convolution) // tensor_parallel)
