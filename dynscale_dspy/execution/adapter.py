"""The adapter of a sample: around the user's own, it sets what makes the sample distinct, and asks again on failure."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import dspy

from dynscale_dspy.budget.throttle import LONGEST_PATIENCE, NoTurn, Throttle
from dynscale_dspy.execution import lm_errors
from dynscale_dspy.execution.asks import asked_by
from dynscale_dspy.execution.capabilities import server_of
from dynscale_dspy.execution.choices_route import alike
from dynscale_dspy.execution.concessions import Concessions
from dynscale_dspy.execution.exchange import Exchange
from dynscale_dspy.execution.listener import listen_to
from dynscale_dspy.execution.meter import CallRefused, Meter, current_meter
from dynscale_dspy.execution.paying_lm import PayingLM
from dynscale_dspy.execution.prefill import StartedMessage
from dynscale_dspy.execution.sample_lm import original
from dynscale_dspy.execution.shared_request import ReadApart, SharingLM, Slot
from dynscale_dspy.execution.token_probabilities import Probing, ProbingLM, lenient
from dynscale_dspy.sampling import chain
from dynscale_dspy.sampling.sample import Draw

if TYPE_CHECKING:
    from dynscale_dspy.execution.run import SampleSettings

LONGEST_PAUSE = 60.0
"""Seconds between two tries, at most, unless the server asks for more; as in DSPy."""
WARM = 1.0
"""The temperature of samples whose language model has none, or 0, with which they would all be the same."""
COOL = 0.3
"""The same for programs that answer from a few given labels at once. A vote comes to the most probable label sooner the
lower the temperature; on the pretrained model that it was measured on, a vote of 8 is right on 61% at 0.3 and on 46% at
1.0, where the greedy answer is on 64%."""
LOOK_AGAIN = 0.25
"""Seconds between two looks, during a pause, at whether the call is still wanted."""

Arguments = tuple[dict, Any, list, dict]
"""What DSPy calls an adapter with, after the language model: its settings, the signature, demos and inputs."""


def derive_rollout(base: int | None, index: int) -> int | None:
    """The rollout id of sample ``index``, distinct for every pair of base and index.

    Sample 0 of a program without a rollout id keeps none, so that it *is* the plain program's own run and shares its
    cache entry. Under an enclosing rollout (an optimizer's, or an outer wrapper's) all ids are hashed: adding or
    multiplying small numbers would make different nestings collide, and DSPy's cache would hand out one sample twice.
    """
    if base is None:
        return index or None
    digest = hashlib.blake2b(f"{base}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 11  # below 2**53: exact wherever JSON numbers are doubles


class SampleAdapter:
    """Delegates to the user's adapter, and gives each predictor call its rollout, temperature, seed and chain.

    A plain object on purpose: subclasses of ``dspy.Adapter`` fire adapter callbacks twice.

    Args:
        inner: The user's adapter.
        draw: The sample to draw.
        settings: How the module wants its samples drawn.
        meter: The sample's meter.
        slot: Its place in a request that several samples share, if it has one.
    """

    def __init__(
        self,
        inner: Any = None,
        draw: Draw | None = None,
        settings: SampleSettings | None = None,
        meter: Meter | None = None,
        slot: Slot | None = None,
    ) -> None:
        # `dspy.Refine` inside a sample makes a subclass of this and an instance without arguments, which calls the
        # adapter around it: this sample's own.
        self.inner = inner or dspy.settings.adapter
        self._draw: Draw = draw  # type: ignore[assignment]
        self._settings: SampleSettings = settings  # type: ignore[assignment]
        self._meter: Meter = meter  # type: ignore[assignment]
        self._slot = slot
        self._failed: BaseException | None = None
        self.probing: Probing | None = None
        """What the latest predictor call asked about tokens, and heard; None if it asked nothing."""

    def __getattr__(self, name: str) -> Any:
        # DSPy's agents call the adapter's formatting methods directly.
        return getattr(self.__dict__["inner"], name)

    def __call__(self, lm: Any, lm_kwargs: dict, signature: Any, demos: list, inputs: dict) -> list[dict]:
        """Format, ask and parse as the user's adapter does, with this sample's settings."""
        exchange = Exchange(self._steps(*self._asked(lm, lm_kwargs), (signature, demos, inputs)))
        while (attempt := exchange.asked) is not None:
            for nap in self._naps(attempt.pause):
                time.sleep(nap)
            with exchange, self._heard():
                try:
                    exchange.outputs = attempt.make()
                except NoTurn:
                    raise self._meter.cut_off() from None
        return exchange.result

    async def acall(self, lm: Any, lm_kwargs: dict, signature: Any, demos: list, inputs: dict) -> list[dict]:
        """The same from a task."""
        exchange = Exchange(self._steps(*self._asked(lm, lm_kwargs), (signature, demos, inputs)))
        while (attempt := exchange.asked) is not None:
            for nap in self._naps(attempt.pause):
                await asyncio.sleep(nap)
            with exchange, self._heard():
                try:
                    exchange.outputs = await attempt.amake()
                except NoTurn:
                    raise self._meter.cut_off() from None
        return exchange.result

    def _heard(self) -> AbstractContextManager[Any]:
        """Around a request: what it streams is the predictor's that the user's listeners have named."""
        heard_as = self._settings.heard_as if self._settings is not None else None
        if heard_as is None or dspy.settings.caller_predict is not self._settings.module:
            return nullcontext()
        return dspy.context(caller_predict=heard_as)

    def _steps(
        self, lm: Any, lm_kwargs: dict, prompt: tuple[Any, list, dict]
    ) -> Generator[_Attempt, list[dict], list[dict]]:
        """Yield one attempt after another until one succeeds or its error is to be raised."""
        given: Arguments = (lm_kwargs, *prompt)
        asking = self._asking(lm, lm_kwargs)
        pause: float | None = 0.0
        while True:
            arguments = self._overlay(lm, given, asking)
            throttle = self._throttle
            attempt = _Attempt(asking.adapter, asking.lm, arguments, throttle, server_of(lm), self._patience, pause)
            try:
                values = yield attempt
            except (Exception, ReadApart) as error:
                pause = self._pause(asking, error)
                if pause is None:
                    raise
            except CallRefused:
                asking.concessions.cut_off()
                raise
            else:
                asking.answered()
                return values if self._slot is None else self._slot.own(given[1], values)

    def _pause(self, asking: _Asking, error: BaseException) -> float | None:
        """Seconds to wait before asking, or only reading, again; None to raise the error."""
        if self._slot is not None and self._slot.read_apart():
            return 0.0
        self._failed = error
        return asking.again(error) if isinstance(error, Exception) else None

    def _naps(self, pause: float) -> Iterator[float]:
        """A pause in parts, which ends with an error as soon as it is clear that there is nothing to wait for."""
        while pause > 0:
            if self._patience() < pause:
                refused = self._meter.cut_off()
                refused.error.__cause__ = self._failed  # why there was anything to wait for
                raise refused
            nap = min(pause, LOOK_AGAIN)
            yield nap
            pause -= nap

    def _patience(self) -> float:
        return self._meter.patience() if self._meter is not None else math.inf

    @property
    def _throttle(self) -> Throttle | None:
        """What the request has to pass, unless another sample's has brought its answer."""
        payer = self._meter.payer if self._meter is not None else None
        if payer is None or (self._slot is not None and self._slot.is_ready):
            return None
        return payer.throttle

    def _asked(self, lm: Any, lm_kwargs: dict) -> tuple[Any, dict]:
        """The language model to ask, and its settings: the one that the sample asks in place of the program's, if any.

        It tells of its requests from now on. Within a sample of a program inside this one's, that sample has chosen.
        """
        asked = own = original(lm)
        if self._meter is not None and self._meter.asks is not None and current_meter() in (self._meter, None):
            asks = self._meter.asks
            asked = asked_by(asks, (dspy.settings.caller_modules or [None])[-1])
            if asked is None:
                asks.check(own)
                asked = own
        # What asks for another draw by a language model of its own, as `BestOfN` does, gets one.
        rollout = (getattr(own, "kwargs", None) or {}).get("rollout_id") if asked is not own else None
        if rollout is not None:
            lm_kwargs = {"rollout_id": rollout, **lm_kwargs}
        listen_to(asked)
        return asked, lm_kwargs

    def _asking(self, lm: Any, lm_kwargs: Mapping[str, Any]) -> _Asking:
        text = chain.text_for((dspy.settings.caller_modules or [None])[-1], self._draw.chain)
        payer = self._meter.payer if self._meter is not None else None
        labels = self._settings.labels if self._settings is not None else None
        probing = Probing(labels, lm, {**getattr(lm, "kwargs", {}), **lm_kwargs}, payer)
        asking = _Asking(self.inner, lm, text, probing, prefill=self._draw.prefill)
        if probing.listens:
            asking.lm = lenient(asking.lm)
        if self._meter is not None and self._meter.may_block:
            asking.lm = PayingLM(asking.lm, self._meter)
        if self._slot is not None and not self._is_plain(lm, lm_kwargs):
            asking.lm = SharingLM(asking.lm, lm, self._slot, self._meter)
        if probing.listens:
            self.probing = probing
            asking.lm = ProbingLM(asking.lm, probing, self._meter)
        return asking

    def _overlay(self, lm: Any, given: Arguments, asking: _Asking) -> Arguments:
        """The arguments with this sample's settings and chain.

        Everything is copied, never changed: DSPy records the caller's own dicts in traces and demos.
        """
        lm_kwargs, signature, demos, inputs = given
        demos = self._draw.sampler.arranged(demos, self._draw.index)
        kwargs, ours = self._settings_for(lm, lm_kwargs, asking.concessions)
        further = asking.probing.settings
        kwargs = asking.concessions.applied({**kwargs, **further}, ours | further.keys())
        text = asking.chain
        if asking.started is not None:
            return asking.started.kwargs(kwargs), signature, demos, inputs
        if text is None:
            return kwargs, signature, demos, inputs
        name = chain.FIELD
        while name in signature.fields:
            name += "_"
        signature = signature.append(name, dspy.InputField(desc=chain.describe(text)), type_=str)
        # Demos without the new field would be shown as incomplete examples.
        demos = [{**dict(demo), name: "N/A"} for demo in demos]
        return kwargs, signature, demos, {**inputs, name: text}

    def requests(self, lm: Any, lm_kwargs: dict[str, Any]) -> Generator[dict[str, Any], Any, Any]:
        """Yield the settings of a request that the program makes itself, until it is answered; return the answer.

        Args:
            lm: The language model.
            lm_kwargs: What it is to be asked with.
        """
        concessions = Concessions(lm)
        while True:
            try:
                outputs = yield concessions.applied(*self._settings_for(lm, lm_kwargs, concessions))
            except Exception as error:
                if not concessions.after(error):
                    raise
            else:
                concessions.confirmed()
                return outputs

    def _settings_for(
        self, lm: Any, lm_kwargs: dict[str, Any], concessions: Concessions
    ) -> tuple[dict[str, Any], set[str]]:
        """The settings of a request with this sample's rollout, seed and temperature; and which are not the user's."""
        merged = {**getattr(lm, "kwargs", {}), **lm_kwargs}
        kwargs = dict(lm_kwargs)
        ours = {"rollout_id"}
        sampler, index = self._draw.sampler, self._draw.index
        rollout = derive_rollout(merged.get("rollout_id"), index)
        if rollout is not None:
            kwargs["rollout_id"] = rollout
        if merged.get("seed") is not None:
            # One fixed seed for every sample would make a local server answer the same each time.
            kwargs["seed"] = merged["seed"] + index
        own = sampler.temperature
        # Whoever asks for a rollout (`BestOfN`, an optimizer, a vote inside) or several choices wants different draws.
        is_drawn = merged.get("rollout_id") or (merged.get("n") or 1) > 1
        if own == 0 and (is_drawn or not concessions.may_be_greedy):
            own = None
        asked = own if own is not None else self._settings.temperature
        if asked is not None:
            kwargs["temperature"] = asked
            if own is not None:
                ours.add("temperature")
            if own == 0:
                kwargs.pop("rollout_id", None)  # all draws are one, and DSPy warns of a rollout there
        elif self._settings.vary and not merged.get("temperature") and not self._is_plain(lm, lm_kwargs):
            kwargs["temperature"] = COOL if self._settings.at_once else WARM
            ours.add("temperature")
        return kwargs, ours

    def _is_plain(self, lm: Any, lm_kwargs: Mapping[str, Any]) -> bool:
        """Whether this sample is the program as it is, though the others are not: the first, at temperature 0."""
        if self._draw.index or self._draw.sampler.temperature is not None or self._settings.temperature is not None:
            return False
        return {**getattr(lm, "kwargs", {}), **lm_kwargs}.get("temperature") == 0


