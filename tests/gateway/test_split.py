"""Requests split among revisions, and copied to one: told against scripted engines."""
# ruff: noqa: SIM117  nested, the lines stay short

from hypothesis import given
from hypothesis import strategies as st

from gateway.split import point, revision_for
from gateway.wire import Share
from tests.gateway.harness import CHAT, STREAM, gateway, table, until
from tests.gateway.upstream import Asked, Upstream, answer_json, cut, running

CANARY = [{"revision": 2, "weight_ratio": 0.2}, {"revision": 1, "weight_ratio": 0.8}]


def split(one: Upstream, two: Upstream, **fields: object) -> dict:
    """A deployment whose `one` runs revision 1 and whose `two` runs revision 2."""
    replicas = [
        {"id": "old", "url": one.url, "revision": 1},
        {"id": "new", "url": two.url, "revision": 2},
    ]
    return table({"m": {"deployment": "m", "replicas": replicas, **fields}})


class TestRevisionFor:
    @given(st.text(max_size=20), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
    def test_a_growing_share_keeps_all_it_had(self, name, weight, more):
        def chosen(ratio: float) -> int:
            shares = (
                Share(revision=2, weight_ratio=ratio),
                Share(revision=1, weight_ratio=1 - ratio),
            )
            return revision_for(shares, "", name)

        small, large = sorted((weight, more))
        assert chosen(small) != 2 or chosen(large) == 2

    def test_gives_each_revision_its_part(self):
        shares = (Share(revision=2, weight_ratio=0.2), Share(revision=1, weight_ratio=0.8))

        taken = [revision_for(shares, "", f"request {n}") for n in range(5000)]

        assert 0.18 < taken.count(2) / 5000 < 0.22

    def test_a_named_key_goes_to_its_revision_alone(self):
        shares = (Share(revision=2, keys=("k1",)), Share(revision=1, weight_ratio=1.0))

        assert {revision_for(shares, "k1", f"r{n}") for n in range(50)} == {2}
        assert {revision_for(shares, "k2", f"r{n}") for n in range(50)} == {1}

    def test_places_lie_between_0_and_1(self):
        assert all(0 <= point(f"x{n}") < 1 for n in range(100))


class TestSplitTraffic:
    async def test_follows_the_weights_and_is_recorded(self, tmp_path):
        async with running() as one, running() as two:
            async with gateway(tmp_path, split(one, two, shares=CANARY)) as gw:
                for _ in range(200):
                    assert (await gw.chat()).status == 200
                records = await gw.records(200)

        revisions = [record["revision"] for record in records]
        assert revisions.count(2) == len(two.inferences)
        assert 15 <= revisions.count(2) <= 70

    async def test_a_session_stays_with_its_revision(self, tmp_path):
        async with running() as one, running() as two:
            async with gateway(tmp_path, split(one, two, shares=CANARY)) as gw:
                for session in ("a", "b", "c", "d"):
                    answers = [await gw.chat(x_session_id=session) for _ in range(5)]
                    assert len({a.headers["x-hearth-replica"] for a in answers}) == 1

    async def test_a_revision_without_a_share_gets_nothing(self, tmp_path):
        shares = [{"revision": 1, "weight_ratio": 1.0}]
        async with running() as one, running() as two:
            async with gateway(tmp_path, split(one, two, shares=shares)) as gw:
                for _ in range(20):
                    assert (await gw.chat()).headers["x-hearth-replica"] == "old"

    async def test_a_broken_canary_costs_no_request(self, tmp_path):
        async def broken(asked: Asked) -> None:
            cut(asked)

        async with running() as one, running(broken) as two:
            async with gateway(tmp_path, split(one, two, shares=CANARY)) as gw:
                answers = [await gw.chat() for _ in range(30)]

        assert {answer.status for answer in answers} == {200}

    async def test_another_revision_serves_when_none_with_a_share_is_there(self, tmp_path):
        shares = [{"revision": 3, "weight_ratio": 1.0}]
        async with running() as one, running() as two:
            async with gateway(tmp_path, split(one, two, shares=shares)) as gw:
                assert (await gw.chat()).status == 200

    async def test_a_flip_takes_effect_with_the_next_table(self, tmp_path):
        async with running() as one, running() as two:
            before = split(one, two, shares=[{"revision": 1, "weight_ratio": 1.0}])
            after = split(one, two, shares=[{"revision": 2, "weight_ratio": 1.0}])
            async with gateway(tmp_path, before) as gw:
                assert (await gw.chat()).headers["x-hearth-replica"] == "old"
                gw.apply({**after, "revision": 2})
                assert (await gw.chat()).headers["x-hearth-replica"] == "new"


SHADOWED = {
    "shares": [{"revision": 1, "weight_ratio": 1.0}],
    "shadow": {"revision": 2, "ratio": 1.0},
}


class TestShadow:
    async def test_copies_the_request_and_bills_nobody(self, tmp_path):
        async with running() as one, running() as two:
            async with gateway(tmp_path, split(one, two, **SHADOWED)) as gw:
                answer = await gw.chat(STREAM)
                records = await gw.records(2)
                await until(lambda: gw.core.shadows == 0)

        assert answer.headers["x-hearth-replica"] == "old"
        assert [asked.json for asked in two.inferences] == [asked.json for asked in one.inferences]
        copy = next(r for r in records if r["outcome"] == "shadow")
        original = next(r for r in records if r["outcome"] == "completed")
        assert "key_id" not in copy
        assert copy["parent_id"] == original["id"]
        assert (copy["revision"], copy["status"]) == (2, 200)
        assert copy["output_tokens"] == original["output_tokens"]

    async def test_copies_its_ratio_alone(self, tmp_path):
        tenth = {**SHADOWED, "shadow": {"revision": 2, "ratio": 0.1}}
        async with running() as one, running() as two:
            async with gateway(tmp_path, split(one, two, **tenth)) as gw:
                for _ in range(200):
                    await gw.chat()
                await until(lambda: gw.core.shadows == 0)

        assert 3 <= len(two.inferences) <= 44

    async def test_a_shadow_that_fails_or_hangs_is_not_felt(self, tmp_path):
        async def failing(asked: Asked) -> None:
            await answer_json(asked, {"error": "no"}, status=500)

        async with running() as one, running(failing) as two:
            async with gateway(tmp_path, split(one, two, **SHADOWED)) as gw:
                answers = [await gw.chat() for _ in range(20)]
                records = await gw.records(40)

        assert {answer.status for answer in answers} == {200}
        shadows = [r for r in records if r["outcome"] == "shadow"]
        assert {r["status"] for r in shadows} == {500}

    async def test_is_bounded(self, tmp_path, monkeypatch):
        monkeypatch.setattr("gateway.shadow.MOST_IN_FLIGHT", 0)
        async with running() as one, running() as two:
            async with gateway(tmp_path, split(one, two, **SHADOWED)) as gw:
                assert (await gw.chat(CHAT)).status == 200
                await gw.records(1)

        assert two.inferences == []

    async def test_a_lost_shadow_leaves_a_record(self, tmp_path):
        async with running() as one, running() as two:
            value = split(one, two, **SHADOWED)
            await two.stop()
            async with gateway(tmp_path, value) as gw:
                assert (await gw.chat()).status == 200
                records = await gw.records(2)

        copy = next(r for r in records if r["outcome"] == "shadow")
        assert copy["status"] == 502
        assert copy["error"]
