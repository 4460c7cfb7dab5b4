"""The fake model: questions with known answer distributions, and replies in the framing a prompt asks for."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Share of the bank, chance of the right answer, relative chances of the wrong ones.
_DIFFICULTIES = (
    (0.35, (0.82, 0.98), (1, 1)),  # easy
    (0.30, (0.50, 0.75), (4, 2, 1)),  # medium
    (0.25, (0.28, 0.42), (2, 2, 1, 1, 1, 1)),  # hard: the right answer leads, by little, a scattered field
    (0.10, (0.15, 0.35), (6, 2, 1)),  # a trap: the most frequent answer is wrong, and more samples do not help
)

_CHAT_FIELDS = re.compile(r"Respond with the corresponding output fields, starting with the field (.*)", re.DOTALL)
_CHAT_FIELD = re.compile(r"`\[\[ ## (\w+) ## \]\]`(?: \(must be formatted as a valid Python (.*?)\))?(?=, |$)")
_JSON_FIELDS = re.compile(r"Respond with a JSON object in the following order of fields: (.*)", re.DOTALL)
_JSON_FIELD = re.compile(r"`(\w+)`(?: \(must be formatted as a valid Python (.*?)\))?(?=, |\.|$)")
_XML_FIELDS = re.compile(r"output fields wrapped in XML tags (.*)", re.DOTALL)
_XML_FIELD = re.compile(r"`<(\w+)>`")
_CONDITIONED = re.compile(r"\[\[ ## earlier_attempts_* ## \]\]\n|<earlier_attempts_*>\n")
_TOOL_ARGUMENTS = re.compile(r"\(1\) (\w+),.*?It takes arguments (\{.*?\})\.", re.DOTALL)
_THOUGHTS = frozenset({"reasoning", "rationale", "next_thought", "thought", "explanation"})


@dataclass(frozen=True)
class FakeQuestion:
    """A question whose answers are known in distribution.

    Args:
        text: As it stands in prompts.
        answers: The chance of each answer. They need not add up to 1.
        answer: The right one.

    Raises:
        ValueError: If there is no answer with a positive chance.

    Example:
        >>> FakeQuestion("2 + 2?", {"4": 0.9, "5": 0.1}, "4").draw(0.95)
        '5'
    """

    text: str
    answers: Mapping[str, float]
    answer: str

    def __post_init__(self) -> None:
        if any(chance < 0 for chance in self.answers.values()) or not sum(self.answers.values()) > 0:
            raise ValueError(f"answers need chances of at least 0, one of them positive, got {dict(self.answers)!r}")

    def draw(self, uniform: float, sharpen: float = 0.0) -> str:
        """The answer at a point of the unit interval.

        Args:
            uniform: The point, in [0, 1).
            sharpen: Chances are raised to the power ``1 + sharpen``, so that frequent answers become more so; infinity
                for the most frequent one alone, as at temperature 0.
        """
        if sharpen == math.inf:
            return max(self.answers, key=lambda answer: self.answers[answer])
        weights = {answer: chance ** (1 + sharpen) for answer, chance in self.answers.items() if chance > 0}
        left = uniform * sum(weights.values())
        for answer, weight in weights.items():
            left -= weight
            if left < 0:
                return answer
        return next(reversed(weights))


def questions(count: int = 200, seed: int = 0) -> list[FakeQuestion]:
    """A bank of mixed difficulty: 35% easy, 30% medium, 25% hard, and 10% traps whose most frequent answer is wrong.

    Args:
        count: How many.
        seed: Same seed, same bank.

    Example:
        >>> bank = questions(20)
        >>> len(bank), sum(max(q.answers, key=q.answers.get) != q.answer for q in bank)
        (20, 2)
    """
    generator = random.Random(f"questions/{seed}")
    numbers = list(range(count))
    generator.shuffle(numbers)
    bank: list[FakeQuestion | None] = [None] * count
    upper, begin = 0.0, 0
    for share, chances, wrong in _DIFFICULTIES:
        upper += share
        end = round(upper * count)
        for number in numbers[begin:end]:
            right, *others = (str(n) for n in generator.sample(range(10, 1000), 1 + len(wrong)))
            chance = generator.uniform(*chances)
            answers = {right: chance}
            for other, weight in zip(others, wrong, strict=True):
                answers[other] = (1 - chance) * weight / sum(wrong)
            bank[number] = FakeQuestion(f"Puzzle {number:04d}: which number is it?", answers, right)
        begin = end
    return [question for question in bank if question is not None]


def uniform(*key: object) -> float:
    """A number in (0, 1) that depends on the key alone."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=7).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**56


