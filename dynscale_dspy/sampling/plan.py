"""The plan of one call, as a pure generator.

A plan says what to draw and is sent what came back; it knows no thread, loop or clock. The two drivers only differ in
how they wait, so sync and async decide alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.allocation.gains import DOUBT, Conditioning, Dissent
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.sampling.chain import build_chain
from dynscale_dspy.sampling.sample import SPARED, Draw, Sample
from dynscale_dspy.sampling.steps import Job, Round, Step, Wait
from dynscale_dspy.sampling.strategies import Strategy

if TYPE_CHECKING:
    from dynscale_dspy.budget.leases import Arm, Ticket
    from dynscale_dspy.budget.pool import BudgetPool

CUTS = 3
"""Times a call tries again whose samples were all cut off because those in flight held the rest of the budget."""


class Plan:
    """The samples of one call: those finished, those in flight, and what the next ones look like. Ask and tell.

    Args:
        strategy: What samples look like.
        seed: The pool's seed.
        key: A stable name of the call; with the seed and a sample's index it fixes every random choice.
        max_samples: Most samples this call may draw.
        tally: An empty tally of the kind the policy reads; a plain one by default.
        max_choices: Most samples that may share a request.
        stop_when_decided: Whether samples in flight are called off once they cannot change the winner.
        leader: Whether the first sample is drawn alone, and further ones once it is finished.
        conditioning: What is known of the program's two kinds of samples; nothing by default.
        unit: Tells what runs out first, ``"tokens"`` or ``"nanodollars"``; None if that is samples or calls.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        seed: int,
        key: Hashable,
        max_samples: int,
        tally: Tally | None = None,
        max_choices: int = 1,
        stop_when_decided: bool = False,
        leader: bool = False,
        conditioning: Conditioning | None = None,
        unit: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.decided = False
        self._unit = unit
        self._leader = leader
        self._stop_when_decided = stop_when_decided
        self.strategy = strategy
        self.max_samples = max_samples
        self.max_choices = max_choices
        self.samples: list[Sample] = []
        self.tally = tally or Tally()
        self._entropy = hashlib.blake2b(f"{seed}/{key!r}".encode(), digest_size=16).digest()
        self._drawn = 0
        self._groups = 0
        self._conditioning = (conditioning or Conditioning()) if strategy.learned else None
        if self._conditioning is not None:
            self._dissent = Dissent(self._conditioning)
            independent, conditioned = DOUBT * self._generator(max_samples).normal(size=2)
            self._beliefs = float(independent), float(conditioned)

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
        """How many more may be drawn now."""
        if self.decided:
            return 0
        if self._leader and not self.samples:
            return 1 - self._drawn
        return min(self.max_samples - self._drawn, self.strategy.room(self.pending))

    def draw(self) -> Draw:
        """The next sample to draw."""
        index = self._drawn
        self._drawn += 1
        voters = sorted((s for s in self.samples if s.key is not None), key=lambda s: s.draw.index)
        shown = self.strategy.shown(voters, self.tally, index, self._generator(index)) if voters else ()
        known = self._conditioning
        if shown and known is not None and not known.favours_conditioned(self.tally, self._unit(), self._beliefs):
            shown = ()
        latest = max((sample.draw.round for sample in self.samples), default=-1)
        draw = Draw(index=index, round=latest + 1)
        if not shown:
            return draw
        by_index = {sample.draw.index: sample for sample in voters}
        text = build_chain(
            [by_index[i] for i in shown],
            max_tokens=self.strategy.max_tokens,
            predictors=self.strategy.predictors,
        )
        return replace(draw, shown=shown, chain=text, prefill=self.strategy.rendering == "prefill")

    def sharing(self, jobs: Sequence[Job]) -> list[Job]:
        """The same jobs; those without a chain share requests, as many of them as may, and come first."""
        alone = [job for job in jobs if job.draw.conditioned or job.ticket is None]
        able = [job for job in jobs if not job.draw.conditioned and job.ticket is not None]
        if self.max_choices == 1 or len(able) == 1:
            return list(jobs)
        together = []
        for start in range(0, len(able), self.max_choices):
            together += [replace(job, group=self._groups) for job in able[start : start + self.max_choices]]
            self._groups += 1
        return together + alone

    def round(self, jobs: Sequence[Job]) -> Round:
        """These jobs as a step."""
        return Round(self.sharing(jobs), self._decides if self._stop_when_decided and len(jobs) > 1 else None)

    def _decides(self, finished: Sequence[Sample]) -> bool:
        """Whether the winner stays the same whatever the samples say that are in flight."""
        tally = self.tally
        for sample in finished:
            tally = tally.add(sample.key)
        self.decided = self.decided or tally.leader - tally.runner_up > self.pending - len(finished)
        return self.decided

    def tell(self, sample: Sample) -> None:
        """A drawn sample is finished."""
        if self._conditioning is not None:
            conditioned = sample.draw.conditioned
            self._conditioning.cost(sample.cost, conditioned=conditioned)
            if sample.key is not None:
                leader = self._leading.key if self.tally.valid else None
                self._dissent.tell(sample.key, self.tally, leader, conditioned=conditioned)
        self.samples.append(sample)
        if sample.problem != SPARED:
            self.tally = self.tally.add(sample.key)  # independent and conditioned votes count one each

    @property
    def only_cut_off(self) -> bool:
        """Whether every sample so far ended because its next request could not be paid."""
        return all(type(sample.error) is BudgetExhausted for sample in self.samples)

    def winner(self) -> Sample:
        """The sample whose prediction is the call's answer.

        The answer with most votes wins; ties go to the one with more independent votes, then to the one sampled
        first. Where it is learned which kind of sample gains more at a tie, ties go to the one with more votes of that
        kind. Among its samples the first independent one speaks. A call without votes falls back on its first finished
        sample, and if every sample failed, on the first one, whose error is the call's.
        """
        samples = sorted(self.samples, key=lambda sample: sample.draw.index)
        voters = [sample for sample in samples if sample.key is not None]
        if voters:
            best = self._leading.key
            return min((s for s in voters if s.key == best), key=lambda s: (s.draw.conditioned, s.draw.index))
        return next((sample for sample in samples if sample.error is None), samples[0])

    @property
    def _leading(self) -> Sample:
        """A sample of the leading answer; at least one has voted."""
        votes, known = self.tally.votes, self._conditioning
        kind = known is not None and known.gain(_TIE, conditioned=True) > known.gain(_TIE, conditioned=False)
        voters = [sample for sample in self.samples if sample.key is not None]
        counted = Tally.of(s.key for s in voters if s.draw.conditioned is kind).votes
        return max(voters, key=lambda s: (votes[s.key], counted.get(s.key, 0), -s.draw.index))

    @property
    def cost(self) -> Cost:
        """What the finished samples cost together."""
        return sum((sample.cost for sample in self.samples), Cost())

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.default_rng([index, *self._entropy])


