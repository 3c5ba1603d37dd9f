"""Users and tokens: what is written, and what is refused."""

from datetime import timedelta

import pytest

from apps.accounts import actions, queries
from apps.accounts.models import ApiToken, AuditEntry, User
from apps.accounts.states import Role
from apps.lib.problems import Problem
from tests.apps.accounts.people import NOW, PASSWORD, make_user

pytestmark = pytest.mark.django_db


class TestEnsureAdmin:
    def test_makes_the_admin_once(self):
        assert actions.ensure_admin(PASSWORD)
        assert not actions.ensure_admin("another password")

        admin = User.objects.get(username="admin")
        assert admin.check_password(PASSWORD)
        assert admin.role == Role.ADMIN

    def test_gives_a_password_to_the_admin_that_the_bootstrap_token_made(self):
        actions.bootstrap_admin()

        assert actions.ensure_admin(PASSWORD)

        assert User.objects.get().check_password(PASSWORD)

    def test_never_puts_a_password_into_the_audit_log(self):
        actions.ensure_admin(PASSWORD)

        assert not [entry for entry in AuditEntry.objects.all() if PASSWORD in str(entry.data)]


class TestUsers:
    def test_refuses_a_name_that_is_taken(self):
        make_user(username="bob")

        with pytest.raises(Problem) as caught:
            actions.create_user(username="bob", password=PASSWORD, role=Role.VIEWER, actor="ada")

        assert (caught.value.status, caught.value.code) == (409, "user_exists")

    def test_refuses_a_short_password_and_leaves_nothing(self):
        with pytest.raises(Problem) as caught:
            actions.create_user(username="bob", password="short", role=Role.VIEWER, actor="ada")

        assert caught.value.code == "password_weak"
        assert not User.objects.exists()

    def test_keeps_the_last_admin_an_admin(self):
        ada = make_user()
        make_user(username="off", is_active=False)

        with pytest.raises(Problem) as caught:
            actions.set_role(user=ada, role=Role.OPERATOR, actor="ada")

        assert caught.value.code == "last_admin"
        assert User.objects.get(username="ada").role == Role.ADMIN

    def test_keeps_the_last_admin_switched_on(self):
        with pytest.raises(Problem, match="last admin"):
            actions.set_active(user=make_user(), active=False, actor="ada")

    def test_lets_an_admin_go_while_a_superuser_remains(self):
        ada = make_user()
        make_user(username="root", role=Role.VIEWER, is_superuser=True)

        actions.set_role(user=ada, role=Role.VIEWER, actor="root")

        assert User.objects.get(username="ada").role == Role.VIEWER

    def test_changes_all_or_nothing(self):
        ada = make_user()
        make_user(username="eve")

        with pytest.raises(Problem, match="password"):
            actions.change_user(
                user=ada, role=Role.VIEWER, active=None, password="short", actor="eve"
            )

        assert User.objects.get(username="ada").role == Role.ADMIN


class TestTokens:
    def test_keeps_only_a_digest(self):
        token, secret = actions.create_token(
            user=make_user(), name="ci", expires_at=None, actor="ada", now=NOW
        )

        assert secret not in str(vars(token))
        assert queries.token_by_secret(secret) == token

    def test_refuses_an_expiry_in_the_past(self):
        with pytest.raises(Problem, match="expires_at"):
            actions.create_token(user=make_user(), name="ci", expires_at=NOW, actor="ada", now=NOW)

    def test_notes_the_last_use_to_the_minute(self):
        token, _ = actions.create_token(
            user=make_user(), name="ci", expires_at=None, actor="ada", now=NOW
        )
        seen = []
        for seconds in (0, 59, 61):
            actions.note_use(
                token=ApiToken.objects.get(pk=token.pk), now=NOW + timedelta(seconds=seconds)
            )
            seen.append(ApiToken.objects.get(pk=token.pk).last_used_at)

        assert seen == [NOW, NOW, NOW + timedelta(seconds=61)]
