"""Train the model in the box, from nothing, on questions that are drawn afresh for every batch.

    python examples/lab/train.py OUT                  # 3550 steps, about 14 million tokens
    python examples/lab/train.py OUT --size small     # the lab's second, cheaper model: the same with fewer weights
    python examples/lab/train.py OUT --quick          # a few steps, to see that it runs

Needs `pip install torch` besides this library. Two skills are learned side by side: to work a question, and to
reconsider it given earlier attempts; and for a while, densely packed, the single steps of both. The attempts are made
up at first (`worked.mistaken`); then most are the model's own, drawn anew as it improves, right and wrong as they come,
conditioned ones among them. Whatever they say and however many say it, the target checks each distinct answer by worked
steps, adopts the first that holds, and works the question afresh where none does: the model is never taught that a
majority is right.

Runs on one thread and is a function of its arguments and of PyTorch's version and hardware. `--resume` goes on from
the state that every evaluation leaves in OUT. Writes OUT/{model.safetensors,config.json,tokenizer.json}.
"""

# pyright: reportMissingImports=false

import argparse
import json
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import prompts
import torch
import worked
from network import Network
from safetensors.torch import save_file
from torch.nn import functional as F

from dynscale_dspy import lab
from dynscale_dspy.lab.questions import Level, training_question

Example = tuple[list[int], list[bool]]  # tokens, and which of them are to be predicted
Asked = tuple[str, str, list[tuple[str, str]]]  # a question, its answer and the model's own attempts at it

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "hidden_size": 128,
    "head_dim": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 5,
    "intermediate_size": 384,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "dtype": "float16",
}
SIZES: dict[str, dict[str, Any]] = {
    "large": {},
    "small": {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "num_hidden_layers": 4}
    | {"intermediate_size": 256},
}
STEPS = 3550  # of the whole run, to which the following steps belong; a shorter run goes through all of it, faster
# Up to which step, the level of the questions, and how many examples of single steps, of working and of reconsidering a
# step of training has. The first stage is kept as it was run: its numbers are too large, and sums were not learned.
STAGES: tuple[tuple[int, Level, tuple[int, int, int]], ...] = (
    (1000, "wide", (0, 26, 14)),
    (2000, "mixed", (12, 26, 4)),
    (3150, "mixed", (2, 18, 18)),
    (10**9, "mixed", (0, 14, 24)),
)
# The learning rate at some steps, as a share of its peak, linear in between: it falls to almost nothing twice.
RATES = ((0, 0.01), (100, 1.0), (2275, 1.0), (2799, 0.57), (2800, 0.32), (3150, 0.02), (3151, 0.35), (3550, 0.01))
REFRESHES = (2000, 2700, 3150)  # steps at which the model is asked anew for attempts of its own
DRILLS = 16  # worked steps in an example of single ones
SHOWN = (0.15, 0.3, 0.3, 0.2, 0.05)  # how often 1 to 5 attempts are shown


