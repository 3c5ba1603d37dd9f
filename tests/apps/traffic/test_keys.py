"""The form of API keys."""

from uuid import uuid4

import pytest

from apps.traffic import keys

MASTER = "m" * 50


def test_a_key_names_its_id_and_checks_itself():
    key_id = uuid4()

    key = keys.make(key_id)

    assert key.startswith(f"hearth_{key_id.hex[:12]}_")
    assert keys.is_well_formed(key)
    assert keys.make(key_id) != key


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: key[:-1],
        lambda key: key + "0",
        lambda key: key.replace("hearth", "bearth"),
        lambda key: key[:25] + ("A" if key[25] != "A" else "B") + key[26:],
        lambda key: "",
    ],
    ids=["short", "long", "prefix", "one character", "empty"],
)
def test_a_typing_error_shows(spoil):
    assert not keys.is_well_formed(spoil(keys.make(uuid4())))


def test_a_derived_key_depends_on_id_and_master_alone():
    key_id = uuid4()

    key = keys.derive(key_id, MASTER)

    assert keys.is_well_formed(key)
    assert keys.derive(key_id, MASTER) == key
    assert keys.derive(uuid4(), MASTER) != key
    assert keys.derive(key_id, MASTER + "x") != key
