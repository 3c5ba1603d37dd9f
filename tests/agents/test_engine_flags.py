"""Free-form arguments: the engine's own flags, a deny-list, and sentences that say the fix."""

import pytest

from agents import engine_flags
from agents.engine_settings import SETTINGS


class TestChecked:
    def test_known_flags_pass_one_word_each(self):
        given = (
            "--max_log_len=100",
            "--no-async-scheduling",
            "--limit-mm-per-prompt",
            '{"image":2}',
        )

        assert engine_flags.checked(given) == (
            "--max-log-len", "100", "--no-async-scheduling", "--limit-mm-per-prompt", '{"image":2}',
        )  # fmt: skip

    def test_json_is_written_anew(self):
        assert engine_flags.checked(("--hf-overrides", '{ "a" :1}')) == (
            "--hf-overrides",
            '{"a": 1}',
        )

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            (("--max-log-length", "1"), "did you mean `--max-log-len`?"),
            (("--nonsense",), "is no flag of vLLM 0.32.0"),
            (("-tp", "2"), "is no flag"),
            (("--middleware", "x.y"), "not allowed: it would run code"),
            (("--middlewar", "x.y"), "did you mean `--middleware`?"),
            (("--ssl-keyfile", "/k"), "not allowed"),
            (("--uds", "/tmp/s"), "not allowed"),
            (("--compilation-config.level", "3"), "is no flag"),
            (("--enable-log-requests",), "prompts and answers are not logged"),
            (("--max-num-seqs", "8"), "set that instead"),
            (("--served-model-name", "x"), "set by Hearth itself"),
            (("--seed", "1", "--seed", "2"), "given twice"),
            (("--seed", "one"), "give a whole number"),
            (("--seed",), "needs a value"),
            (("--async-scheduling", "yes"), "takes no value"),
            (("--seed", "1", "2"), "takes one value"),
            (("--performance-mode", "turbo"), "give one of"),
            (("--hf-overrides", "{"), "give JSON"),
            (("--seed", "1") * 33, "too long"),
        ],
        ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
    )
    def test_what_cannot_be_given_says_why_and_what_to_do(self, given, says):
        with pytest.raises(engine_flags.BadArgument) as caught:
            engine_flags.checked(given)

        assert says in str(caught.value)

    def test_every_denied_and_every_typed_flag_is_one_that_the_engine_has(self):
        known = engine_flags.flags_of()
        typed = {setting.flag for setting in SETTINGS.values() if setting.flag}

        assert {*engine_flags.DENIED, *engine_flags.OWN, *typed} <= set(known)
        assert any(flag.startswith(engine_flags.DENIED_PREFIXES) for flag in known)

    def test_choices_of_typed_settings_are_choices_of_the_engine(self):
        known = engine_flags.flags_of()
        wrong = {
            name: set(setting.choices) - set(known[setting.flag].choices)
            for name, setting in SETTINGS.items()
            if setting.flag and known[setting.flag].choices and setting.choices
        }

        assert {name: words for name, words in wrong.items() if words} == {}
