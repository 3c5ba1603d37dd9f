"""Four web processes and two workers on the default store: SQLite and the embedded Milvus."""

import itertools
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.running import Hearth, free_port, wait_until

pytestmark = pytest.mark.timeout(300)

BASE = "knowledge-bases/crowd/"
DOCUMENTS, PASSAGES = 4, 40
"""Uploaded through each web process; passages of each document."""
SEARCHES = 15
"""Least number through each web process, while documents come in."""
INSTANT = {
    "kind": "simulator",
    "simulator": {"prefill_tokens_per_second": 1e7, "load_seconds": 0.1},
}


def another(simulated: Hearth, word: str, **change: str) -> subprocess.Popen[bytes]:
    """Start one more of the program with `word` in its command, as `up` started the first."""
    first = simulated.child(word)
    command = [change.get(part, part) for part in first.cmdline()]
    return subprocess.Popen(command, env=first.environ(), cwd=first.cwd())


@pytest.fixture(scope="module")
def webs(simulated: Hearth) -> Iterator[list[Hearth]]:
    """Four web processes behind which are two workers; the first of each is `up`'s own."""
    webs = [simulated, *(replace(simulated, web_port=free_port()) for _ in range(3))]
    more = [
        another(simulated, "uvicorn", **{str(simulated.web_port): str(web.web_port)})
        for web in webs[1:]
    ]
    more.append(another(simulated, "celery"))
    try:
        for web in webs:
            wait_until(lambda web=web: answers(web), 120, "a web process")
        yield webs
    finally:
        for process in more:
            process.terminate()
        for process in more:
            process.wait(30)


def answers(web: Hearth) -> bool:
    try:
        return web.api("GET", "knowledge-bases/").status_code == 200
    except httpx.TransportError:
        return False


def text_of(web: int, number: int) -> bytes:
    told = f"of paper {web}x{number} tells of wing number"
    return "\n\n".join(f"Passage {n} {told}{n}. " * 16 for n in range(PASSAGES)).encode()


class Client(threading.Thread):
    """Uploads its documents through one web process and searches through it without a pause."""

    def __init__(self, number: int, web: Hearth, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.number, self.web, self.over = number, web, over
        self.failed: list[str] = []
        self.searches = 0

    def run(self) -> None:
        for at in itertools.count():
            if at < DOCUMENTS:
                files = {"file": (f"{self.number}-{at}.txt", text_of(self.number, at))}
                self.note(self.web.api("POST", f"{BASE}documents/", files=files), 201)
            answer = self.web.api("POST", f"{BASE}search/", json={"query": f"wing number{at}"})
            self.note(answer, 200)
            self.searches += 1
            if self.over.is_set() and self.searches >= SEARCHES:
                return

    def note(self, answer: Any, wanted: int) -> None:
        if answer.status_code != wanted:
            self.failed.append(f"{answer.status_code} {answer.text[:300]}")


class TestCrowd:
    def test_takes_in_and_searches_at_once_without_an_error(self, simulated, webs):
        simulated.deploy("all-minilm-l6-v2", name="crowded", engine=INSTANT)
        simulated.wait_for("crowded", "ready", 60)
        order = {"name": "Crowd", "embedding_deployment": "crowded"}
        assert simulated.api("POST", "knowledge-bases/", json=order).status_code == 201
        over = threading.Event()
        clients = [Client(number, web, over) for number, web in enumerate(webs)]
        for client in clients:
            client.start()

        def settled() -> dict[str, Any] | None:
            row: dict[str, Any] = simulated.api("GET", BASE).json()
            done = row["documents_ready"] + row["documents_failed"]
            return row if done == DOCUMENTS * len(webs) else None

        try:
            row = wait_until(settled, 200, "the documents")
        finally:
            over.set()
        for client in clients:
            client.join(60)

        assert [client.failed for client in clients] == [[]] * len(webs)
        assert row is not None
        assert (row["documents_failed"], row["chunks"]) == (0, DOCUMENTS * PASSAGES * len(webs))
        assert "locked" not in simulated.logs()
