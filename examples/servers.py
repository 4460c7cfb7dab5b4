"""How to name your server, and whether it was tried. Prints them all, and tries the two that are on this machine.

python examples/servers.py
python examples/servers.py --model hosted_vllm/Qwen3-8B --api-base http://localhost:8000/v1    # tries yours
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # without a network LiteLLM waits for its price list

import dspy

from dynscale_dspy import DynScaling, explain, lab
from dynscale_dspy.testing import FakeServer


@dataclass(frozen=True)
class Server:
    """A server and the arguments of `dspy.LM` that reach it.

    Args:
        name: As people call it.
        model: The first argument of `dspy.LM`.
        options: The others.
        note: What to know.
    """

    name: str
    model: str
    options: dict[str, Any]
    note: str


OTHERS = (
    Server("vLLM", "hosted_vllm/Qwen/Qwen3-8B", {"api_base": "http://localhost:8000/v1"}, "untried"),
    Server("SGLang", "openai/Qwen/Qwen3-8B", {"api_base": "http://localhost:30000/v1", "api_key": "local"}, "untried"),
    Server("Ollama", "ollama_chat/qwen3:8b", {"api_base": "http://localhost:11434"}, "untried; OLLAMA_NUM_PARALLEL=8"),
    Server(
        "llama.cpp",
        "openai/any",
        {"api_base": "http://localhost:8080/v1", "api_key": "local"},
        "untried; llama-server --port 8080 --parallel 8",
    ),
    Server("OpenAI", "openai/gpt-4.1-mini", {}, "untried; reads OPENAI_API_KEY"),
    Server(
        "LiteLLM proxy",
        "litellm_proxy/qwen3-8b",
        {"api_base": "http://localhost:4000", "api_key": "sk-..."},
        "tried with LiteLLM 1.108.7 before the model in the box",
    ),
)


def answers(lm: dspy.LM, question: str) -> str:
    """Ask through the wrapper, and tell how it went."""
    with dspy.context(lm=lm):
        prediction = DynScaling(dspy.ChainOfThought("question -> answer"), budget=3)(question=question)
    return f"answered {prediction.answer!r}; {explain(prediction).cost.requests} requests"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same: it is quick")
    parser.add_argument("--model", help="a server of yours, named the LiteLLM way")
    parser.add_argument("--api-base", help="where it is")
    parser.add_argument("--api-key", default="local", help="its key, if it wants one")
    arguments = parser.parse_args()
    if arguments.model:
        options = {"api_base": arguments.api_base, "api_key": arguments.api_key} if arguments.api_base else {}
        lm = dspy.LM(arguments.model, temperature=1.0, max_tokens=2000, **options)
        print(f"yours, {lm.model}: {answers(lm, 'What is 17 * 24?')}")
    with lab.serve() as lm:
        print(f"the model in the box, {lm.model}: {answers(lm, lab.questions(1, seed=6)[0].question)}")
    with FakeServer(1) as fake:
        lm = fake.lm()
        print(f"the scripted server for tests, {lm.model}: {answers(lm, fake.questions[0].text)}")
    print("\nOthers:")
    for server in OTHERS:
        given = "".join(f", {name}={value!r}" for name, value in server.options.items())
        print(f"{server.name}: dspy.LM({server.model!r}{given})  # {server.note}")


if __name__ == "__main__":
    main()
