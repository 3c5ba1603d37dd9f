"""The one declaration of what can be set at an engine: name, type, default, range, sentence, flag.

A field of `EngineSettings` is a setting; what is known of it stands beside its type. The control
plane checks orders against it and draws its form and its docs page from it
(`apps.catalog.settings`), the agent checks once more and writes vLLM's command line from it
(`agents.engines.vllm`). What a device or a GPU generation can do is `agents.engine_support`.
Pure; sizes are bytes, lengths are tokens. Flags and defaults are those of vLLM 0.32.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from agents.engine_support import methods
from agents.engine_words import (
    ATTENTION_BACKENDS,
    REASONING_PARSERS,
    TOOL_CALL_PARSERS,
)
from agents.message import Message
from agents.setting import Form, Group, Setting, declared

MIB = 1024**2
TIB = 1024**4

_NO_GPU = "A CPU engine has no GPU: vLLM 0.32 refuses it."
_CPU_ALWAYS_OWN = "A CPU engine always takes its own attention kernels (CPU_ATTN)."


class EngineSettings(Message, frozen=True, kw_only=True):
    """Typed engine settings; the agent turns them into argv. None leaves the engine's default."""

    # fmt: off
    revision: Annotated[str | None, Setting(Group.MODEL,
        "Commit or tag of the weights on the hub, in place of the catalog's.",
        form=Form.OWN, default="the catalog's")] = None
    task: Annotated[str | None, Setting(Group.MODEL,
        "What the model is served for; a text model can also give embeddings.",
        form=Form.OWN, choices=("chat", "embed", "rerank"), default="the catalog's",
        changes_answers=True)] = None
    max_model_len: Annotated[int | None, Setting(Group.MODEL,
        "Longest request, prompt and answer, in tokens.",
        flag="--max-model-len", low=1, high=16_777_216, unit="tokens")] = None
    check_answers: Annotated[bool, Setting(Group.MODEL,
        "Look at a replica's first answers before it takes traffic; they must make sense.",
        form=Form.OWN)] = True
    quantization: Annotated[str | None, Setting(Group.QUANTIZATION,
        "Quantization method; leave it out and the engine reads it from the weights.",
        flag="--quantization", choices=methods("quantization"), default="as stored",
        changes_answers=True)] = None
    dtype: Annotated[str | None, Setting(Group.QUANTIZATION,
        "Number format of the computation; where a CPU has no wide vectors Hearth takes float32.",
        flag="--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto",
        changes_answers=True)] = None
    kv_cache_dtype: Annotated[str | None, Setting(Group.QUANTIZATION,
        "Number format of the KV cache; fp8 halves it.",
        flag="--kv-cache-dtype", choices=methods("kv_cache_dtype"), default="auto",
        changes_answers=True)] = None
    tensor_parallel_size: Annotated[int, Setting(Group.PARALLELISM,
        "GPUs that share each layer; must divide the heads.",
        flag="--tensor-parallel-size", low=1, high=64, unit="GPUs")] = 1
    pipeline_parallel_size: Annotated[int, Setting(Group.PARALLELISM,
        "Stages into which the layers are split.",
        flag="--pipeline-parallel-size", low=1, high=64, unit="stages")] = 1
    data_parallel_size: Annotated[int, Setting(Group.PARALLELISM,
        "Copies of the attention layers inside one replica, for mixtures of experts.",
        flag="--data-parallel-size", low=1, high=64, unit="copies")] = 1
    enable_expert_parallel: Annotated[bool, Setting(Group.PARALLELISM,
        "Deal out whole experts to the GPUs instead of splitting each one.",
        flag="--enable-expert-parallel", form=Form.SWITCH, refused_on={"cpu": _NO_GPU})] = False
    gpu_memory_utilization: Annotated[float | None, Setting(Group.MEMORY,
        "Share of a GPU's memory that the engine takes.",
        flag="--gpu-memory-utilization", low=0.05, high=0.98, default="0.92")] = None
    kv_cache_bytes: Annotated[int | None, Setting(Group.MEMORY,
        "Size of the KV cache, for each GPU or for the CPU.",
        flag="--kv-cache-memory-bytes", low=MIB, high=TIB, unit="bytes",
        default="what is left of the share")] = None
    max_num_seqs: Annotated[int | None, Setting(Group.MEMORY,
        "Most requests that are computed at the same time.",
        flag="--max-num-seqs", low=1, high=4_096, unit="requests")] = None
    cpu_offload_bytes: Annotated[int | None, Setting(Group.MEMORY,
        "Weights that are kept in host memory and streamed to each GPU: slow.",
        flag="--cpu-offload-gb", form=Form.GIB, low=0, high=TIB, unit="bytes", default="none",
        refused_on={"cpu": "A CPU engine has its weights in host memory already."})] = None
    kv_offload_bytes: Annotated[int | None, Setting(Group.MEMORY,
        "Host memory that takes KV blocks which leave the GPU, as a second prefix cache.",
        flag="--kv-offloading-size", form=Form.GIB, low=0, high=TIB, unit="bytes",
        default="none",
        refused_on={"cpu": "vLLM 0.32 offloads the KV cache of CUDA and XPU engines only."})] = None
    max_num_batched_tokens: Annotated[int | None, Setting(Group.BATCHING,
        "Most tokens in one step of the engine.",
        flag="--max-num-batched-tokens", low=32, high=MIB, unit="tokens")] = None
    enable_chunked_prefill: Annotated[bool | None, Setting(Group.BATCHING,
        "Compute long prompts in pieces between the tokens of running requests.",
        flag="--enable-chunked-prefill", form=Form.TOGGLE,
        default="on where the model allows it")] = None
    scheduling_policy: Annotated[str | None, Setting(Group.BATCHING,
        "Order in which the engine takes waiting requests.",
        flag="--scheduling-policy", choices=("fcfs", "priority"), default="fcfs")] = None
    stream_interval: Annotated[int | None, Setting(Group.BATCHING,
        "Tokens that are collected for one chunk of a stream.",
        flag="--stream-interval", low=1, high=1_024, unit="tokens", default="1")] = None
    enable_prefix_caching: Annotated[bool, Setting(Group.CACHING,
        "Reuse the KV cache of a prompt's beginning between requests.",
        flag="--enable-prefix-caching", form=Form.TOGGLE)] = True
    block_size: Annotated[int | None, Setting(Group.CACHING,
        "Tokens in a block of the KV cache, the unit in which prefixes are reused.",
        flag="--block-size", low=16, high=1_024, multiple_of={"cpu": 32, "cuda": 16},
        unit="tokens", default="128 on CPU, 16 on most GPUs")] = None
    prefix_caching_hash_algo: Annotated[str | None, Setting(Group.CACHING,
        "Hash by which equal prefixes are found; xxhash is faster and not collision-safe.",
        flag="--prefix-caching-hash-algo",
        choices=("sha256", "sha256_cbor", "xxhash", "xxhash_cbor"), default="sha256")] = None
    kv_events: Annotated[bool, Setting(Group.CACHING,
        "Tell gateways on the same host what the cache holds, so that they route by it exactly.",
        form=Form.OWN)] = False
    speculative_method: Annotated[str | None, Setting(Group.SPECULATION,
        "How tokens are guessed: from the prompt, by the model, or by a draft model.",
        form=Form.OWN, choices=("ngram", "suffix", "mtp", "draft_model", "eagle", "eagle3"),
        default="off")] = None
    speculative_tokens: Annotated[int | None, Setting(Group.SPECULATION,
        "Tokens that are guessed in one step.",
        form=Form.OWN, low=1, high=32, unit="tokens", default="3")] = None
    speculative_model: Annotated[str | None, Setting(Group.SPECULATION,
        "Weights of the draft model, as `hf:<org>/<name>@<revision>` or `path:/folder`.",
        form=Form.OWN, default="none")] = None
    enforce_eager: Annotated[bool, Setting(Group.KERNELS,
        "Run without compilation and graphs: faster start, slower answers.",
        flag="--enforce-eager", form=Form.SWITCH)] = False
    optimization_level: Annotated[int | None, Setting(Group.KERNELS,
        "How much is compiled: 0 starts soonest, 3 is slowest to start.",
        flag="--optimization-level", low=0, high=3, default="2")] = None
    attention_backend: Annotated[str | None, Setting(Group.KERNELS,
        "Attention kernels; leave it out and the engine takes the best for the GPU.",
        flag="--attention-backend", choices=ATTENTION_BACKENDS, default="the best for the GPU",
        refused_on={"cpu": _CPU_ALWAYS_OWN}, changes_answers=True)] = None
    cudagraph_capture_sizes: Annotated[tuple[int, ...], Setting(Group.KERNELS,
        "Batch sizes for which GPU graphs are recorded; fewer sizes start sooner.",
        flag="--cudagraph-capture-sizes", form=Form.LIST, low=1, high=4_096, unit="requests",
        default="the engine's list", refused_on={"cpu": "There are no GPU graphs on a CPU."})] = ()
    omp_threads: Annotated[int | None, Setting(Group.KERNELS,
        "Threads of a CPU engine.",
        form=Form.OWN, low=1, high=512, unit="threads", default="1",
        refused_on={"cuda": "It is for CPU engines only."})] = None
    load_format: Annotated[str | None, Setting(Group.LOADING,
        "How weights are read: streamers bring them to the GPU several files at a time.",
        flag="--load-format",
        choices=("auto", "safetensors", "runai_streamer", "fastsafetensors", "tensorizer", "dummy"),
        default="auto")] = None
    safetensors_load_strategy: Annotated[str | None, Setting(Group.LOADING,
        "How safetensors files are read: mapped as needed, whole, or ahead of need.",
        flag="--safetensors-load-strategy", choices=("lazy", "eager", "prefetch", "torchao"),
        default="lazy")] = None
    lora_adapters: Annotated[dict[str, str], Setting(Group.ADAPTERS,
        "Adapters by name, each a model of its own; a source is `hf:…@…` or `path:/…`.",
        form=Form.OWN, default="none", changes_answers=True)] = {}
    max_loras: Annotated[int | None, Setting(Group.ADAPTERS,
        "Adapters that one batch may mix.",
        flag="--max-loras", low=1, high=128, unit="adapters",
        default="as many as there are")] = None
    max_lora_rank: Annotated[int | None, Setting(Group.ADAPTERS,
        "Largest rank of an adapter.",
        flag="--max-lora-rank", low=1, high=512, default="16")] = None
    tool_call_parser: Annotated[str | None, Setting(Group.PARSERS,
        "Parser that turns the model's text into tool calls.",
        flag="--tool-call-parser", form=Form.OWN, choices=TOOL_CALL_PARSERS,
        default="the catalog's")] = None
    reasoning_parser: Annotated[str | None, Setting(Group.PARSERS,
        "Parser that splits reasoning from the answer.",
        flag="--reasoning-parser", choices=REASONING_PARSERS, default="the catalog's")] = None
    extra_args: Annotated[tuple[str, ...], Setting(Group.EXTRA,
        "Further arguments of `vllm serve`, checked against its own list of flags.",
        form=Form.OWN, default="none", admin_only=True, changes_answers=True)] = ()
    # fmt: on


SETTINGS: Mapping[str, Setting] = MappingProxyType(declared(EngineSettings))
"""Every setting by name, in the order of the declaration."""
