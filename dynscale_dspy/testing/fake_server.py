"""An OpenAI-compatible chat server on loopback with a fake model behind it: light, deterministic, and faulty on demand.

Standard library only, one thread, no tasks: a request is answered by a timer, so that hundreds wait at no cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import json
import math
import re
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from types import MappingProxyType, TracebackType
from typing import Any

import dspy

from dynscale_dspy.testing.fake_model import FakeQuestion, Prompt, questions, uniform

FAULTS = (
    "429",  # refused, no Retry-After
    "429_retry_after",  # refused, with one
    "500",  # refused
    "503",  # refused
    "context_length",  # refused: the prompt is said to be too long
    "hang",  # nothing for a long time, then the connection is closed
    "stall",  # half of the reply, nothing for a long time, then the connection is closed
    "reset",  # the connection is reset instead of a reply
    "truncated_body",  # half of the reply's JSON
    "malformed_json",  # a reply that is no JSON at all
    "empty_choices",
    "null_content",
    "empty_content",
    "refusal",  # the model will not answer
    "content_filter",  # nothing but finish_reason "content_filter"
    "prose",  # an answer without the fields asked for
    "length",  # cut off in the middle of the answer, finish_reason "length"
    "extra_choice",  # one choice more than was asked for
    "slow",  # a good reply, late
    "no_usage",  # a good reply that does not say what it used
    "absurd_usage",  # a good reply that says it used more than can be
    "usage_of_one",  # a good reply that says what its first choice used
)
"""Kinds of fault. The first five are refusals, which cost no sample; the last four are good replies, late or
wrong about their usage; the others generate a sample and lose it (a choice too many, where the client minds)."""
REFUSED = Mapping[str, tuple[int, Mapping[str, Any] | str]]
"""What a server does not take: names of settings with a ``+`` between them, and the status and body of the refusal."""
PERMANENT_FAULTS = (
    "auth",  # refused: the key is not known
    "unknown_model",  # refused: there is no such model
)
"""Further kinds, of the sort that trying again does not help."""
BUSY_FAULTS = (
    "503_retry_after",  # refused, with one
)
"""Further kinds, of a server that wants to be left alone."""

_KINDS = (*FAULTS, *PERMANENT_FAULTS, *BUSY_FAULTS)
_PATIENCE = ("429_retry_after", "503_retry_after")
_REFUSALS = {
    "429": (429, "rate_limit_error", "rate_limit_exceeded"),
    "429_retry_after": (429, "rate_limit_error", "rate_limit_exceeded"),
    "500": (500, "server_error", "server_error"),
    "503": (503, "server_error", "service_unavailable"),
    "503_retry_after": (503, "server_error", "service_unavailable"),
    "context_length": (400, "invalid_request_error", "context_length_exceeded"),
    "auth": (401, "invalid_request_error", "invalid_api_key"),
    "unknown_model": (404, "invalid_request_error", "model_not_found"),
}
_HARMLESS = ("slow", "no_usage", "absurd_usage", "usage_of_one")
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 411: "Length Required"}
_SAYS = {
    "context_length": "This model's maximum context length is 10 tokens. Please reduce the length of the messages.",
    "auth": "Incorrect API key provided.",
    "unknown_model": "The model `fake` does not exist or you do not have access to it.",
}


@dataclass(frozen=True)
class FakeStatistics:
    """What a server has counted since it started or was last reset.

    Args:
        requests: Chat requests received, whatever became of them.
        samples: Choices generated; an ``n=3`` request makes three, a refused one none.
        delivered: Choices sent to a client still there, in a reply without fault.
        streamed: Replies made as a stream.
        conditioned: Requests whose prompt showed earlier attempts.
        unauthorized: Requests refused for their key.
        faults: Faults by kind.
        aborted: Requests whose client went away before the reply.
        in_flight: Requests being answered now.
        peak_in_flight: Most of them at once.
        connections: Connections opened.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens generated.
        per_question: Samples by question text; ``""`` for prompts with none of the bank's questions.
    """

    requests: int = 0
    samples: int = 0
    delivered: int = 0
    streamed: int = 0
    conditioned: int = 0
    unauthorized: int = 0
    faults: Mapping[str, int] = field(default_factory=dict)
    aborted: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    connections: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    per_question: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Options:
    seed: int = 0
    median_latency: float = 0.05
    sigma: float = 0.5
    fault_rate: float = 0.0
    faults: tuple[str, ...] = FAULTS
    retry_after: float | Sequence[float] = 0.05
    hang: float = 5.0
    sharpen: float = 0.0
    api_key: str | None = None
    context: int | None = None
    choices: str = "all"
    capacity: int | None = None
    cached: bool = False
    record: int = 10_000
    refused: REFUSED = field(default_factory=dict)

    def refusal(self, request: Mapping[str, Any]) -> tuple[int, Mapping[str, Any] | str] | None:
        """How a request is refused for the settings it has; None if it is not."""
        given = {name for name, value in request.items() if value is not None and (name, value) != ("n", 1)}
        return next((answer for names, answer in self.refused.items() if given.issuperset(names.split("+"))), None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "faults", tuple(self.faults))
        unknown = set(self.faults) - set(_KINDS)
        if unknown:
            raise ValueError(f"unknown faults {sorted(unknown)}; there are {list(_KINDS)}")
        if not 0 <= self.fault_rate <= 1:
            raise ValueError(f"fault_rate must be between 0 and 1, got {self.fault_rate!r}")
        if self.choices not in ("all", "one", "refuse"):
            raise ValueError(f"choices must be 'all', 'one' or 'refuse', got {self.choices!r}")
        for name in ("median_latency", "sigma", "hang", "record"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)!r}")
        if not self.patience or min(self.patience) < 0:
            raise ValueError(f"retry_after must be at least 0, or several such numbers, got {self.retry_after!r}")

    @property
    def patience(self) -> tuple[float, ...]:
        return (self.retry_after,) if isinstance(self.retry_after, (int, float)) else tuple(self.retry_after)

    def pause(self, name: str, attempt: int) -> tuple[str]:
        """The header of a request that is refused for now."""
        asked = self.patience[int(uniform(self.seed, name, attempt, "retry after") * len(self.patience))]
        return (f"retry-after: {asked:g}",)

    def delay(self, name: str, attempt: int) -> float:
        normal = NormalDist().inv_cdf(uniform(self.seed, name, attempt, "delay"))
        return self.median_latency * math.exp(self.sigma * normal)


class FakeServer:
    """A fake model of known answer distributions behind ``POST /v1/chat/completions``, on a free port of 127.0.0.1.

    The k-th sample of a question depends on the seed, the question and k alone, and so do the delay and the fault of
    its k-th request: whatever samples a question as often as another sampler sees the same answers, and a comparison
    of the two is paired. Which concurrent request is the k-th is up to the order in which they arrive. At temperature 0
    every sample is the most frequent answer.

    Replies are framed as the prompt asks: the fields of DSPy's chat, JSON or XML adapter, or a JSON schema; every
    field that is not reasoning holds the answer. DSPy's ReAct gets one tool call and then an end. A reply that is to be
    streamed comes as events of one word each, all at once.

    Besides the OpenAI routes there are, for clients in other processes, ``GET /questions``, ``GET /stats`` and
    ``POST /reset`` (options as JSON).

    Args:
        bank: The questions, or how many of :func:`questions` to make from the seed.
        seed: Fixes answers, delays and faults.
        median_latency: Median seconds to a reply.
        sigma: Spread of the log-normal delay; 0 for the same every time.
        fault_rate: Share of requests that go wrong.
        faults: In which ways, with equal chances; see :data:`FAULTS`.
        retry_after: Seconds that ``Retry-After`` asks for; of several numbers each time one, with equal chances.
        hang: Seconds before a hanging connection is closed.
        sharpen: Answers of requests that show earlier attempts have chances raised to ``1 + sharpen``.
        api_key: If given, requests with any other key are refused with status 401.
        context: If given, tokens a prompt may have; longer ones are refused.
        choices: What a request for several choices gets: ``"all"`` of them, ``"one"``, or is told to be impossible:
            ``"refuse"``.
        capacity: If given, requests beyond so many in flight are refused with status 429 and a Retry-After.
        cached: Whether equal requests get the first one's reply, id and all, as from a gateway that caches.
        record: How many of the latest request bodies :attr:`bodies` keeps.
        refused: Settings that are refused, with the status and the body of the reply: ``{"seed": (400, {...})}``. Those
            with a ``+`` between them are refused together: ``{"temperature+top_p": (400, {...})}``; ``n`` is if it is
            above 1. The body is JSON, or a text as it is.

    Raises:
        ValueError: If an option is out of range.

    Example:
        ```python
        with FakeServer([FakeQuestion("2 + 2?", {"4": 0.7, "5": 0.3}, "4")]) as server:
            with dspy.context(lm=server.lm()):
                DynScaling(dspy.Predict("question -> answer"), budget=5)(question="2 + 2?")
            server.statistics().samples
        ```
    """

    def __init__(
        self,
        bank: Sequence[FakeQuestion] | int = 200,
        *,
        seed: int = 0,
        median_latency: float = 0.05,
        sigma: float = 0.5,
        fault_rate: float = 0.0,
        faults: Sequence[str] = FAULTS,
        retry_after: float | Sequence[float] = 0.05,
        hang: float = 5.0,
        sharpen: float = 0.0,
        api_key: str | None = None,
        context: int | None = None,
        choices: str = "all",
        capacity: int | None = None,
        cached: bool = False,
        record: int = 10_000,
        refused: REFUSED | None = None,
    ) -> None:
        options = _Options(
            seed=seed,
            median_latency=median_latency,
            sigma=sigma,
            fault_rate=fault_rate,
            faults=tuple(faults),
            retry_after=retry_after,
            hang=hang,
            sharpen=sharpen,
            api_key=api_key,
            context=context,
            choices=choices,
            capacity=capacity,
            cached=cached,
            record=record,
            refused=refused or {},
        )
        self._world = _World(bank, options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    # ---- life

    def start(self) -> FakeServer:
        """Start serving; requests are answered from here on."""
        if self._loop is not None:
            raise RuntimeError("the fake server is already running")
        loop = self._loop = asyncio.new_event_loop()
        listening = loop.run_until_complete(
            loop.create_server(lambda: _Connection(self._world, loop), "127.0.0.1", 0, backlog=1024)
        )
        self._port = listening.sockets[0].getsockname()[1]

        def serve() -> None:
            loop.run_forever()
            listening.close()
            for connection in list(self._world.connections):
                connection.abort()
            loop.run_until_complete(asyncio.sleep(0))  # lets the connections go
            loop.close()

        self._thread = threading.Thread(target=serve, name="dynscale-fake-server", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving; requests under way are cut off. Stopping twice does nothing."""
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()

    def __enter__(self) -> FakeServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---- for clients

    @property
    def address(self) -> str:
        """Where it is, e.g. ``http://127.0.0.1:41327``."""
        if self._loop is None:
            raise RuntimeError("the fake server is not running: call start() or use it in a with statement")
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """The base URL to give to clients, which ends in /v1."""
        return f"{self.address}/v1"

    @property
    def questions(self) -> list[FakeQuestion]:
        """The bank."""
        return list(self._world.bank)

    def lm(self, engine: str = "auto", *, model: str = "openai/fake", **options: Any) -> dspy.LM:
        """A language model on this server: no cache, no retries, temperature 1, unless options say otherwise.

        DSPy's cache does not look at addresses: with ``cache=True``, two servers in one process share it.

        Args:
            engine: DSPy's: ``"auto"`` for its native client, ``"litellm"``. Before 3.4 there is only the latter.
            model: What to call it, with the provider ``openai``.
            options: Anything :class:`dspy.LM` takes.
        """
        if "engine" in inspect.signature(dspy.LM.__init__).parameters:
            options["engine"] = engine
        defaults: dict[str, Any] = {"api_key": "local", "cache": False, "num_retries": 0, "temperature": 1.0}
        return dspy.LM(model, api_base=self.url, **{**defaults, **options})

    def delay(self, question: FakeQuestion, attempt: int) -> float:
        """Seconds to the reply of a question's request number ``attempt``, from 0, if it meets no fault."""
        return self._world.options.delay(question.text, attempt)

    # ---- for tests

    def statistics(self) -> FakeStatistics:
        """A consistent snapshot of the counters."""
        with self._world.changed:
            return self._world.snapshot()

    def wait_until(self, condition: Callable[[FakeStatistics], bool], timeout: float = 10.0) -> FakeStatistics:
        """Wait for the counters to meet a condition, and return them.

        Raises:
            TimeoutError: If they do not in time.
        """
        with self._world.changed:
            if not self._world.changed.wait_for(lambda: condition(self._world.snapshot()), timeout):
                raise TimeoutError(f"not met within {timeout} s: {self._world.snapshot()}")
            return self._world.snapshot()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The latest chat requests as they came over the wire, oldest first."""
        with self._world.changed:
            return list(self._world.bodies)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep every reply back until the block ends, so that requests pile up for certain."""
        if self._loop is None:
            raise RuntimeError("the fake server is not running")
        self._world.held = True
        try:
            yield
        finally:
            self._world.held = False
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._world.release)

    def reset(self, **options: Any) -> None:
        """Zero the counters and start every question again, with some options changed.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If one is out of range.
        """
        self._world.reset(options)


