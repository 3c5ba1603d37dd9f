"""What the agent keeps on disk: one owner, private files, nothing half-written."""

import os
import stat
from pathlib import Path

import msgspec
import pytest

from agents.journal import COMPACT_ABOVE_BYTES, Journal, Move, Past
from agents.settings import Settings, UsageError
from agents.store import make_run_root, open_store
from agents.wire import RuntimeKind, SyncReply


def past(generation: int = 1, move: Move = Move.STARTED, replica_id: str = "r1") -> Past:
    return Past(replica_id=replica_id, generation=generation, move=move, at=5.0)


class TestStore:
    def test_has_one_owner_at_a_time(self, tmp_path: Path) -> None:
        first = open_store(tmp_path)

        with pytest.raises(UsageError, match="another agent runs"):
            open_store(tmp_path)
        first.close()

        open_store(tmp_path).close()

    def test_says_which_folder_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")

        with pytest.raises(UsageError, match="cannot use the folder"):
            open_store(tmp_path / "file" / "agent")

    def test_makes_an_install_id_once(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)

        assert store.identity() == store.identity()
        assert len(store.identity().install_id) == 32

    def test_keeps_the_credential_from_everybody_else(self, tmp_path: Path) -> None:
        store = open_store(tmp_path / "agent")
        store.save_identity(msgspec.structs.replace(store.identity(), credential="secret"))

        modes = [stat.S_IMODE(path.stat().st_mode) for path in store.folder.iterdir()]
        assert set(modes) == {0o600}
        assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700

    def test_says_how_to_mend_a_damaged_identity(self, tmp_path: Path) -> None:
        (tmp_path / "identity.json").write_text("{")

        with pytest.raises(UsageError, match="enrol with a new token"):
            open_store(tmp_path).identity()

    def test_keeps_the_last_desired_state(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        reply = SyncReply(incarnation="a", revision=3, agent_epoch=1)

        store.save_desired(reply)

        assert store.desired() == reply

    def test_goes_on_without_a_desired_state_that_is_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "desired.json").write_text('{"revision": ')

        assert open_store(tmp_path).desired() is None

    def test_remembers_which_runtime_was_chosen_last(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)

        for kind in (RuntimeKind.DOCKER, RuntimeKind.PROCESS, RuntimeKind.DOCKER):
            store.remember_runtime(kind)

        assert store.used_runtimes() == (RuntimeKind.PROCESS, RuntimeKind.DOCKER)


class TestRunRoot:
    def test_below_a_long_folder_is_a_short_way_to_it(self, tmp_path: Path) -> None:
        long = tmp_path / ("x" * 120)
        long.mkdir()

        short = make_run_root(Settings(command="run", data_dir=long))
        (short / "r1").mkdir()

        assert len(str(short)) < 60
        assert (long / "run" / "r1").is_dir()

    def test_is_made_anew_when_the_temporary_folder_was_cleaned(self, tmp_path: Path) -> None:
        long = tmp_path / ("x" * 120)
        long.mkdir()
        given = Settings(command="run", data_dir=long)
        make_run_root(given).unlink()

        assert make_run_root(given).is_dir()


class TestJournal:
    def test_knows_the_last_move_after_a_kill(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "j")
        journal.write(past(1, Move.STARTING))
        journal.write(past(1, Move.STARTED))

        assert Journal(tmp_path / "j").past("r1") == past(1, Move.STARTED)

    def test_takes_a_half_written_line_for_a_move_never_made(self, tmp_path: Path) -> None:
        Journal(tmp_path / "j").write(past(1))
        with (tmp_path / "j").open("ab") as file:
            file.write(msgspec.json.encode(past(2))[:-5])

        assert Journal(tmp_path / "j").past("r1") == past(1)

    def test_forgets(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "j")
        journal.write(past())
        journal.write(past(move=Move.FORGOTTEN))

        assert journal.past("r1") is None
        assert Journal(tmp_path / "j").past("r1") is None

    def test_stays_small(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "j")
        long = msgspec.structs.replace(past(), log_tail=("x" * 2000,) * 50)

        for generation in range(20):
            journal.write(msgspec.structs.replace(long, generation=generation))

        assert os.stat(tmp_path / "j").st_size < COMPACT_ABOVE_BYTES
        assert journal.past("r1").generation == 19
