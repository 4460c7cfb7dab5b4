"""Which output fields vote, and what their values say."""

# ruff: noqa: UP007, UP045 (`Optional[int]` and `int | None` are objects of different classes)
from __future__ import annotations

import enum
import pickle
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional, Union

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection.fields import ABSENT, allows_none, said, voting_fields


class Colour(enum.Enum):
    RED = "red"
    NONE = ""


class Shade(str, enum.Enum):
    NONE = ""


class Person(pydantic.BaseModel):
    name: str


LABELS = [Literal["a", "b"], Colour, bool, int, str, Person, Optional[Literal["a"]], list[str], dict[str, int]]
TEXTS = [str, Optional[str], str | None, list[str], tuple[str, ...], Annotated[str, "short"], Any, None]
NUMBERS = [float, int, Optional[float], Annotated[float, pydantic.Field(ge=0, le=1)], Decimal, int | float, list[float]]
EXPLAINING = [
    *(
        "explanation",
        "rationale",
        "justification",
        "evidence",
        "reason",
        "reasons",
        "why",
        "notes",
        "comment",
        "analysis",
    ),
    *(
        "thoughts",
        "label_explanation",
        "shortExplanation",
        "Explanation",
        "explanation_text",
        "reason_for_label",
        "why_not",
        "reasons_against",
        "reasoning_steps",
        "thoughtProcess",
        "explanation_short",
        "feedback",
        "scratchpad",
        "internal_monologue",
        "because",
    ),
]
RATING = [
    *("confidence", "score", "probability", "certainty", "likelihood", "probabilities", "label_confidence"),
    *("confidence_score", "risk_score", "confidenceLevel", "probability_percent"),
    *("probability_of_spam", "confidence_in_label", "confidenceThatItIs"),
]


class TestWhoVotes:
    @pytest.mark.parametrize("label", LABELS, ids=str)
    @pytest.mark.parametrize("name", EXPLAINING)
    def test_text_that_explains_a_label_does_not(self, name, label):
        for text in TEXTS:
            assert voting_fields({"label": label, name: text}) == ["label"]
            assert voting_fields({name: text, "label": label}) == ["label"]

    @pytest.mark.parametrize("label", LABELS, ids=str)
    @pytest.mark.parametrize("name", RATING)
    def test_a_number_that_rates_a_label_does_not(self, name, label):
        for number in NUMBERS:
            assert voting_fields({"label": label, name: number}) == ["label"]

    @pytest.mark.parametrize("name", ["confidence", "probability", "label_confidence", "confidence_score"])
    def test_nor_does_a_confidence_of_an_untyped_signature(self, name):
        assert voting_fields({"label": str, name: str}) == ["label"]

    @pytest.mark.parametrize("name", ["confidence", "certainty", "label_confidence", "confidence_level"])
    def test_nor_does_a_confidence_in_words(self, name):
        for words in (Literal["low", "medium", "high"], Optional[Literal["low", "high"]], Colour):
            assert voting_fields({"label": Literal["a", "b"], name: words}) == ["label"]
        assert voting_fields({name: Literal["low", "high"]}) == [name]

    @pytest.mark.parametrize(
        "outputs",
        [
            {"team": str, "score": str},  # 3:1
            {"label": str, "likelihood": Literal["high", "low"]},
            {"label": str, "score": Literal[1, 2, 3]},
            {"label": bool, "reason": Colour},
            {"order": str, "reason_code": str},
            {"label": str, "evidence": dict[str, int]},
            {"name": str, "amount": float, "rating": int},
            {"reasonable": str, "scored": int, "unexplained": str},
            {"label": str, "note": Person},
            {"label": str, "score": bool},
            {"winner": str, "score_of_home": int},
            {"label": str, "summary": str},
        ],
        ids=lambda outputs: ", ".join(outputs),
    )
    def test_all_others_do(self, outputs):
        assert voting_fields(outputs) == list(outputs)

    def test_a_score_votes_where_nothing_but_an_explanation_is_beside_it(self):
        assert voting_fields({"explanation": str, "score": float}) == ["score"]
        assert voting_fields({"score": float, "confidence": float, "why": str}) == ["score", "confidence"]

    @pytest.mark.parametrize("outputs", [{"score": float}, {"explanation": str}, {"notes": str, "comment": str}, {}])
    def test_alone_every_field_does(self, outputs):
        assert voting_fields(outputs) == list(outputs)

    @given(
        st.dictionaries(
            st.one_of(st.sampled_from(EXPLAINING + RATING), st.text(max_size=9)), st.sampled_from(LABELS + NUMBERS)
        )
    )
    def test_never_are_all_left_out_and_the_order_stays(self, outputs):
        voting = voting_fields(outputs)
        assert bool(voting) == bool(outputs)
        assert voting == [name for name in outputs if name in voting]


class TestNone:
    @pytest.mark.parametrize(
        "kind",
        [
            *(Optional[int], str | None, Union[None, str, int], Literal["a", None], Any, object, type(None)),
            *(Optional[Person], Optional[list[int]], Annotated[int | None, pydantic.Field(ge=0)], Optional[Colour]),
        ],
        ids=str,
    )
    def test_says_something_where_the_type_allows_it(self, kind):
        assert allows_none(kind)
        assert said(None, kind) is None

    @pytest.mark.parametrize(
        "kind", [int, str, Literal["a"], list[int], list[int | None], Person, Colour, dict, bool, Literal[""]], ids=str
    )
    def test_says_nothing_where_it_does_not(self, kind):
        assert not allows_none(kind)
        assert said(None, kind) is ABSENT

    def test_a_type_that_cannot_be_asked_does_not_allow_it(self):
        class Odd:
            """Pydantic knows no schema for it."""

        assert said(None, Odd) is ABSENT
        assert said(None, Annotated[int, {}]) is ABSENT  # it has no hash
        assert said(None, Annotated[int | None, {}]) is None

    def test_says_nothing_where_the_type_is_not_known(self):
        assert said(None, None) is ABSENT

    @pytest.mark.parametrize("text", ["", "  ", "null", "None", " null\n"])
    def test_is_what_a_model_writes_for_it_into_an_optional_text(self, text):
        assert said(text, Optional[str]) is None
        assert said("nothing", Optional[str]) == "nothing"


class TestBlank:
    @pytest.mark.parametrize("kind", [str, None, Annotated[str, "short"], int])
    def test_text_says_nothing(self, kind):
        assert said("", kind) is ABSENT and said(" \n", kind) is ABSENT

    def test_text_is_an_answer_where_the_type_lists_it(self):
        assert said("", Literal["", "a"]) == "" and said("", Optional[Literal["", "a"]]) == ""
        assert said(Colour.NONE, Colour) is Colour.NONE and said("", Shade) == ""

    @pytest.mark.parametrize("empty", [[], {}, (), set(), 0, False, 0.0, Person(name="")], ids=str)
    def test_what_is_empty_or_zero_is_an_answer(self, empty):
        for kind in (type(empty), None, Optional[type(empty)]):
            assert said(empty, kind) is empty

    def test_null_is_a_word_where_none_is_not_allowed(self):
        assert said("null", str) == "null" and said("None", Literal["None", "a", None]) == "None"


def test_absent_is_one_value():
    assert pickle.loads(pickle.dumps(ABSENT)) is ABSENT
    assert repr(ABSENT) == "ABSENT"
