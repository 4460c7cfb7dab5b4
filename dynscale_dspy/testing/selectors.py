"""Laws that any selector must keep: a class to inherit in a test, so that pytest runs them on your selector.

Example::

    from dynscale_dspy.testing import SelectorLaws


    class TestMySelector(SelectorLaws):
        def selector(self):
            return MySelector()
"""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dynscale_dspy.allocation.evidence import Detail, Evidence
from dynscale_dspy.allocation.policies import OrderedTally
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.selection.base import Group, Selection, Selector

SEED = 20260101


@dataclass(frozen=True)
class Said:
    """What one sample of a history says.

    Args:
        answer: Position of its answer in :meth:`SelectorLaws.answers`, or after those in :meth:`SelectorLaws.alike`;
            None if it casts no vote.
        sample: Its index among the call's samples.
        weight: What its vote counts.
        conditioned: Whether it saw earlier samples.
    """

    answer: int | None
    sample: int
    weight: float = 1.0
    conditioned: bool = False


History = Sequence[Said]


class SelectorLaws:
    """What the plan, reports, chains and the bandit rely on in a selector.

    Override :meth:`selector`; :meth:`answers` if the selector does not take plain text, or tells some pairs of the
    default answers less apart than others; and :meth:`alike` if it compares by similarity.
    """

    def selector(self) -> Selector:
        """A fresh selector to test."""
        raise NotImplementedError("override selector() to return the selector under test")

    def answers(self) -> Sequence[Any]:
        """Three answers or more, all different, and each as different from any other."""
        return ("red", "green", "blue")

    def alike(self) -> Sequence[Any]:
        """Answers that are all different and alike to different degrees; none where answers are equal or not.

        All laws but two hold for them too: answers that change places are judged otherwise, and the answer that most
        others are like comes before the one with most votes.
        """
        return ()

    # ---- reading

    def test_reading_is_repeatable(self) -> None:
        """The selector, an equal one, a copy and one loaded from disk read the same; reading changes nothing."""
        selector = self.selector()
        for reader in (selector, self.selector(), copy.deepcopy(selector), pickle.loads(pickle.dumps(selector))):
            for answer in self.answers():
                one, other = selector.read(answer), reader.read(answer)
                assert one is not None and other is not None, f"{answer!r} casts no vote"
                assert one.key == other.key and one.answer == answer

    def test_answers_are_different(self) -> None:
        """Those that the laws are held against."""
        for answers in (self.answers(), self.alike()):
            keys = []
            for answer in answers:
                vote = self.selector().read(answer)
                assert vote is not None, f"{answer!r} casts no vote"
                (group,) = self.selector().empty().add(vote, sample=0).groups()
                keys.append(group.key)
            assert len(set(keys)) == len(keys), answers

    def test_none_is_an_answer(self) -> None:
        """None may be what a program rightly says, "there is none": a sample without an answer is not read at all."""
        vote = self.selector().read(None)
        assert vote is not None and vote.answer is None, "None casts no vote"
        selection = self.selector().empty().add(vote, sample=0)
        for place, answer in enumerate(self.answers(), 1):
            selection = selection.add(self.selector().read(answer), sample=place)
        assert len(selection.groups()) == 1 + len(self.answers()), "None is taken for another answer"

    # ---- nobody has voted

    def test_nothing_wins_before_the_first_vote(self) -> None:
        """An empty selection and one of blanks have no winner, no groups and no weight."""
        for blanks in range(4):
            selection = self._selection([Said(None, i) for i in range(blanks)])
            evidence = selection.evidence()
            assert selection.winner() is None and not selection.groups()
            assert (evidence.lead, evidence.rival, evidence.confidence) == (0, 0, 0)
            assert evidence.samples == evidence.blanks == blanks

    # ---- who wins

    def test_the_winner_is_a_sample_that_voted(self) -> None:
        """Its own prediction is returned, so it must have one; a sample without a vote never wins."""
        for history in self._histories():
            voters = [said.sample for said in history if said.answer is not None]
            for favour in (False, True):
                winner = self._selection(history).winner(favour_conditioned=favour)
                assert winner in voters if voters else winner is None, f"{winner!r} wins {history}"

    def test_order_of_adding_does_not_matter(self) -> None:
        """Samples come back in any order, and neither the winner nor the groups depend on it."""
        generator = np.random.default_rng(SEED)
        for history in self._histories():
            shuffled = [history[i] for i in generator.permutation(len(history))]
            one, other = self._selection(history), self._selection(shuffled)
            _same_result(one, other, history)
            first, second = one.evidence(), other.evidence()
            assert (first.samples, first.blanks) == (second.samples, second.blanks)
            for name in ("lead", "rival", "confidence"):
                _close(getattr(first, name), getattr(second, name), history)

    def test_names_of_answers_do_not_matter(self) -> None:
        """If answers change places, the samples that say them are judged as before."""
        count = len(self.answers())
        for history in self._histories(degrees=False):
            turned = [
                said if said.answer is None else replace(said, answer=(said.answer + 1) % count) for said in history
            ]
            one, other = self._selection(history), self._selection(turned)
            assert one.winner() == other.winner(), history
            assert [group.samples for group in one.groups()] == [group.samples for group in other.groups()], history
            _close(one.evidence().confidence, other.evidence().confidence, history)

    def test_blanks_change_neither_winner_nor_groups(self) -> None:
        """A sample that casts no vote is counted, and never makes anything surer."""
        for history in self._histories():
            before = self._selection(history)
            after = before.add(None, sample=len(history))
            _same_result(before, after, history)
            was, now = before.evidence(), after.evidence()
            assert (now.samples, now.blanks) == (was.samples + 1, was.blanks + 1), history
            assert now.confidence <= was.confidence + 1e-9, history  # a tie is rounded
            assert (now.lead, now.rival) == (was.lead, was.rival), history

    def test_scaling_all_weights_changes_no_result(self) -> None:
        """Weights are compared with each other: doubled or halved, the same sample wins, and groups scale."""
        for history in self._histories():
            for factor in (0.5, 2.0, 64.0):  # powers of two round nothing
                scaled = [replace(said, weight=said.weight * factor) for said in history]
                one, other = self._selection(history), self._selection(scaled)
                assert one.winner() == other.winner(), history
                assert one.evidence().samples == other.evidence().samples, history
                assert [g.samples for g in one.groups()] == [g.samples for g in other.groups()], history
                for group, grown in zip(one.groups(), other.groups(), strict=True):
                    _close(group.weight * factor, grown.weight, history)

    # ---- whether it is settled

    def test_settled_means_that_nothing_can_change(self) -> None:
        """Whatever so many more samples say, blanks and answers not seen so far among it, the same answer wins."""
        checked: set[tuple[tuple[int | None, bool], ...]] = set()
        for history in self._histories():
            plain = tuple((said.answer, said.conditioned) for said in history)
            if len(history) > 8 or plain in checked or any(said.weight != 1 for said in history):
                continue
            checked.add(plain)
            selection = self._selection(history)
            for pending in range(1, 4):
                if not selection.is_settled(pending):
                    continue
                for favour in (False, True):
                    expected = _winning_key(selection, favour)
                    kinds = ((None, False), *itertools.product(self._said_beside(history), (False, True)))
                    for more in itertools.product(kinds, repeat=pending):
                        later = [
                            Said(answer, len(history) + i, conditioned=conditioned)
                            for i, (answer, conditioned) in enumerate(more)
                        ]
                        found = _winning_key(self._selection(later, selection), favour)
                        assert found == expected, f"{history} was settled with {pending} pending, then came {later}"

    def test_enough_samples_can_change_anything(self) -> None:
        """No lead is safe from any number of samples."""
        for history in self._histories():
            assert not self._selection(history).is_settled(10**9), history

    # ---- values

    def test_adding_leaves_the_old_selection_as_it_was(self) -> None:
        """A selection is a value: what was asked of it before and after something is added to it is the same."""
        for history in self._histories():
            selection = self._selection(history)
            before = _snapshot(selection)
            for answer in (*self._said_beside(history), None):
                self._selection([Said(answer, len(history), weight=2.0)], selection)
            assert _snapshot(selection) == before, history

    def test_samples_are_numbered_as_they_are_added(self) -> None:
        """Where no index is given, it is the number of samples added before, blanks included."""
        for history in self._histories():
            in_order = [replace(said, sample=i) for i, said in enumerate(history)]
            selection = self.selector().empty()
            for said in in_order:
                selection = selection.add(self._vote(said), weight=said.weight, conditioned=said.conditioned)
            _same_result(selection, self._selection(in_order), history)

    # ---- what others see of it

    def test_groups_are_the_voters(self) -> None:
        """Every sample that voted is in one group; groups are heaviest first, and add up to what was cast."""
        for history in self._histories():
            by_sample = {said.sample: said for said in history if said.answer is not None}
            groups = self._selection(history).groups()
            assert sorted(i for group in groups for i in group.samples) == sorted(by_sample), history
            assert len({group.key for group in groups}) == len(groups), history
            order = [(-group.weight, group.samples[0]) for group in groups]
            assert order == sorted(order) or self._is_of_degrees(history), history
            for group in groups:
                assert list(group.samples) == sorted(group.samples), history
                said = [by_sample[i] for i in group.samples]
                _close(group.independent, math.fsum(s.weight for s in said if not s.conditioned), history)
                _close(group.conditioned, math.fsum(s.weight for s in said if s.conditioned), history)
                answer = said[0].answer
                assert answer is not None and group.answer == self._answers()[answer], history

    def test_evidence_is_within_bounds(self) -> None:
        """The lead is at least the rival's, confidence a half or more once one has voted, every sample counted once."""
        for history in self._histories():
            evidence = self._selection(history).evidence()
            assert isinstance(evidence, Evidence)
            assert 0 <= evidence.rival <= evidence.lead < math.inf, history
            voters = sum(said.answer is not None for said in history)
            least = 0.5 - 1e-9 if voters else 0.0  # a tie is rounded
            assert least <= evidence.confidence <= (1 if voters else 0), history
            assert evidence.samples == len(history) and evidence.blanks == len(history) - voters, history

    def test_evidence_offers_the_detail_it_says(self) -> None:
        """It is a tally where it offers counts, an ordered one where it offers their order, and the same throughout."""
        offered = self.selector().empty().evidence().detail
        for history in self._histories():
            evidence = self._selection(history).evidence()
            assert evidence.detail == offered, history
            assert offered < Detail.COUNTS or isinstance(evidence, Tally), history
            assert offered < Detail.ORDER or isinstance(evidence, OrderedTally), history

    # ---- helpers

    def _vote(self, said: Said) -> Any:
        return None if said.answer is None else self.selector().read(self._answers()[said.answer])

    def _answers(self) -> Sequence[Any]:
        return (*self.answers(), *self.alike())

    def _is_of_degrees(self, history: History) -> bool:
        return any(said.answer is not None and said.answer >= len(self.answers()) for said in history)

    def _said_beside(self, history: History) -> range:
        """The answers among which those of a history are."""
        count = len(self.answers())
        return range(count, len(self._answers())) if self._is_of_degrees(history) else range(count)

    def _selection(self, history: History, selection: Selection | None = None) -> Selection:
        if selection is None:
            selection = self.selector().empty()
        for said in history:
            selection = selection.add(
                self._vote(said), sample=said.sample, weight=said.weight, conditioned=said.conditioned
            )
        return selection

    def _histories(self, *, degrees: bool = True) -> Iterator[History]:
        """Histories of the different answers, and of those that are alike to different degrees if asked for."""
        yield from _histories(len(self.answers()))
        if degrees and self.alike():
            first = len(self.answers())
            for history in _histories(len(self.alike())):
                yield [replace(said, answer=None if said.answer is None else said.answer + first) for said in history]