_TIE = Tally.of("AB")


class _Abandoned(Exception):
    """The call that others waited for was interrupted; one of them must take over."""


def conduct(
    pool: BudgetPool,
    plan: Plan,
    *,
    key: Hashable | None,
    outer: Ticket | None = None,
    program: object | None = None,
    requests: int = 1,
    name: bytes | None = None,
    decided: Callable[[Sample], object] = lambda winner: None,
) -> Generator[Step, Any, tuple[Sample, bool]]:
    """One call, from its first samples to its winner.

    Args:
        pool: Pays.
        plan: The call's plan; its samples are there when this ends.
        key: Names the call, inputs and all: while it runs, the same call made again waits for this one's winner.
            None for a call on its own.
        outer: The ticket of the sample this call is made in, if any.
        program: Whose samples these are.
        requests: A guess of the language-model requests a sample makes.
        name: A name of the call that outlives the process, for a pool kept in a file.
        decided: Told the winner before any call that waits for it.

    Returns:
        The winning sample, and whether this call drew it itself (False if it came from the same call in flight). If
        every sample failed it is a failed one: its error is not raised here, since a generator cannot raise all of
        them unchanged.

    Raises:
        BudgetExhausted: If there is no budget for a first sample and the pool is to raise.
    """
    future: Future[Sample] | None = None
    while key is not None:
        future, mine = pool.flight(key)
        if mine:
            break
        if not (yield Wait(future)):
            key = future = None  # it cannot be waited for here, so this call goes alone
        elif isinstance(future.exception(), _Abandoned):
            continue
        else:
            return future.result(), False
    try:
        arm = pool.open_or_wait(plan.room, outer=outer, program=program, requests=requests, key=name)
        while isinstance(arm, Future):
            again = yield Wait(arm)
            arm = pool.open_or_wait(plan.room, outer=outer, program=program, requests=requests, key=name)
            if isinstance(arm, Future) and (again is None or (not again and pool.gate() is None)):
                arm = None  # it cannot be waited for, or nothing came of it
        winner = yield from _play(pool, plan, arm)
        decided(winner)
    except BaseException as error:
        if future is not None:
            pool.land(key)
            future.set_exception(error if isinstance(error, Exception) else _Abandoned())
        raise
    if future is not None:
        pool.land(key)
        future.set_result(winner)
    return winner, True


def _play(pool: BudgetPool, plan: Plan, arm: Arm | None) -> Generator[Step, Any, Sample]:
    if arm is None:
        if pool.on_empty == "raise":
            raise pool.exhausted()
        pool.count_unscaled_run()
        for sample in (yield Round([Job(plan.draw(), None)])):
            plan.tell(sample)
        return plan.winner()
    cuts, outermost = 0, arm.outer is None and pool.metered
    try:
        while arm.waiting:
            jobs = []
            while arm.waiting and plan.room > 0:
                jobs.append(Job(plan.draw(), arm.take()))
            if not jobs:
                break
            for sample in (yield plan.round(jobs)):
                plan.tell(sample)
            if any(sample.permanent for sample in plan.samples):
                break  # the next one would fail alike
            while (gate := pool.gate()) is not None and (yield Wait(gate)) is not None:
                pass
            if plan.room > 0 and not arm.waiting:
                arm.request(plan.tally, plan.room)
            if not arm.waiting and plan.room > 0 and outermost and plan.only_cut_off and cuts < CUTS:
                # The samples in flight hold more, at their upper bounds, than they will turn out to cost.
                cuts += 1
                if not arm.pull() and not ((yield Wait(pool.change())) and arm.pull()):
                    break
        return plan.winner()
    finally:
        arm.close()
