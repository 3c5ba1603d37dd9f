"""What `python -m agents` does: be the agent of one host, or end all its replicas.

Exit codes: 0 told to end, and done; 1 something did not end in time; 2 something the person at
the keyboard must mend (one sentence says what); 3 another agent took this host over.
"""

import asyncio
import logging
import os
import signal
import sys

from agents import assembly, ending, settings
from agents.agent import Agent
from agents.enrolment import enrolled
from agents.journal import Journal
from agents.link import Fenced, Link
from agents.relay.keeper import stop_relay
from agents.settings import Settings, UsageError
from agents.store import Store, make_run_root, open_store
from agents.wire import RuntimeKind

EXIT_USAGE = 2
EXIT_FENCED = 3
LEAVE_SECONDS = 1.0
"""For loops and connections to end; no replica needs the agent for anything."""

log = logging.getLogger("hearth.agent")


def main() -> int:
    """Run the program; return its exit code."""
    try:
        given = settings.read(sys.argv[1:], os.environ)
        logging.basicConfig(
            level=given.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        logging.getLogger("httpx").setLevel(logging.WARNING)
        store = open_store(given.data_dir)
        work = _drain_and_stop if given.command == "drain-and-stop" else _serve
        return asyncio.new_event_loop().run_until_complete(work(given, store))
    except UsageError as error:
        sys.stderr.write(f"hearth agent: {error}\n")
        return EXIT_USAGE


async def _serve(given: Settings, store: Store) -> int:
    """Run the agent until a signal or another agent ends it."""
    told_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_end.set)
    running = asyncio.create_task(_run_agent(given, store))
    ending_word = asyncio.create_task(told_to_end.wait())
    await asyncio.wait({running, ending_word}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        return running.result()
    running.cancel()
    await asyncio.wait({running}, timeout=LEAVE_SECONDS)
    return await _leave(given, store)


async def _run_agent(given: Settings, store: Store) -> int:
    host = await assembly.choose_runtime(given, store)
    log.info("replicas are run by the %s runtime: %s", host.runtime, host.runtime_reason)
    link = Link(given.control_plane)
    identity = await enrolled(given, store, link, host)
    log.info("this is host %s (%s)", identity.host_name, identity.host_id)
    parts = assembly.parts(given, store, link, identity, host)
    code = 0
    try:
        await Agent(parts).run()
    except* Fenced as group:
        log.error("another agent acts for this host now, so this one ends: %s", group.exceptions[0])
        code = EXIT_FENCED
    return code


async def _leave(given: Settings, store: Store) -> int:
    """End as told: replicas go on, except those of the process runtime where that is wished."""
    runtimes = assembly.used_runtimes(given, store)
    kinds = {RuntimeKind.PROCESS} if given.stop_process_replicas else set()
    leaving = [item for item in runtimes if item.kind in kinds]
    staying = [item for item in runtimes if item.kind not in kinds]
    end = ending.End(store.identity().host_id, Journal(store.journal_path), make_run_root(given))
    all_ended = await end.stop_all(leaving, longest_seconds=ending.QUICK_SECONDS)
    if leaving and not staying:
        stop_relay(given.data_dir)
    for runtime in staying:
        if (serving := await end.count([runtime])) > 0:
            sys.stdout.write(_who_stays(serving, runtime.kind))
    return 0 if all_ended else 1


def _who_stays(count: int, kind: RuntimeKind) -> str:
    who = "1 replica" if count == 1 else f"{count} replicas"
    where = "in containers" if kind is RuntimeKind.DOCKER else "in processes"
    keeps = "keeps" if count == 1 else "keep"
    return f"hearth-agent: {who} {where} {keeps} serving; the next start adopts what runs\n"


async def _drain_and_stop(given: Settings, store: Store) -> int:
    """Stop every replica of this folder, by whichever runtime, and the relay."""
    end = ending.End(store.identity().host_id, Journal(store.journal_path), make_run_root(given))
    all_ended = await end.stop_all(
        assembly.used_runtimes(given, store), longest_seconds=ending.DRAIN_SECONDS
    )
    stop_relay(given.data_dir)
    word = "replica" if end.stopped == 1 else "replicas"
    sys.stdout.write(f"{end.stopped} {word} stopped\n")
    return 0 if all_ended else 1
