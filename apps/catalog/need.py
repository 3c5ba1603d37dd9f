"""How much memory one replica needs, part by part.

Weights and KV cache are arithmetic on the model's shape. Activations follow from the largest step
(batched tokens) and the sampler (requests x vocabulary). The runtime, which is what the engine
takes before it has a model, is measured on CPU and an estimate on CUDA; `docs/catalog.md` has the
measurements. Called by `apps.catalog.fit`. Pure.
"""

from dataclasses import dataclass

from agents.wire import EngineSettings
from apps.catalog import shapes
from apps.catalog.entry import Device, Quantization, Shape, Variant

GIB = 1024**3

CPU_RUNTIME_BYTES = 1_650_000_000
"""The three processes of a CPU engine that generates text, with their imports and no model."""

CPU_ENCODER_RUNTIME_BYTES = 1_400_000_000
"""The same for an encoder, which loads neither the sampler nor the chat front end."""

CPU_KV_BYTES = GIB
"""KV cache on CPU where the settings do not say: the engine itself would take half the memory."""

SMALLEST_CPU_KV_BYTES = 16 * 1024**2
"""What a CPU engine is given that keeps no cache: it does not allocate it, and must be told."""

CUDA_RUNTIME_BYTES = 1 * GIB
"""CUDA context, libraries and workspaces on each GPU; an estimate."""

CUDA_GRAPH_BYTES = GIB // 2
"""Captured CUDA graphs on each GPU, unless eager; an estimate."""

CUDA_COLLECTIVE_BYTES = GIB // 2
"""Buffers of the collective operations on each GPU of a group; an estimate."""

DEFAULT_BATCHED_TOKENS = {Device.CPU: 2048, Device.CUDA: 8192}
DEFAULT_SEQUENCES = {Device.CPU: 128, Device.CUDA: 256}

DEFAULT_BLOCK_TOKENS = {Device.CPU: 128, Device.CUDA: 16}

_SAMPLER_COPIES = 3
"""Logits, their probabilities and one sorted copy, four bytes an element."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Memory of one replica: of the whole replica on CPU, of each of its GPUs on CUDA."""

    weights_bytes: int
    kv_bytes: int
    """Set by `kv_cache_bytes`, else what one request of full length needs."""
    activation_bytes: int
    runtime_bytes: int
    graph_bytes: int = 0
    """Captured CUDA graphs."""
    packed_bytes: int = 0
    """The copy of a tied embedding that a CPU engine packs as its output head."""

    @property
    def fixed_bytes(self) -> int:
        """Everything but the KV cache."""
        return (
            self.weights_bytes
            + self.activation_bytes
            + self.runtime_bytes
            + self.graph_bytes
            + self.packed_bytes
        )

    @property
    def total_bytes(self) -> int:
        return self.fixed_bytes + self.kv_bytes


def estimate(variant: Variant, settings: EngineSettings, device: Device | str) -> Need:
    """Return what a replica of `variant` with `settings` needs on `device`, at the least.

    An estimate: within 10 % of the measured CPU engines, unproven on CUDA.
    """
    device = Device(device)
    weights = shapes.weight_bytes_per_gpu(
        variant.shape, _loaded_bytes(variant, settings), split_of(settings)
    )
    return Need(
        weights_bytes=weights,
        kv_bytes=_kv_bytes(variant, settings, device),
        activation_bytes=_activation_bytes(variant.shape, settings, device),
        runtime_bytes=_runtime_bytes(variant.shape, settings, device),
        graph_bytes=_graph_bytes(settings, device),
        packed_bytes=_packed_bytes(variant, settings, device),
    )


def split_of(settings: EngineSettings) -> shapes.Split:
    """Return how a replica with `settings` is spread over its GPUs."""
    return shapes.Split(
        tensor=settings.tensor_parallel_size,
        pipeline=settings.pipeline_parallel_size,
        data=settings.data_parallel_size,
        deals_experts=settings.enable_expert_parallel,
    )


def _loaded_bytes(variant: Variant, settings: EngineSettings) -> int:
    """Return the weights as they lie in memory: an unquantized model takes the `dtype` it is told.

    A copy of a shape's own element size counts; quantized matrices keep their format.
    """
    if not is_unquantized(variant):
        return variant.weight_bytes
    stored = variant.shape.weight_element_bytes
    return variant.weight_bytes * _element_bytes(variant.shape, settings) // stored


def _element_bytes(shape: Shape, settings: EngineSettings) -> int:
    """Return the bytes of one number in the computation."""
    return shapes.MODEL_ELEMENT_BYTES.get(settings.dtype or "auto", shape.weight_element_bytes)


