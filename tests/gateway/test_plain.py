"""An engine's own HTTP API through the gateway: only what the deployment declares."""

from tests.gateway.client import ask
from tests.gateway.harness import gateway, model, table
from tests.gateway.upstream import Asked, answer_json, running

BODY = {"text": "A. B.", "sentences": 1}


async def script(asked: Asked) -> None:
    await answer_json(asked, {"summary": "A."})


class TestPlainPaths:
    async def test_a_declared_path_reaches_the_engine_as_it_was_sent(self, tmp_path):
        async with running(script) as up:
            served = table({"bento": model(up, paths=["/summarize"])})
            async with gateway(tmp_path, served) as gw:
                answer = await ask(gw.port, "/apis/bento/summarize", BODY)
                (record,) = await gw.records(1)

        assert answer.status == 200
        assert answer.json == {"summary": "A."}
        assert answer.headers["x-hearth-replica"] == "r1"
        assert (up.asked[0].path, up.asked[0].json) == ("/summarize", BODY)
        assert (record["path"], record["outcome"]) == ("/summarize", "completed")

    async def test_other_paths_and_models_are_not_there(self, tmp_path):
        async with running(script) as up:
            served = table({"bento": model(up, paths=["/summarize"]), "chat": model(up)})
            async with gateway(tmp_path, served) as gw:
                other = await ask(gw.port, "/apis/bento/metrics", BODY)
                none = await ask(gw.port, "/apis/chat/v1/completions", BODY)
                unknown = await ask(gw.port, "/apis/nobody/summarize", BODY)
                keyless = await ask(gw.port, "/apis/bento/summarize", BODY, key=None)

        assert (other.status, none.status, unknown.status) == (404, 404, 404)
        assert "it has /summarize" in other.json["error"]["message"]
        assert keyless.status == 401
        assert up.asked == []
