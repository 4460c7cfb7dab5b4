"""Which way a request for several choices goes: by the language model's own engine, or through LiteLLM.

DSPy's native engine, which ``engine="auto"`` takes for most providers, makes one request a choice. LiteLLM makes one
for all of them, so that the prompt is sent and paid for once. A language model with ``engine="auto"`` may be asked
either way, and DSPy's cache takes both for the same. So its requests for several choices, and no others, go through
LiteLLM.

LiteLLM takes seconds to import, a part of them only when it is first asked. Both are done in the background, and until
they are done each sample makes a request of its own.

A second run is to find its requests in DSPy's cache, however long the import takes in each. So where a language model
has a cache, calls that are made one after the other wait for what the first has begun, and a call that was made without
is made so again.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dspy

logger = logging.getLogger(__name__)

LIBRARY = "litellm"
LONGEST_IMPORT = 60.0
"""Seconds after its beginning for which anyone waits for the import."""
LATE = (
    *("litellm.proxy.openai_files_endpoints.common_utils", "litellm.proxy.spend_tracking.savings"),
    *("litellm._service_logger", "litellm.llms.github_copilot.per_user_auth", "httpcore"),
)
"""What LiteLLM imports when it is first asked, and what brings most of the rest with it."""
WITHOUT_CHOICES = frozenset({"anthropic", "ollama", "ollama_chat"})
"""Providers for which LiteLLM need not be imported: they give one choice a request."""


class Library:
    """A module that takes long to import, imported in a thread of its own. Safe from any thread.

    Args:
        name: Its name.
        late: Modules that it imports when it is first used; they are imported with it. Those that there are not do not
            matter.

    Example:
        >>> library = Library("json")
        >>> library.begin(), library.wait(), library.is_loaded
        (None, True, True)
    """

    def __init__(self, name: str, late: Sequence[str] = ()) -> None:
        self.name = name
        self._late = late
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        # An interrupt while a thread is joined makes Python before 3.13 take the thread for one that is over.
        self._over = threading.Event()
        self._latest = math.inf
        if hasattr(os, "register_at_fork"):
            # A child forked in the middle of an import would wait for ever for the thread that it does not have.
            os.register_at_fork(before=self._finish, after_in_child=self._begin_anew)

    @property
    def is_loaded(self) -> bool:
        """Whether the module is there, wholly."""
        if self._thread is not None and not self._over.is_set():
            return False
        module = sys.modules.get(self.name)
        spec = getattr(module, "__spec__", None)
        return module is not None and not getattr(spec, "_initializing", False)

    @property
    def has_begun(self) -> bool:
        """Whether the import was begun here."""
        return self._thread is not None

    def begin(self) -> None:
        """Begin the import, unless it has begun."""
        with self._lock:
            if self._thread is None and not self.is_loaded:
                self._thread = threading.Thread(target=self._load, name=f"dynscale-import-{self.name}", daemon=True)
                self._latest = time.monotonic() + LONGEST_IMPORT
                self._thread.start()

    def wait(self) -> bool:
        """Wait for the import, which is begun if it has not.

        Returns:
            Whether the module is there.
        """
        self.begin()
        self._finish()
        return self.is_loaded

    def _finish(self) -> None:
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._over.wait(max(self._latest - time.monotonic(), 0.0))

    def _begin_anew(self) -> None:
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = None

    def _load(self) -> None:
        try:
            _load(self.name)
            for name in self._late:
                with contextlib.suppress(Exception):  # it is imported otherwise, or not at all
                    importlib.import_module(name)
        except Exception as error:  # not installed, or broken: each sample goes on making a request of its own
            logger.debug("%s cannot be imported: %s", self.name, error)
        finally:
            self._over.set()


def _load(name: str) -> None:
    """Import a module as DSPy does, which hands out what is imported in part to whoever does not hold its lock."""
    try:
        from dspy.utils.lazy_import import require
    except ImportError:  # before DSPy 3.4
        importlib.import_module(name)
    else:
        getattr(require(name), "__all__", None)  # the first attribute that is asked for imports it


LITELLM = Library(LIBRARY, LATE)
"""LiteLLM of this process."""


def makes_one_request(lm: Any, settings: Mapping[str, Any]) -> bool:
    """Return True if a language model's own engine makes one request for several choices.

    Args:
        lm: The language model.
        settings: The request's.
    """
    engine = getattr(lm, "_engine_spec", None)
    if engine is None:
        return isinstance(lm, dspy.LM)  # DSPy before 3.4 has nothing but LiteLLM
    if engine == "auto":
        return _is_native(lm, settings) is False
    return engine == "litellm"


@dataclass(frozen=True)
class Turn:
    """A call that is to be made alike each time.

    Args:
        call: What tells its inputs from others.
        may_wait: Says whether it may wait for an import that an earlier call has begun.
    """

    call: int
    may_wait: Callable[[], bool]


def can_borrow(lm: Any, settings: Mapping[str, Any], *, wait: bool, turn: Turn | None = None) -> bool:
    """Return True if a request for several choices can go through LiteLLM though others go another way.

    Args:
        lm: The language model.
        settings: The request's.
        wait: Whether to wait for LiteLLM's import. Else it is begun, and LiteLLM taken only if it is there.
        turn: The call it is for, if it is to be made alike each time.
    """
    if not is_borrowed(lm, settings):
        return False
    if settings.get("prompt_cache") is not None or lm.model.partition("/")[0] in WITHOUT_CHOICES:
        return False
    turn = turn if lm.cache and not wait else None
    pending = LITELLM.has_begun and not LITELLM.is_loaded
    if wait or (pending and turn is not None and turn.may_wait()):
        LITELLM.wait()
    else:
        LITELLM.begin()
    if turn is not None and not LITELLM.is_loaded and len(_made_without) < _MOST_ROUTES:
        _made_without.add((lm.model, turn.call))
    if turn is not None and (lm.model, turn.call) in _made_without:
        return False
    return LITELLM.is_loaded and _takes_n(lm.model)


def is_borrowed(lm: Any, settings: Mapping[str, Any]) -> bool:
    """Return True if LiteLLM is another way for a language model's requests than they go, and a way that is open.

    Args:
        lm: The language model.
        settings: The request's.
    """
    return type(lm) is dspy.LM and getattr(lm, "_engine_spec", None) == "auto" and bool(_is_native(lm, settings))


def is_native(lm: Any, settings: Mapping[str, Any]) -> bool:
    """Return True if DSPy's native client makes a language model's requests.

    Args:
        lm: The language model.
        settings: The request's.
    """
    return getattr(lm, "_engine_spec", None) == "lm15" or is_borrowed(lm, settings)


def through_litellm(lm: Any) -> Any:
    """The same language model, whose requests go through LiteLLM; callbacks, history and settings are shared."""
    return alike(lm, _engine_spec="litellm", _async_engine_spec=None)


def alike(lm: Any, **changes: Any) -> Any:
    """The same language model, sharing its connections and history, but for some of its attributes."""
    other = object.__new__(type(lm))
    other.__dict__.update(vars(lm), **changes)
    return other


_made_without: set[tuple[str, int]] = set()
"""Calls that were made while LiteLLM was not there, by language model."""
_routes: dict[Hashable, bool | None] = {}
_MOST_ROUTES = 1024


def _is_native(lm: Any, settings: Mapping[str, Any]) -> bool | None:
    """Whether DSPy's native engine would make a request; None if that cannot be told.

    DSPy takes a fifth of a millisecond to say so, and is asked once for each kind of language model and client.
    """
    try:
        from dspy.clients.backend_selection import CLIENT_KEYS, select_backend

        clients = {name: value for name, value in {**lm.kwargs, **settings}.items() if name in CLIENT_KEYS}
        gateway = lm.model.partition("/")[0].upper()
        around = tuple(bool(os.environ.get(f"{gateway}_{what}")) for what in ("API_BASE", "BASE_URL"))
        # Which settings there are decides, and of one of them its value.
        kind = (lm.model, lm.model_type, lm.engine, frozenset(clients), repr(clients.get("timeout")), around)
        kind += tuple(map(id, getattr(lm, "_providers", ())))
        if kind not in _routes:
            if len(_routes) >= _MOST_ROUTES:
                _routes.clear()
            _routes[kind] = bool(select_backend(lm, {"model": lm.model, **settings}).native)
        return _routes[kind]
    except Exception:  # another DSPy than this was written for, or settings it will refuse itself
        return None


@lru_cache(maxsize=256)
def _takes_n(model: str) -> bool:
    """Whether LiteLLM hands the number of choices on to a model's provider."""
    try:
        supported = sys.modules[LIBRARY].get_supported_openai_params(model=model)
        return "n" in (supported or ())
    except Exception:  # a provider it does not know
        return False