class _Attempt(NamedTuple):
    """One call of an adapter, after a pause, through a throttle if there is one."""

    adapter: Any
    lm: Any
    arguments: Arguments
    throttle: Throttle | None
    server: Hashable
    patience: Callable[[], float]
    pause: float

    def make(self) -> list[dict]:
        """Call the adapter in this thread."""
        if self.throttle is None:
            return self.adapter(self.lm, *self.arguments)
        return self.throttle.run(
            lambda: self.adapter(self.lm, *self._copied()), model=self.server, patience=self.patience
        )

    async def amake(self) -> list[dict]:
        """Call it in this task."""
        if self.throttle is None:
            return await self.adapter.acall(self.lm, *self.arguments)
        return await self.throttle.arun(
            lambda: self.adapter.acall(self.lm, *self._copied()), model=self.server, patience=self.patience
        )

    def _copied(self) -> Arguments:
        # Adapters write into the settings they are given; a hedged request is made from the same ones.
        kwargs, *others = self.arguments
        return (dict(kwargs), *others)  # type: ignore[return-value]


class _Asking:
    """How one predictor call is asked now, and what to do when that fails.

    It is asked again after a pause, or with a shorter chain, or with the chain in a field. The retries are DSPy's own,
    as many and after the same pauses, but each is a request of its own here, so that it is seen and paid for: DSPy's
    loop, inside the language model, would hide them.
    """

    def __init__(self, inner: Any, lm: Any, text: str | None, probing: Probing, *, prefill: bool) -> None:
        self.chain = text
        self.probing = probing
        self.started: StartedMessage | None = None
        self._replaced: StartedMessage | None = None
        if text is not None and prefill and StartedMessage.possible(inner, lm):
            self.started = StartedMessage(inner, lm, text)
        self._inner = inner
        # One of the user's own class may keep something in itself, which a copy would lose: it retries by itself.
        plain = type(lm) is dspy.LM
        self.concessions = Concessions(lm)
        self._left = lm.num_retries if plain and lm_errors.RETRIES_ARE_SEEN else 0
        self._failed = 0
        self.lm: Any = alike(lm, num_retries=0) if self._left else lm

    @property
    def adapter(self) -> Any:
        """The user's adapter, or the one around it that begins the model's message."""
        return self._inner if self.started is None else self.started.adapter

    def answered(self) -> None:
        """There was a reply: keep what the server would not have before it."""
        self.concessions.confirmed()
        if self._replaced is not None:
            self._replaced.gave_way()

    def again(self, error: Exception) -> float | None:
        """Seconds to wait before asking again; None to raise the error."""
        if self.chain is not None and lm_errors.is_context_overflow(error):
            self.chain, self.started = chain.shorten(self.chain), None
            return 0.0
        if self.probing.failed(error, self.concessions.sent) or self.concessions.after(error):
            return 0.0
        if lm_errors.is_unreadable(error):
            self.answered()
        if self.started is not None and self.started.failed(error):
            self._replaced, self.started = self.started, None
            return 0.0
        if self._left <= 0 or not lm_errors.is_retryable(error):
            return None
        self._left -= 1
        self._failed += 1
        asked = lm_errors.retry_after(error)
        return min(asked, LONGEST_PATIENCE) if asked is not None else min(2.0 ** (self._failed - 1), LONGEST_PAUSE)
