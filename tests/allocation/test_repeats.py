from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.evidence import TopTwo
from dynscale_dspy.allocation.likeness import Likeness
from dynscale_dspy.allocation.repeats import CALLS, MEMORY, SAMPLES, SEVERAL, Repeats
from dynscale_dspy.allocation.tally import Tally

calls = st.lists(st.lists(st.sampled_from(["A", "B", "C", "D", None]), max_size=8), max_size=30)


def told(*calls, known=None):
    """What is known after these calls, each the answers of its samples in order."""
    known = known or Repeats()
    for answers in calls:
        tally = Tally()
        for answer in answers:
            before, tally = tally, tally.add(answer)
            known.tell(before, tally)
    return known


def test_nothing_known_is_no_reason_to_draw_less():
    for answers in ("", "A", "AB", "ABCD", "AAB"):
        assert Repeats().promise(Tally.of(answers)) == 1


def test_where_samples_repeat_a_single_vote_keeps_its_worth():
    known = told(*["AA", "AB", "ABA", "ABCA"] * 20)
    assert known.level == 1 and not known.never
    assert known.promise(Tally.of("ABCD")) == 1


def test_where_none_ever_does_three_single_votes_are_worth_nothing_more_and_later_not_even_one_is():
    known = told(*["ABCD"] * 6)
    assert known.promise(Tally.of("ABC")) == 0 and 0 < known.promise(Tally.of("AB")) < 1
    told(*["ABCD"] * 4, known=known)
    assert [known.promise(Tally.of(answers)) for answers in ("", "A", "AB", "ABC")] == [0, 0, 0, 0]
    assert known.promise(Tally.of("AAB")) == known.promise(Tally.of("AABB")) == 1


def test_a_call_that_looks_goes_on_up_to_three_votes():
    known = told(*["ABCD"] * 20)
    assert known.promise(Tally.of("AB"), looking=True) == 1
    assert known.promise(Tally.of("ABC"), looking=True) == known.promise(Tally.of("A"), pending=2, looking=True) == 0


def test_a_program_that_changes_is_noticed():
    known = told(*["ABC"] * 200)
    assert known.level == 0
    told(*["AA"] * 10, known=known)
    assert known.level == 1


def test_never_is_said_after_enough_calls_and_samples_and_not_once_two_have_agreed():
    assert not told(*["ABCDEFGHI"] * (CALLS - 1)).never
    assert not told(*["AB"] * (SAMPLES - 1)).never
    known = told(*["AB"] * SAMPLES)
    assert known.never and known.counts == (SAMPLES, SAMPLES)
    assert not told("AA", known=known).never
    assert not told("AA", *["AB"] * 10 * MEMORY).never


def test_votes_that_are_not_compared_by_equality_are_left_alone():
    known = told(*["ABCD"] * 40)
    assert known.promise(TopTwo(1, 1, 8, 0)) == 1
    before = known.counts
    known.tell(TopTwo(1, 0, 1, 0), TopTwo(1, 1, 2, 0))
    assert known.counts == before


def test_a_weight_makes_no_single_vote_two():
    known = told(*["ABCD"] * 40)
    assert known.promise(Tally({"A": 2.0, "B": 0.5}, voters=2)) == 0
    assert known.promise(Tally({"A": 1.0, "B": 0.5}, voters=3)) == 1


@given(calls)
def test_the_promise_is_a_share_and_blanks_teach_nothing(answers):
    known = told(*answers)
    assert known.level in (0, 0.25, 0.5, 0.75, 1)
    without = told(*([answer for answer in each if answer is not None] for each in answers))
    assert (known.level, known.counts, known.never) == (without.level, without.counts, without.never)
    for each in answers:
        assert known.promise(Tally.of(each)) in (0, known.level, 1)
    assert known.promise(Tally.of(range(SEVERAL))) <= known.promise(Tally.of("A")) == known.level


# ---- answers that are more or less alike


def alike(samples: int, told: float | None, *, is_flat: bool = True) -> Likeness:
    return Likeness(1.0, 0.5, samples, valid=samples, told=told, is_flat=is_flat)


def test_where_no_sample_tells_others_apart_calls_end_early() -> None:
    known = Repeats()
    for _ in range(60):
        known.tell(alike(2, None), alike(3, 0.002))
    assert known.promise(alike(3, 0.002)) == 0 == known.promise(alike(1, None))
    assert known.promise(alike(1, None), looking=True) == 1.0
    assert known.promise(alike(3, 0.5, is_flat=False)) == 1.0  # but here they do
    assert not known.never  # which is about answers that are equal or not


def test_where_samples_tell_others_apart_nothing_changes() -> None:
    known = Repeats()
    for _ in range(60):
        known.tell(alike(1, None), alike(2, None))
        known.tell(alike(2, None), alike(3, 0.2))
    assert known.promise(alike(3, 0.01)) == 1.0
