from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.confidence import ENOUGH, LABELS, MEMORY, Agreement, Answers, chance_alike, chance_right
from dynscale_dspy.allocation.evidence import falls_short
from dynscale_dspy.allocation.likeness import Likeness
from dynscale_dspy.allocation.tally import Tally

kinds = st.sampled_from(Answers)
rates = st.floats(0, 1)
votes = st.lists(st.sampled_from("ABCD"), min_size=1, max_size=24)
blanks = st.integers(0, 24)
weights = st.lists(st.tuples(st.sampled_from("ABC"), st.floats(0.01, 4)), min_size=1, max_size=12)


def tally(said, empty=0):
    return Tally.of([*said, *[None] * empty])


def winner(votes):
    return max(votes.votes, key=lambda key: votes.votes[key])


@given(votes, blanks, rates, kinds)
def test_it_is_a_probability_of_more_than_nothing(said, empty, rate, answers):
    confidence = chance_right(tally(said, empty), rate, answers)
    assert 0 < confidence <= 1 and not falls_short(confidence, 0.0)


@given(blanks, rates, kinds)
def test_of_no_votes_it_is_nothing(empty, rate, answers):
    assert chance_right(tally("", empty), rate, answers) == 0 and falls_short(0.0, 0.0)


@given(votes, blanks, rates, kinds)
def test_a_vote_for_the_winner_makes_no_less_sure_and_one_for_another_no_surer(said, empty, rate, answers):
    now = tally(said, empty)
    before = chance_right(now, rate, answers)
    assert chance_right(now.add(winner(now)), rate, answers) >= before - 1e-12
    assert chance_right(now.add("another"), rate, answers) <= before + 1e-12