@dataclass(frozen=True)
class _Reply:
    """What a request is to get, fixed when it arrives."""

    counts: _Counts
    delay: float = 0.0
    status: int = 200
    payload: bytes = b""
    headers: tuple[str, ...] = ()
    ending: str = "send"  # or "close", "reset", "stall"
    delivers: int = 0
    kind: str = "application/json"


class _Counts:
    """Counters of one epoch: requests begun before a reset go on counting in theirs."""

    def __init__(self) -> None:
        self.plain: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.per_question: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()


class _World:
    """Options, questions and counters, shared by all connections. Changes are told through :attr:`changed`."""

    def __init__(self, bank: Sequence[FakeQuestion] | int, options: _Options) -> None:
        self.changed = threading.Condition()
        self.connections: set[asyncio.Transport] = set()
        self.held = False
        self._kept: list[Callable[[], None]] = []
        self._given = bank
        self._start(options)

    def _start(self, options: _Options) -> None:
        self.options = options
        self.bank = questions(self._given, options.seed) if isinstance(self._given, int) else tuple(self._given)
        self.by_text = {question.text: question for question in self.bank}
        self.counts = _Counts()
        self.bodies: deque[dict[str, Any]] = deque(maxlen=options.record)

    def reset(self, changes: Mapping[str, Any]) -> None:
        options = dataclasses.replace(self.options, **changes)
        with self.changed:
            self._start(options)
            self.changed.notify_all()

    def snapshot(self) -> FakeStatistics:
        counts = self.counts
        return FakeStatistics(
            faults=MappingProxyType(dict(counts.faults)),
            per_question=MappingProxyType(dict(counts.per_question)),
            **counts.plain,
        )

    def connected(self, transport: asyncio.Transport) -> None:
        self.connections.add(transport)
        with self.changed:
            self.counts.plain["connections"] += 1

    def keep(self, finish: Callable[[], None]) -> None:
        self._kept.append(finish)

    def release(self) -> None:
        kept, self._kept = self._kept, []
        for finish in kept:
            finish()

    def begin(self, request: dict[str, Any], key: str) -> _Reply:
        """A chat request has arrived: count it and settle what it will get."""
        options = self.options
        prompt = Prompt(request)
        question = prompt.question(self.bank, self.by_text)
        name = question.text if question else ""
        with self.changed:
            counts = self.counts
            plain = counts.plain
            plain["requests"] += 1
            plain["in_flight"] += 1
            plain["peak_in_flight"] = max(plain["peak_in_flight"], plain["in_flight"])
            plain["conditioned"] += prompt.conditioned
            self.bodies.append(request)
            attempt = 0 if options.cached else counts.attempts[name]
            counts.attempts[name] += 1
            reply = self._reply(request, prompt, question, name, attempt, authorized=options.api_key in (None, key))
            self.changed.notify_all()
        return reply

    def end(self, reply: _Reply, *, aborted: bool = False) -> None:
        """A chat request is over."""
        with self.changed:
            plain = reply.counts.plain
            plain["in_flight"] -= 1
            plain["aborted"] += aborted
            if not aborted:
                plain["delivered"] += reply.delivers
            self.changed.notify_all()

    def _reply(
        self,
        request: Mapping[str, Any],
        prompt: Prompt,
        question: FakeQuestion | None,
        name: str,
        attempt: int,
        *,
        authorized: bool,
    ) -> _Reply:
        options, counts = self.options, self.counts
        seed = options.seed
        if not authorized:
            counts.plain["unauthorized"] += 1
            return _Reply(counts, status=401, payload=_error("Incorrect API key provided", "invalid_api_key"))
        if (refusal := options.refusal(request)) is not None:
            status, told = refusal
            return _Reply(counts, status=status, payload=(told if isinstance(told, str) else json.dumps(told)).encode())
        wanted = int(request.get("n") or 1)
        if wanted > 1 and options.choices == "refuse":
            return _Reply(counts, status=400, payload=_error("n must be 1", "invalid_request_error"))
        if options.capacity is not None and counts.plain["in_flight"] > options.capacity:
            headers = options.pause(name, attempt)
            counts.faults["429_retry_after"] += 1
            return _Reply(counts, status=429, payload=_error("too many requests", "rate_limit_error"), headers=headers)
        delay = options.delay(name, attempt)
        fault = ""
        if options.faults and uniform(seed, name, attempt, "fault") < options.fault_rate:
            fault = options.faults[int(uniform(seed, name, attempt, "kind") * len(options.faults))]
            counts.faults[fault] += 1
        if options.context is not None and sum(map(_tokens, prompt.messages)) > options.context:
            fault = "context_length"
        if fault in _REFUSALS:
            headers = options.pause(name, attempt) if fault in _PATIENCE else ()
            status, kind, code = _REFUSALS[fault]
            return _Reply(counts, delay, status, _error(_SAYS.get(fault, f"fault {fault}"), kind, code), headers)

        texts = []
        answers = []
        for choice in range(wanted if options.choices == "all" else 1):
            number = choice if options.cached else counts.per_question[name]
            point = uniform(seed, name, number, "answer")
            counts.per_question[name] += 1
            sharpen = options.sharpen if prompt.conditioned else 0.0
            if request.get("temperature") == 0:
                sharpen = math.inf
            answers.append(question.draw(point, sharpen) if question else "unknown")
            texts.append(prompt.prose(answers[-1]) if fault == "prose" else prompt.reply(answers[-1]))
        prompt_tokens = sum(map(_tokens, prompt.messages))
        completion_tokens = sum(map(_tokens, texts))
        counts.plain["samples"] += len(texts)
        counts.plain["prompt_tokens"] += prompt_tokens
        counts.plain["completion_tokens"] += completion_tokens
        contents: list[str | None] = list(texts)
        if fault in ("null_content", "refusal", "content_filter"):
            contents = [None] * len(texts)
        elif fault == "empty_content":
            contents = [""] * len(texts)
        elif fault == "extra_choice":
            contents.append(texts[-1])
        elif fault == "length":
            contents = [_cut(text, answer) for text, answer in zip(texts, answers, strict=True)]
        body = {
            "id": f"chatcmpl-{attempt}",
            "object": "chat.completion",
            "created": 0,
            "model": request.get("model", "fake"),
            "choices": [
                {
                    "index": index,
                    "message": {
                        "role": "assistant",
                        "content": content,
                        **({"refusal": "I cannot help with that."} if fault == "refusal" else {}),
                    },
                    "finish_reason": fault if fault in ("length", "content_filter") else "stop",
                }
                for index, content in enumerate(contents)
                if fault != "empty_choices"
            ],
            "usage": _usage(prompt_tokens, completion_tokens),
        }
        if fault == "no_usage":
            del body["usage"]
        elif fault == "absurd_usage":
            body["usage"] = _usage(prompt_tokens, 10**9)
        elif fault == "usage_of_one":
            body["usage"] = _usage(prompt_tokens, _tokens(texts[0]))
        streams = bool(request.get("stream"))
        counts.plain["streamed"] += streams
        payload = _events(body, request) if streams else json.dumps(body).encode()
        if fault == "truncated_body":
            payload = payload[: len(payload) // 2]
        elif fault == "malformed_json":
            payload = b"<html>Bad gateway</html>"
        return _Reply(
            counts,
            {"hang": options.hang, "slow": 10 * delay}.get(fault, delay),
            payload=payload,
            kind="text/event-stream" if streams else "application/json",
            ending={"hang": "close", "reset": "reset", "stall": "stall"}.get(fault, "send"),
            delivers=len(texts) if not fault or fault in _HARMLESS else 0,
        )


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, kept alive; one request at a time."""

    def __init__(self, world: _World, loop: asyncio.AbstractEventLoop) -> None:
        self._world = world
        self._loop = loop
        self._buffer = bytearray()
        self._reply: _Reply | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._world.connected(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._world.connections.discard(self._transport)
        if self._timer is not None:
            self._timer.cancel()
        reply, self._reply = self._reply, None
        if reply is not None:
            self._world.end(reply, aborted=True)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._reply is None and not self._transport.is_closing():
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            request, *lines = head.decode("latin-1").split("\r\n")
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            if "transfer-encoding" in headers:
                self._send(411, _error("send a Content-Length", "invalid_request_error"), close=True)
                return
            length = int(headers.get("content-length", 0))
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            method, path, *_ = request.split(" ")
            self._handle(method, path.partition("?")[0], headers, bytes(rest[:length]))

    def _handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        world = self._world
        try:
            if (method, path) == ("POST", "/v1/chat/completions"):
                key = headers.get("authorization", "").removeprefix("Bearer ")
                reply = self._reply = world.begin(json.loads(body), key)
                self._timer = self._loop.call_later(reply.delay, self._due)
            elif (method, path) == ("GET", "/v1/models"):
                self._send_json({"object": "list", "data": [{"id": "fake", "object": "model", "owned_by": "fake"}]})
            elif (method, path) == ("GET", "/questions"):
                self._send_json([{"text": question.text, "answer": question.answer} for question in world.bank])
            elif (method, path) == ("GET", "/stats"):
                with world.changed:
                    self._send_json(_wire(world.snapshot(), world.bank))
            elif (method, path) == ("POST", "/reset"):
                world.reset(json.loads(body or b"{}"))
                self._send_json({})
            else:
                self._send(404, _error(f"no route {method} {path}", "invalid_request_error"))
        except (TypeError, ValueError) as error:
            self._send(400, _error(str(error), "invalid_request_error"))

    def _due(self) -> None:
        if self._world.held:
            self._world.keep(self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        if self._reply is not None and self._reply.ending == "stall":
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(self._reply.payload)}"
            self._transport.write(f"{head}\r\n\r\n".encode() + self._reply.payload[: len(self._reply.payload) // 2])
            self._reply = replace(self._reply, ending="close")
            self._timer = self._loop.call_later(self._world.options.hang, self._finish)
            return
        reply, self._reply = self._reply, None
        if reply is None:
            return  # the client went away while replies were held
        # Counted before it is sent: whoever has the reply must find it counted.
        self._world.end(reply)
        if reply.ending == "send":
            self._send(reply.status, reply.payload, reply.headers, kind=reply.kind)
            self.data_received(b"")  # a next request may be here already
        elif reply.ending == "close":
            self._transport.close()
        else:
            connection: socket.socket = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode())

    def _send(
        self,
        status: int,
        payload: bytes,
        headers: Sequence[str] = (),
        *,
        kind: str = "application/json",
        close: bool = False,
    ) -> None:
        head = [
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}",
            f"content-type: {kind}",
            f"content-length: {len(payload)}",
            *headers,
            *(["connection: close"] if close else []),
        ]
        self._transport.write("\r\n".join([*head, "", ""]).encode("latin-1") + payload)
        if close:
            self._transport.close()


def _wire(statistics: FakeStatistics, bank: Sequence[FakeQuestion]) -> dict[str, Any]:
    """The counters under the names that the arena reads, questions by position."""
    position = {question.text: str(number) for number, question in enumerate(bank)}
    values = {**vars(statistics), "faults": dict(statistics.faults)}
    del values["per_question"]
    return {
        **values,
        "samples_delivered": statistics.delivered,
        "inflight": statistics.in_flight,
        "max_inflight": statistics.peak_in_flight,
        "per_q": {position.get(text, text): samples for text, samples in statistics.per_question.items()},
    }


def _error(message: str, kind: str, code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code or kind}}).encode()


def _events(body: Mapping[str, Any], request: Mapping[str, Any]) -> bytes:
    """A reply as the events of a stream, a word each, with its usage at the end if that is asked for."""
    about = {name: body[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    events: list[dict[str, Any]] = []
    for choice in body["choices"]:
        words = re.findall(r"\S+\s*|\s+", choice["message"]["content"] or "")
        deltas = [{"role": "assistant", "content": word} for word in words]
        said = [{"index": choice["index"], "delta": delta, "finish_reason": None} for delta in deltas]
        said.append({"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]})
        events += [{**about, "choices": [each]} for each in said]
    if "usage" in body and (request.get("stream_options") or {}).get("include_usage"):
        events.append({**about, "choices": [], "usage": body["usage"]})
    return b"".join(f"data: {line}\n\n".encode() for line in [*map(json.dumps, events), "[DONE]"])


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _tokens(text: str) -> int:
    return max(1, len(text) // 4)


def _cut(text: str, answer: str) -> str:
    """The text up to the middle of its last answer: what is left of that reads like another answer."""
    return text[: text.rfind(answer) + max(1, len(answer) // 2)]
