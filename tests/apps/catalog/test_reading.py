"""A mistake in a catalog file is reported with its file, line, field and fix."""

import pytest

from apps.catalog.catalog import BUILT_IN
from apps.catalog.reading import MAX_FILE_BYTES, BadFile, read_entry

GOOD = (BUILT_IN / "smollm2-135m-instruct.yaml").read_text(encoding="utf-8")
LINES = GOOD.splitlines()


def line_of(text):
    return next(number for number, line in enumerate(LINES, 1) if text in line)


def problems(folder, text):
    path = folder / "smollm2-135m-instruct.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadFile) as caught:
        read_entry(path)
    return caught.value.problems


class TestReadEntry:
    def test_a_good_file_is_read(self, tmp_path):
        path = tmp_path / "smollm2-135m-instruct.yaml"
        path.write_text(GOOD, encoding="utf-8")

        assert read_entry(path).variants[0].shape.layers == 30

    @pytest.mark.parametrize(
        ("old", "new", "field", "says"),
        [
            ("licence:", "lisence:", "lisence", "did you mean `licence`?"),
            ("layers: 30", "layer: 30", "shape.layer", "did you mean `layers`?"),
            ("max_num_seqs: 8", "max_num_seq: 8", "engine.max_num_seq", "`max_num_seqs`?"),
            ("convert: gguf", "convrt: gguf", "variants[0].sources[0].convrt", "`convert`?"),
            ("      cpu:", "      cpuu:", "variants[0].devices", "did you mean `cpu`?"),
            (
                "task: chat",
                "task: chatt",
                "task",
                "`chatt` is not known here: did you mean `chat`?",
            ),
            ("family: SmolLM2", "slug: other", "slug", "stands twice: keep one"),
            ("name: SmolLM2 135M Instruct", "# none", "", "`name` is missing: add it"),
            ("kv_heads: 3", "kv_heads: 2", "shape", "must be a multiple of `kv_heads` (2)"),
            ("kv_heads: 3", "kv_heads: three", "shape.kv_heads", "give a whole number"),
            ('min_vllm: "0.6.0"', "min_vllm: 0.6", "min_vllm", 'in quotes, as in `"0.10.0"`'),
            ("sha256: bcc", "sha256: xyz", "variants[0].sources[0].sha256", "`sha256sum` prints"),
            ("        sha256: bcc", "        # bcc", "variants[0].sources[0]", "needs `sha256`"),
            ("hf:HuggingFaceTB/", "hf:", "variants[0].sources[1]", "hf:<org>/<name>@<revision>"),
            ("block_size: 32", "block_size: 48", "block_size", "a multiple of 32"),
            ("max_model_len: 2048", "max_model_len: 9000", "variants[0]", "more than"),
            ("  max_model_len: 2048\n", "", "variants[0]", "`engine.max_model_len` is missing"),
            ("active: 134_515_008", "active: 134_515_009", "parameters", "is more than `total`"),
            ("[q4_1, bf16]", "[q4_1]", "", "must list each variant once (q4_1, bf16)"),
            ("slug: smollm2", "slug: smollm3", "slug", "must be the file's name"),
            ("max_num_seqs: 8", "max_num_seqs: 0", "engine.max_num_seqs", "from 1 to 4096"),
        ],
    )
    def test_a_mistake_names_its_field_and_the_fix(self, tmp_path, old, new, field, says):
        assert old in GOOD

        first = problems(tmp_path, GOOD.replace(old, new, 1))[0]

        assert first.file == "smollm2-135m-instruct.yaml"
        assert first.field.endswith(field)
        assert says in first.message

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("licence:", "lisence:"),
            ("  layers: 30", "  layer: 30"),
            ("sha256: bcc", "sha256: xyz"),
            ("  kv_heads: 3", "  kv_heads: three"),
            ("          block_size: 32", "          block_size: 48"),
        ],
    )
    def test_a_mistake_names_its_line(self, tmp_path, old, new):
        first = problems(tmp_path, GOOD.replace(old, new, 1))[0]

        assert first.line == line_of(old)
        assert str(first).startswith(f"smollm2-135m-instruct.yaml:{first.line}: ")

    def test_all_unknown_keys_are_reported_at_once(self, tmp_path):
        text = GOOD.replace("licence:", "lisence:").replace("kv_heads", "kv_head")

        assert [problem.field for problem in problems(tmp_path, text)] == [
            "lisence",
            "shape.kv_head",
        ]

    def test_broken_yaml_names_the_line(self, tmp_path):
        text = GOOD.replace("task: chat", "task: chat: embed")

        assert problems(tmp_path, text)[0].line == line_of("task: chat")

    @pytest.mark.parametrize("text", ["", "just words", "- a list"])
    def test_a_file_that_is_no_mapping_says_what_is_expected(self, tmp_path, text):
        assert "must be a mapping of fields" in problems(tmp_path, text)[0].message

    def test_a_file_that_is_far_too_large_is_not_read(self, tmp_path):
        found = problems(tmp_path, "#" * (MAX_FILE_BYTES + 1))

        assert found[0].message == "is larger than 256 KiB: not an entry"

    def test_yaml_that_would_run_code_is_refused(self, tmp_path):
        found = problems(tmp_path, 'name: !!python/object/apply:os.system ["true"]\n')

        assert "is not YAML" in found[0].message

    def test_layer_groups_must_count_every_layer(self, tmp_path):
        text = GOOD.replace(
            "  tied_embeddings: true",
            "  tied_embeddings: true\n  layer_groups: [{kind: full, layers: 29}]",
        )

        assert "count 29 layers, `layers` says 30" in problems(tmp_path, text)[0].message

    def test_a_sliding_group_needs_its_window(self, tmp_path):
        text = GOOD.replace(
            "  tied_embeddings: true",
            "  tied_embeddings: true\n  layer_groups: [{kind: sliding, layers: 30}]",
        )

        assert "need `window_tokens`" in problems(tmp_path, text)[0].message
