"""Laws that any policy must keep: a class to inherit in a test, so that pytest runs them on your policy.

Example::

    from dynscale_dspy.testing.policies import PolicyLaws


    class TestMyPolicy(PolicyLaws):
        def policy(self):
            return MyPolicy()
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator, Sequence

import numpy as np

from dynscale_dspy.allocation.evidence import Detail, TopTwo
from dynscale_dspy.allocation.policies import ExploringPolicy, OrderedTally, Policy
from dynscale_dspy.allocation.tally import Tally

Answers = Sequence[str | None]

SEED = 20260101


class PolicyLaws:
    """What the pool, the plan and the replay rely on in a policy.

    Override :meth:`policy`. A rule that by nature depends on the order of an arm's samples says so itself
    (it ``needs`` ``Detail.ORDER``), and is excused from the law on order.
    """

    def policy(self) -> Policy:
        """A fresh policy to test."""
        raise NotImplementedError("override policy() to return the policy under test")

    # ---- an index

    def test_index_is_finite_and_at_least_zero(self) -> None:
        """Whatever was drawn, is in flight or was drawn elsewhere."""
        policy = self.policy()
        for answers in _histories():
            tally = _tally(policy, answers)
            for pending in (0, 1, 7, 64):
                for total in (0, len(answers) + pending, 100_000):
                    _check_index(policy.index(tally, pending=pending, total=total), answers)

    def test_index_of_large_counts_is_finite_and_at_least_zero(self) -> None:
        """Thousands of samples must neither overflow nor turn into a negative worth."""
        policy = self.policy()
        for votes in ((500,), (5000, 4990), (100_000, 3, 1), (200, 200), (64, 63, 62)):
            tally = Tally(dict(enumerate(votes)), 0)
            _check_index(policy.index(tally, total=1_000_000), votes)

    def test_index_of_real_weights_is_finite_and_at_least_zero(self) -> None:
        """Votes need not count one each."""
        policy = self.policy()
        generator = np.random.default_rng(SEED)
        for answers in _histories():
            tally = policy.tally()
            for answer in answers:
                tally = tally.add(answer, weight=float(generator.uniform(0.01, 3)))
            for pending in (0, 1, 7):
                _check_index(policy.index(tally, pending=pending, total=100), answers)

    def test_whole_weights_are_votes(self) -> None:
        """A vote of weight 1.0 is a vote."""
        policy = self.policy()
        for answers in _histories():
            real = policy.tally()
            for answer in answers:
                real = real.add(answer, weight=1.0)
            expected = policy.index(_tally(policy, answers), pending=2, total=99)
            assert policy.index(real, pending=2, total=99) == expected

    def test_unsampled_call_is_worth_a_sample(self) -> None:
        """Before its first sample an arm must not be given up."""
        policy = self.policy()
        assert policy.index(policy.tally()) > 0

    def test_votes_that_never_come_are_survived(self) -> None:
        """A call whose samples all failed has an index like any other."""
        policy = self.policy()
        for empty in range(1, 65):
            _check_index(policy.index(_tally(policy, [None] * empty), total=empty), empty)

    def test_index_is_deterministic(self) -> None:
        """Same policy, same tally, same index; and so for an equal policy, a copy, or one loaded from disk."""
        policy = self.policy()
        twins = (self.policy(), copy.deepcopy(policy), pickle.loads(pickle.dumps(policy)))
        for answers in _histories():
            tally = _tally(policy, answers)
            expected = policy.index(tally, pending=1, total=50)
            for twin in (policy, *twins):
                assert twin.index(tally, pending=1, total=50) == expected

    def test_index_does_not_depend_on_what_was_asked_before(self) -> None:
        """Policies have no memory: arms can be asked about in any order."""
        histories = list(_histories())
        policy, other = self.policy(), self.policy()
        forward = [policy.index(_tally(policy, answers), total=100) for answers in histories]
        backward = [other.index(_tally(other, answers), total=100) for answers in reversed(histories)]
        assert forward == backward[::-1]

    # ---- symmetry

    def test_order_of_samples_does_not_matter(self) -> None:
        """Samples come back in any order; only rules that declare it may care."""
        policy = self.policy()
        if policy.needs == Detail.ORDER:
            return
        generator = np.random.default_rng(SEED)
        for answers in _histories():
            shuffled = [answers[i] for i in generator.permutation(len(answers))]
            _same(
                policy.index(_tally(policy, answers), total=99),
                policy.index(_tally(policy, shuffled), total=99),
                answers,
            )

    def test_names_of_answers_do_not_matter(self) -> None:
        """Answers are told apart, not read."""
        policy = self.policy()
        names = dict(zip("ABCDEFGH", ("zeta", "B", "yes", "42", "", "A", " ", "ω"), strict=True))
        for answers in _histories():
            renamed = [None if answer is None else names[answer] for answer in answers]
            _same(
                policy.index(_tally(policy, answers), total=99),
                policy.index(_tally(policy, renamed), total=99),
                answers,
            )

    # ---- what a policy says about itself

    def test_first_is_a_positive_integer(self) -> None:
        """Every call gets at least one sample."""
        first = self.policy().first
        assert isinstance(first, int) and not isinstance(first, bool) and first >= 1

    def test_opening_price_is_positive_and_finite(self) -> None:
        """An online pool multiplies it."""
        policy = self.policy()
        for per_call in (1, 1.5, 2, 8, 64, 1000):
            price = policy.opening_price(per_call)
            assert 0 < price < math.inf, f"opening_price({per_call}) is {price!r}"

    def test_total_matters_only_where_declared(self) -> None:
        """Ranks are kept between samples of other arms unless ``depends_on_total``."""
        policy = self.policy()
        if policy.depends_on_total:
            return
        for answers in _histories():
            tally = _tally(policy, answers)
            assert policy.index(tally, total=10) == policy.index(tally, total=10_000)

    def test_exploration_terms_add_up_to_the_index(self) -> None:
        """A replay recombines them."""
        policy = self.policy()
        if not isinstance(policy, ExploringPolicy):
            return
        for answers in _histories():
            if answers:
                tally = _tally(policy, answers)
                score, weight = policy.terms(tally, pending=2)
                _same(policy.index(tally, pending=2, total=500), score + policy.growth(500) * weight, answers)

    def test_needs_is_a_detail(self) -> None:
        """Selectors are asked whether they offer it."""
        assert isinstance(self.policy().needs, Detail)

    def test_only_the_top_two_matter_where_declared(self) -> None:
        """A policy that needs the top two alone tells apart neither the other answers nor kinds of evidence."""
        policy = self.policy()
        if policy.needs > Detail.TOP_TWO:
            return
        scattered, empty = Tally.of("AAABBCDE"), Tally.of(["A", "A", "A", "B", "B", None, None, None])
        _same(policy.index(scattered, total=20), policy.index(empty, total=20), "AAABB and three others")
        for answers in _histories():
            tally = Tally.of(answers)
            top_two = TopTwo(tally.lead, tally.rival, tally.samples, tally.blanks)
            for pending in (0, 3):
                assert policy.index(top_two, pending=pending) == policy.index(tally, pending=pending), answers

    def test_answers_matter_only_where_declared(self) -> None:
        """A rule that is not ``adaptive`` looks at the number of samples alone."""
        policy = self.policy()
        if policy.adaptive:
            return
        _same(policy.index(_tally(policy, "AAAA")), policy.index(_tally(policy, ["A", "B", None, "C"])), "four samples")

    # ---- budgets

    def test_known_set_stays_within_budget(self) -> None:
        """Replayed over a known set, and in a few rounds, it spends at most its budget and starts every call."""
        self._spends_within_budget(mode="batch")
        self._spends_within_budget(mode="batch", rounds=3)

    def test_online_stays_within_budget(self) -> None:
        """Calls that come one by one never draw more than the allowance, alone or many at once."""
        for concurrency in (1, 8):
            self._spends_within_budget(mode="online", concurrency=concurrency)

    def _spends_within_budget(self, **options: object) -> None:
        from dynscale_dspy.replay import Pool, Question, replay

        generator = np.random.default_rng(SEED)
        questions = []
        for i in range(24):
            shares = generator.dirichlet(np.full(5, 0.5))
            drawn = [None if k == 4 else "ABCD"[k] for k in generator.choice(5, size=24, p=shares)]
            questions.append(Question(str(i), tuple(drawn), frozenset("A")))
        result = replay(
            Pool("simulated", tuple(questions)), {"tested": self.policy()}, budgets=(1, 2.5, 6, 12), replicates=4,
            with_bounds=False, **options,  # type: ignore[arg-type]
        )  # fmt: skip
        for record in result.records:
            assert record.spent is not None
            assert 1 <= record.spent <= record.budget, f"{record.policy} spent {record.spent} of {record.budget}"


def _tally(policy: Policy, answers: Answers) -> Tally:
    return OrderedTally.of(answers) if policy.needs == Detail.ORDER else Tally.of(answers)


def _histories() -> Iterator[Answers]:
    """Empty, unanimous, tied and scattered ones, and random ones of up to 40 samples."""
    yield from ([], ["A"], [None], ["A", "B"], ["A"] * 20, ["A", "B"] * 10, list("ABCDEFGH"), [None] * 9 + ["A"])
    generator = np.random.default_rng(SEED)
    for length in range(1, 41):
        shares = generator.dirichlet(np.full(9, 0.3))
        yield [None if k == 8 else "ABCDEFGH"[k] for k in generator.choice(9, size=length, p=shares)]


def _check_index(index: float, about: object) -> None:
    assert isinstance(index, (int, float)), f"index of {about!r} is not a number: {index!r}"
    assert 0 <= index < math.inf, f"index of {about!r} must be finite and at least 0, got {index!r}"


def _same(one: float, other: float, about: object) -> None:
    assert math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12), f"{one!r} != {other!r} for {about!r}"