@given(st.integers(2, 24), st.data(), rates, kinds)
def test_of_as_many_votes_it_rises_with_the_winners_share(count, data, rate, answers):
    lead = data.draw(st.integers(count // 2 + 1, count - 1)) if count > 2 else 1
    fewer, more = ("A" * each + "B" * (count - each) for each in (lead, lead + 1))
    assert chance_right(tally(fewer), rate, answers) <= chance_right(tally(more), rate, answers)
    assert chance_right(tally(fewer), 0.5, answers) < chance_right(tally(more), 0.5, answers)


@given(votes, blanks, rates, kinds)
def test_a_sample_without_a_vote_makes_nothing_surer(said, empty, rate, answers):
    fewer, more = (chance_right(tally(said, each), rate, answers) for each in (empty, empty + 1))
    assert more <= fewer + 1e-12


@given(votes, blanks, rates, rates, kinds)
def test_it_rises_with_how_often_the_program_agrees_with_itself(said, empty, one, other, answers):
    low, high = sorted((one, other))
    now = tally(said, empty)
    assert chance_right(now, low, answers) <= chance_right(now, high, answers) + 1e-12


@given(st.floats(0.01, 0.99), kinds)
def test_one_vote_says_what_is_known_of_the_program(rate, answers):
    odds = answers.trust * (rate / (1 - rate)) ** answers.power
    assert chance_right(tally("A"), rate, answers) == pytest.approx(odds / (1 + odds))
    assert chance_right(Tally({"A": 2}, voters=1), rate, answers) == chance_right(tally("A"), rate, answers)


@given(st.integers(1, 24), st.integers(0, 24), st.floats(0.1, 9), rates, kinds)
def test_only_shares_of_weights_count(lead, rival, scale, rate, answers):
    plain = Tally({"A": lead, "B": rival} if rival else {"A": lead})
    scaled = Tally({key: count * scale for key, count in plain.votes.items()}, voters=plain.voters)
    assert chance_right(scaled, rate, answers) == pytest.approx(chance_right(plain, rate, answers))


@given(weights, blanks, rates, kinds)
def test_votes_may_have_real_weights(cast, empty, rate, answers):
    now = tally("", empty)
    for key, weight in cast:
        now = now.add(key, weight)
    confidence = chance_right(now, rate, answers)
    assert 0 < confidence <= 1
    assert chance_right(now.add(winner(now), max(weight for _, weight in cast)), rate, answers) >= confidence - 1e-12


def test_many_agreeing_votes_are_sure_unless_they_were_decided_at_once():
    assert chance_right(tally("A" * 400)) > 0.9999
    assert chance_right(tally("A" * 400), answers=Answers.CLOSED) > 0.99
    assert 0.7 < chance_right(tally("A" * 400), answers=Answers.AT_ONCE) < 0.8


@pytest.mark.parametrize(
    ("said", "empty", "answers", "confidence"),
    [
        ("AAAAAAAA", 0, Answers.OPEN, 0.98),
        ("AAAAABBB", 0, Answers.OPEN, 0.61),
        ("AAAAAAA", 1, Answers.OPEN, 0.96),
        ("A", 0, Answers.OPEN, 0.5),
        ("A", 7, Answers.OPEN, 0.5),
        ("ABCDEFGH", 0, Answers.OPEN, 0.02),
        ("AAAAAAAA", 0, Answers.CLOSED, 0.84),
        ("A", 0, Answers.CLOSED, 0.4),
        ("AAAAAAAA", 0, Answers.AT_ONCE, 0.6),
        ("A", 0, Answers.AT_ONCE, 0.5),
    ],
)
def test_confidence_of_an_unknown_program(said, empty, answers, confidence):
    assert round(chance_right(tally(said, empty), answers=answers), 2) == confidence


def test_the_page_has_these_figures():
    page = (Path(__file__).parents[2] / "docs" / "confidence.md").read_text(encoding="utf-8")
    said = {
        "8 of 8 for one answer": "AAAAAAAA",
        "4 of 4": "AAAA",
        "2 of 2": "AA",
        "1 of 1": "A",
        "5 to 3": "AAAAABBB",
        "7 for one answer, 1 failed": ["A"] * 7 + [None],
        "1 for one answer, 7 blank, failed or cut off": ["A"] + [None] * 7,
        "8 answers": "ABCDEFGH",
    }
    for name, answers in said.items():
        figures = " | ".join(f"{chance_right(Tally.of(answers), answers=kind):.2f}" for kind in Answers)
        assert f"| {name} | {figures} |" in page


# ---- what is learned of a program


@given(st.lists(st.booleans(), max_size=60))
def test_the_rate_is_that_of_the_calls_and_four_more_that_say_nothing(agreed):
    known = Agreement()
    for each in agreed:
        assert known.tell("A", "A" if each else "B") is each
    assert known.rate() == pytest.approx((sum(agreed) + 2) / (len(agreed) + 4))
    for one in set(agreed):
        assert known.rate(besides=one) == pytest.approx((sum(agreed) - one + 2) / (len(agreed) + 3))


@given(st.lists(st.booleans(), max_size=60), st.randoms(use_true_random=False))
def test_the_order_of_calls_does_not_matter(agreed, random):
    shuffled = agreed[:]
    random.shuffle(shuffled)
    one, other = Agreement(), Agreement()
    for first, second in zip(agreed, shuffled, strict=True):
        one.tell("A", "A" if first else "B")
        other.tell("A", "A" if second else "B")
    assert one.rate() == other.rate()


def test_a_program_that_changes_is_noticed():
    known = Agreement()
    for _ in range(3 * MEMORY):
        known.tell("A", "A")
    assert known.rate() > 0.98
    for _ in range(2 * MEMORY):
        known.tell("A", "B")
    assert known.rate() < 0.2


@given(st.lists(st.booleans(), max_size=60), st.sampled_from([None, True, False]))
def test_the_rate_is_never_out_of_range(agreed, besides):
    known = Agreement()
    for each in agreed:
        known.tell("A", "A" if each else "B")
    assert 0 < known.rate(besides=besides) < 1


def test_few_different_answers_over_many_calls_are_labels():
    known = Agreement()
    for number in range(ENOUGH):
        assert known.answers(Answers.OPEN) is Answers.OPEN
        known.tell(number % LABELS, number % 3)
    assert known.answers(Answers.OPEN) is Answers.CLOSED
    assert known.answers(Answers.AT_ONCE) is Answers.AT_ONCE
    known.tell("one more", 0)
    assert known.answers(Answers.OPEN) is Answers.OPEN
    assert known.answers(Answers.CLOSED) is Answers.CLOSED


def test_no_more_answers_are_kept_than_needed():
    known = Agreement()
    for number in range(1000):
        known.tell(number, -number)
    assert len(known._seen) <= LABELS + 2


# ---- answers that are more or less alike


def test_how_alike_the_winner_is_to_others_is_its_confidence():
    near, far = Likeness(3.6, 0.4, 4, valid=4), Likeness(2.0, 1.5, 4, valid=4)
    assert chance_alike(near) == pytest.approx((3.6 - 1 + 1) / 5)
    assert chance_alike(near) > chance_alike(far)
    assert chance_alike(near, 0.9) > chance_alike(near, 0.1)
    assert chance_alike(Likeness(1, 0, 1, valid=1), 0.8) == pytest.approx(0.8)
    assert chance_alike(Likeness(samples=2, blanks=2)) == 0


@given(st.integers(1, 20), st.integers(0, 10), st.floats(0, 1), st.floats(0, 1))
def test_it_is_a_share_and_blanks_never_make_surer(voters, blanks, share, agreement):
    lead = 1 + share * (voters - 1)
    likeness = Likeness(lead, 0, voters, valid=voters)
    found = chance_alike(likeness, agreement)
    assert 0 < found <= 1
    assert chance_alike(Likeness(lead, 0, voters + blanks, blanks, valid=voters), agreement) <= found + 1e-12


def test_how_alike_first_samples_are_is_learned():
    known = Agreement()
    for _ in range(96):
        assert known.tell_alike(0.75) == 0.75
    assert known.rate() == pytest.approx((96 * 0.75 + 2) / 100)
    assert known.rate(besides=0.75) == pytest.approx((95 * 0.75 + 2) / 99)
    assert known.answers(Answers.OPEN) is Answers.OPEN  # which of them are equal it was not told
