"""What language models were found able to do. No server says so beforehand: it is tried, and what came of it kept."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from dynscale_dspy.budget.stores.forks import LockGuard

_locks = LockGuard()


class Capability:
    """One thing that some language models can do. It is expected of each until it was found unable.

    Findings are kept as long as the language model's object. Safe from any thread.

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

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held for each look and each change; nothing else is done meanwhile."""
        self._findings: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
        _locks.add(self)

    def is_expected(self, lm: Any) -> bool:
        """Return True unless the language model was last found unable."""
        with self.lock:
            return self._findings.get(lm, True)

    def found(self, lm: Any, able: bool) -> bool:
        """Keep what was found.

        Returns:
            Whether it differs from what was expected before.
        """
        with self.lock:
            expected, self._findings[lm] = self._findings.get(lm, True), able
        return expected != able


SEVERAL_CHOICES = Capability()
"""Giving several choices for one request, and counting the tokens of all of them."""

CONTINUED_MESSAGE = Capability()
"""Going on with the last message where that is the model's own."""
