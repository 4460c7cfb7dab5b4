from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.evidence import Detail, Evidence
from dynscale_dspy.allocation.policies import EarlyStopping, KnowledgeGradient, OrderedTally, Policy, Uniform
from dynscale_dspy.allocation.tally import Tally


class Rule(Policy):
    def index(self, tally, *, pending=0, total=0):
        return 1.0

    def opening_price(self, per_call):
        return 1.0


class TestOrderedTally:
    def test_adding_keeps_the_streak(self):
        tally = OrderedTally.of("AAB").add("B")
        assert (tally.streak, tally.latest, tally.leader) == (2, "B", 2)

    def test_a_failed_sample_ends_the_streak(self):
        assert OrderedTally.of(["A", None, "A"]).streak == 1

    def test_is_a_tally(self):
        assert OrderedTally.of("AAB").counts == Tally.of("AAB").counts

    @given(st.lists(st.tuples(st.sampled_from(["A", "B", None]), st.floats(0.1, 5)), max_size=12))
    def test_weights_count_as_in_a_tally(self, said):
        plain, ordered = Tally(), OrderedTally()
        for key, weight in said:
            plain, ordered = plain.add(key, weight), ordered.add(key, weight)
        assert (plain.votes, plain.samples, plain.blanks) == (ordered.votes, ordered.samples, ordered.blanks)

    def test_is_evidence_with_order(self):
        assert isinstance(OrderedTally(), Evidence) and OrderedTally().detail == Detail.ORDER


class TestNeeds:
    def test_counts_unless_said_otherwise(self):
        assert Policy.needs == Rule.needs == Detail.COUNTS

    def test_the_tally_is_of_the_kind_needed(self):
        assert type(EarlyStopping().tally()) is OrderedTally
        assert type(KnowledgeGradient().tally()) is type(Rule().tally()) is Tally


class TestPoliciesOfVersionOne:
    @pytest.mark.parametrize(
        ("base", "flags", "needs"),
        [
            (Rule, {"top_two": True}, Detail.TOP_TWO),
            (Rule, {"ordered": True}, Detail.ORDER),
            (Rule, {"ordered": False}, Detail.COUNTS),
            (Rule, {"top_two": False, "ordered": False}, Detail.COUNTS),
            (Rule, {"top_two": True, "ordered": True}, Detail.ORDER),
            (Uniform, {"top_two": False}, Detail.COUNTS),
            (Uniform, {"ordered": False}, Detail.TOP_TWO),
            (EarlyStopping, {"ordered": False}, Detail.COUNTS),
        ],
    )
    def test_their_flags_say_what_they_need(self, base, flags, needs):
        with pytest.warns(DeprecationWarning, match=rf"^Old\.\w+.* is deprecated: use needs = Detail\.{needs.name}$"):
            kind = type(base)("Old", (base,), dict(flags))
        assert kind.needs == needs
        for name, value in flags.items():
            assert getattr(kind, name) is value

    def test_the_warning_is_at_the_class(self):
        with pytest.warns(DeprecationWarning) as told:

            class Old(Rule):
                ordered: ClassVar[bool] = True

        assert [warning.filename for warning in told] == [__file__]
        assert type(Old().tally()) is OrderedTally

    def test_subclasses_inherit_without_a_further_warning(self):
        with pytest.warns(DeprecationWarning):

            class Old(Rule):
                top_two = True

        with warnings.catch_warnings():
            warnings.simplefilter("error")

            @dataclass(frozen=True)
            class Newer(Old):
                first: int = 2

        assert Newer().needs == Detail.TOP_TWO

    def test_flags_of_a_mixin_count(self):
        class InOrder:
            ordered = True

        with pytest.warns(DeprecationWarning, match=r"^Old\.ordered is deprecated: use needs = Detail\.ORDER$"):

            class Old(InOrder, Rule):
                pass

        assert Old.needs == Detail.ORDER

    def test_who_says_both_is_believed_by_the_new_word(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")

            class Both(Rule):
                needs = Detail.TOP_TWO
                top_two = True  # read by version 0.1

        assert Both.needs == Detail.TOP_TWO

    def test_reading_a_flag_warns_and_tells(self):
        with pytest.warns(DeprecationWarning, match=r"^KnowledgeGradient.top_two is deprecated: use KnowledgeGradient"):
            assert KnowledgeGradient.top_two and KnowledgeGradient().top_two
        with pytest.warns(DeprecationWarning, match=r"^EarlyStopping.ordered is deprecated: use EarlyStopping.needs$"):
            assert EarlyStopping().ordered and not EarlyStopping().top_two
