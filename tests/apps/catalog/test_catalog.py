"""Built-in and operators' entries together: lookup, search, reload, problems."""

import os
import shutil

import pytest

from agents.wire import Task
from apps.catalog.catalog import BUILT_IN, Catalog, UnknownEntry
from apps.catalog.reading import BadFile

SOURCE = BUILT_IN / "all-minilm-l6-v2.yaml"


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "catalog"
    folder.mkdir()
    return folder


@pytest.fixture
def catalog(own):
    return Catalog(BUILT_IN, own)


def add(folder, slug, **changes):
    text = SOURCE.read_text(encoding="utf-8").replace("slug: all-minilm-l6-v2", f"slug: {slug}")
    for old, new in changes.items():
        text = text.replace(f"{old}:", f"{new}:", 1)
    path = folder / f"{slug}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def slugs(entries):
    return [entry.slug for entry in entries]


class TestCatalog:
    def test_a_folder_that_does_not_exist_is_no_mistake(self, tmp_path):
        catalog = Catalog(BUILT_IN, tmp_path / "nowhere")

        assert catalog.get("all-minilm-l6-v2").task is Task.EMBED
        assert catalog.problems() == ()

    def test_an_unknown_slug_answers_those_that_are_near(self, catalog):
        with pytest.raises(UnknownEntry, match="did you mean smollm2-135m-instruct") as caught:
            catalog.get("SmolLM2-135M-Instuct")

        assert caught.value.near[0] == "smollm2-135m-instruct"

    def test_operators_add_entries_by_file_without_a_restart(self, catalog, own):
        before = len(catalog.entries())

        add(own, "our-embedder")

        assert catalog.get("our-embedder").embedding_dim == 384
        assert len(catalog.entries()) == before + 1

    def test_a_changed_file_is_read_again_and_a_removed_one_is_forgotten(self, catalog, own):
        path = add(own, "our-embedder")
        assert catalog.get("our-embedder").embedding_dim == 384

        path.write_text(path.read_text().replace("embedding_dim: 384", "embedding_dim: 385"))
        os.utime(path, ns=(1, 1))
        assert catalog.get("our-embedder").embedding_dim == 385

        path.unlink()
        with pytest.raises(UnknownEntry):
            catalog.get("our-embedder")

    def test_an_unchanged_file_is_not_read_again(self, catalog, own):
        add(own, "our-embedder")

        assert catalog.get("our-embedder") is catalog.get("our-embedder")

    def test_an_operators_entry_replaces_a_built_in_one(self, catalog, own):
        path = add(own, "all-minilm-l6-v2")
        path.write_text(path.read_text().replace("maker: Sentence Transformers", "maker: Us"))

        assert catalog.get("all-minilm-l6-v2").maker == "Us"

    def test_a_bad_file_is_left_out_and_listed_and_the_rest_is_served(self, catalog, own):
        add(own, "good")
        bad = add(own, "bad", task="tusk")

        assert "good" in slugs(catalog.entries())
        assert "bad" not in slugs(catalog.entries())
        (problem,) = catalog.problems()
        assert str(problem) == "bad.yaml:7: tusk: is not a known field: did you mean `task`?"

        bad.unlink()
        assert catalog.problems() == ()

    def test_a_bad_built_in_file_raises(self, tmp_path, own):
        broken = tmp_path / "entries"
        shutil.copytree(BUILT_IN, broken)
        add(broken, "bad", task="tusk")

        with pytest.raises(BadFile, match=r"bad\.yaml:7"):
            Catalog(broken, own)


class TestSearch:
    def test_every_word_must_occur_somewhere(self, catalog):
        assert slugs(catalog.search("qwen coder next")) == ["qwen3-coder-next"]

    def test_case_does_not_matter(self, catalog):
        assert "gpt-oss-20b" in slugs(catalog.search("OPENAI"))

    def test_a_task_narrows_the_answer(self, catalog):
        assert set(slugs(catalog.search(task=Task.RERANK))) == {
            "bge-reranker-v2-m3",
            "qwen3-reranker-0.6b",
        }

    def test_capabilities_and_variants_are_searched_too(self, catalog):
        assert "gpt-oss-120b" in slugs(catalog.search("mxfp4 reasoning"))

    def test_nothing_asked_answers_everything_by_name(self, catalog):
        names = [entry.name.casefold() for entry in catalog.search()]

        assert names == sorted(names)
        assert len(names) >= 24
