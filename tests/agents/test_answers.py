"""The verdict on a model's first answers."""

import math

import pytest

from agents.answers import Answers, AnswersBaseline, trouble

LIVE = AnswersBaseline(revision=4, perplexity=8.7)


class TestTrouble:
    @pytest.mark.parametrize(
        ("seen", "baseline"),
        [
            (Answers(), None),
            (Answers(), LIVE),
            (Answers(perplexity=8.7, written_perplexity=2.0, read_perplexity=2.0), LIVE),
            (Answers(perplexity=13.0), LIVE),
            (Answers(perplexity=200.0), None),
            (Answers(likeness_ratio=0.3), None),
        ],
        ids=["tells nothing", "nothing to compare", "the same", "4 bits", "tiny model", "vectors"],
    )
    def test_sensible_answers_may_be_served(self, seen, baseline):
        assert trouble(seen, baseline) == ""

    @pytest.mark.parametrize(
        ("seen", "baseline", "says"),
        [
            (Answers(perplexity=19397.2), None, "perplexity 19,397.2 on a plain English text"),
            (Answers(perplexity=math.inf), None, "that is no number"),
            (Answers(perplexity=math.nan), None, "that is no number"),
            (Answers(perplexity=18.0), LIVE, "revision 4, which serves, has 8.7"),
            (
                Answers(perplexity=9.0, written_perplexity=3.5, read_perplexity=16622.0),
                LIVE,
                "wrote with perplexity 3.5 what it reads back with 16,622.0",
            ),
            (Answers(likeness_ratio=0.0), None, "no nearer to each other"),
            (Answers(likeness_ratio=math.nan), None, "no nearer to each other"),
        ],
    )
    def test_nonsense_is_named_with_its_numbers(self, seen, baseline, says):
        assert says in trouble(seen, baseline)
