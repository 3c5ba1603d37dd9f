"""The audit log: a chain that shows every change and every gap."""

import threading
from decimal import Decimal
from uuid import UUID

import pytest
from django.db import connection, transaction

from apps.accounts.actions import audit
from apps.accounts.models import AuditEntry
from apps.accounts.queries import CHAIN_START, verify_chain

pytestmark = pytest.mark.django_db


def write(count: int) -> list[AuditEntry]:
    return [
        audit(actor="ada", action="host.drained", target=f"gpu-{n}", data={"n": n})
        for n in range(count)
    ]


class TestAudit:
    def test_chains_each_entry_to_the_one_before(self):
        first, second = write(2)

        assert first.previous_sha256 == CHAIN_START
        assert second.previous_sha256 == first.sha256

    def test_keeps_decimals_and_ids_as_text(self):
        price, pk = Decimal("0.5"), UUID(int=1)

        entry = audit(actor="ada", action="host.price_set", target="a", data={"p": price, "i": pk})

        assert entry.data == {"p": "0.5", "i": str(pk)}

    def test_is_undone_with_the_change_that_it_tells_of(self):
        with transaction.atomic():
            write(1)
            transaction.set_rollback(True)

        assert not AuditEntry.objects.exists()


class TestVerifyChain:
    def test_holds_for_an_untouched_log(self):
        entries = write(3)

        check = verify_chain()

        assert (check.entries, check.broken_at) == (3, None)
        assert check.head_sha256 == entries[-1].sha256

    def test_holds_for_an_empty_log(self):
        assert verify_chain().broken_at is None

    @pytest.mark.parametrize(
        "change",
        [{"actor": "mallory"}, {"target": "other"}, {"action": "x"}, {"data": {}}],
        ids=lambda change: next(iter(change)),
    )
    def test_names_an_entry_that_was_changed(self, change):
        entries = write(3)
        AuditEntry.objects.filter(pk=entries[1].pk).update(**change)

        check = verify_chain()

        assert (check.broken_at, check.entries) == (entries[1].pk, 1)

    def test_names_the_entry_before_which_one_was_removed(self):
        entries = write(3)
        entries[1].delete()

        assert verify_chain().broken_at == entries[2].pk


@pytest.mark.django_db(transaction=True)
class TestTwoWriters:
    def test_both_write_and_the_chain_holds(self):
        start, errors = threading.Barrier(4), []

        def run() -> None:
            start.wait(timeout=10)
            try:
                for _ in range(5):
                    with transaction.atomic():
                        write(1)
            except Exception as error:  # noqa: BLE001 - told by the assertion below
                errors.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)

        assert errors == []
        assert (verify_chain().entries, verify_chain().broken_at) == (20, None)