class Trainer:
    """The data, the model and its optimisers."""

    def __init__(self, out: Path, seed: int, *, size: str = "large", pace: float = 1.0) -> None:
        self.out, self.step, self.pace = out, 0, pace
        self.random = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.tokenizer = prompts.build_tokenizer(out / "tokenizer.json")
        self.opening = prompts.SPECIAL.index("<|assistant|>") + 256
        self.end = prompts.SPECIAL.index("<|end|>") + 256
        rows = -(-self.tokenizer.get_vocab_size() // 32) * 32
        names = {"pad_token_id": "<|pad|>", "bos_token_id": "<|bos|>", "eos_token_id": "<|end|>"}
        tokens = {key: self.tokenizer.token_to_id(token) for key, token in names.items()}
        self.network = Network({**CONFIG, **SIZES[size], "vocab_size": rows, **tokens})
        matrices = [p for name, p in self.network.named_parameters() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in self.network.named_parameters() if p.ndim == 1 or "embed" in name]
        self.optimisers = [
            torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, momentum=0.95, nesterov=True),
            torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.rates = [optimiser.param_groups[0]["lr"] for optimiser in self.optimisers]
        self.level: Level = "mixed"
        self.asked: deque[Asked] = deque(maxlen=1000)

    # --- examples ---

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def example(self, prompt: str, reply: str) -> Example:
        given, said = self.encode(prompt), [*self.encode(reply), self.end]
        return given + said, [False] * len(given) + [True] * len(said)

    def fresh(self) -> Example:
        question, answer, _ = training_question(self.random, self.level)
        return self.example(prompts.prompt(question), prompts.reply(worked.solve(question, answer), answer))

    def drill(self) -> Example:
        """Single steps without their question; only their results are to be predicted."""
        steps: list[str] = []
        while len(steps) < DRILLS:
            question, answer, _ = training_question(self.random, self.level)
            candidate = answer if self.random.random() < 0.5 else worked.mistaken(question, answer, self.random)[1]
            both = f"{worked.solve(question, answer)};{worked.check(question, candidate)[0]}"
            steps += re.findall(r"-?\d+[-+*]\d+=-?\d+", both)
        steps = [steps[i] for i in self.random.permutation(len(steps))[:DRILLS]]
        tokens, said = [self.opening], [False]
        for step in steps:
            left, right = step.split("=")
            given, result = self.encode(f"{left}="), self.encode(f"{right};")
            tokens += given + result
            said += [False] * len(given) + [True] * len(result)
        return tokens, said

    def revised(self) -> Example:
        if self.asked and self.random.random() < 0.7:
            question, answer, own = self.asked[int(self.random.integers(len(self.asked)))]
            attempts = self.shown(own, answer)
        else:
            question, answer, _ = training_question(self.random, self.level)
            attempts = self.made_up(question, answer)
        prefill = self.random.random() < 0.15
        reasoning, adopted = worked.reconsider(question, answer, attempts)
        return self.example(
            prompts.prompt(question, attempts, prefill=prefill), prompts.reply(reasoning, adopted, prefill=prefill)
        )

    def made_up(self, question: str, answer: str) -> list[tuple[str, str]]:
        """Attempts of which each is right with a chance that is itself drawn, so that all proportions occur."""
        share = self.random.choice([0.0, 0.2, 0.4, 0.7])
        attempts = []
        for _ in range(self.count()):
            right = self.random.random() < share
            solved = (worked.solve(question, answer), answer)
            attempts.append(solved if right else worked.mistaken(question, answer, self.random))
        return attempts

    def shown(self, own: list[tuple[str, str]], answer: str) -> list[tuple[str, str]]:
        """Some of the model's own attempts: mostly one of each answer, at times as they come; at times all wrong."""
        order = [own[i] for i in self.random.permutation(len(own))]
        if self.random.random() < 0.25:
            order = [attempt for attempt in order if attempt[1] != answer] or order
        if self.random.random() < 0.75:
            order = list({attempt[1]: attempt for attempt in order}.values())
        return order[: self.count()]

    def count(self) -> int:
        return int(self.random.choice(len(SHOWN), p=SHOWN)) + 1

    def batches(self, draw: Callable[[], Example], size: int) -> Iterator[list[Example]]:
        """Batches of examples of like length."""
        while True:
            examples = sorted((draw() for _ in range(16 * size)), key=lambda example: len(example[0]))
            for i in self.random.permutation(16).tolist():
                yield examples[i * size : (i + 1) * size]

    # --- learning ---

    def loss(self, batch: list[Example]) -> tuple[torch.Tensor, int]:
        """The summed loss of the replies' tokens, and how many those are."""
        longest = max(len(tokens) for tokens, _ in batch)
        ids = torch.full((len(batch), longest), self.end)
        said = torch.zeros((len(batch), longest), dtype=torch.bool)
        for row, (tokens, predicted) in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            said[row, : len(tokens)] = torch.tensor(predicted)
        hidden, _ = self.network(ids[:, :-1])
        targets = ids[:, 1:][said[:, 1:]]
        return F.cross_entropy(self.network.logits(hidden[said[:, 1:]]), targets, reduction="sum"), len(targets)

    def learn(self, batches: list[list[Example]]) -> list[float]:
        """One step. Returns the mean loss a token of each batch."""
        steps, shares = ([pair[i] for pair in RATES] for i in (0, 1))
        share = float(np.interp(self.step * self.pace, steps, shares))
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * share
        losses = [self.loss(batch) for batch in batches]
        total = sum(count for _, count in losses)
        (torch.stack([loss for loss, _ in losses]).sum() / total).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        return [loss.item() / count for loss, count in losses]

    # --- the model's own attempts ---

    def answer(self, texts: list[str], *, prefill: bool = False, limit: int = 200) -> list[tuple[str, str] | None]:
        """A reply to each prompt, read."""
        ids = [self.encode(text) for text in texts]
        replies = self.network.sample(ids, self.end, limit=limit, generator=self.generator)
        return [prompts.read(self.tokenizer.decode(tokens), prefill=prefill) for tokens in replies]

    def refresh(self, questions: int, each: int = 6) -> None:
        """Ask the model new questions, several times each, and half of them once more with attempts shown."""
        drawn = [training_question(self.random, self.level)[:2] for _ in range(questions)]
        replies = self.answer([prompts.prompt(question) for question, _ in drawn for _ in range(each)])
        asked = [
            (question, answer, [reply for reply in replies[i * each : (i + 1) * each] if reply and len(reply[1]) < 24])
            for i, (question, answer) in enumerate(drawn)
        ]
        asked = [entry for entry in asked if entry[2]]
        half = asked[::2]
        again = self.answer([prompts.prompt(question, self.shown(own, answer)) for question, answer, own in half])
        for (_, _, own), reply in zip(half, again, strict=True):
            if reply and len(reply[0]) < 250 and len(reply[1]) < 24:
                own.append(reply)
        self.asked.extend(asked)

    # --- looking ---

    def evaluate(self, count: int) -> dict[str, Any]:
        """Accuracy on held-out questions: one sample, majority and any of 8, and one sample that sees attempts."""
        examples = lab.questions(count, seed=0, level="mixed")
        each = 8
        replies = self.answer([prompts.prompt(example.question) for example in examples for _ in range(each)])
        groups = [replies[i * each : (i + 1) * each] for i in range(len(examples))]
        shown = []
        for group in groups:
            distinct = {reply[1]: reply for reply in group[:4] if reply}
            shown.append(list(distinct.values()) or [("", "0")])
        again = {
            prefill: self.answer(
                [prompts.prompt(e.question, s, prefill=prefill) for e, s in zip(examples, shown, strict=True)],
                prefill=prefill,
            )
            for prefill in (False, True)
        }
        rows: dict[str, list[list[float]]] = {}
        states: dict[str, list[bool]] = {}
        for i, (example, group) in enumerate(zip(examples, groups, strict=True)):
            hits = [bool(reply and reply[1] == example.answer) for reply in group]
            votes = [Counter(reply[1] for reply in group[:n] if reply).most_common(1) for n in (4, 8)]
            vote = [bool(v and v[0][0] == example.answer) for v in votes]
            second = (again[False][i], again[True][i])
            field, start = (bool(reply and reply[1] == example.answer) for reply in second)
            row = [sum(hits) / each, *vote, any(hits), field, start]
            for kind in (example.kind, example.kind.split(" ")[0], "all"):
                rows.setdefault(kind, []).append([float(value) for value in row])
            if len({reply[1] for reply in group[:4] if reply}) > 1:
                rows.setdefault("contested", []).append([float(value) for value in row])
                states.setdefault(f"{sum(hits[:4])} of 4 right", []).append(field)
        names = ("pass@1", "majority@4", "majority@8", "any@8", "shown 4", "shown 4, prefill")
        table = {
            kind: {"n": len(group), **dict(zip(names, np.mean(group, 0).round(3).tolist(), strict=True))}
            for kind, group in sorted(rows.items())
        }
        return {
            "accuracy": table,
            "contested and shown": {
                state: [len(hits), round(float(np.mean(hits)), 3)] for state, hits in states.items()
            },
            "unreadable": sum(reply is None for reply in replies),
            "replies": [again[False][0], again[True][1], replies[2]],
        }

    def save(self) -> None:
        weights = {name: tensor.half().contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(weights, self.out / "model.safetensors")
        (self.out / "config.json").write_text(json.dumps(self.network.config, indent=2, sort_keys=True) + "\n")
        state = {
            "network": self.network.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "random": self.random.bit_generator.state,
            "generator": self.generator.get_state(),
            "asked": list(self.asked),
            "step": self.step,
        }
        torch.save(state, self.out / "state.tmp")
        (self.out / "state.tmp").replace(self.out / "state.pt")

    def resume(self) -> None:
        state = torch.load(self.out / "state.pt", weights_only=False)
        self.network.load_state_dict(state["network"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.random.bit_generator.state = state["random"]
        self.generator.set_state(state["generator"])
        self.asked.extend(state["asked"])
        self.step = state["step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer shorten every stage alike")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--questions", type=int, default=500, help="questions asked at each refresh")
    parser.add_argument("--look", type=int, default=700, help="steps between evaluations")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.questions, arguments.look = 20, 8, 10

    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(arguments.out, arguments.seed, size=arguments.size, pace=STEPS / arguments.steps)
    refreshes = {round(step / trainer.pace) for step in REFRESHES}
    if arguments.resume:
        trainer.resume()
    draws = (trainer.drill, trainer.fresh, trainer.revised)
    sources: list[Iterator[list[Example]]] = []
    stage = -1
    start, tokens, losses = time.process_time(), 0, []
    while trainer.step < arguments.steps:
        if trainer.step in refreshes:
            trainer.refresh(arguments.questions)
        current = next(i for i, (until, _, _) in enumerate(STAGES) if trainer.step * trainer.pace < until)
        if current != stage:
            stage, (_, trainer.level, sizes) = current, STAGES[current]
            sources = [trainer.batches(draw, size) for draw, size in zip(draws, sizes, strict=True) if size]
        batches = [next(source) for source in sources]
        tokens += sum(len(ids) for batch in batches for ids, _ in batch)
        losses.append(trainer.learn(batches))
        if trainer.step % 100 == 0:
            mean = (
                np.round(losses[-1], 4).tolist()
                if len({len(loss) for loss in losses[-100:]}) > 1
                else (np.mean(losses[-100:], 0).round(4).tolist())
            )
            print(
                f"step {trainer.step} tokens {tokens} cpu {time.process_time() - start:.0f} s loss {mean}", flush=True
            )
        if trainer.step % arguments.look == 0 or trainer.step == arguments.steps:
            trainer.save()
            report = trainer.evaluate(8 if arguments.quick else 600 if trainer.step == arguments.steps else 150)
            line = {"step": trainer.step, "tokens": tokens, "cpu_seconds": round(time.process_time() - start), **report}
            with (arguments.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(report["accuracy"]["all"]), report["contested and shown"], report["replies"], flush=True)


if __name__ == "__main__":
    main()
