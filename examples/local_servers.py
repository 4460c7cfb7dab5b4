"""The same program on several local servers of the model in the box: what each can do, and whether it answers alike.

    python examples/local_servers.py [--quick] [--json OUT] [--server NAME=URL ...]

The first row is the lab's own server. Others serve the same checkpoint, written for them by `examples/lab/export.py`:

    python examples/lab/export.py --gguf lab.gguf --hugging-face lab
    llama-server -m lab.gguf -c 16384 -np 8 --port 8081
    vllm serve ./lab --served-model-name lab-arithmetic --port 8082
    python examples/local_servers.py --server llama.cpp=http://127.0.0.1:8081/v1 --server vLLM=http://127.0.0.1:8082/v1

Each is asked what this library builds on: several choices (`n`), a `seed`, `logprobs`, going on with a begun message,
and a usage that counts every choice. Nothing is taken from its name. Then the plain program, as it is (temperature 1)
and at temperature 0, and DynScaling answer the same questions; no seed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # without a network LiteLLM waits for its price list

import dspy
from rich.console import Console
from rich.table import Table

from dynscale_dspy import BudgetPool, DynScaling, lab
from dynscale_dspy.lab.model import CHECKPOINT
from dynscale_dspy.lab.tokenizer import ChatTokenizer

EACH = 4
"""Samples a question, on average."""
BEGUN = "[[ ## reasoning ## ]]\n"
COLUMNS = (
    "server", "n", "seed", "logprobs", "begun message", "usage", "usage, n=4", "cached tokens",
    "plain", "plain, temperature 0", "DynScaling", "apart from ours",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", action="append", default=[], metavar="NAME=URL", help="another one; repeatable")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="12 questions")
    parser.add_argument("--json", metavar="OUT", help="write the rows here")
    options = parser.parse_args()
    asked = lab.questions(12 if options.quick else options.questions, seed=21)
    rows = []
    with lab.serve() as lm:
        servers = {"ours": lm.kwargs["api_base"], **dict(given.split("=", 1) for given in options.server)}
        for name, url in servers.items():
            server = Server(url)
            row = {"server": name, **server.abilities(), **server.accuracy(asked)}
            rows.append(row)
    ours = rows[0]["right"]
    for row in rows:
        apart = [a - b for a, b in zip(row.pop("right"), ours, strict=True)]
        row["apart from ours"] = "" if row is rows[0] else _points(apart)
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*(str(row[column]) for column in COLUMNS))
    Console(width=200).print(table)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


class Server:
    """An OpenAI-compatible server of the model in the box.

    Args:
        url: Its base URL, which ends in /v1.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with urllib.request.urlopen(f"{self.url}/models", timeout=30) as reply:
            self.model = json.load(reply)["data"][0]["id"]
        self._tokenizer = ChatTokenizer(CHECKPOINT / "tokenizer.json")
        signature: Any = dspy.ChainOfThought("question -> answer").predict.signature
        question = lab.questions(1, seed=3)[0].question
        self._messages = dspy.ChatAdapter().format(signature, [], {"question": question})

    def abilities(self) -> dict[str, Any]:
        """What it can do, by what it does."""
        several = self._ask(n=4)
        contents = self._contents(several)
        # Hot, so that two draws are hardly ever the same by chance.
        alike = {self._contents(self._ask(seed=7, temperature=2.0, max_tokens=24))[0] for _ in range(3)}
        apart = {self._contents(self._ask(seed=seed, temperature=2.0, max_tokens=24))[0] for seed in range(6)}
        single = self._ask(logprobs=True, top_logprobs=2)
        tokens = ((single.get("choices") or [{}])[0].get("logprobs") or {}).get("content") or []
        return {
            "n": "yes" if len(contents) == 4 else f"no ({len(contents)})",
            "seed": "yes" if len(alike) == 1 and len(apart) > 1 else "no",
            "logprobs": "yes" if tokens and tokens[0].get("top_logprobs") else "no",
            "begun message": self._continues(),
            "usage": self._counts(single),
            "usage, n=4": self._counts(several),
            "cached tokens": self._cached(),
        }

    def accuracy(self, asked: list[dspy.Example]) -> dict[str, Any]:
        """The plain program and a vote on the same questions."""
        program = dspy.ChainOfThought("question -> answer")
        lm = dspy.LM(
            f"openai/{self.model}", api_base=self.url, api_key="local", temperature=1.0, max_tokens=256, cache=False
        )
        right: dict[str, list[int]] = {}
        plain: dict[str, Any] = {"max_samples": 1}
        ways = (("plain", 1, plain), ("plain, temperature 0", 1, {**plain, "temperature": 0}), ("DynScaling", EACH, {}))
        for name, samples, settings in ways:
            pool = BudgetPool(samples=samples * len(asked))
            qa = DynScaling(program, pool, **settings)
            with dspy.context(lm=lm, max_errors=len(asked)):
                found = qa.batch(asked, num_threads=8, disable_progress_bar=True)
            right[name] = [
                int(prediction is not None and prediction.answer.strip() == example.answer)
                for prediction, example in zip(found, asked, strict=True)
            ]
        return {name: _share(hits) for name, hits in right.items()} | {"right": right["DynScaling"]}

    def _ask(self, messages: list[dict[str, Any]] | None = None, **options: Any) -> dict[str, Any]:
        body = {"model": self.model, "messages": messages or self._messages, "temperature": 1.0, "max_tokens": 256}
        request = urllib.request.Request(
            f"{self.url}/chat/completions",
            data=json.dumps({**body, **options}).encode(),
            headers={"Content-Type": "application/json", "Authorization": "Bearer local"},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            return {"refused": error.code}

    @staticmethod
    def _contents(reply: dict[str, Any]) -> list[str]:
        return [choice["message"]["content"] or "" for choice in reply.get("choices", [])]

    def _continues(self) -> str:
        begun = [*self._messages, {"role": "assistant", "content": BEGUN}]
        # vLLM's flags; servers that go on anyway ignore them.
        reply = self._ask(begun, continue_final_message=True, add_generation_prompt=False)
        contents = self._contents(reply)
        if not contents:
            return f"refused ({reply.get('refused')})"
        if contents[0].startswith(BEGUN):
            alone = self._contents(self._ask([*self._messages, {"role": "assistant", "content": f"{BEGUN}zzz"}]))
            return "gone on with, returned whole" if alone and alone[0].startswith(f"{BEGUN}zzz") else "a new turn"
        return "a new turn" if BEGUN.strip() in contents[0] else "gone on with"

    def _counts(self, reply: dict[str, Any]) -> str:
        """The usage, against the tokens that came."""
        reported = (reply.get("usage") or {}).get("completion_tokens")
        if reported is None:
            return "none"
        contents = self._contents(reply)
        # A server may or may not count the mark that ends a reply.
        fewest = sum(len(self._tokenizer.encode(content)) for content in contents)
        if fewest <= reported <= fewest + len(contents):
            return "right"
        return f"{reported} for {fewest}"

    def _cached(self) -> str:
        """Whether the second of two equal prompts is said to have been in its cache."""
        self._ask(max_tokens=1)
        details = (self._ask(max_tokens=1).get("usage") or {}).get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens")
        return "not said" if cached is None else str(cached)


def _share(hits: list[int]) -> str:
    share = sum(hits) / len(hits)
    return f"{100 * share:.1f} ± {100 * math.sqrt(share * (1 - share) / len(hits)):.1f}"


def _points(differences: list[int]) -> str:
    count = len(differences)
    mean = sum(differences) / count
    spread = math.sqrt(sum((difference - mean) ** 2 for difference in differences) / max(count - 1, 1) / count)
    return f"{100 * mean:+.1f} ± {100 * spread:.1f}"


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
