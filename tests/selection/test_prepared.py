"""What is compared of votes is compared once."""

from __future__ import annotations

import gc
import pickle
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest

from dynscale_dspy.selection.prepared import Prepared, exact_weight, prepared
from dynscale_dspy.selection.similarity import UNITS, EqualOutputs, TokenF1


@dataclass(frozen=True)
class Told:
    """A similarity that says what it is told, and how often it was asked."""

    says: Any = 0.25
    asked: list[Any] = field(default_factory=list, compare=False)

    def prepare(self, answer: Any) -> Any:
        return answer

    def between(self, one: Any, other: Any) -> float:
        self.asked.append((one, other))
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


def test_a_pair_is_compared_once_by_each_similarity() -> None:
    told, one, other = Told(), Prepared("a"), Prepared("b")
    assert [one.alike(other, told) for _ in range(3)] == [UNITS // 4] * 3
    assert told.asked == [("a", "b")]
    assert one.alike(other, Told(0.5)) == UNITS // 2


def test_what_is_gone_is_not_taken_for_another() -> None:
    told, one = Told(), Prepared("a")
    for name in "bcdef":
        one.alike(Prepared(name), told)
        gc.collect()
    assert [pair[1] for pair in told.asked] == list("bcdef")


@pytest.mark.parametrize("says", [-0.1, 1.5, float("nan"), float("inf"), "much", None, RuntimeError("no")])
def test_what_is_no_similarity_counts_nothing(says: Any) -> None:
    assert Prepared("a").alike(Prepared("b"), Told(says)) == 0


def test_it_is_sent_without_what_was_compared() -> None:
    one, other = Prepared(("a",)), Prepared("b")
    one.alike(other, Told())
    assert pickle.loads(pickle.dumps(one)).value == ("a",)


def test_a_vote_has_what_is_compared_or_is_none() -> None:
    vote = prepared("a red fox", "key", TokenF1())
    assert vote is not None and vote.key == "key" and vote.features.value == TokenF1().prepare("a red fox")
    assert prepared("1 +", "key", EqualOutputs(eval)) is None


def test_weights_are_exact() -> None:
    assert exact_weight(2.0) == 2 and isinstance(exact_weight(2.0), int)
    assert exact_weight(0.1) + exact_weight(0.2) + exact_weight(0.3) == Fraction(0.1) + Fraction(0.2) + Fraction(0.3)
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="^weight must be positive, got"):
            exact_weight(wrong)
