"""Labels of closed types, and what a text may be the beginning of."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection.labels import Labels, labels_of


class Mood(enum.Enum):
    """Names and values of an enum differ."""

    GOOD = "happy"
    BAD = "sad"


@pytest.mark.parametrize(
    ("annotation", "labels"),
    [
        (Literal["a", "b"], ("a", "b")),
        (bool, (True, False)),
        (Mood, (Mood.GOOD, Mood.BAD)),
        (Optional[Literal["a"]], ("a", None)),  # noqa: UP045  # as users write it
        (Literal["a"] | Mood, ("a", Mood.GOOD, Mood.BAD)),
        (Annotated[Literal["a", "b"], "of a kind"], ("a", "b")),
        (Literal[1, True, "1"], (1, True, "1")),
        (Literal["a", "b"] | bool | Literal["a"], ("a", "b", True, False)),
        (str, None),
        (int, None),
        (list[Literal["a", "b"]], None),
        (Literal["a", "b"] | str, None),
    ],
)
def test_labels_are_the_values_of_a_closed_type(annotation: Any, labels: tuple[Any, ...] | None) -> None:
    assert labels_of(annotation) == labels


@pytest.mark.parametrize(
    ("values", "text", "begun"),
    [
        (["World", "Sports"], b"", {0, 1}),
        (["World", "Sports"], b' \n"**`', {0, 1}),
        (["World", "Sports"], b"Wor", {0}),
        (["World", "Sports"], b" world", {0}),
        (["World", "Sports"], b"SPORTS.\n", {1}),
        (["World", "Sports"], b"Worldwide", set()),
        (["World", "Sports"], b"The", set()),
        (["entailment", "entails"], b"entail", {0, 1}),
        (["entailment", "entails"], b"entails", {1}),
        (["not", "not sure"], b"not", {0, 1}),
        (["not", "not sure"], b"not ", {0, 1}),
        (["not", "not sure"], b"not s", {1}),
        (["not", "not sure"], b"not\n\n[[ ##", {0}),
        (["not", "not sure"], b"not, since", {0}),
        (["not", "not sure"], b"not sure\n", {1}),
        (["Sci", "Sci/Tech"], b"Sci/", {1}),
        (["Sci", "Sci/Tech"], b"Sci</topic>", {0}),
        (["a", "A"], b"a", {0}),
        (["a", "A"], b"A", {1}),
        (["A", "B", "C"], b"(B", set()),
        (["A", "B", "C"], b"B)", {1}),
        ([1, 10], b"1", {0, 1}),
        ([1, 10], b"1\n", {0}),
        ([1, 10], b"10", {1}),
        ([True, False], b"tr", {0}),
        ([True, False], b"False", {1}),
        ([True, False], b"Yes", {0}),
        (["a", None], b"null", {1}),
        (["a", None], b"None", {1}),
        ([Mood.GOOD, Mood.BAD], b"happy", {0}),
        ([Mood.GOOD, Mood.BAD], b"BAD", {1}),
        ([Mood.GOOD, Mood.BAD], b"Bad", {1}),
        (["naïve", "neat"], "naï".encode()[:3], {0}),  # a token may end in the middle of a character
        (["naïve", "neat"], rb"na\u00ef", {0}),  # as JSON may have it
        (["R&D", "Sales"], b"R&amp;D", {0}),  # as XML has it
        (['"quoted"', "plain"], b'"quo', {0}),
    ],
)
def test_what_a_text_may_be_the_beginning_of(values: list[Any], text: bytes, begun: set[int]) -> None:
    assert Labels(values).begun(text) == begun


def test_a_name_that_is_another_members_value_is_the_value() -> None:
    class Crossed(enum.Enum):
        A = "B"
        B = "A"

    labels = Labels(list(Crossed))
    assert labels.begun(b"B") == {0} and labels.begun(b"A") == {1}


@pytest.mark.parametrize("values", [["", "a"], [" ", "a"], ["*", "a"], ["a", "a "]])
def test_labels_without_a_spelling_of_their_own_are_refused(values: list[str]) -> None:
    with pytest.raises(ValueError, match="labels must each have a spelling of their own"):
        Labels(values)


names = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=2, max_size=6, unique=True)


@given(names, st.data())
def test_every_beginning_of_a_label_is_one_of_it(values: list[str], data: st.DataObject) -> None:
    try:
        labels = Labels(values)
    except ValueError:
        return
    place = data.draw(st.integers(0, len(values) - 1))
    written = values[place].strip(" \t\r\n\"'`*").encode()
    for end in range(len(written) + 1):
        assert place in labels.begun(written[:end])


@given(names, st.binary(max_size=20))
def test_any_text_is_taken(values: list[str], text: bytes) -> None:
    try:
        labels = Labels(values)
    except ValueError:
        return
    assert labels.begun(text) <= labels.all
    assert labels.begun(b" " + text) == labels.begun(text)
