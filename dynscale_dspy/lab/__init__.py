"""A small real language model in the box, so that the library can be tried on any laptop with no key.

    from dynscale_dspy import lab

    with lab.serve() as lm:
        program = dspy.ChainOfThought("question -> answer")
        program.set_lm(lm)
        program(question=lab.questions(1, seed=0)[0].question)

The model has one million parameters and works sums, products and small puzzles, with mistakes. It was trained from
scratch for this project (`examples/lab/train.py`) on procedurally generated questions with worked steps, inside the
prompts that DSPy's ChatAdapter writes for `dspy.ChainOfThought("question -> answer")`. Given a further input field
`earlier_attempts`, it checks each attempt's answer by worked steps, adopts the first that holds, and starts afresh
where none does. On anything else it babbles. Its weights are shipped as float16 in `checkpoint`, those of a
smaller one in `small`; README.md in this folder has the figures.

Serving needs the extra dependencies of `pip install "dynscale-dspy[lab]"`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dynscale_dspy.lab.questions import questions

if TYPE_CHECKING:
    import dspy

    from dynscale_dspy.lab.server import LabServer

__all__ = ["EARLIER_ATTEMPTS", "LabServer", "questions", "serve"]

EARLIER_ATTEMPTS = "Earlier attempts at this question; they may be wrong. Check them, then answer."
"""The description of the input field `earlier_attempts` that the model was trained with."""


@contextmanager
def serve(
    *,
    model: str = "large",
    port: int = 0,
    batch_size: int = 64,
    engine: str = "litellm",
    temperature: float = 1.0,
    max_tokens: int = 200,
    **lm_kwargs: Any,
) -> Iterator[dspy.LM]:
    """Serve a model on a loopback port for as long as the context is open.

    Args:
        model: "large"; or "small", which has four tenths of the weights and is more often wrong.
        port: 0 takes a free port.
        batch_size: How many replies are sampled side by side; further ones wait.
        engine: What DSPy 3.4 or newer sends its requests with, "litellm" or "auto". Older versions have LiteLLM only.
        temperature: The language model's default temperature.
        max_tokens: The language model's default limit to a reply.
        **lm_kwargs: Further arguments of `dspy.LM`, such as `cache=False`.

    Yields:
        A `dspy.LM` that talks to the server.

    Raises:
        ImportError: The lab's extra dependencies are not installed.
    """
    import dspy

    with _server_class()(port=port, model=model, batch_size=batch_size) as server:
        if "engine" in inspect.signature(dspy.LM.__init__).parameters:
            lm_kwargs["engine"] = engine
        yield dspy.LM(
            f"openai/{server.model_name}",
            api_base=server.url,
            api_key="lab",
            temperature=temperature,
            max_tokens=max_tokens,
            **lm_kwargs,
        )


def _server_class() -> type[LabServer]:
    try:
        import safetensors  # noqa: F401  # these two are imported late; asking for them here gives the message below
        import tokenizers  # noqa: F401

        from dynscale_dspy.lab.server import LabServer
    except ModuleNotFoundError as error:
        raise ImportError(
            f'the lab needs {error.name}, which is not installed: pip install "dynscale-dspy[lab]"', name=error.name
        ) from error
    return LabServer


def __getattr__(name: str) -> Any:
    if name == "LabServer":
        return _server_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
