"""Continuous batching: one thread owns the model, and requests join and leave its running batch between steps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dynscale_dspy.lab.model import Cache, Llama
from dynscale_dspy.lab.tokenizer import ChatTokenizer

# Prompts longer than this in total wait for the next step, so that a rush of them does not stall running sequences.
_PREFILL_TOKENS = 1024


@dataclass(frozen=True)
class Sampling:
    """How to sample a reply.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: Keep the likeliest tokens up to this share of the probability.
        max_tokens: Cut the reply here; None means where the context ends.
        stop: Cut the reply before any of these.
        seed: Makes the reply reproducible; None draws a fresh one.
        top_logprobs: How many alternatives to report at each token.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_logprobs: int = 0


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its natural-log probability under the model itself, before temperature and top_p.

    Attributes:
        token: Its id.
        logprob: Its log-probability.
        top: The likeliest tokens there, as (id, log-probability), best first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Completion:
    """A finished reply.

    Attributes:
        text: The reply, without its end marker and cut before a stop string.
        token_count: How many tokens were sampled, those of a stop string included and the end marker not.
        finish_reason: "stop" where the reply ended or met a stop string, "length" where it was cut.
        logprobs: The tokens of `text`.
    """

    text: str
    token_count: int
    finish_reason: str
    logprobs: tuple[TokenLogprob, ...]


class EngineClosedError(RuntimeError):
    """The engine was closed before the request was done."""


@dataclass
class _Request:
    prompt: tuple[int, ...]
    sampling: Sampling
    limit: int  # tokens a reply may have
    stop: tuple[bytes, ...]
    completions: list[Completion | None]
    future: Future[list[Completion]] = field(default_factory=Future)


@dataclass
class _Sequence:
    """One reply in the making."""

    request: _Request
    index: int
    random: np.random.Generator
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # where each token ends in `text`
    text: bytearray = field(default_factory=bytearray)
    done: bool = False


