"""What is compared of texts: their text, words and runs of characters."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection.answers import Record, UnreadableAnswer
from dynscale_dspy.selection.features import LONGEST, LONGEST_OF_WORDS, bag, common_runs, runs, text_of, tokens
from dynscale_dspy.selection.similarity import CharacterF, ElementF1, Equal, Similarity, TokenF1
from tests import hostile


class Colour(Enum):
    RED = "red"


class Person(pydantic.BaseModel):
    name: str
    age: int | None = None


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int


class Unwritable:
    def __str__(self) -> str:
        raise RuntimeError("secret")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, ""),
        ("a\r\nb", "a\nb"),
        ("e\u0301", "é"),
        (42, "42"),
        (True, "True"),
        (Colour.RED, "red"),
        (["b", "a", None], "b\na"),
        ({"b", "a"}, "a\nb"),
        ({"name": "Ada"}, "name\nAda"),
        (Record(summary="short", label="x"), "short\nx"),
        (Person(name="Ada"), "Ada"),
        ([Person(name="Ada", age=36), Point(1, 2)], "Ada\n36\n1\n2"),
    ],
)
def test_every_answer_has_a_text(answer: Any, text: str) -> None:
    assert text_of(answer) == text


def test_what_cannot_be_read_is_said_so_without_its_words() -> None:
    endless: list[Any] = []
    endless.append(endless)
    wide: Any = "x"
    for _ in range(20):
        wide = [wide, wide]
    for answer, words in ((endless, "levels deep"), (wide, "parts"), (Unwritable(), "cannot be read: RuntimeError$")):
        with pytest.raises(UnreadableAnswer, match=words):
            text_of(answer)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n", []),
        ("The Eiffel Tower.", ["the", "eiffel", "tower"]),
        ("don't, don’t", ["don't", "don’t"]),
        ("__init__ snake_case", ["init", "snake_case"]),
        ("3.10 and 1,000 and -5", ["3.10", "and", "1,000", "and", "-5"]),
        ("x-5 = 10-20", ["x", "5", "=", "10", "20"]),
        ("C++ v C", ["c", "+", "+", "v", "c"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("東京タワー、です", list("東京タワーです")),
        ("กรุงเทพ", list("กรุงเทพ")),
        ("GPT-4は賢い", ["gpt", "4", "は", "賢", "い"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("서울 특별시", ["서울", "특별시"]),
        ("ｆｕｌｌ", ["full"]),
        ("?!", ["?", "!"]),
        ("👍", ["👍"]),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == [unicodedata.normalize("NFKC", word) for word in expected]


@pytest.mark.parametrize("text", ["เมืองหลวงของประเทศไทย", "日本の首都は東京です", "ເມືອງຫຼວງ", "ရန်ကုန်မြို့", "ភ្នំពេញ"])
def test_scripts_without_spaces_have_more_than_one_token(text: str) -> None:
    assert len(tokens(text)) >= len(text) // 2


@given(st.text())
def test_only_blank_text_has_no_tokens(text: str) -> None:
    assert bool(tokens(text)) == bool(text.split())


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_bags_have_the_elements_of_multisets_in_common(one: list[str], other: list[str]) -> None:
    assert len(bag(one)) == len(one)
    assert len(bag(one) & bag(other)) == (Counter(one) & Counter(other)).total()


letters = st.text(st.sampled_from("ab c\n東\U0001f44d"), max_size=30)


@given(letters, letters, st.integers(1, 7))
def test_runs_in_common_are_those_of_multisets(one: str, other: str, order: int) -> None:
    def counted(text: str, length: int) -> Counter[str]:
        bare = "".join(text.split())
        return Counter(bare[i : i + length] for i in range(len(bare) - length + 1))

    expected = [(counted(one, n) & counted(other, n)).total() for n in range(1, order + 1)]
    (first, counts), (second, _) = runs(one, order), runs(other, order)
    assert common_runs(first, second, order) == expected
    assert list(counts) == [total for n in range(1, order + 1) if (total := counted(one, n).total())]


def test_a_run_that_comes_thousands_of_times_is_counted_once_each_time() -> None:
    found, counts = runs("a" * 9000, 3)
    assert counts == (9000, 8999, 8998)
    assert common_runs(found, found, 3) == list(counts)


def test_of_long_text_so_much_counts() -> None:
    assert runs("ab" * LONGEST, 2)[1] == (LONGEST, LONGEST - 1)
    assert len(tokens("a " * LONGEST_OF_WORDS)) == len(tokens("東 " * LONGEST_OF_WORDS)) == LONGEST_OF_WORDS // 2


def test_text_that_is_no_unicode_has_runs() -> None:
    assert runs("\ud800a", 2)[1] == (2, 1)


@pytest.mark.parametrize("name", hostile.HUGE)
@pytest.mark.parametrize("similarity", [TokenF1(), CharacterF(), ElementF1(), Equal()], ids=repr)
def test_what_has_no_end_is_refused_by_every_similarity(name: str, similarity: Similarity) -> None:
    with pytest.raises(UnreadableAnswer):
        similarity.prepare(hostile.HUGE[name]())