def _histories(count: int) -> Iterator[History]:
    """All of up to three samples, clear and tied ones, and random ones with weights and samples that saw others."""
    for length in range(4):
        for answers in itertools.product((None, *range(count)), repeat=length):
            yield [Said(answer, i) for i, answer in enumerate(answers)]
    for answers in ((0,) * 6, (0,) * 5 + (1,), (0, 0, 0, 0, 1, 2), (2, 1, 0) * 4, (None,) * 5 + (1,)):
        yield [Said(answer, i) for i, answer in enumerate(answers)]
    generator = np.random.default_rng(SEED)
    for length in range(1, 25):
        shares = generator.dirichlet(np.full(count + 1, 0.7))
        drawn = [None if k == count else int(k) for k in generator.choice(count + 1, size=length, p=shares)]
        seen = [bool(flag) for flag in generator.random(length) < 0.4]
        yield [Said(answer, i, 1.0, seen[i]) for i, answer in enumerate(drawn)]
        # Indices in an order of their own, and weights whose sums are rounded.
        indices = [int(i) for i in generator.permutation(length)]
        weights = [float(w) for w in generator.choice([0.1, 0.2, 0.3, 1.0, 2.5], size=length)]
        yield [Said(answer, indices[i], weights[i], seen[i]) for i, answer in enumerate(drawn)]


def _winning_key(selection: Selection, favour_conditioned: bool) -> Hashable:
    winner = selection.winner(favour_conditioned=favour_conditioned)
    return next((group.key for group in selection.groups() if winner in group.samples), None)


def _results(selection: Selection) -> tuple[int | None, int | None, list[Group]]:
    return selection.winner(), selection.winner(favour_conditioned=True), list(selection.groups())


def _same_result(one: Selection, other: Selection, about: object) -> None:
    assert _results(one) == _results(other), about


def _snapshot(selection: Selection) -> tuple[object, ...]:
    evidence = selection.evidence()
    numbers = (evidence.lead, evidence.rival, evidence.samples, evidence.blanks, evidence.confidence)
    return (*_results(selection), numbers, [selection.is_settled(pending) for pending in range(4)])


def _close(one: float, other: float, about: object) -> None:
    assert math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12), f"{one!r} != {other!r} for {about!r}"
