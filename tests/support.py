"""A language model inside the process, for tests that need to say what each call answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.lm15 import Message, Response, Usage

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

    def complete(self, request: Any) -> Response:
        with self.lock:
            number = len(self.requests)
            self.requests.append(request)
        reply = self.reply(self.text(request), number)
        if isinstance(reply, Exception):
            raise reply
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(reply if isinstance(reply, str) else frame(reply)),
            finish_reason=self.finish_reason,  # type: ignore[arg-type]
            usage=Usage(input_tokens=7, output_tokens=3, total_tokens=10),
        )

    @staticmethod
    def text(request: Any) -> str:
        """Everything the model is shown."""
        parts = [str(getattr(request, "system", "") or "")]
        parts += [part.text for message in request.messages for part in message.parts if hasattr(part, "text")]
        return "\n".join(parts)

    def lm(self, **options: Any) -> dspy.LM:
        """This model as DSPy takes it."""
        return dspy.LM(
            "scripted/model", engine=self, async_engine=_Async(self), num_retries=0, **{"cache": False, **options}
        )


class _Async:
    def __init__(self, model: ScriptedModel) -> None:
        self.model = model

    async def complete(self, request: Any) -> Response:
        return self.model.complete(request)


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