def is_unquantized(variant: Variant) -> bool:
    """Say whether the engine holds plain numbers: a GGUF file is unpacked when it is fetched."""
    return variant.quantization in (Quantization.NONE, Quantization.GGUF)


def request_bytes(variant: Variant, settings: EngineSettings, tokens: int) -> int:
    """Return the KV cache of one request of `tokens` tokens under `settings`, on each device.

    Pipeline stages hold the layers of their own only; the fullest one counts.
    """
    whole = shapes.kv_bytes_of_request(variant.shape, tokens, _layout(variant, settings))
    return -(-whole // settings.pipeline_parallel_size)


def full_length_tokens(variant: Variant, settings: EngineSettings) -> int:
    """Return the longest request that the engine will take."""
    return settings.max_model_len or variant.context_tokens


def kv_tokens(
    variant: Variant, settings: EngineSettings, device: Device | str, kv_bytes: int
) -> int:
    """Return how many tokens a KV cache of `kv_bytes` a device holds; 0 if the model keeps none.

    In requests of full length, so that windows and states take their share; whole blocks.
    """
    tokens = full_length_tokens(variant, settings)
    each = request_bytes(variant, settings, tokens)
    if not each:
        return 0
    block = settings.block_size or DEFAULT_BLOCK_TOKENS[Device(device)]
    return kv_bytes * tokens // each // block * block


def largest_context_tokens(variant: Variant, settings: EngineSettings, kv_bytes: int) -> int:
    """Return the longest request whose KV cache fits into `kv_bytes`, at most the wanted length."""
    low, high = 0, full_length_tokens(variant, settings)
    while low < high:
        middle = (low + high + 1) // 2
        if request_bytes(variant, settings, middle) <= kv_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def _kv_bytes(variant: Variant, settings: EngineSettings, device: Device) -> int:
    if not shapes.keeps_cache(variant.shape):
        return 0
    if settings.kv_cache_bytes is not None:
        return settings.kv_cache_bytes
    one = request_bytes(variant, settings, full_length_tokens(variant, settings))
    return max(one, CPU_KV_BYTES) if device is Device.CPU else one


def _packed_bytes(variant: Variant, settings: EngineSettings, device: Device) -> int:
    """Return the head that a CPU engine packs from a tied embedding.

    Every other matrix is packed in place of its original; an encoder has no head.
    """
    shape = variant.shape
    packs = device is Device.CPU and shape.tied_embeddings and shapes.keeps_cache(shape)
    if not packs:
        return 0
    vectors = shape.vocab_size * shape.hidden_size
    return vectors * _element_bytes(shape, settings)


def _graph_bytes(settings: EngineSettings, device: Device) -> int:
    return 0 if settings.enforce_eager or device is Device.CPU else CUDA_GRAPH_BYTES


def _layout(variant: Variant, settings: EngineSettings) -> shapes.CacheLayout:
    """Return how the engine keeps a request; it schedules one step ahead of the pipeline."""
    step = settings.max_num_batched_tokens or DEFAULT_BATCHED_TOKENS[Device.CUDA]
    return shapes.CacheLayout(
        element_bytes=shapes.kv_element_bytes(
            variant.shape, settings.dtype, settings.kv_cache_dtype
        ),
        tensor_parallel=settings.tensor_parallel_size,
        in_flight_tokens=step * (settings.pipeline_parallel_size + 1),
        states_per_layer=2 if settings.enable_prefix_caching else 1,
    )


def _activation_bytes(shape: Shape, settings: EngineSettings, device: Device) -> int:
    tokens = settings.max_num_batched_tokens or DEFAULT_BATCHED_TOKENS[device]
    requests = settings.max_num_seqs or DEFAULT_SEQUENCES[device]
    split = settings.tensor_parallel_size
    width = 4 * shape.hidden_size + 3 * shape.intermediate_size // split
    sampler = 0
    if shapes.keeps_cache(shape):
        sampler = requests * shape.vocab_size * 4 * _SAMPLER_COPIES
    return tokens * width * _element_bytes(shape, settings) + sampler


def _runtime_bytes(shape: Shape, settings: EngineSettings, device: Device) -> int:
    if device is Device.CPU:
        return CPU_RUNTIME_BYTES if shapes.keeps_cache(shape) else CPU_ENCODER_RUNTIME_BYTES
    grouped = split_of(settings).gpus > 1
    return CUDA_RUNTIME_BYTES + (CUDA_COLLECTIVE_BYTES if grouped else 0)
