"""A language model inside the process, for tests that need to say what each call answers."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost, DynScaling
from dynscale_dspy.budget.arms import Arm
from dynscale_dspy.budget.leases import Lease
from dynscale_dspy.execution.answer_reader import AnswerReader
from dynscale_dspy.execution.run import SampleRun, SampleSettings
from dynscale_dspy.sampling.sample import Draw
from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.plurality import Plurality

try:
    from dspy.lm15 import Message, Response, Usage
except ImportError:  # before DSPy 3.4 every request goes through LiteLLM
    Message = Response = Usage = None


def vote(key: Any) -> Vote | None:
    """The vote of a sample whose answer is its own key; None for no vote."""
    return None if key is None else Vote(key, key)


def one_each(module: dspy.Module, budget: Any = None, **options: Any) -> DynScaling:
    """A wrapped program each of whose samples makes a request of its own, for tests that count them."""
    return DynScaling(module, budget, max_choices=1, **options)


def open_or_wait(pool: BudgetPool, room: int = 1, **options: Any) -> Arm | Future[None] | None:
    """Open a call on a pool with room for so many independent samples; or what to wait for; or None."""
    return pool.admission.open(["independent"] * room, **options)


def open_call(pool: BudgetPool, room: int = 1, **options: Any) -> Arm | None:
    """Open a call on a pool with room for so many independent samples; None if that cannot be done now."""
    arm = open_or_wait(pool, room, **options)
    return None if isinstance(arm, Future) else arm


class Known:
    """Something for a pool to know samples by."""


def opened(pool: BudgetPool, room: int = 1, **options: Any) -> Arm:
    """An open call that wants up to so many samples."""
    arm = open_call(pool, room, **options)
    assert isinstance(arm, Arm)
    return arm


def until(condition: Callable[[], bool], timeout: float = 10) -> None:
    """Wait for a condition of something that announces no change, by looking again and again.

    Where there is an event to wait for, wait for that: :meth:`FakeServer.wait_until`, a future, :func:`settled`.

    Raises:
        TimeoutError: If the condition is not met in time.
    """
    deadline, pause = time.monotonic() + timeout, threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not met within {timeout:g} s")
        pause.wait(0.005)


async def settled(pool: BudgetPool, timeout: float = 10) -> None:
    """Wait until a pool holds nothing in reserve: threads that outlive their call settle after the last reply.

    Raises:
        TimeoutError: If something is still reserved then.
    """
    deadline = time.monotonic() + timeout
    while True:
        change = pool.admission.change()  # before looking, so that no change in between is missed
        if pool.statistics().reserved == Cost():
            return
        await asyncio.wait([asyncio.wrap_future(change)], timeout=deadline - time.monotonic())
        if time.monotonic() > deadline:
            raise TimeoutError(f"still reserved: {pool.statistics().reserved}")


def forked(act: Callable[[], object], timeout: float = 30) -> int:
    """What a forked child says by its exit status: 99 if it raises, -9 if it does not end in time."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = int(act())  # type: ignore[call-overload]
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    ended = (0, 0)

    def look() -> bool:
        nonlocal ended
        ended = os.waitpid(pid, os.WNOHANG)
        return ended[0] == pid

    try:
        until(look, timeout)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        ended = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(ended[1])


def started(pool: BudgetPool) -> Lease:
    """The lease of a sample of a call of its own that has begun."""
    arm = open_call(pool)
    assert arm is not None
    lease = arm.take()
    assert lease.start()
    return lease


def sample_settings(
    module: dspy.Module,
    pool: BudgetPool | None = None,
    *,
    temperature: float | None = None,
    vary: bool = True,
    owner: object = None,
) -> SampleSettings:
    """How samples of a program are drawn that is wrapped with the defaults."""
    payer = (pool or BudgetPool(5)).admission
    return SampleSettings(module, AnswerReader(module), Plurality(), payer, temperature, vary, owner)


@contextlib.contextmanager
def sample_run(draw: Draw, lease: Lease | None, settings: SampleSettings) -> Iterator[SampleRun]:
    """A run of a program as a sample, concluded whatever happens in the block."""
    run = SampleRun(draw, lease, settings)
    try:
        with run:
            yield run
    finally:
        run.conclude()


