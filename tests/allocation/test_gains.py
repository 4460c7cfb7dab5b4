"""What is learned of samplers, against models of which the truth is known."""

import math
import random
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.allocation.evidence import TopTwo
from dynscale_dspy.allocation.gains import CONDITIONED, DOUBT, INDEPENDENT, ONE_ANSWER, Dissent, GainEstimator, state_of
from dynscale_dspy.allocation.tally import Tally

TIE = Tally.of("AB")


def play(known: GainEstimator, draw: Callable[[], str], *, sampler: str, calls: int = 2000, votes: str = "AB") -> None:
    """Calls in this state, in each of which two more samples of a sampler vote."""
    for _ in range(calls):
        tally, dissent = Tally.of(votes), Dissent(known)
        for _ in range(2):
            key = draw()
            dissent.tell(key, tally, "A", sampler=sampler)
            tally = tally.add(key)


@given(weights=st.lists(st.floats(0.05, 1), min_size=2, max_size=4), seed=st.integers(0, 2**16))
def test_the_estimate_is_what_a_second_sample_would_say(weights: list[float], seed: int):
    """For votes drawn alike: the chance that two of them agree, less the chance that one agrees with the leader."""
    chances = [weight / sum(weights) for weight in weights]
    generator = random.Random(seed)
    known = GainEstimator()
    play(known, lambda: generator.choices("ABCD"[: len(chances)], chances)[0], sampler=CONDITIONED, calls=4000)
    truth = sum(chance**2 for chance in chances) - chances[0]
    assert known.gain(TIE, sampler=CONDITIONED) == pytest.approx(truth, abs=0.05)


def test_a_model_that_follows_is_not_shown_attempts():
    generator = random.Random(1)
    known = GainEstimator()
    assert known.prefers(CONDITIONED, INDEPENDENT, TIE)  # the prior
    # Each call has an answer that independent votes prefer; shown both, the model takes either.
    for _ in range(400):
        favourite = generator.choice("AB")
        other = "B" if favourite == "A" else "A"
        for sampler in (CONDITIONED, INDEPENDENT):
            dissent = Dissent(known)
            for _ in range(2):
                odds = 0.5 if sampler == CONDITIONED else 0.8
                key = favourite if generator.random() < odds else other
                dissent.tell(key, TIE, "A", sampler=sampler)
    assert known.gain(TIE, sampler=CONDITIONED) == pytest.approx(0, abs=0.05)
    assert not known.prefers(CONDITIONED, INDEPENDENT, TIE)


def test_a_model_that_checks_is_shown_attempts_unless_they_cost_too_much():
    generator = random.Random(1)
    known = GainEstimator()
    for _ in range(400):
        right = generator.choice("AB")
        wrong = "B" if right == "A" else "A"
        for sampler, odds in ((CONDITIONED, 0.9), (INDEPENDENT, 0.6)):
            dissent = Dissent(known)
            for _ in range(2):
                dissent.tell(right if generator.random() < odds else wrong, TIE, "A", sampler=sampler)
    assert known.prefers(CONDITIONED, INDEPENDENT, TIE)
    assert known.prefers(CONDITIONED, INDEPENDENT, TIE, "tokens")  # no cost is known yet
    # The truth: .9 ** 2 + .1 ** 2 - .5 = .32 and .6 ** 2 + .4 ** 2 - .5 = .02
    assert known.gain(TIE, sampler=CONDITIONED) == pytest.approx(0.32, abs=0.06)
    assert known.gain(TIE, sampler=INDEPENDENT) == pytest.approx(0.02, abs=0.06)
    for times, favoured in ((2, True), (100, False)):
        known.cost(Cost(samples=1, completion_tokens=10), sampler=INDEPENDENT)
        known.cost(Cost(samples=1, completion_tokens=10 * times), sampler=CONDITIONED)
        assert known.prefers(CONDITIONED, INDEPENDENT, TIE, "tokens") is favoured
        assert known.prefers(CONDITIONED, INDEPENDENT, TIE)  # a sample counts one where samples are capped


