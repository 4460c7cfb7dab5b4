"""The plan of one call, as a pure generator.

A plan says what to draw and is sent what came back; it knows no thread, loop, clock or pool. The two drivers only
differ in how they wait, so sync and async decide alike.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np

from dynscale_dspy.allocation.confidence import Answers, chance_alike, chance_right
from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.allocation.likeness import Likeness
from dynscale_dspy.allocation.repeats import Repeats
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.sampling.chain import build_chain
from dynscale_dspy.sampling.comparing import Comparing
from dynscale_dspy.sampling.models import Choosing
from dynscale_dspy.sampling.replies import Replies
from dynscale_dspy.sampling.sample import ON_TRIAL, REPEATED, SPARED, Draw, Sample
from dynscale_dspy.sampling.samplers import GREEDY, GREEDY_LABEL, CallView, Lazily, Sampler
from dynscale_dspy.sampling.steps import (
    Job,
    Round,
)
from dynscale_dspy.sampling.strategies import Strategy
from dynscale_dspy.selection.base import Composed, Selection, Vote, composed_of, keys_of
from dynscale_dspy.selection.calibration import Calibration
from dynscale_dspy.selection.plurality import Plurality

UNREAD = (SPARED, REPEATED, ON_TRIAL)
"""Problems of samples that are no part of the vote: they count neither for nor against an answer."""


class Plan:
    """The samples of one call: those finished, those in flight, and what the next ones look like. Ask and tell.

    Args:
        strategy: Which sampler draws the next sample.
        seed: The pool's seed.
        key: A stable name of the call; with the seed and a sample's index it fixes every random choice.
        max_samples: Most samples this call may draw.
        selection: The votes of a call without samples, under the selector; plurality by default.
        learned: What is known of the program's samples; nothing by default.
        varies: Whether the call may ever draw a second sample.
        max_choices: Most samples that may share a request.
        sharing: The names of the language models, of several, whose samples may do so.
        stop_when_decided: Whether samples in flight are called off once they cannot change the winner.
        leader: Whether the first sample is drawn alone, and further ones once it is finished.
        at_once: Whether the program answers from a few given labels without reasoning first.
        answers: What the program chooses its answers from.
        calibration: How votes count that tell the probability of every label; None for as they are.

    Attributes:
        selection: The votes so far.
        samples: The finished samples, in the order told.
        decided: Whether the call was ended since its winner cannot change.
        unit: What runs out first, ``"tokens"`` or ``"nanodollars"``, as the pool has last said; None for anything else.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        seed: int,
        key: Hashable,
        max_samples: int,
        selection: Selection | None = None,
        learned: Learned | None = None,
        varies: bool = True,
        max_choices: int = 1,
        sharing: Collection[str] = (),
        stop_when_decided: bool = False,
        leader: bool = False,
        at_once: bool = False,
        answers: Answers = Answers.OPEN,
        calibration: Calibration | None = None,
    ) -> None:
        self.strategy = strategy
        self.max_samples = max_samples
        self.max_choices = max_choices
        self._sharing = frozenset(sharing)
        self.selection: Selection = selection if selection is not None else Plurality().empty()
        self.samples: list[Sample] = []
        self.decided = False
        self.unit: str | None = None
        self._learned = learned or Learned()
        self._varies = varies
        self._leader = leader
        self._at_once = at_once
        self._is_told = self._lacks_a_speaker = False
        self._answers = answers
        self._calibration = calibration
        self._mean = calibration.mean if calibration is not None else None
        self._has_calibrated = False
        self._agree: float | None = None
        self._stop_when_decided = stop_when_decided
        self._entropy = hashlib.blake2b(f"{seed}/{key!r}".encode(), digest_size=16).digest()
        self._drawn = 0
        self._told_when_declined = -1
        self._groups = 0
        self._replies: defaultdict[str, Replies] = defaultdict(Replies)  # each model counts its own
        self._repeated: dict[int, Sample] = {}
        self._nothing = self.selection
        self._samplers: dict[str, Sampler] = {}
        self._worths: dict[str, float] = {}
        self._on_trial: dict[int, Sample] = {}
        self._greedy: Sample | None = None
        self._others: list[Sample] = []
        self._seeing = 0
        self._asked: frozenset[str] = frozenset()
        self._said: dict[frozenset[Hashable], Hashable] = {}
        self._has_compared = False
        self._failing: set[str] = set()
        self._unpaid: set[str] = set()
        self._in_vain = 0  # samples of language models that fail for good: others are drawn in their place
        self._learned.opened(self._names)
        self._models = Comparing(self._learned.peers)

    @property
    def pending(self) -> int:
        """Samples drawn and not yet told."""
        return self._drawn - len(self.samples)

    @property
    def drawn(self) -> int:
        """Samples drawn so far."""
        return self._drawn

    @property
    def room(self) -> int:
        """How many more may be drawn now.

        None where the strategy has proposed no sampler for the next one; it is asked again once another is finished.
        """
        if self.decided or self._told_when_declined == len(self.samples) or self.only_repeats or self._is_told:
            return 0
        if (self._leader and not self.samples) or self._lacks_a_speaker:
            return max(min(1, self.max_samples - self._drawn) - self.pending, 0)
        return min(self.max_samples + self._in_vain - self._drawn, self.strategy.room(self.pending))

    @property
    def next_model(self) -> str:
        """The language model that the next sample would ask; empty for the program's own, and if there is none."""
        proposed = self.propose()
        return proposed[0].model if proposed else ""

    def is_free(self, model: str) -> bool:
        """Whether a language model is known to cost no money.

        Args:
            model: Its name; empty for the program's own.
        """
        return self._learned.is_free(model)

    @property
    def worths(self) -> tuple[float, ...]:
        """What a vote of each language model counts by what is known now; empty where a call has one."""
        samplers = self.strategy.samplers
        return tuple(self.strategy.worth(each, self._learned) for each in samplers if each.model)

    # ---- ask

    def propose(self, most: int = 1, *, ahead: int = 0) -> list[Sampler]:
        """The samplers of the next samples: at most so many, fewer if there is no room or the strategy wants no more.

        Args:
            most: How many to propose.
            ahead: Samples that are reserved and not drawn yet, which come before these.
        """
        count = min(most, self.room - ahead)
        if count <= 0:
            return []
        if self._lacks_a_speaker:
            return [GREEDY]
        self._leave_out()
        self._recount()
        proposed, view, propose, seeing, asked = [], self._view(), self.strategy.propose, self._seeing, self._asked
        for index in range(self._drawn + ahead, self._drawn + ahead + count):
            view = view.before(index, finished=len(self.samples), seeing=seeing, asked=asked)
            sampler = propose(view, self._learned, Lazily(index, self._entropy))  # type: ignore[arg-type]
            if sampler is None:
                if index == self._drawn:
                    self._told_when_declined = len(self.samples)
                break
            proposed.append(sampler)
            seeing += sampler.chain is not None
            asked |= {sampler.model}
        return proposed

    def do_without(self, model: str = "") -> bool:
        """Draw no more from a language model: what is left does not pay for a sample of it.

        Args:
            model: Its name; empty for the one that comes next.

        Returns:
            Whether others are left.
        """
        unpaid = self._unpaid | ({model or self.next_model} & self._names)
        if unpaid == self._unpaid or unpaid | self._failing >= self._names:
            return False
        self._unpaid = unpaid
        return True

    def propose_unpaid(self) -> Sampler:
        """The sampler of a lone sample that no budget pays: of several language models the cheapest, as it is."""
        self._unpaid = set()
        (sampler,) = self.propose()
        if self._choosing is None:
            return sampler
        view, rng = self._view()._replace(varies=False), Lazily(self._drawn, self._entropy)
        return self.strategy.propose(view, self._learned, rng) or sampler  # type: ignore[arg-type]

    def draw(self, sampler: Sampler) -> Draw:
        """Draw the next sample with this sampler."""
        index = self._drawn
        self._drawn += 1
        self._asked |= {sampler.model}
        latest = max((sample.draw.round for sample in self.samples), default=-1)
        draw = Draw(index=index, round=latest + 1, sampler=sampler)
        self._worth(sampler)  # known while it is in flight, too
        if sampler.chain is None:
            return draw
        view = self._view()
        shown = sampler.chain.choose(view._replace(next_index=index), self._generator(index))
        if not shown:
            return draw
        self._seeing += 1
        self._learned.trust.asked()
        by_index = {sample.draw.index: sample for sample in view.samples}
        text = build_chain(
            [by_index[i] for i in shown],
            max_tokens=sampler.chain.max_tokens,
            predictors=sampler.chain.predictors,
        )
        return replace(draw, shown=shown, chain=text, prefill=sampler.chain.rendering == "prefill")

    def jobs(self, samplers: Sequence[Sampler], leases: Sequence[Any], *, call: int = 0) -> list[Job]:
        """Draw a sample for each lease, with the first of the samplers."""
        return [Job(self.draw(sampler), lease, call) for sampler, lease in zip(samplers, leases, strict=False)]

    def may_share(self, job: Job) -> bool:
        """Whether a request may bring this job's sample together with others: they have to ask for the same."""
        return self._may_share(job.draw.sampler) and job.lease is not None and not job.draw.conditioned

    def _may_share(self, sampler: Sampler) -> bool:
        return sampler.demos == "own" and (sampler.lm is None or sampler.model in self._sharing)

    def together(self, samplers: Sequence[Sampler]) -> int:
        """How many samples at most, with the first of these samplers, may come from one request."""
        first = samplers[0]
        if first.chain is not None or not self._may_share(first):
            return 1
        alike = sum(1 for _ in takewhile(lambda sampler: sampler == first, samplers))
        return min(self.max_choices, alike if alike < len(samplers) else self.room)

    def joins(self, job: Job) -> bool:
        """Whether the next sample would ask for the same as this job's, so that one request may bring both."""
        proposed, sampler = self.propose(), job.draw.sampler
        if not proposed or proposed[0].chain is not None:
            return False
        return (proposed[0].model, proposed[0].temperature) == (sampler.model, sampler.temperature)

    def sharing(self, jobs: Sequence[Job]) -> list[Job]:
        """The same jobs; those that can share requests, as many of them as may, come first."""
        able = [job for job in jobs if self.may_share(job)]
        if self.max_choices == 1 or len(able) == 1:
            return list(jobs)
        alike: dict[tuple[str, float | None], list[Job]] = {}
        for job in able:
            alike.setdefault((job.draw.sampler.model, job.draw.sampler.temperature), []).append(job)
        together = []
        for same in alike.values():
            for start in range(0, len(same), self.max_choices):
                together += [replace(job, group=self._groups) for job in same[start : start + self.max_choices]]
                self._groups += 1
        return together + [job for job in jobs if not self.may_share(job)]

    def round(self, jobs: Sequence[Job]) -> Round:
        """These jobs as a step."""
        return Round(self.sharing(jobs), self._decides if self._stop_when_decided and len(jobs) > 1 else None)

    # ---- tell

    def tell(self, sample: Sample) -> None:
        """A drawn sample is finished."""
        sampler = sample.draw.sampler
        self._reached(sample)
        sample = self._unless_repeated(sample)
        self._compare(sample)
        self._calibrate(sample)
        self._recount()
        sample = self._as_known(sample, len(self.samples))
        before = self.selection
        if sample.problem not in UNREAD:
            try:
                self.selection = self._with(before, sample)
            except Exception:
                if sample.vote is None:
                    raise
                # The selector cannot take what it read. The sample is paid for, and loses its vote only.
                sample = replace(sample, vote=None, problem="unreadable")
                self.selection = self._with(before, sample)
        self._learned.repeats.tell(before.evidence(), self.selection.evidence())
        if sampler.model:
            self._models.hear(sample, before, self.selection)
        self._hear_of_all(sample)
        self.samples.append(sample)
        if self._agree is None and sample.draw.index <= 1:
            self._compare_first_two()
        if not sampler.model or not sample.permanent:  # one that cannot be asked says nothing of how it answers
            blank = sample.vote is None and sample.problem not in UNREAD
            told = bool(sampler.model) and sample.problem != SPARED
            self._learned.of(sampler.model or sampler.name).read(blank=blank, of_model=told)

    @property
    def is_hopeless(self) -> bool:
        """Whether further samples would fail as earlier ones have, of whichever language model that can be paid."""
        return bool(self._failing) and self._failing | self._unpaid >= self._names

    @property
    def failing(self) -> dict[str, BaseException]:
        """The language models of several that fail for good in this call, each with the first error."""
        samples = [sample for sample in reversed(self.samples) if sample.permanent and sample.draw.sampler.model]
        return {sample.draw.sampler.model: sample.error for sample in samples if sample.error is not None}

    @property
    def rule(self) -> str:
        """What chooses between several language models, and why as it does, in words; empty if there is one."""
        return self._choosing.told(self._learned) if self._choosing is not None else ""

    @property
    def only_repeats(self) -> bool:
        """Whether half of the samples or more are made of replies that another one is made of: more would be too."""
        return len(self._repeated) > 0 and 2 * len(self._repeated) >= len(self.samples)

    @property
    def repeats(self) -> Repeats:
        """What is known of whether samples of the program ever say the same."""
        return self._learned.repeats

    @property
    def confidence(self) -> float:
        """How likely the winner is right, as far as votes can tell; see :mod:`dynscale_dspy.allocation.confidence`.

        A selector whose votes are compared neither by equality nor by similarity tells its own.
        """
        evidence, known = self.selection.evidence(), self._learned.agreement
        if isinstance(evidence, Likeness):
            return chance_alike(evidence, known.rate(besides=self._agree))
        if not isinstance(evidence, Tally) or evidence.probability is not None:
            return evidence.confidence
        return chance_right(evidence, known.rate(besides=self._agree), known.answers(self._answers))

    @property
    def calibrated_on(self) -> int:
        """Of how many calls the mean is by which votes are calibrated; 0 if they count as they are."""
        return round(self._mean.calls) if self._mean is not None and self._mean.weights is not None else 0

    @property
    def only_cut_off(self) -> bool:
        """Whether every sample so far ended because its next request could not be paid."""
        return all(type(sample.error) is BudgetExhausted for sample in self.samples)

    def winner(self) -> Sample:
        """The sample whose prediction is the call's answer, as the selection says.

        A call without votes falls back on its first finished sample, and if every sample failed, on the first one,
        whose error is the call's. Where the vote is calibrated, the winner's answer is what its vote is for, which may
        be another one than its prediction's.
        """
        self._recount()
        index = self.selection.winner(favour_conditioned=self._favours_conditioned)
        if index is not None:
            return self._as_voted(next(sample for sample in self.samples if sample.draw.index == index))
        samples = sorted(self.samples, key=lambda sample: sample.draw.index)
        return next((sample for sample in samples if sample.error is None), samples[0])

    @property
    def composed(self) -> Composed | None:
        """The answer that the selection has put together, to be returned in place of the winner's own; None if none."""
        return composed_of(self.selection, favour_conditioned=self._favours_conditioned)

    def counted(self, sample: Sample) -> Vote | None:
        """A sample's vote as it counts now; None if it casts none."""
        if self._calibration is None or self._mean is None or sample.vote is None or not sample.draw.is_plain:
            return sample.vote
        return self._calibration.of(sample.vote, self._mean)

    @property
    def cost(self) -> Cost:
        """What the finished samples cost together."""
        return sum((sample.cost for sample in self.samples), Cost())

    # ---- inside

    @property
    def _names(self) -> frozenset[str]:
        """The names of the language models that the strategy chooses between; empty if there is one."""
        return self._choosing.names if self._choosing is not None else frozenset()

    @property
    def _choosing(self) -> Choosing | None:
        return self.strategy if isinstance(self.strategy, Choosing) else None

    def _reached(self, sample: Sample) -> None:
        """Note whether the language model of a sample fails for good, and of several, what it costs."""
        name = sample.draw.sampler.model or sample.draw.sampler.name
        if sample.permanent:
            self._failing.add(name)
        if name not in self._names:
            return
        self._in_vain += sample.permanent
        record = self._learned.of(name)
        if sample.cost.samples:
            record.cost.add(sample.cost, sample.saved)
        if sample.permanent or sample.error is None:
            record.told(lost=sample.permanent)

    def _leave_out(self) -> None:
        """Leave out the language models that fail for good, here or in other calls, as long as others are left."""
        choosing = self._choosing
        if choosing is None:
            return
        missing = self._failing | self._unpaid
        lost = missing | {name for name in choosing.names if self._learned.of(name).is_lost}
        lost = lost if not lost >= choosing.names else missing
        if not lost >= choosing.names:
            self.strategy = choosing.without(lost)

    @property
    def _favours_conditioned(self) -> bool:
        """Whether ties go to samples that saw earlier ones, as they are found to check those."""
        return self.strategy.learned and self._learned.trust.earned

    def _hear_of_all(self, sample: Sample) -> None:
        """If a sample has told all that others could, draw no more; or a greedy one, for an answer that none gave."""
        if self._lacks_a_speaker:
            self._is_told = True  # whatever the greedy one has brought
        elif self._at_once and sample.vote is not None and sample.vote.is_whole:
            groups = self.selection.groups()
            is_said = not groups or bool(groups[0].samples)
            self._lacks_a_speaker = not is_said and sample.draw.sampler.temperature != 0
            self._is_told = not self._lacks_a_speaker

    def _calibrate(self, sample: Sample) -> None:
        """Tell the program's record what the language model thinks of all labels, once for the call."""
        whole = sample.vote is not None and sample.vote.is_whole and sample.draw.is_plain
        if whole and sample.vote is not None and self._calibration is not None and not self._has_calibrated:
            self._has_calibrated = True
            self._calibration.tell(sample.vote)

    def _as_voted(self, sample: Sample) -> Sample:
        vote = self.counted(sample)
        if vote is None or vote is sample.vote:
            return sample
        return replace(sample, vote=vote, answer=vote.answer if vote.key != sample.key else sample.answer)

    def _compare_first_two(self) -> None:
        """Tell the program's record whether the call's first two samples agree, once both have voted by themselves."""
        first = [sample for sample in self.samples if sample.draw.index <= 1 and sample.vote is not None]
        alone = len(first) == 2 and not any(sample.draw.conditioned for sample in first)
        evidence = self.selection.evidence()
        if alone and isinstance(evidence, Likeness) and evidence.first is not None:
            self._agree = self._learned.agreement.tell_alike(evidence.first)
        elif alone and isinstance(evidence, Tally):
            keys = keys_of(self.selection.groups())
            said = [keys[sample.draw.index] for sample in first if sample.draw.index in keys]
            self._agree = self._learned.agreement.tell(*said) if len(said) == 2 else None

    def _unless_repeated(self, sample: Sample) -> Sample:
        """The sample; without a vote if it is made of replies that have voted, for it says nothing of its own."""
        learned = self._learned
        if sample.vote is None or not learned.ids_tell:
            return sample
        replies = self._replies[sample.draw.sampler.model]
        if replies.contradict(sample.replies):
            learned.ids_tell = False
            for place, repeated in self._repeated.items():
                self.selection = self._with(self.selection, repeated)
                self.samples[place] = repeated
            self._repeated.clear()
        elif replies.repeat(sample.replies):
            self._repeated[len(self.samples)] = sample
            return replace(sample, vote=None, problem=REPEATED)
        return sample

    def _with(self, selection: Selection, sample: Sample) -> Selection:
        weight = self._worth(sample.draw.sampler) or 1.0  # while it is on trial it is looked at only
        if sample.vote is not None and sample.vote.is_whole:
            weight = 1.0  # it tells the same whatever has drawn it
        vote = self.counted(sample)
        return selection.add(vote, sample=sample.draw.index, weight=weight, conditioned=sample.draw.conditioned)

    def _decides(self, finished: Sequence[Sample]) -> bool:
        """Whether the winner stays the same whatever the samples say that are in flight."""
        selection, on_trial = self.selection, len(self._on_trial)
        for sample in finished:
            if sample.vote is not None and not self._worth(sample.draw.sampler):
                on_trial += 1
                continue
            try:
                selection = self._with(selection, sample)
            except Exception:
                return self.decided  # it will lose its vote when it is told
        # Those in flight may weigh more than one each, and those on trial may come to count.
        heaviest = math.ceil(max(1.0, *self._worths.values()))
        open_votes = (self.pending - len(finished)) * heaviest + on_trial
        self.decided = self.decided or selection.is_settled(open_votes)
        return self.decided

    def _worth(self, sampler: Sampler) -> float:
        """What a vote of this sampler counts, as it is counted now."""
        worth = self._worths.get(sampler.name)
        if worth is None:
            self._samplers[sampler.name] = sampler
            worth = self._worths[sampler.name] = self.strategy.worth(sampler, self._learned)
        return worth

    def _as_known(self, sample: Sample, place: int) -> Sample:
        """A sample, without its vote if those of its sampler do not count now."""
        whole = self._on_trial.pop(place, sample)
        if whole.vote is None or self._worth(whole.draw.sampler):
            return whole
        self._on_trial[place] = whole
        return replace(whole, vote=None, problem=ON_TRIAL)

    def _recount(self) -> None:
        """Count the votes anew if by now those of some sampler count more, less, or not at all, or more is known."""
        worths = {name: self.strategy.worth(sampler, self._learned) for name, sampler in self._samplers.items()}
        mean = self._calibration.mean if self._calibration is not None else None
        if worths == self._worths and mean == self._mean:
            return
        before = self.samples[:], self._on_trial.copy(), self._worths, self._mean
        self._worths, self._mean, selection = worths, mean, self._nothing
        try:
            for place, sample in enumerate(self.samples):
                known = self.samples[place] = self._as_known(sample, place)
                if known.problem not in UNREAD:
                    selection = self._with(selection, known)
        except Exception:
            # A selector that takes votes in one way only: they stay as they were counted, for they are paid.
            self.samples, self._on_trial, self._worths, self._mean = before
        else:
            self.selection = selection

    def _compare(self, sample: Sample) -> None:
        """Learn from a new sample what others of its sampler are worth."""
        if sample.draw.conditioned:
            self._learned.trust.heard()
        if sample.vote is None or not (sample.draw.conditioned or self._at_once):
            return
        try:
            keys = keys_of(self._with(self.selection, sample).groups())
        except Exception:
            return  # it will lose its vote
        said = keys.get(sample.draw.index)
        if said is None:
            return  # the selector leaves it out of its groups
        if sample.draw.conditioned and not self._has_compared:
            # The call's first two samples that saw the same answers and said one of them. Some may count no longer.
            shown = frozenset(keys.get(index) for index in sample.draw.shown)
            if said in shown and len(shown) > 1:
                if shown in self._said:
                    self._has_compared = True
                    self._learned.trust.tell(agree=said == self._said[shown], shown=len(shown))
                self._said[shown] = said
        if self._at_once:
            if sample.draw.sampler is GREEDY_LABEL:
                self._greedy = sample
            else:
                self._others.append(sample)
            while self._greedy is not None and len(self._others) > 1:  # pairs of the others, each with the one before
                first, one, other = (keys.get(told.draw.index) for told in (self._greedy, *self._others[:2]))
                self._learned.modes.tell(first=(one == first) != (other == first), other=one == other != first)
                del self._others[0]

    def _view(self) -> CallView:
        voters = sorted((s for s in self.samples if s.vote is not None), key=lambda s: s.draw.index)
        told = CallView(self._drawn, voters, self.selection, self._varies, self.unit, at_once=self._at_once)
        return told.before(self._drawn, finished=len(self.samples), seeing=self._seeing, asked=self._asked)

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.default_rng([index, *self._entropy])
