"""What tells a reply from another one: its response's id, as DSPy's history has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynscale_dspy.sampling.replies import Reply


def replies_of(entry: Mapping[str, Any]) -> list[Reply | None]:
    """The choices of a request, None where one has no id.

    Args:
        entry: DSPy's history entry of the request.
    """
    response, texts = entry.get("response"), entry.get("outputs") or []
    if isinstance(response, (list, tuple)):  # the native engine makes a request a choice
        return [_reply(each, 0, text) for each, text in zip(response, texts, strict=False)]
    return [_reply(response, choice, text) for choice, text in enumerate(texts)]


def made_of(history: Sequence[Mapping[str, Any]]) -> tuple[Reply, ...]:
    """All replies of a sample; none if one of them has no id.

    Args:
        history: DSPy's history entries of its requests.
    """
    replies = [reply for entry in history for reply in replies_of(entry)]
    return tuple(reply for reply in replies if reply is not None) if None not in replies else ()


def _reply(response: Any, choice: int, text: Any) -> Reply | None:
    name = getattr(response, "id", None)
    return Reply(name, choice, hash(str(text))) if isinstance(name, str) and name else None
