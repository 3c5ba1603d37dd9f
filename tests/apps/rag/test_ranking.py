"""Fusion, selection, filters, words, prompts and figures: pure."""

import hashlib
import math
import re

import pytest

from apps.rag import (
    citations,
    feedback,
    filters,
    fusion,
    judging,
    metrics,
    prefix,
    prompt,
    selection,
    words,
)
from apps.rag.chunking import cut, title_of
from apps.rag.fusion import Place
from apps.rag.prompt import Passage
from apps.rag.selection import Candidate

DENSE = {1: Place(1, 0.9), 2: Place(2, 0.5)}
LEXICAL = {2: Place(1, 7.0), 3: Place(2, 1.0)}


class TestFusion:
    def test_by_ranks_prefers_what_both_legs_have(self):
        found = fusion.reciprocal(DENSE, LEXICAL, k=60, dense_weight=0.5)

        assert [one.id for one in found] == [2, 1, 3]
        assert found[0].score == pytest.approx(0.5 / 62 + 0.5 / 61)

    def test_by_scores_scales_each_leg_to_one(self):
        found = {one.id: one for one in fusion.min_max(DENSE, LEXICAL, dense_weight=0.6)}

        assert (found[1].score, found[2].score, found[3].score) == (0.6, 0.4, 0.0)
        assert found[2].dense_share == 0.0

    def test_of_one_leg_keeps_its_order(self):
        assert [one.id for one in fusion.min_max(DENSE, {}, dense_weight=1.0)] == [1, 2]


def candidate(number: int, score: float = 1.0, text: str = "", tokens: int = 10) -> Candidate:
    return Candidate(id=number, score=score, sha256=text or str(number), tokens=tokens)


class TestSelection:
    def test_tells_each_chunk_why_it_was_left_out(self):
        rows = [
            candidate(1, text="a"),
            candidate(2, text="a"),
            candidate(3, tokens=99),
            candidate(4),
        ]

        chosen = selection.choose(rows, top_k=3, token_budget=50)

        assert chosen.ids == (1, 4)
        assert "same text" in chosen.left_out[2]
        assert "do not fit" in chosen.left_out[3]

    def test_by_marginal_relevance_puts_likeness_back(self):
        rows = [candidate(1, 1.0), candidate(2, 0.99), candidate(3, 0.5)]
        vectors = {1: [1.0, 0.0], 2: [1.0, 0.0], 3: [0.0, 1.0]}

        found = selection.diversify(rows, vectors, balance=0.5, among=3)

        assert [one.id for one in found] == [1, 3, 2]


class TestFilters:
    def test_are_written_from_typed_conditions_only(self):
        made = filters.expression(
            [
                {"field": "kind", "op": "in", "value": ["pdf", "docx"]},
                {"field": "metadata.year", "op": "gte", "value": 2020},
            ]
        )

        assert made == 'meta["kind"] in ["pdf", "docx"] and meta["m_year"] >= 2020'

    def test_quote_text_that_tries_to_break_out(self):
        made = filters.expression([{"field": "document", "op": "eq", "value": 'a" or 1 == 1 or "'}])

        assert made == 'meta["document"] == "a\\" or 1 == 1 or \\""'

    @pytest.mark.parametrize(
        "condition",
        [
            {"field": "id", "value": 1},
            {"field": 'metadata.x"] or meta["y', "value": 1},
            {"field": "kind", "op": "like", "value": "x"},
            {"field": "kind", "op": "in", "value": []},
            {"field": "kind", "value": {"a": 1}},
        ],
        ids=["field", "key", "operator", "empty-list", "object"],
    )
    def test_that_cannot_be_asked_are_refused(self, condition):
        with pytest.raises(filters.WrongFilter):
            filters.expression([condition])


class TestWords:
    def test_are_stemmed_alike_in_texts_and_questions(self):
        assert set(words.stems("Aeroelastic models")) == set(words.stems("the aeroelastic model"))
        assert words.matched("Heated models of wings", "heat a wing") == ["Heated", "wings"]

    def test_of_other_languages_and_of_none_are_kept(self):
        assert words.language_of(["der", "die", "das", "und", "ist", "ein", "Haus"]) == "german"
        assert words.stems("飛行機の模型") != []
        assert words.stems("qwrtz xkcd") == ["qwrtz", "xkcd"]

    def test_that_are_joined_count_once_each(self):
        assert words.stems("The boundary-layer's flow") == ["boundari", "layer", "s", "flow"]

    def test_of_a_question_move_towards_good_passages(self):
        there = feedback.moved([1.0, 0.0], [[0.0, 1.0], [0.0, 1.0]])

        assert list(there) == pytest.approx([0.894427, 0.447214], abs=1e-5)
        assert list(feedback.moved([0.6, 0.8], [])) == pytest.approx([0.6, 0.8])

    def test_that_good_passages_share_are_added_to_a_question(self):
        passages = [["flow", "boundary", "layer"], ["boundary", "layer", "heat"], ["zinc"]]

        made = feedback.expanded(["flow"], passages, 2)

        assert made == ["flow", "flow", "flow", "boundary", "layer"]


