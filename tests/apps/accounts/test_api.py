"""Tokens, users and the audit log over REST."""

import csv
import io
import json
from datetime import timedelta

import pytest

from apps.accounts.actions import audit
from apps.accounts.models import AuditEntry, User
from apps.accounts.states import Role
from apps.lib import clock
from tests.apps.accounts.people import PASSWORD, client_of, client_with, make_client, make_user

pytestmark = pytest.mark.django_db


def entry(**columns) -> AuditEntry:
    return audit(**{"actor": "ada", "action": "host.drained", "target": "gpu-1", **columns})


class TestAudit:
    def test_lists_the_newest_first(self):
        client = make_client(Role.VIEWER)
        entry(target="old")
        entry(target="new")

        rows = client.get("/api/v1/audit/").json()["results"]

        assert [row["target"] for row in rows[:2]] == ["new", "old"]
        assert rows[0].keys() == {"id", "at", "actor", "action", "target", "data", "sha256"}

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"actor": "bob"}, ["b"]),
            ({"action": "host"}, ["c", "b", "a"]),
            ({"action": "host.price_set"}, ["c"]),
            ({"action": "ho"}, []),
            ({"target": "a"}, ["a"]),
        ],
        ids=str,
    )
    def test_narrows_by_who_what_and_whom(self, query, expected):
        client = make_client(Role.VIEWER)
        entry(target="a")
        entry(target="b", actor="bob")
        entry(target="c", action="host.price_set")

        rows = client.get("/api/v1/audit/", query).json()["results"]

        assert [row["target"] for row in rows] == expected

    def test_narrows_by_time(self):
        client = make_client(Role.VIEWER)
        entry()
        soon = (clock.now() + timedelta(minutes=1)).isoformat()

        assert client.get("/api/v1/audit/", {"from": soon}).json()["count"] == 0
        assert client.get("/api/v1/audit/", {"to": soon}).json()["count"] > 0

    def test_names_the_field_of_a_time_that_is_none(self):
        answer = make_client().get("/api/v1/audit/", {"from": "yesterday"})

        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] == "from"

    def test_exports_csv_that_no_spreadsheet_runs(self):
        client = make_client()
        entry(target="=cmd()", data={"a": 1})

        answer = client.get("/api/v1/audit/", {"format": "csv", "action": "host"})

        assert answer["Content-Type"].startswith("text/csv")
        [row] = csv.DictReader(io.StringIO(answer.content.decode()))
        assert (row["target"], row["data"]) == ("'=cmd()", '{"a": 1}')

    def test_exports_json_lines(self):
        client = make_client()
        entry(target="a")
        entry(target="b")

        answer = client.get("/api/v1/audit/", {"format": "jsonl", "action": "host"})

        lines = [json.loads(line) for line in answer.content.splitlines()]
        assert [line["target"] for line in lines] == ["b", "a"]

    def test_tells_where_the_chain_breaks(self):
        client = make_client()
        broken = entry()
        AuditEntry.objects.filter(pk=broken.pk).update(actor="mallory")

        assert client.get("/api/v1/audit/check/").json()["broken_at"] == broken.pk


class TestTokens:
    def test_show_the_secret_once_and_let_its_bearer_in(self):
        client = make_client(Role.VIEWER)

        made = client.post("/api/v1/tokens/", {"name": "ci"}, format="json")
        rows = client_with(made.json()["token"]).get("/api/v1/tokens/").json()["results"]

        assert made.status_code == 201
        assert "ci" in {row["name"] for row in rows}
        assert not [row for row in rows if "token" in row]

    def test_of_others_are_hidden_from_all_but_admins(self):
        viewer, admin = make_client(Role.VIEWER), make_client(Role.ADMIN)

        assert viewer.get("/api/v1/tokens/").json()["count"] == 1
        assert admin.get("/api/v1/tokens/").json()["count"] == 2

    def test_of_others_cannot_be_revoked(self):
        make_client(Role.ADMIN)
        admin_token = User.objects.get(username="admin").tokens.get()
        viewer = make_client(Role.VIEWER)

        assert viewer.delete(f"/api/v1/tokens/{admin_token.pk}/").status_code == 404
        assert User.objects.get(username="admin").tokens.exists()

    def test_are_dead_when_revoked(self):
        client = make_client()
        pk = User.objects.get().tokens.get().pk

        assert client.delete(f"/api/v1/tokens/{pk}/").status_code == 204
        assert client.get("/api/v1/tokens/").status_code == 401


class TestUsers:
    def test_are_in_a_team_and_can_be_moved_to_another(self):
        client = make_client()
        order = {"username": "bob", "password": "correct horse battery", "team": "blue"}

        made = client.post("/api/v1/users/", order, format="json")
        moved = client.patch("/api/v1/users/bob/", {"team": "red"}, format="json")
        wrong = client.patch("/api/v1/users/bob/", {"team": "Red Team"}, format="json")

        assert (made.status_code, made.json()["team"]) == (201, "blue")
        assert (moved.status_code, moved.json()["team"]) == (200, "red")
        assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (400, "team")
        assert User.objects.get(username="bob").team == "red"

    def test_are_made_with_a_role_and_can_be_changed(self):
        client = make_client()
        order = {"username": "bob", "password": PASSWORD, "role": "operator"}

        made = client.post("/api/v1/users/", order, format="json")
        changed = client.patch("/api/v1/users/bob/", {"role": "viewer"}, format="json")

        assert (made.status_code, made.json()["role"]) == (201, "operator")
        assert changed.json()["role"] == "viewer"
        assert "password" not in made.json()

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"username": "a b"}, "username"),
            ({"role": "king"}, "role"),
            ({"password": ""}, "password"),
        ],
        ids=["name", "role", "password"],
    )
    def test_with_wrong_values_are_refused_by_field(self, change, field):
        order = {"username": "bob", "password": PASSWORD, **change}

        answer = make_client().post("/api/v1/users/", order, format="json")

        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] == field
        assert not User.objects.filter(username="bob").exists()

    def test_with_a_weak_password_are_refused(self):
        order = {"username": "bob", "password": "password1234"}

        answer = make_client().post("/api/v1/users/", order, format="json")

        assert (answer.status_code, answer.json()["code"]) == (400, "password_weak")

    def test_that_do_not_exist_answer_404(self):
        answer = make_client().patch("/api/v1/users/nobody/", {"role": "viewer"}, format="json")

        assert (answer.status_code, answer.json()["code"]) == (404, "user_unknown")

    def test_keep_their_last_admin(self):
        answer = make_client().patch("/api/v1/users/admin/", {"is_active": False}, format="json")

        assert (answer.status_code, answer.json()["code"]) == (409, "last_admin")

    def test_lose_access_at_once_when_switched_off(self):
        admin, bob = make_client(), client_of(make_user(username="bob"))

        admin.patch("/api/v1/users/bob/", {"is_active": False}, format="json")

        assert bob.get("/api/v1/tokens/").status_code == 401


class TestPaging:
    def test_gives_fifty_rows_unless_asked_for_more(self):
        client = make_client()
        for number in range(60):
            entry(target=str(number))

        first = client.get("/api/v1/audit/", {"action": "host"}).json()

        assert (len(first["results"]), first["count"], first["previous"]) == (50, 60, None)
        assert len(client.get(first["next"]).json()["results"]) == 10
        wide = client.get("/api/v1/audit/", {"action": "host", "page_size": 500}).json()
        assert (len(wide["results"]), wide["next"]) == (60, None)

    def test_answers_404_beyond_the_last_page(self):
        answer = make_client().get("/api/v1/audit/", {"page": 99})

        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
