"""A gateway with a valid credential."""

import pytest

from apps.traffic import actions


@pytest.fixture
def credential(transactional_db, tmp_path) -> str:
    path = tmp_path / "gateway_credential"
    actions.ensure_gateway_credential("local", path)
    return path.read_text().strip()
