"""The example in docs/catalog.md is a file that works."""

import re
from pathlib import Path

from apps.catalog import settings_docs
from apps.catalog.reading import read_entry

DOCS = Path(__file__).parents[3] / "docs" / "catalog.md"


def test_the_example_of_adding_a_model_is_a_valid_entry(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "our-support-8b.yaml"
    path.write_text(example, encoding="utf-8")

    assert read_entry(path).variants[0].sources[0].source == "path:/srv/models/our-support-8b"


def test_the_settings_page_is_what_the_declaration_prints():
    page = DOCS.with_name("settings.md").read_text(encoding="utf-8")

    assert page == settings_docs.page()
