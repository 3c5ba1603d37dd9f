"""Which indexes, hub and token a host's own settings lead to."""

import pytest

from agents.weights.sources import DEFAULT_HUB, from_environment


@pytest.fixture
def home(tmp_path):
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    return tmp_path


def _read(home, **environ):
    return from_environment({"HOME": str(home)} | environ)


def test_pips_own_file_is_read(home):
    (home / ".config/pip/pip.conf").write_text(
        "[global]\nindex-url = https://mirror.example/simple/\n"
        "extra-index-url = https://extra.example/simple file:///local/simple\n"
        "cert = /etc/own.pem\n"
    )

    sources = _read(home)

    assert sources.indexes == ("https://mirror.example/simple", "https://extra.example/simple")
    assert sources.certificates == "/etc/own.pem"


def test_a_variable_counts_more_than_the_file(home):
    (home / ".config/pip/pip.conf").write_text("[global]\nindex-url = https://file.example\n")

    assert _read(home, PIP_INDEX_URL="https://variable.example/").indexes[0] == (
        "https://variable.example"
    )


def test_a_broken_file_is_left_to_pip_to_report(home):
    (home / ".config/pip/pip.conf").write_text("index-url without a section")

    assert _read(home).hub == DEFAULT_HUB


def test_the_hubs_address_is_taken_from_its_variable(home):
    assert _read(home, HF_ENDPOINT="https://hub.example/").hub == "https://hub.example"


def test_the_token_is_read_from_the_file_that_the_hubs_tools_use(home):
    token = home / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True)
    token.write_text("hf_from_file\n")

    assert _read(home).hub_token == "hf_from_file"
    assert _read(home, HF_TOKEN_PATH=str(home / "absent")).hub_token == ""
    assert _read(home, HF_TOKEN="hf_given").hub_token == "hf_given"
