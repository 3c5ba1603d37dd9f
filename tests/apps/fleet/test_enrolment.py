"""How a machine becomes a host, and who is turned away."""

import threading
from datetime import timedelta

import pytest
from django.db import connection

from apps.accounts.models import AuditEntry
from apps.fleet import actions
from apps.fleet.models import Host, JoinToken
from apps.lib import secrets
from apps.lib.problems import Problem
from tests.apps.fleet.rows import NOW, make_host, make_request

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


def refusal(request, now=NOW) -> Problem:
    with pytest.raises(Problem) as caught:
        actions.enrol(request, now)
    return caught.value


class TestEnrol:
    def test_trades_a_token_for_a_credential_that_names_the_host(self):
        reply = actions.enrol(make_request(), NOW)

        host = actions.authenticate(reply.credential)
        assert host is not None
        assert (str(host.pk), host.name) == (reply.host_id, "gpu-1")
        assert reply.incarnation == str(actions.incarnation())

    def test_keeps_digests_only(self):
        request = make_request()
        reply = actions.enrol(request, NOW)

        rows = str([*Host.objects.values(), *JoinToken.objects.values()])
        assert reply.credential not in rows
        assert request.token not in rows

    def test_leaves_an_audit_entry_without_secrets(self):
        request = make_request()

        reply = actions.enrol(request, NOW)

        entry = AuditEntry.objects.get(action="host.enrolled")
        assert (entry.actor, entry.target) == ("ada", "gpu-1")
        assert request.token not in str(entry.data)
        assert reply.credential not in str(entry.data)

    @pytest.mark.parametrize(
        ("given", "kept"),
        [("GPU_01.lan", "gpu-01-lan"), ("a" * 80, "a" * 63), ("-x-", "x")],
    )
    def test_makes_a_name_of_what_the_system_calls_itself(self, given, kept):
        assert actions.enrol(make_request(host_name=given), NOW).host_name == kept

    def test_refuses_a_name_without_letters(self):
        problem = refusal(make_request(host_name="..."))

        assert (problem.status, problem.extra["field"]) == (422, "host_name")
        assert not Host.objects.exists()

    @pytest.mark.parametrize("install_id", ["", "x" * 65], ids=["empty", "long"])
    def test_refuses_an_install_id_that_is_none(self, install_id):
        assert refusal(make_request(install_id=install_id)).code == "install_id_invalid"


class TestToken:
    def test_that_nobody_made_is_refused(self):
        problem = refusal(make_request(token="hearth-join_nope"))

        assert (problem.status, problem.code) == (401, "join_token_unknown")

    def test_is_good_for_one_host(self):
        request = make_request()
        actions.enrol(request, NOW)

        problem = refusal(make_request(token=request.token, host_name="b", install_id="folder-2"))

        assert (problem.status, problem.code) == (401, "join_token_used")
        assert Host.objects.count() == 1

    def test_expires_after_an_hour(self):
        request = make_request()

        assert refusal(request, NOW + timedelta(hours=1)).code == "join_token_expired"
        assert actions.enrol(request, NOW + timedelta(minutes=59))

    def test_is_useless_when_revoked(self):
        token, secret = actions.create_join_token(actor="ada", now=NOW)
        actions.revoke_join_token(token=token, actor="ada", now=NOW)

        assert refusal(make_request(token=secret)).code == "join_token_expired"

    def test_may_be_sent_again_by_the_same_folder_whose_answer_was_lost(self):
        request = make_request()
        lost = actions.enrol(request, NOW)

        again = actions.enrol(request, NOW + timedelta(seconds=5))

        assert again.host_id == lost.host_id
        assert actions.authenticate(lost.credential) is None
        assert actions.authenticate(again.credential) is not None

    def test_of_a_refused_enrolment_is_not_spent(self):
        make_host(name="gpu-1")
        request = make_request()
        refusal(request)

        assert actions.enrol(make_request(token=request.token, host_name="b"), NOW)


class TestSecondFolder:
    def test_under_a_name_that_is_taken_is_refused(self):
        actions.enrol(make_request(), NOW)

        problem = refusal(make_request(install_id="folder-2"))

        assert (problem.status, problem.code) == (409, "host_name_taken")
        assert "--name" in problem.detail

    def test_that_is_a_copy_of_another_hosts_folder_is_refused(self):
        actions.enrol(make_request(), NOW)

        problem = refusal(make_request(host_name="clone"))

        assert (problem.status, problem.code) == (409, "install_id_taken")
        assert "gpu-1" in problem.detail


class TestEnrollingAgain:
    def test_keeps_the_host_and_kills_its_old_credential(self):
        first = actions.enrol(make_request(), NOW)

        second = actions.enrol(make_request(), NOW)

        assert second.host_id == first.host_id
        assert actions.authenticate(first.credential) is None
        assert Host.objects.get().credential_sha256 == secrets.digest(second.credential)


@pytest.mark.django_db(transaction=True)
class TestTwoAtOnce:
    def test_one_token_enrols_one_host(self):
        secret = actions.create_join_token(actor="ada", now=NOW)[1]
        start, codes = threading.Barrier(2), []

        def run(name: str) -> None:
            request = make_request(token=secret, host_name=name, install_id=name)
            start.wait(timeout=10)
            try:
                actions.enrol(request, NOW)
            except Problem as problem:
                codes.append(problem.code)
            finally:
                connection.close()

        threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)

        assert codes == ["join_token_used"]
        assert Host.objects.count() == 1
