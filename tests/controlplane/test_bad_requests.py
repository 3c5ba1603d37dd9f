"""Requests that are broken in odd ways: each gets a problem in JSON, none a 500."""

import pytest

from tests.apps.accounts.people import make_client
from tests.apps.deployments.factories import make_deployment, make_host

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

URL = "/api/v1/deployments/"
SMOL = '"catalog":"smollm2-135m-instruct"'


@pytest.fixture
def api():
    make_host()
    make_deployment()
    client = make_client()
    client.raise_request_exception = False
    return client


def send(api, method: str, path: str, body: str | bytes, **headers):
    data = body.encode() if isinstance(body, str) else body
    return api.generic(method, path, data, content_type="application/json", headers=headers)


class TestBody:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("{" + SMOL + ',"engine":{"\\ud800":1}}', "surrogate"),
            ('{"\\ud800":1}', "surrogate"),
            ("{" + SMOL + ',"placement":{"labels":{"\\uDFFF":"x"}}}', "surrogate"),
            ("{" + SMOL + ',"engine":{"\\u0000":1}}', "NUL"),
            ("[" * 50_000, "nested too deeply"),
            ("{" + SMOL + ',"engine":{"x":NaN}}', "NaN"),
            ("{" + SMOL, "no JSON"),
            (b"\xff\xfe", "no JSON"),
        ],
        ids=["key", "member", "label", "nul", "deep", "nan", "cut", "bytes"],
    )
    def test_is_refused_with_a_reason(self, api, body, words):
        answer = send(api, "POST", URL, body)

        assert (answer.status_code, answer.json()["code"]) == (400, "parse_error")
        assert words in answer.json()["detail"]

    def test_may_hold_any_real_character(self, api):
        answer = send(api, "POST", "/api/v1/tokens/", '{"name":"\\ud83d\\ude00 \\\\u0000"}')

        assert (answer.status_code, answer.json()["name"]) == (201, "😀 \\u0000")

    @pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}], ids=["plain", "with a key"])
    @pytest.mark.parametrize("size", [1_100_000, 3_000_000])
    def test_that_is_too_large_is_refused(self, api, size, headers):
        answer = send(api, "POST", URL, '{"name":"' + "x" * size + '"}', **headers)

        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")

    def test_with_a_number_beyond_any_column_is_refused(self, api):
        answer = send(api, "POST", f"{URL}chat/rollback/", '{"revision":1180591620717411303424}')

        assert answer.status_code == 404


class TestAddress:
    @pytest.mark.parametrize("name", ["%00", "a%00b", "%ED%A0%80", "%F0%9F%98%80", ".."])
    def test_with_odd_characters_answers_404(self, api, name):
        assert send(api, "GET", f"{URL}{name}/", "").status_code == 404

    @pytest.mark.parametrize("kind", ["%F0%9F%98%80", "x" * 81], ids=["emoji", "long"])
    def test_of_a_price_takes_names_of_gpus_only(self, api, kind):
        answer = send(api, "PUT", f"/api/v1/default-prices/{kind}/", '{"price_per_hour_usd": 1}')

        assert answer.status_code == 400


class TestQuery:
    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("q=%00", "q"),
            ("page_size=-1", "page_size"),
            ("page_size=0", "page_size"),
            ("page_size=many", "page_size"),
            ("phase=fine", "phase"),
        ],
    )
    def test_that_is_wrong_is_refused_by_field(self, api, query, field):
        answer = send(api, "GET", f"{URL}?{query}", "")

        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] == field

    def test_for_too_many_rows_gets_the_most_there_are(self, api):
        answer = send(api, "GET", f"{URL}?page_size={'9' * 30}", "")

        assert answer.status_code == 200

    @pytest.mark.parametrize("page", ["0", "-1", "99999999999999999999", "last-but-one"])
    def test_for_a_page_that_does_not_exist_answers_404(self, api, page):
        assert send(api, "GET", f"{URL}?page={page}", "").status_code == 404

    @pytest.mark.parametrize("tag", ['"99999999999999999999999999"', '"٣"', "W/"])
    def test_with_an_odd_tag_changes_nothing(self, api, tag):
        answer = send(
            api, "PATCH", f"{URL}chat/", '{"scaling":{"min_replicas":2}}', **{"If-Match": tag}
        )

        assert answer.status_code == 412
