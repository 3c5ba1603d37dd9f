"""Fixtures of tests that render pages."""

import pytest
from django.core.management import call_command


@pytest.fixture(scope="session")
def static_files() -> None:
    """Collect the static files once: pages name them by their hashes."""
    call_command("collectstatic", interactive=False, verbosity=0)
