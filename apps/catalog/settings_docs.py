"""Prints `docs/settings.md` from the declaration: `python -m apps.catalog.settings_docs`.

A test holds the page equal to what this prints.
"""

import sys
from collections.abc import Iterator

from agents import engine_flags, engine_support
from agents.setting import Setting
from apps.catalog.entry import Device
from apps.catalog.settings import accepted
from apps.catalog.sheet import sheet

INTRODUCTION = """\
# Engine settings

Printed by `python -m apps.catalog.settings_docs`; do not edit.

Every setting is declared once, in `agents/engine_settings.py`: type, default, range, sentence,
flag. The API (`GET /api/v1/engine-settings/`), the forms, the check of an order, vLLM's command
line and this page are made from it. An order gives settings as `engine: {"max_model_len": 4096}`;
they stand above those of the catalog. A changed setting makes a new revision.
"""

CHECKS = """\
## What is checked against the model and the device

- `max_model_len` is at most the model's context; `tensor_parallel_size` divides the attention
  heads and divides, or is a multiple of, the KV heads; `pipeline_parallel_size` is at most the
  number of layers.
- `quantization` must not contradict how the weights of the variant are stored, and the device
  must have kernels for it (tables below).
- `speculative_method` `draft_model`, `eagle` and `eagle3` need `speculative_model`; the others
  must not have it.
- An unknown name is answered with the nearest one. Every refusal names the field and what to
  give.

## LoRA adapters

`lora_adapters: {"support": "hf:acme/support-lora@3f2c"}` on the deployment `llama` serves a
second model, `llama:support`, from the same replicas: it stands in `/v1/models` and is asked for
by that name. The engine's own load and unload routes stay closed.

## Extra arguments

`extra_args` is for admins, every use is in the audit log, and each argument is checked against
the flags that vLLM {version} itself lists ({count} names, `agents/engine_data/`, dumped by
`scripts/dump_engine.py`). Refused are unknown flags (with the nearest), flags that are a typed
setting or that Hearth sets itself, flags given twice, values of a wrong kind, and the flags
below. There is no way to give environment variables: the agent writes the engine's environment
whole.
"""


def page() -> str:
    """Return the whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield INTRODUCTION
    for group in sheet(Device.CUDA):
        yield f"## {group.group}"
        yield ""
        yield "| setting | what it is | takes | left out | `vllm serve` |"
        yield "|---|---|---|---|---|"
        for row in group.rows:
            yield _row(row.setting, row.default)
        yield ""
    version = engine_flags.NEWEST
    count = len(engine_flags.flags_of(version))
    yield CHECKS.replace("{version}", version).replace("{count}", str(count))
    yield from _denied()
    yield from _support()


def _row(setting: Setting, default: str) -> str:
    takes = accepted(setting, Device.CUDA)
    if len(setting.choices) > 20:
        takes = f"one of {len(setting.choices)} names that the engine knows"
    elif setting.choices:
        takes = "one of " + ", ".join(setting.choices)
    barred = "".join(f" Not on {device}: {why}" for device, why in setting.refused_on.items())
    admins = " For admins." if setting.admin_only else ""
    flag = f"`{setting.flag}`" if setting.flag else ""
    return f"| `{setting.name}` | {setting.help}{admins}{barred} | {takes} | {default} | {flag} |"


def _denied() -> Iterator[str]:
    yield "| never allowed | because |"
    yield "|---|---|"
    reasons: dict[str, list[str]] = {}
    for flag, why in engine_flags.DENIED.items():
        reasons.setdefault(why, []).append(f"`{flag}`")
    for why, flags in reasons.items():
        yield f"| {' '.join(sorted(flags))} | {why} |"
    yield f"| `{engine_flags.DENIED_PREFIXES[0]}*` | it would open a way into the engine |"
    yield ""


def _support() -> Iterator[str]:
    yield "## What devices can run"
    yield ""
    yield (engine_support.__doc__ or "").partition("\n\n")[2].strip().removesuffix(" Pure.")
    yield ""
    yield "| setting | value | CPU | seen | GPU from | source |"
    yield "|---|---|---|---|---|---|"
    for row in engine_support.TABLE:
        needs = f" Needs one of {', '.join(row.cpu_needs)}." if row.cpu_needs else ""
        oldest = {None: "none", "0.0": "any"}.get(row.min_capability, row.min_capability)
        yield (
            f"| `{row.setting}` | `{row.method}` | {row.cpu} | {row.cpu_evidence}{needs} "
            f"| {oldest} | {row.gpu_evidence} |"
        )


if __name__ == "__main__":
    sys.stdout.write(page())