class Engine:
    """Samples replies from a model, many at once.

    A reply is a function of its prompt, its sampling options and (seed, index among the request's n): each has its own
    random generator, spends one draw a token, and the model's arithmetic for it does not depend on the rest of the
    batch (see `dynscale_dspy.lab.model`). That last point rests on BLAS giving a row of a fixed-size product the same
    sums whatever stands in the other rows: bit for bit so with the OpenBLAS in NumPy's wheels where this was measured,
    but promised by no standard, and other processors or BLAS builds may round differently. A reply changes only where
    a draw falls within such a rounding error of the border between two tokens.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        batch_size: How many replies are sampled side by side; further ones wait.
    """

    def __init__(self, model: Llama, tokenizer: ChatTokenizer, batch_size: int = 64) -> None:
        self.context: int = model.config.max_position_embeddings
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._banned = tokenizer.unspeakable(model.config.vocab_size)
        self._cache = Cache(model.config, batch_size)
        self._running: list[_Sequence] = []  # the i-th is in cache row i
        self._waiting: deque[_Sequence] = deque()
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="dynscale-lab-engine", daemon=True)
        self._thread.start()

    def submit(self, prompt: Sequence[int], sampling: Sampling, n: int = 1) -> Future[list[Completion]]:
        """Ask for n replies to a prompt of token ids.

        Cancelling the future drops its replies from the batch before the next step.

        Raises:
            ValueError: The prompt is empty or leaves no room for a reply.
            EngineClosedError: The engine is closed.
        """
        if not 0 < len(prompt) < self.context:
            raise ValueError(f"a prompt has 1 to {self.context - 1} tokens, this one {len(prompt)}")
        room = self.context - len(prompt)
        request = _Request(
            prompt=tuple(prompt),
            sampling=sampling,
            limit=room if sampling.max_tokens is None else min(room, sampling.max_tokens),
            stop=tuple(stop.encode() for stop in sampling.stop),
            completions=[None] * n,
        )
        sequences = [_Sequence(request, i, _generator(sampling.seed, i)) for i in range(n)]
        with self._changed:
            if self._closed:
                raise EngineClosedError("the engine is closed")
            self._waiting.extend(sequences)
            self._changed.notify()
        return request.future

    def load(self) -> tuple[int, int]:
        """Return how many replies are being sampled and how many wait."""
        with self._changed:
            return len(self._running), len(self._waiting)

    def close(self) -> None:
        """Stop the thread. Unfinished requests fail with EngineClosedError."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._running or self._waiting or self._closed):
                    self._changed.wait()
                if self._closed:
                    self._fail_all(EngineClosedError("the engine was closed"))
                    return
                newcomers = self._admit()
            try:
                if self._running:  # all may have been cancelled
                    self._step(newcomers)
            except Exception as error:  # must reach the callers, who would wait for a dead thread
                with self._changed:
                    self._fail_all(error)

    def _fail_all(self, error: Exception) -> None:
        for sequence in (*self._running, *self._waiting):
            future = sequence.request.future
            if not future.done() and future.set_running_or_notify_cancel():
                future.set_exception(error)
        self._running.clear()
        self._waiting.clear()

    def _admit(self) -> int:
        """Drop cancelled replies, move waiting ones behind the running ones and return how many those are."""
        for row in reversed(range(len(self._running))):
            if self._running[row].request.future.cancelled():
                self._release(row)
        before = len(self._running)
        prompts: set[tuple[int, ...]] = set()
        while self._waiting and len(self._running) < self._batch_size:
            request = self._waiting[0].request
            if not request.future.cancelled():
                prompts.add(request.prompt)  # those that are the same are read once
                if sum(map(len, prompts)) > _PREFILL_TOKENS and len(prompts) > 1:
                    break
                self._running.append(self._waiting[0])
            self._waiting.popleft()
        return len(self._running) - before

    def _release(self, row: int) -> None:
        """Take a reply out of the batch and put the last one in its place."""
        last = len(self._running) - 1
        if row != last:
            self._cache.copy(last, row)
            self._running[row] = self._running[last]
        self._running.pop()

    def _step(self, newcomers: int) -> None:
        """Sample one token for each running reply; for the newcomers, the last rows, that starts with their prompts."""
        settled = len(self._running) - newcomers
        rows_of: dict[tuple[int, ...], list[int]] = {}  # each distinct prompt is read once, into the first of its rows
        for row in range(settled, len(self._running)):
            self._cache.clear(row)
            rows_of.setdefault(self._running[row].request.prompt, []).append(row)

        rows = [*range(settled), *(group[0] for group in rows_of.values())]
        chunks = [(sequence.logprobs[-1].token,) for sequence in self._running[:settled]]
        logits = self._model.forward(self._cache, rows, [*chunks, *rows_of])

        source = np.arange(len(self._running))  # which row of `logits` is whose
        for i, (first, *others) in enumerate(rows_of.values(), start=settled):
            source[[first, *others]] = i
            for row in others:
                self._cache.copy(first, row)
        self._append(logits[source])
        for row in reversed(range(len(self._running))):
            if self._running[row].done:
                self._release(row)

    def _append(self, logits: NDArray[np.float32]) -> None:
        """Sample a token for each running reply from its row of logits."""
        logprobs = logits.astype(np.float64)
        logprobs[:, self._banned] = -np.inf
        logprobs -= logprobs.max(axis=1, keepdims=True)
        logprobs -= np.log(np.exp(logprobs).sum(axis=1, keepdims=True))
        tokens = _sample(logprobs, self._running).tolist()
        for sequence, token, row in zip(self._running, tokens, logprobs, strict=True):
            self._take(sequence, token, row)

    def _take(self, sequence: _Sequence, token: int, row: NDArray[np.float64]) -> None:
        """Add a token to a reply, and finish the reply if that was its last one."""
        request = sequence.request
        if token == self._tokenizer.end:
            self._finish(sequence, "stop", len(sequence.text))
            return

        count = request.sampling.top_logprobs
        likeliest = np.argsort(-row, kind="stable")[:count].tolist() if count else []
        top = tuple((other, float(row[other])) for other in likeliest)
        sequence.logprobs.append(TokenLogprob(token, float(row[token]), top))

        before = len(sequence.text)
        sequence.text += self._tokenizer.bytes_of(token)
        sequence.ends.append(len(sequence.text))
        found = [sequence.text.find(stop, max(0, before - len(stop) + 1)) for stop in request.stop]
        cuts = [cut for cut in found if cut >= 0]
        if cuts:
            self._finish(sequence, "stop", min(cuts))
        elif len(sequence.ends) >= request.limit:
            self._finish(sequence, "length", len(sequence.text))

    def _finish(self, sequence: _Sequence, reason: str, cut: int) -> None:
        sequence.done = True
        request = sequence.request
        kept = sum(end <= cut for end in sequence.ends)
        request.completions[sequence.index] = Completion(
            text=sequence.text[:cut].decode("utf-8", errors="replace"),
            token_count=len(sequence.ends),
            finish_reason=reason,
            logprobs=tuple(sequence.logprobs[:kept]),
        )
        finished = [completion for completion in request.completions if completion is not None]
        if len(finished) == len(request.completions) and request.future.set_running_or_notify_cancel():
            request.future.set_result(finished)


def _generator(seed: int | None, index: int) -> np.random.Generator:
    if seed is None:
        return np.random.default_rng()
    return np.random.default_rng([seed % 2**64, index])  # a seed sequence takes no negative numbers


def _sample(logprobs: NDArray[np.float64], sequences: list[_Sequence]) -> NDArray[np.int64]:
    """Return a token for each row of log-probabilities, by inverting its cumulative distribution at one draw."""
    temperatures = np.array([sequence.request.sampling.temperature for sequence in sequences])
    peaks = logprobs.max(axis=1, keepdims=True)
    weights = np.exp((logprobs - peaks) / np.where(temperatures > 0, temperatures, 1)[:, None])
    for row, sequence in enumerate(sequences):
        if sequence.request.sampling.top_p < 1:
            _keep_nucleus(weights[row], sequence.request.sampling.top_p)
    cumulative = weights.cumsum(axis=1)
    totals = cumulative[:, -1]
    draws = np.array([sequence.random.random() for sequence in sequences])
    targets = np.minimum(draws * totals, np.nextafter(totals, 0))
    sampled = (cumulative <= targets[:, None]).sum(axis=1)
    return np.where(temperatures > 0, sampled, logprobs.argmax(axis=1))


def _keep_nucleus(weights: NDArray[np.float64], top_p: float) -> None:
    """Set to zero, in place, all but the likeliest tokens that first reach a share `top_p` of the whole."""
    order = np.argsort(-weights, kind="stable")
    before = weights[order].cumsum() - weights[order]
    weights[order[before >= top_p * weights.sum()]] = 0
