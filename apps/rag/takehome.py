"""A run as code to take away; pure. The secret is a variable of the shell, never the secret."""

import json
import shlex
from collections.abc import Mapping
from typing import Any


def snippets(
    *, address: str, gateway: str, path: str, body: Mapping[str, Any], model: str
) -> dict[str, str]:
    """Return the call as `curl`, as `python` with httpx, and as `openai` on the alias `model`.

    `address` is the web process as the caller reached it, `path` begins with `/api/v1/`.
    """
    text = json.dumps(body, ensure_ascii=False)
    question = str(body.get("question") or body.get("query") or "")
    return {
        "curl": (
            f"curl -sS {shlex.quote(address + path)} \\\n"
            '  -H "Authorization: Bearer $HEARTH_TOKEN" -H "Content-Type: application/json" \\\n'
            f"  -d {shlex.quote(text)}"
        ),
        "python": (
            "import os\n\nimport httpx\n\n"
            "answer = httpx.post(\n"
            f"    {address + path!r},\n"
            "    headers={'Authorization': f\"Bearer {os.environ['HEARTH_TOKEN']}\"},\n"
            f"    json={dict(body)!r},\n"
            "    timeout=120,\n"
            ")\n"
            "print(answer.raise_for_status().json())"
        ),
        "openai": (
            "import os\n\nfrom openai import OpenAI\n\n"
            f"client = OpenAI(base_url={gateway!r}, api_key=os.environ['HEARTH_API_KEY'])\n"
            "answer = client.chat.completions.create(\n"
            f"    model={model!r},\n"
            f"    messages=[{{'role': 'user', 'content': {question!r}}}],\n"
            ")\n"
            "print(answer.choices[0].message.content)"
        ),
    }
