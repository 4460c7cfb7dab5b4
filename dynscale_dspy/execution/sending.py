"""Whether a request that was cut off had left: read from where in its code that struck.

What cancels a task, or interrupts a thread, is raised where the code waits, and the error keeps the frames from there
up. A request that waits for a thread, a free connection or a user's own semaphore has not left, and costs nothing. In
doubt it has: what is on its way may be billed.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Iterator
from types import CodeType, FrameType, TracebackType
from typing import NamedTuple

_BEFORE = frozenset(
    {
        # DSPy: the cache is looked at and the request is made up, for tasks in one of asyncio's few threads.
        "dspy.clients.execution:prepare",
        "dspy.clients.execution:_cached",
        "dspy.clients.execution:_engine",
        "dspy.clients.engines.lm15_engine:_target",
        # DSPy's own transport: a place, a connection.
        "dspy._vendor.lm15.transports._async:acquire_slot",
        "dspy._vendor.lm15.transports._async:checkout",
        "dspy._vendor.lm15.transports._async:register_new",
        "dspy._vendor.lm15.transports._async:_open",
        "dspy._vendor.lm15.transports._sync:acquire_slot",
        "dspy._vendor.lm15.transports._sync:checkout",
        "dspy._vendor.lm15.transports._sync:register_new",
        "dspy._vendor.lm15.transports._sync:_open",
        # What LiteLLM, the providers' own clients and users send with.
        "httpcore._async.connection_pool:wait_for_connection",
        "httpcore._async.connection:_connect",
        "httpcore._sync.connection_pool:wait_for_connection",
        "httpcore._sync.connection:_connect",
        "httpcore2._async.connection_pool:wait_for_connection",
        "httpcore2._async.connection:_connect",
        "httpcore2._sync.connection_pool:wait_for_connection",
        "httpcore2._sync.connection:_connect",
        "aiohttp.connector:connect",
        "urllib3.connectionpool:_get_conn",
        "urllib3.connection:_new_conn",
    }
)
"""Functions in which, however deep, nothing of the request has been sent."""
_BEFORE_AT = frozenset({"litellm.main:acompletion", "litellm.responses.main:aresponses"})
"""Functions in which that is so where they wait themselves: for a thread that makes the request up."""
_ASYNCHRONOUS = frozenset(
    {"openai", "azure", "anthropic", "gemini", "vertex_ai", "bedrock", "mistral", "groq", "deepseek", "openrouter"}
    | {"together_ai", "fireworks_ai", "xai", "hosted_vllm", "ollama", "ollama_chat", "lm_studio", "databricks"}
)
"""Providers for which that thread sends nothing itself. For some others of LiteLLM's it does."""
_TURNS = frozenset({"asyncio.locks:acquire", "anyio._core._synchronization:acquire"})
"""Where code of a user's own waits for its turn."""
_TRUSTED = frozenset(
    {"dspy", "litellm", "openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "urllib3"}
)
"""Libraries that make one request at a time."""
_MADE_BEFORE = {
    **{"dspy": "attempt", "openai": "retries_taken", "anthropic": "retries_taken"},
    **{"httpx": "history", "httpx2": "history", "aiohttp": "history"},
}
"""Where those that may make it again keep how often they have made it before: after a failure, or a redirect."""
_PYTHON = sys.stdlib_module_names | {"anyio"}
"""What any of them waits with."""


def had_left(error: BaseException) -> bool:
    """Return True unless a request that was cut off had certainly not left.

    Args:
        error: What cut it off, as the language model's callbacks are told of it: its frames are then those of the
            request alone.
    """
    outer: list[_Place] = []
    for place in _places(error.__traceback__):
        if place.name in _BEFORE:
            break
        outer.append(place)
    else:
        own = [place for place in outer if place.library not in _PYTHON]
        names = {place.name for place in outer}
        if not own or not (own[-1].waits_for_a_thread or (own[-1].is_foreign and names & _TURNS)):
            return True
    return any(place.may_have_sent for place in outer)


class _Place(NamedTuple):
    """A function that an error went through, and the instruction it was at."""

    frame: FrameType
    instruction: int

    @property
    def name(self) -> str:
        """Its module and name; for code handed to a thread, those of the code."""
        if self.frame.f_code.co_name == "to_thread":
            function = self.frame.f_locals.get("func")
            return f"{getattr(function, '__module__', '')}:{getattr(function, '__name__', '')}"
        return f"{self.frame.f_globals.get('__name__')}:{self.frame.f_code.co_name}"

    @property
    def library(self) -> str:
        """The package it belongs to."""
        return str(self.frame.f_globals.get("__name__")).partition(".")[0]

    @property
    def is_foreign(self) -> bool:
        """Whether it may do anything, as a language model of a user's own."""
        return self.library not in _TRUSTED and self.library not in _PYTHON

    @property
    def waits_for_a_thread(self) -> bool:
        """Whether what it waits for itself is a thread that makes the request up and does not send it."""
        return self.name in _BEFORE_AT and self.frame.f_locals.get("custom_llm_provider") in _ASYNCHRONOUS

    @property
    def may_have_sent(self) -> bool:
        """Whether it may have made a request before it came to this instruction."""
        if self.library in _MADE_BEFORE:
            # What was refused counts, and what failed may have been answered all the same.
            return bool(self.frame.f_locals.get(_MADE_BEFORE[self.library]))
        if not self.is_foreign:
            return False
        code = self.frame.f_code
        if not code.co_flags & inspect.CO_COROUTINE:
            return True
        awaits, jumps = _awaits_and_jumps(code)
        begun = [offset for offset in awaits if offset <= self.instruction]
        again = any(offset > self.instruction and target <= begun[0] for offset, target in jumps) if begun else True
        return again or len(begun) > 1


def _places(traceback: TracebackType | None) -> Iterator[_Place]:
    """Where an error went through, the innermost last."""
    while traceback is not None:
        yield _Place(traceback.tb_frame, traceback.tb_lasti)
        traceback = traceback.tb_next


@functools.lru_cache(maxsize=64)
def _awaits_and_jumps(code: CodeType) -> tuple[list[int], list[tuple[int, int]]]:
    """Where a coroutine waits for something, and its jumps."""
    instructions = list(dis.get_instructions(code))
    awaits = [each.offset for each in instructions if each.opname in ("GET_AWAITABLE", "GET_ANEXT")]
    jumps = [(each.offset, each.argval) for each in instructions if each.opcode in _JUMPS]
    return awaits, jumps


_JUMPS = frozenset({*dis.hasjrel, *dis.hasjabs})