HAS_ENGINES = "engine" in inspect.signature(dspy.LM.__init__).parameters
"""Whether DSPy has an engine of its own beside LiteLLM, which it has since 3.4."""
ENGINES = ("auto", "litellm") if HAS_ENGINES else ("litellm",)
needs_engines = pytest.mark.skipif(not HAS_ENGINES, reason="DSPy before 3.4 has no engine but LiteLLM")
needs_lm_errors = pytest.mark.skipif(
    not hasattr(dspy, "is_retryable_lm_error"),
    reason="before DSPy 3.3 LiteLLM retries unseen, and errors are its own: failed requests are counted otherwise",
)
ASKS_ONCE = dspy.ChatAdapter(use_json_adapter_fallback=hasattr(dspy, "is_retryable_lm_error"))
"""Makes one request where the first fails: before DSPy 3.3 the adapter asks again as JSON, whatever the failure is."""

Reply = str | Mapping[str, Any] | Exception


@dataclass
class ScriptedModel:
    """Answers requests by a function of the prompt's text and the request's number, and remembers them.

    A mapping is framed as DSPy's ChatAdapter expects, a string is sent as it is, an exception is raised.
    """

    reply: Callable[[str, int], Reply]
    finish_reason: str = "stop"
    requests: list[Any] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def answer(self, request: Any) -> str:
        """The reply's text; what is to be raised is raised."""
        with self.lock:
            number = len(self.requests)
            self.requests.append(request)
        reply = self.reply(self.text(request), number)
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, str) else frame(reply)

    def usage(self, request: Any) -> tuple[int, int]:
        """Tokens of the prompt and of the reply, as the provider reports them."""
        return 7, 3

    def complete(self, request: Any) -> Any:
        read, written = self.usage(request)
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(self.answer(request)),
            finish_reason=self.finish_reason,  # type: ignore[arg-type]
            usage=Usage(input_tokens=read, output_tokens=written, total_tokens=read + written),
        )

    @staticmethod
    def text(request: Any) -> str:
        """Everything the model is shown."""
        parts = [str(getattr(request, "system", "") or "")]
        parts += [part.text for message in request.messages for part in message.parts if hasattr(part, "text")]
        return "\n".join(parts)

    def lm(self, **options: Any) -> dspy.LM:
        """This model as DSPy takes it."""
        options = {"cache": False, "num_retries": 0, **options}
        if Message is None:
            return _through_litellm(self, options)
        return dspy.LM("scripted/model", engine=self, async_engine=_Async(self), **options)


class _Async:
    def __init__(self, model: ScriptedModel) -> None:
        self.model = model

    async def complete(self, request: Any) -> Any:
        return self.model.complete(request)


def _through_litellm(model: ScriptedModel, options: dict[str, Any]) -> dspy.LM:
    import litellm
    from litellm.llms.custom_llm import CustomLLM

    class Handler(CustomLLM):
        """Finds the model by the key, which is in no cache key of DSPy's."""

        def completion(self, *, model: str, messages: list, api_key: str, optional_params: dict, **_: Any) -> Any:
            scripted = _models[api_key]
            request = SimpleNamespace(
                system="",
                messages=[SimpleNamespace(parts=[SimpleNamespace(text=_text(message))]) for message in messages],
                config=SimpleNamespace(
                    temperature=optional_params.get("temperature"), seed=optional_params.get("seed")
                ),
            )
            read, written = scripted.usage(request)
            return litellm.ModelResponse(
                model=model,
                choices=[
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": scripted.answer(request)},
                        "finish_reason": scripted.finish_reason,
                    }
                ],
                usage={"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
            )

        async def acompletion(self, **request: Any) -> Any:
            return self.completion(**request)

    if not any(entry["provider"] == "scripted" for entry in litellm.custom_provider_map):
        litellm.custom_provider_map.append({"provider": "scripted", "custom_handler": Handler()})
    _models[str(id(model))] = model
    return dspy.LM("scripted/model", api_key=str(id(model)), **options)


_models: dict[str, ScriptedModel] = {}


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text") or "" for part in content)


def frame(fields: Mapping[str, Any]) -> str:
    """A reply as DSPy's ChatAdapter parses it."""
    blocks = [f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()]
    return "\n\n".join([*blocks, "[[ ## completed ## ]]"])


def cycle(*answers: Any) -> Callable[[str, int], Reply]:
    """Replies whose ``answer`` goes round these values; an exception among them is raised."""

    def reply(prompt: str, number: int) -> Reply:
        answer = answers[number % len(answers)]
        if isinstance(answer, Exception):
            return answer
        return {"reasoning": f"thought {number}", "answer": answer}

    return reply