class Prompt:
    """What the fake model reads out of a request.

    Args:
        request: The body of a chat completion request.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.messages = [_text(message.get("content")) for message in request.get("messages") or ()]
        self.last = self.messages[-1] if self.messages else ""
        self.conditioned = bool(_CONDITIONED.search(self.last))
        response_format = request.get("response_format") or {}
        self._schema = (response_format.get("json_schema") or {}).get("schema")

    def question(
        self, bank: Sequence[FakeQuestion], by_text: Mapping[str, FakeQuestion] | None = None
    ) -> FakeQuestion | None:
        """The question asked: in the last message if any is there, for earlier ones hold demonstrations."""
        for message in reversed(self.messages):
            if by_text is not None:  # a line of its own, as DSPy's adapters write it, is found without a search
                lines = [by_text[line] for line in message.splitlines() if line in by_text]
                if lines:
                    return max(lines, key=lambda question: len(question.text))
            asked = [question for question in bank if question.text in message]
            if asked:
                return max(asked, key=lambda question: len(question.text))
        return None

    def reply(self, answer: str) -> str:
        """The answer, framed as the prompt asks: DSPy's chat, JSON or XML fields, a JSON schema, or plain text."""
        if self._schema:
            return json.dumps(self._from_schema(self._schema, self._schema, "", answer))
        if found := _CHAT_FIELDS.search(self.last):
            fields = _CHAT_FIELD.findall(found[1])
            values = ((name, self._value(name, kind, answer)) for name, kind in fields)
            parts = [f"[[ ## {name} ## ]]\n{_plain(value)}" for name, value in values]
            return "\n\n".join([*parts, "[[ ## completed ## ]]"])
        if found := _JSON_FIELDS.search(self.last):
            fields = _JSON_FIELD.findall(found[1])
            return json.dumps({name: self._value(name, kind, answer) for name, kind in fields})
        if found := _XML_FIELDS.search(self.last):
            fields = _XML_FIELD.findall(found[1])
            return "\n\n".join(f"<{name}>\n{_plain(self._value(name, '', answer))}\n</{name}>" for name in fields)
        return self.prose(answer)

    def prose(self, answer: str) -> str:
        """The answer in a sentence, whatever the prompt asks for."""
        return f"After some thought I would say it is {answer}."

    def _value(self, name: str, kind: str, answer: str) -> Any:
        if name == "next_tool_name":
            # An agent of DSPy's: one tool call, then done.
            tools = ast.literal_eval(kind.removeprefix("Literal")) if kind.startswith("Literal[") else ["finish"]
            return "finish" if "observation_0" in self.last else tools[0]
        if name == "next_tool_args":
            found = _TOOL_ARGUMENTS.search(self.messages[0])
            return (
                {} if "observation_0" in self.last or not found else dict.fromkeys(ast.literal_eval(found[2]), answer)
            )
        if name in _THOUGHTS:
            return f"Trying it out gives {answer}."
        if kind.startswith("Literal["):
            options = ast.literal_eval(kind.removeprefix("Literal"))
            return answer if answer in options else options[0]
        if kind in ("int", "float"):
            return _number(answer)
        if kind == "bool":
            return answer.lower() in ("true", "yes")
        if kind.startswith(("list", "set", "tuple")):
            return [_number(answer) if "int" in kind or "float" in kind else answer]
        if kind.startswith("dict"):
            return {}
        return answer

    def _from_schema(self, schema: Mapping[str, Any], root: Mapping[str, Any], name: str, answer: str) -> Any:
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                return self._from_schema(schema[key][0], root, name, answer)
        if "enum" in schema:
            if name == "next_tool_name":
                return self._value(name, f"Literal{schema['enum']!r}", answer)
            return answer if answer in schema["enum"] else schema["enum"][0]
        kind = schema.get("type")
        if kind == "object" and schema.get("properties"):
            return {key: self._from_schema(part, root, key, answer) for key, part in schema["properties"].items()}
        if kind == "array":
            return [self._from_schema(schema.get("items") or {}, root, name, answer)]
        names = {"integer": "int", "number": "float", "boolean": "bool", "object": "dict"}
        return self._value(name, names.get(str(kind), ""), answer)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content or ""


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _number(answer: str) -> int | float:
    try:
        value = float(answer)
    except ValueError:
        return 0
    return int(value) if value.is_integer() else value
