"""Connections of language models do not go through a fork: the child opens its own.

An open connection is copied by a fork, and then two processes write to it and read from it, whoever comes first: each
may get the answer to what the other has asked. The same goes for the locks around connections, which another thread may
have held at that instant. DSPy and LiteLLM keep both for as long as the process lives, and do not notice a fork.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import dspy

from dynscale_dspy.budget.stores.forks import in_child

MARK = "_dynscale_process"
"""The attribute by which a language model, and each copy of it, says in which child it has connections of its own."""

_is_child = False
_has_flushed = False
_lock = threading.Lock()


def _begin_anew() -> None:
    global _is_child, _has_flushed, _lock
    _is_child, _has_flushed, _lock = True, False, threading.Lock()


in_child(_begin_anew)


def open_anew(lm: Any) -> None:
    """Have a language model of a forked child open connections of its own; in any other process, or again, do nothing.

    It forgets what it would forget on its way to another process by pickle: DSPy leaves connections and locks out then.
    What was inherited is not closed, as the parent uses it. LiteLLM's clients are those of the whole process.

    Args:
        lm: The language model. One of another class than :class:`dspy.LM` keeps what it has.
    """
    global _has_flushed
    if not _is_child or not isinstance(lm, dspy.LM) or vars(lm).get(MARK) == os.getpid():
        return
    with _lock:
        if not _has_flushed:
            _has_flushed = True
            clients = getattr(sys.modules.get("litellm"), "in_memory_llm_clients_cache", None)
            if clients is not None:
                clients.flush_cache()
        if vars(lm).get(MARK) == os.getpid():  # another thread was faster
            return
        if hasattr(type(lm), "__setstate__"):  # before DSPy 3.4 it has no connections of its own
            lm.__setstate__(lm.__getstate__())
        setattr(lm, MARK, os.getpid())