def test_it_is_trusted_slowly():
    known = GainEstimator()
    before = known.gain(TIE, sampler=CONDITIONED)
    dissent = Dissent(known)
    for key in "BA":  # a dissent, and the next one sides with the leader
        dissent.tell(key, TIE, "A", sampler=CONDITIONED)
    after = known.gain(TIE, sampler=CONDITIONED)
    assert 0 < after < before
    assert before - after < 0.1


votes_of_samplers = st.tuples(st.sampled_from("ABC"), st.sampled_from([INDEPENDENT, CONDITIONED, "strong"]))


@given(keys=st.lists(votes_of_samplers, max_size=30))
def test_gains_are_bounded_whatever_the_votes(keys: list[tuple[str, str]]):
    known = GainEstimator()
    dissent, tally = Dissent(known), Tally()
    for key, sampler in keys:
        leader = max(tally.votes, key=lambda answer: tally.votes[answer]) if tally.valid else None
        dissent.tell(key, tally, leader, sampler=sampler)
        tally = tally.add(key)
    for votes in ("AB", "AAB", "AAAB", "AAAAB", "A"):
        for sampler in (CONDITIONED, INDEPENDENT, "strong"):
            assert -1 <= known.gain(Tally.of(votes), sampler=sampler) <= 1


@pytest.mark.parametrize(("votes", "state"), [("A", ONE_ANSWER), ("AAA", ONE_ANSWER), ("ABC", 0), ("AAAAAB", 3)])
def test_states(votes: str, state: int):
    assert state_of(Tally.of(votes)) == state


def test_calls_that_doubt_try_both_kinds_and_ever_less():
    generator = random.Random(0)

    def conditioned(known: GainEstimator) -> float:
        beliefs = [(DOUBT * generator.gauss(0.0, 1.0), DOUBT * generator.gauss(0.0, 1.0)) for _ in range(2000)]
        return sum(known.prefers(CONDITIONED, INDEPENDENT, TIE, beliefs=pair) for pair in beliefs) / len(beliefs)

    known = GainEstimator()
    assert 0.6 < (before := conditioned(known)) < 0.9
    # Conditioned samples agree with each other, independent ones do not.
    play(known, lambda: "B", sampler=CONDITIONED, calls=200)
    play(known, lambda: generator.choice("ABCDE"), sampler=INDEPENDENT, calls=200)
    assert conditioned(known) > 0.99 > before


def test_threads_lose_no_vote():
    known = GainEstimator()
    threads = [
        threading.Thread(target=play, args=(known, lambda: "B"), kwargs={"sampler": CONDITIONED, "calls": 500})
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = known._records[CONDITIONED]
    assert record.opinions[0] == 4000
    assert record.votes[0] == record.dissents[0] == 8000 - 4000  # the second vote meets another state


def test_a_sampler_of_another_name_starts_like_an_independent_one_and_learns_for_itself():
    known = GainEstimator()
    assert known.gain(TIE, sampler="strong") == known.gain(TIE, sampler=INDEPENDENT)
    independent = known.gain(TIE, sampler=INDEPENDENT)
    play(known, lambda: "B", sampler="strong", calls=100)
    assert known.gain(TIE, sampler="strong") > 0.3 > known.gain(TIE, sampler=INDEPENDENT) == independent
    assert known.prefers("strong", INDEPENDENT, TIE) and not known.prefers(INDEPENDENT, "strong", TIE)


def test_beliefs_are_of_the_challenger_then_of_the_incumbent():
    known = GainEstimator()
    assert known.prefers("strong", INDEPENDENT, TIE, beliefs=(0.5, -0.5))
    assert not known.prefers("strong", INDEPENDENT, TIE, beliefs=(-0.5, 0.5))


@given(lead=st.floats(0, 10), rival=st.floats(0.01, 10))
def test_a_lead_of_real_weight_counts_in_whole_votes(lead: float, rival: float):
    evidence = TopTwo(rival + lead, rival, samples=20)
    assert state_of(evidence) == min(math.floor((rival + lead) - rival), 3)
