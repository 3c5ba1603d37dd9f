"""The process that parsers are forked from: all libraries loaded, nothing else in it.

`python -m apps.rag.parsing.zygote FD`. On the socket FD come orders `{kind, task, …}` as JSON, each
with two descriptors: the file, and the pipe for its answer. Each order gets a child of its own,
which confines itself, reads the file, writes its answer and ends; forking takes 3 ms where a fresh
Python with its libraries takes 200. The environment is empty: there is no secret to read here.
"""

import base64
import gc
import json
import os
import signal
import socket
import sys
from typing import Any

from apps.rag.parsing import formats, looking
from apps.rag.parsing.confine import NotConfined, confine
from apps.rag.parsing.sniff import Unsupported

ORDER_BYTES = 1024 * 1024


def main() -> int:
    """Fork a child for every order until the socket closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C ends the worker, then this
    gc.freeze()
    orders = socket.socket(fileno=int(sys.argv[1]))
    while True:
        body, descriptors, _, _ = socket.recv_fds(orders, ORDER_BYTES, 2)
        if not body:
            return 0
        if os.fork() == 0:
            orders.close()
            _answer(json.loads(body), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _answer(order: dict[str, Any], source: int, pipe: int) -> None:
    """Carry out `order` and end this process."""
    try:
        confine()
        with os.fdopen(source, "rb") as file:
            file.seek(0)  # the place in the file is shared with whoever opened it
            answer = _done(order, file.read())
    except Unsupported as error:
        answer = {"code": error.code, "reason": str(error)}
    except MemoryError:
        answer = {"code": "too_large_inside", "reason": "reading it takes too much memory."}
    except NotConfined as error:
        answer = {"code": "not_confined", "reason": f"parsers cannot be confined here: {error}."}
    except Exception as error:  # noqa: BLE001 - a parser's own fault, whatever it is
        answer = {"code": "unreadable", "reason": f"it cannot be read ({type(error).__name__})."}
    with os.fdopen(pipe, "wb") as out:
        out.write(json.dumps(answer).encode())
    os._exit(0)


def _done(order: dict[str, Any], data: bytes) -> dict[str, Any]:
    if order["task"] == "boxes":
        return {"boxes": looking.boxes(data, order["page"], order["passage"])}
    if order["task"] == "picture":
        return {"png": base64.b64encode(looking.picture(data, order["page"])).decode()}
    pages, flags = formats.read(data, order["kind"])
    return {"pages": pages, "flags": flags}


if __name__ == "__main__":
    sys.exit(main())