class TestChunking:
    def test_leaves_out_a_passage_that_repeats(self):
        text = "\n\n".join(["A footer of this document here."] * 3 + ["Something else entirely."])

        pieces = cut(text, kind="text", pages=(), characters=35, overlap=0)

        assert [piece.text for piece in pieces] == [
            "A footer of this document here.",
            "Something else entirely.",
        ]

    @pytest.mark.parametrize(
        ("text", "kind", "title"),
        [
            ("Wings in a\nslipstream .\n  They were measured.", "text", "Wings in a slipstream"),
            ("Expenses\n\nTrains are paid for.", "pdf", "Expenses"),
            ("name,days\nana,30\n", "csv", "name,days"),
            (f"{'long ' * 50}. Short.", "text", ""),
        ],
        ids=["sentence", "line", "columns", "none"],
    )
    def test_knows_what_a_text_without_headings_is_about(self, text, kind, title):
        assert title_of(text, kind) == title

    def test_gives_later_passages_the_title(self):
        text = "Wings in a slipstream. " + "They were measured for days. " * 8
        pieces = cut(text, kind="text", pages=[], characters=100, overlap=0)

        assert pieces[0].heading == ""
        assert {piece.heading for piece in pieces[1:]} == {"Wings in a slipstream"}


class TestPrompt:
    def test_of_the_next_turn_begins_with_the_whole_last_one(self):
        passages = [Passage(chunk=n, document="d", place="", text=f"text {n}") for n in (1, 2)]
        first = prompt.next_turn(
            prompt.Conversation(), system="S", passages=passages[:1], question="q", mark="m"
        )
        after = prompt.answered(first, "a [1]")

        second = prompt.next_turn(after, system="S", passages=passages, question="r", mark="m")

        assert second.messages[: len(after.messages)] == after.messages
        assert second.sent == (2,)
        assert "See also [1] above." in second.messages[-1]["content"]
        assert second.numbers == {1: 1, 2: 2}

    @pytest.mark.parametrize(
        ("held", "hits", "following", "sent", "named"),
        [
            ((), (1, 2, 3), (4, 5, 6), [1, 2, 3], []),
            ((2, 5), (1, 2, 3), (4, 5, 6, 7), [1], [2, 5]),
            ((7,), (1, 2, 3), (4, 5, 6, 7), [1, 2, 3], []),
            ((4, 5, 6), (1, 2, 3), (4, 5, 6), [1], [4, 5, 6]),
            ((1, 2, 4), (1, 2, 3), (4, 5, 6), [], [1, 2, 4]),
        ],
        ids=["first turn", "two near", "one far", "best is new", "best is known"],
    )
    def test_what_the_conversation_holds_takes_the_place_of_new(
        self, held, hits, following, sent, named
    ):
        before = prompt.Conversation(numbers={chunk: at for at, chunk in enumerate(held, 1)})

        assert prompt.worth_sending(before, hits, following) == (sent, named)

    def test_stands_around_passages_with_a_word_that_can_be_spoken_and_not_guessed(self):
        marks = {prompt.mark_of(hashlib.sha256(b"%d" % n).digest()) for n in range(1000)}

        assert len(marks) == 1000
        assert all(re.fullmatch("([^aeiou][aeiou]){4}", mark) for mark in marks)

    def test_citations_are_checked_against_what_was_sent(self):
        checked = citations.check("So [1, 3] and [12]. The sources do not say.", {1, 2, 3})

        assert (checked.cited, checked.unknown, checked.abstained) == ((1, 3), (12,), True)

    def test_view_predicts_whole_blocks_and_names_what_broke(self):
        ends = [("instructions", 20), ("question", 40)]
        before = [*range(30), 99]

        view = prefix.view(list(range(40)), ends=ends, before=before, block_tokens=16, first=False)

        assert view.predicted_tokens == 16
        assert view.broke == "the question differ from token 31 on"


class TestFigures:
    def test_are_those_of_trec_eval(self):
        found = metrics.figures(["b", "x", "a"], {"a": 1, "b": 2, "c": 0})

        ideal = 2 + 1 / math.log2(3)
        assert found.ndcg == pytest.approx((2 + 1 / 2) / ideal)
        assert (found.reciprocal_rank, found.recall) == (1.0, 1.0)
        assert found.unjudged == pytest.approx(1 / 3)

    def test_of_two_ways_tell_wins_losses_and_how_surely(self):
        found = metrics.compare([1.0, 0.5, 0.2], [0.5, 0.5, 0.4])

        assert (found.wins, found.losses, found.ties) == (1, 1, 1)
        assert found.low < found.difference < found.high

    @pytest.mark.parametrize(
        ("form", "text"),
        [
            ("trec", "q1 0 doc 2\nq1 0 other -1"),
            ("csv", "key,question,document,grade\nq1,why,doc,2\nq1,why,other,0"),
            (
                "jsonl",
                '{"key": "q1", "question": "why", "document": "doc", "grade": 2}\n'
                '{"key": "q1", "question": "why", "document": "other", "grade": 0}',
            ),
        ],
    )
    def test_judgements_are_read_from_each_format(self, form, text):
        rows = judging.read(text, form)

        assert [(row.key, row.document, row.grade) for row in rows] == [
            ("q1", "doc", 2),
            ("q1", "other", 0),
        ]

    @pytest.mark.parametrize(
        ("form", "text"),
        [("trec", "1 0 x"), ("csv", "a,b\n1,2"), ("jsonl", "[1]"), ("trec", "1 0 x high")],
    )
    def test_wrong_judgements_name_the_line(self, form, text):
        with pytest.raises(judging.WrongJudgements, match="line 1"):
            judging.read(text, form)
