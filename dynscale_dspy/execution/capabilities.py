"""What language models were found able to do. No server says so beforehand: it is tried, and what came of it kept."""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from dynscale_dspy.budget.stores.forks import LockGuard

MOST_SERVERS = 1024
"""Language models, told by model and address, whose findings are kept; of more, those found first are forgotten."""
DOUBT = 60.0
"""Seconds for which a first doubt keeps a language model from being tried; each further one lasts twice as long."""

_locks = LockGuard()


class Servers:
    """What stands for a language model in findings: for a model at an address, the same for each ``dspy.LM`` of it.

    So a program that makes its language model anew in each call does not learn anew. A language model with an engine of
    the user's own is told by that engine, one of any other class by itself. Safe from any thread.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held for each look and each change; nothing else is done meanwhile."""
        self._named: OrderedDict[Hashable, _Server] = OrderedDict()
        _locks.add(self)

    def of(self, lm: Any) -> Any:
        """What stands for this language model; it can be hashed and referred to weakly."""
        if not isinstance(lm, dspy.LM):
            return lm if _can_be_key(lm) else self._of((lm.__class__, id(lm)))
        engine = getattr(lm, "_engine_spec", "litellm")
        if not isinstance(engine, str):
            return engine if _can_be_key(engine) else self._of((lm.__class__, id(engine)))
        return self._of((lm.__class__, engine, getattr(lm, "model_type", None), server_of(lm)))

    def forget(self) -> None:
        """Forget all models at addresses, and so all that was found of them."""
        with self.lock:
            self._named.clear()

    def _of(self, name: Hashable) -> _Server:
        with self.lock:
            server = self._named.get(name)
            if server is None:
                server = self._named[name] = _Server()
                if len(self._named) > MOST_SERVERS:
                    self._named.popitem(last=False)
            return server


class _Server:
    """A model at an address."""


def server_of(lm: Any) -> Hashable:
    """What a server's wish to be left alone holds for: a model at an address."""
    settings = getattr(lm, "kwargs", None) or {}
    return str(getattr(lm, "model", id(lm))), str(settings.get("api_base") or settings.get("base_url") or "")


SERVERS = Servers()
"""Those of this process."""


def _can_be_key(thing: Any) -> bool:
    try:
        hash(thing)
        weakref.ref(thing)
    except TypeError:
        return False
    return True


@dataclass(frozen=True)
class _Finding:
    able: bool
    until: float | None = None
    """When it is to be tried again; None for never."""
    doubts: int = 0


class Capability:
    """One thing that some language models can do. It is expected of each until it was found unable.

    Safe from any thread.

    Args:
        clock: Seconds, from any start.

    Example:
        >>> class Model: ...
        >>> model, singing = Model(), Capability()
        >>> singing.is_expected(model)
        True
        >>> singing.found(model, False), singing.found(model, False)
        (True, False)
        >>> singing.is_expected(model)
        False
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.Lock()
        """Held for each look and each change; nothing else is done meanwhile."""
        self._clock = clock
        self._findings: weakref.WeakKeyDictionary[Any, _Finding] = weakref.WeakKeyDictionary()
        _locks.add(self)

    def is_expected(self, lm: Any) -> bool:
        """Return True unless the language model was last found unable, or is in doubt."""
        server = SERVERS.of(lm)
        with self.lock:
            return self._is_expected(server)

    def found(self, lm: Any, able: bool) -> bool:
        """Keep what was found.

        Returns:
            Whether it differs from what was expected before.
        """
        server = SERVERS.of(lm)
        with self.lock:
            expected = self._is_expected(server)
            self._findings[server] = _Finding(able)
        return expected != able

    def doubted(self, lm: Any) -> bool:
        """Keep that the language model seems unable, which may pass: after a while it is tried again.

        The while is :data:`DOUBT` at first, and twice as long each time that the doubt was right.

        Returns:
            Whether it was expected before.
        """
        server = SERVERS.of(lm)
        with self.lock:
            expected = self._is_expected(server)
            if expected:
                finding = self._findings.get(server)
                doubts = finding.doubts if finding is not None else 0
                self._findings[server] = _Finding(False, self._clock() + DOUBT * 2**doubts, doubts + 1)
        return expected

    def _is_expected(self, server: Any) -> bool:
        finding = self._findings.get(server)
        return finding is None or finding.able or (finding.until is not None and self._clock() >= finding.until)


class Refusals:
    """The settings of a request that language models do not take, and those that they are known to take.

    A setting may be refused always, or only beside others, as ``temperature`` is beside ``top_p``. Safe from any
    thread.

    Example:
        >>> class Model: ...
        >>> model, refusals = Model(), Refusals()
        >>> refusals.found(model, {"temperature": frozenset({"top_p"})})
        frozenset({'temperature'})
        >>> refusals.of(model, {"temperature": 1.0, "top_p": 0.9}), refusals.of(model, {"temperature": 1.0})
        (frozenset({'temperature'}), frozenset())
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held for each look and each change; nothing else is done meanwhile."""
        self._refused: weakref.WeakKeyDictionary[Any, dict[str, frozenset[str]]] = weakref.WeakKeyDictionary()
        self._taken: weakref.WeakKeyDictionary[Any, frozenset[str]] = weakref.WeakKeyDictionary()
        _locks.add(self)

    def of(self, lm: Any, settings: Mapping[str, Any]) -> frozenset[str]:
        """The names of those settings that the language model would refuse."""
        server = SERVERS.of(lm)
        with self.lock:
            refused = dict(self._refused.get(server, {}))
        if not refused:
            return frozenset()
        given = {name for name, value in settings.items() if value is not None}
        return frozenset(name for name, others in refused.items() if name in given and others <= given)

    def found(self, lm: Any, refused: Mapping[str, frozenset[str]]) -> frozenset[str]:
        """Keep that settings are refused.

        Args:
            lm: The language model.
            refused: By the name of each, beside which others; an empty set for always.

        Returns:
            Those for which this is news.
        """
        server = SERVERS.of(lm)
        news = set()
        with self.lock:
            known = self._refused.setdefault(server, {})
            for name, others in refused.items():
                if name not in known or not known[name] <= others:
                    known[name] = others
                    news.add(name)
        return frozenset(news)

    def took(self, lm: Any, names: Collection[str]) -> None:
        """Keep that the language model has answered a request with these settings."""
        server = SERVERS.of(lm)
        with self.lock:
            taken = self._taken.get(server, frozenset())
            if not taken.issuperset(names):
                self._taken[server] = taken.union(names)

    def takes(self, lm: Any, name: str) -> bool:
        """Whether it is known to take a setting."""
        server = SERVERS.of(lm)
        with self.lock:
            return name in self._taken.get(server, ())


SEVERAL_CHOICES = Capability()
"""Giving several choices for one request, and counting the tokens of all of them."""

CONTINUED_MESSAGE = Capability()
"""Going on with the last message where that is the model's own."""

TOKEN_PROBABILITIES = Capability()
"""Telling the probabilities of the tokens of a reply."""

MANY_ALTERNATIVES = Capability()
"""Telling more than five tokens that could have been in the place of one."""

PROBING = Capability()
"""Being asked for the first time for what may be refused: in doubt while one request is under way that asks."""

FAILING = Capability()
"""Answering requests for probabilities of tokens; in doubt after an error of the server, which may have been chance."""

REFUSALS = Refusals()
"""The settings that language models were found not to take."""
