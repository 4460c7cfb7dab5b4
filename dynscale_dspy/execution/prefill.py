"""The chain as the beginning of the model's own message, where the server goes on with it.

This is the closest an OpenAI-compatible endpoint comes to one train of thought. Servers differ in what they do with a
final message of the assistant, and none says so:

* vLLM and the lab's server go on with it if told by two flags, and return what they added;
* llama.cpp's goes on with it always, and returns the whole message;
* others open a new turn after it, or refuse the request.

So nothing is assumed. The first reply tells which it is, the finding is kept for the language model, and where a server
cannot do it the attempts are shown in an input field instead.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import dspy

from dynscale_dspy.execution import lm_errors
from dynscale_dspy.execution.capabilities import CONTINUED_MESSAGE
from dynscale_dspy.sampling.chain import CHECKING

logger = logging.getLogger(__name__)

FLAGS = {"continue_final_message": True, "add_generation_prompt": False}
"""vLLM's names; servers that go on anyway ignore them."""


class StartedMessage:
    """One request whose last message is the model's own, begun for it.

    Args:
        adapter: The user's ``dspy.ChatAdapter``.
        lm: The language model.
        chain: The earlier attempts.
    """

    def __init__(self, adapter: Any, lm: Any, chain: str) -> None:
        self._inner = adapter
        self._lm = lm
        self._chain = chain
        self._header = ""
        self._refused = False
        # A copy of the user's adapter, so that its own pipeline runs around the two steps that differ. If the reply
        # cannot be read the attempts go into a field, not to the JSON fallback, which would not show them.
        self.adapter = copy.copy(adapter)
        self.adapter.use_json_adapter_fallback = False
        self.adapter.format = self._format
        self.adapter.parse = self._parse

    def gave_way(self) -> None:
        """A request in its place was answered: if the server had refused this one, keep that."""
        if self._refused:
            self._found(False)

    @staticmethod
    def possible(adapter: Any, lm: Any) -> bool:
        """Return True if replies to the adapter begin with a header we know, and the server was not found unable."""
        return type(adapter) is dspy.ChatAdapter and CONTINUED_MESSAGE.is_expected(lm)

    def kwargs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A request's settings with the flags that ask the server to go on."""
        return {**kwargs, "extra_body": {**(kwargs.get("extra_body") or {}), **FLAGS}}

    def failed(self, error: Exception) -> bool:
        """Return True if a request may have failed because of how the message was begun."""
        self._refused = lm_errors.has_unsupported_status(error)
        return self._refused or lm_errors.is_unreadable(error)

    def _found(self, able: bool) -> None:
        if CONTINUED_MESSAGE.found(self._lm, able) and not able:
            model = getattr(self._lm, "model", type(self._lm).__name__)
            logger.info("%s does not go on with a message: attempts are shown in an input field", model)

    def _format(self, signature: Any, demos: list, inputs: dict) -> list[dict[str, Any]]:
        first = next(iter(signature.output_fields))
        self._header = f"[[ ## {first} ## ]]"
        messages = self._inner.format(signature, demos, inputs)
        return [*messages, {"role": "assistant", "content": f"{self._header}\n{self._chain}{CHECKING}"}]

    def _parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """The fields of a reply; its first field without the chain, which is not this sample's own."""
        start = f"{self._header}\n{self._chain}{CHECKING}".rstrip()
        if completion.startswith(start):
            self._found(True)
            completion = completion[len(start) :]
        elif self._header in completion:
            # A new turn, with or without words before its first field, which saw the attempts all the same.
            self._found(False)
            return self._inner.parse(signature, completion)
        else:
            self._found(True)
        return self._inner.parse(signature, f"{self._header}\n{completion}")
