"""Turn a GGUF file into the safetensors folder that the engine loads.

vLLM 0.32 has no GGUF loader of its own on CPU, and the transformers in its environment read GGUF:
the conversion is a short program that runs there. Called by `store` for `convert: gguf`.
"""

from pathlib import Path

from agents import commands
from agents.engines.environment import Environment
from agents.engines.installer import is_disk_full
from agents.weights.fault import WeightsFault

CONVERT_SECONDS = 1800.0
"""For some billion parameters on a slow disk; 135 million take 25 s."""
# Without GgufConfig(dequantize=True) transformers keeps the weights packed and cannot save them.
PROGRAM = """
import sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
source, out = Path(sys.argv[1]), Path(sys.argv[2])
place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
tokenizer = AutoTokenizer.from_pretrained(**place)
model = AutoModelForCausalLM.from_pretrained(
    **place, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True))
model.save_pretrained(out)
tokenizer.save_pretrained(out)
"""


async def convert(source: Path, out: Path, environment: Environment, *, lock: int) -> None:
    """Write the model in the GGUF file `source` to the folder `out`, as bfloat16.

    Raises WeightsFault(`weights_missing` | `disk_full`) with the program's last lines.
    """
    argv = [str(environment.python), "-c", PROGRAM, str(source), str(out)]
    try:
        outcome = await commands.run(
            argv,
            timeout_seconds=CONVERT_SECONDS,
            env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": str(out.parent)},
            keep_open=(lock,),
        )
    except commands.DeadlinePassed as fault:
        raise WeightsFault("weights_missing", f"converting {source.name}: {fault}") from fault
    if outcome.exit_code != 0:
        last = "\n".join(outcome.tail[-6:])
        code = "disk_full" if is_disk_full(last) else "weights_missing"
        raise WeightsFault(code, f"converting {source.name} failed:\n{last}")
