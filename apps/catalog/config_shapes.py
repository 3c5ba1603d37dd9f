"""The dimensions of a model from its published config.json. Pure: values in, a `Shape` out.

Follows the names that Hugging Face's transformers uses. A config that lacks a size is refused with
its name; what the config says of layers is taken as it stands: sliding windows, MLA, linear
attention, encoders. Called by `apps.catalog.cards`.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from apps.catalog.entry import Experts, LayerGroup, LayerKind, LinearState, Shape

ENCODERS = frozenset(
    {
        "bert",
        "roberta",
        "xlm-roberta",
        "distilbert",
        "camembert",
        "mpnet",
        "modernbert",
        "nomic_bert",
    }
)
ELEMENT_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}

_SIZES: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "attention_heads": ("num_attention_heads", "n_head"),
    "vocab_size": ("vocab_size",),
}


class BadConfig(ValueError):
    """The config does not say what is needed; `field` is the name in it."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part that tells of the language model; multimodal configs nest it."""
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, Mapping) else config


def shape_of(config: Mapping[str, Any], *, has_head: bool | None = None) -> Shape:
    """Return the dimensions that `config` tells. Raises BadConfig naming what is missing.

    `has_head` says whether the weights hold an output head of their own, None if it is not known.
    """
    text = text_config(config)
    sizes = {name: _size(text, name, *keys) for name, keys in _SIZES.items()}
    heads = sizes["attention_heads"]
    kv_heads = text.get("num_key_value_heads") or heads
    tied = bool(text.get("tie_word_embeddings", True)) if has_head is None else not has_head
    try:
        return Shape(
            **sizes,
            kv_heads=int(kv_heads),
            head_dim=int(text.get("head_dim") or sizes["hidden_size"] // heads),
            intermediate_size=_active_width(text, sizes["hidden_size"]),
            tied_embeddings=tied,
            layer_groups=_groups(text, sizes["layers"]),
            experts=_experts(text, sizes["layers"]),
            weight_element_bytes=element_bytes(text),
        )
    except (TypeError, ValueError) as error:
        raise BadConfig("", f"its config.json does not add up: {error}") from error


def is_encoder(config: Mapping[str, Any]) -> bool:
    return text_config(config).get("model_type") in ENCODERS


def element_bytes(text: Mapping[str, Any]) -> int:
    """Return the bytes of one weight as published, two where the config does not say."""
    return ELEMENT_BYTES.get(str(text.get("dtype") or text.get("torch_dtype")), 2)


def experts(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return (experts of a layer, how many one token uses); (0, 0) for a dense model."""
    text = text_config(config)
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    count = next((int(text[name]) for name in names if text.get(name)), 0)
    used = next(
        (int(text[n]) for n in ("num_experts_per_tok", "moe_topk", "top_k_experts") if text.get(n)),
        1,
    )
    return (count, min(used, count)) if count > 1 else (0, 0)


def _size(text: Mapping[str, Any], name: str, *keys: str) -> int:
    for key in keys:
        value = text.get(key)
        if isinstance(value, int) and value > 0:
            return value
    raise BadConfig(keys[0], f"its config.json has no `{keys[0]}`, which gives the {name}")


def _active_width(text: Mapping[str, Any], hidden_size: int) -> int:
    """Return the width of the MLP that one token goes through, over its experts."""
    dense = text.get("intermediate_size") or text.get("ffn_dim") or 4 * hidden_size
    count, used = experts(text)
    if not count:
        return int(dense)
    width = int(text.get("moe_intermediate_size") or dense) * used
    return width + int(text.get("shared_expert_intermediate_size") or 0)


def _experts(text: Mapping[str, Any], layers: int) -> Experts | None:
    """Return the routed experts; those of a hybrid lie in the layers without attention."""
    count, _ = experts(text)
    width = text.get("moe_intermediate_size") or text.get("intermediate_size")
    if not count or not width:
        return None
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return Experts(count=count, width=int(width), layers=pattern.count("E"), matrices=2)
    dense = int(text.get("first_k_dense_replace") or 0)
    every = int(text.get("decoder_sparse_step") or 1)
    return Experts(count=count, width=int(width), layers=max(1, (layers - dense) // every))


def _groups(text: Mapping[str, Any], layers: int) -> tuple[LayerGroup, ...]:
    """Return the layers by kind; empty for full attention throughout."""
    if text.get("model_type") in ENCODERS:
        return (LayerGroup(kind=LayerKind.ENCODER, layers=layers),)
    if text.get("kv_lora_rank"):
        latent = int(text["kv_lora_rank"]) + int(text.get("qk_rope_head_dim") or 0)
        return (LayerGroup(kind=LayerKind.MLA, layers=layers, latent_dim=latent),)
    counted = Counter(_kinds(text, layers))
    if set(counted) == {LayerKind.FULL}:
        return ()
    return tuple(_group(kind, count, text) for kind, count in sorted(counted.items()))


def _kinds(text: Mapping[str, Any], layers: int) -> list[LayerKind]:
    """Return the kind of each layer, in order."""
    named = text.get("layer_types")
    if isinstance(named, list) and named:
        return [_KINDS.get(str(name), LayerKind.FULL) for name in named][:layers]
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return [_PATTERN.get(letter, LayerKind.NONE) for letter in pattern]
    every = int(text.get("full_attention_interval") or 0)
    if every and text.get("linear_num_value_heads"):
        return _every(every, layers, LayerKind.LINEAR)
    if not text.get("sliding_window") or text.get("use_sliding_window") is False:
        return [LayerKind.FULL] * layers
    every = int(text.get("sliding_window_pattern") or 0)
    return _every(every, layers, LayerKind.SLIDING)


def _every(period: int, layers: int, others: LayerKind) -> list[LayerKind]:
    """Return full attention in each `period`th layer and `others` between; 0 for none at all."""
    return [
        LayerKind.FULL if period and (number + 1) % period == 0 else others
        for number in range(layers)
    ]


_KINDS = {
    "full_attention": LayerKind.FULL,
    "attention": LayerKind.FULL,
    "sliding_attention": LayerKind.SLIDING,
    "chunked_attention": LayerKind.SLIDING,
    "linear_attention": LayerKind.LINEAR,
    "mamba": LayerKind.LINEAR,
    "mamba2": LayerKind.LINEAR,
}
_PATTERN = {"*": LayerKind.FULL, "M": LayerKind.LINEAR}


def _group(kind: LayerKind, layers: int, text: Mapping[str, Any]) -> LayerGroup:
    if kind is LayerKind.SLIDING:
        window = text.get("sliding_window") or text.get("attention_chunk_size")
        if not isinstance(window, int):
            raise BadConfig("sliding_window", "its config.json has no `sliding_window`")
        return LayerGroup(kind=kind, layers=layers, window_tokens=window)
    if kind is LayerKind.LINEAR:
        return LayerGroup(kind=kind, layers=layers, state=_state(text))
    return LayerGroup(kind=kind, layers=layers)


def _state(text: Mapping[str, Any]) -> LinearState:
    """Return the state of a linear-attention layer, or of a Mamba-2 layer by its names."""
    if text.get("linear_num_value_heads"):
        return LinearState(
            value_heads=_size(text, "state", "linear_num_value_heads"),
            value_head_dim=_size(text, "state", "linear_value_head_dim"),
            key_heads=_size(text, "state", "linear_num_key_heads"),
            key_head_dim=_size(text, "state", "linear_key_head_dim"),
            conv_kernel=int(text.get("linear_conv_kernel_dim") or 4),
        )
    return LinearState(
        value_heads=_size(text, "state", "mamba_num_heads", "mamba_n_heads"),
        value_head_dim=_size(text, "state", "mamba_head_dim", "mamba_d_head"),
        key_heads=_size(text, "state", "n_groups", "mamba_n_groups"),
        key_head_dim=_size(text, "state", "ssm_state_size", "mamba_d_state"),
        conv_kernel=int(text.get("conv_kernel") or text.get("mamba_d_conv") or 4),
    )
