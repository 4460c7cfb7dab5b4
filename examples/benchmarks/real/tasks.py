"""Questions for small language models, made from templates: nothing is downloaded, and the answers are known.

They are of kinds that models of 100 to 300 million parameters get right more often than by chance, and not always.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import dspy

DEMOS = 8


class Topic(dspy.Signature):
    """Classify the topic of a headline."""

    headline: str = dspy.InputField()
    topic: Literal["World", "Sports", "Business", "Science"] = dspy.OutputField()


class Sentiment(dspy.Signature):
    """Classify the sentiment of a review."""

    review: str = dspy.InputField()
    sentiment: Literal["positive", "negative"] = dspy.OutputField()


class Choice(dspy.Signature):
    """Answer a multiple choice question."""

    question: str = dspy.InputField()
    letter: Literal["A", "B", "C"] = dspy.OutputField()


class Sum(dspy.Signature):
    """Solve a word problem."""

    problem: str = dspy.InputField()
    reasoning: str = dspy.OutputField()
    answer: int = dspy.OutputField()


class Most(dspy.Signature):
    """Find out who has the most."""

    question: str = dspy.InputField()
    reasoning: str = dspy.OutputField()
    answer: str = dspy.OutputField()


@dataclass(frozen=True)
class Task:
    """Questions of one kind.

    Args:
        name: What it is called in tables.
        signature: What the program is told.
        labels: The answers there are, if the program decides at once; None if it reasons first.
        make: Makes one question, with its answer and, where the program reasons, the reasoning.
    """

    name: str
    signature: Any
    labels: tuple[str, ...] | None
    make: Callable[[random.Random], dict[str, Any]]

    @property
    def asked(self) -> str:
        """The input field."""
        return next(iter(self.signature.input_fields))

    @property
    def answered(self) -> str:
        """The output field that holds the answer."""
        return list(self.signature.output_fields)[-1]

    def demos(self) -> list[dspy.Example]:
        """Worked examples for the prompt; no question repeats one of them."""
        made = self._made(random.Random(f"demos of {self.name}"))
        if self.labels is None:
            return [dspy.Example(**next(made)) for _ in range(DEMOS)]
        # As many of each label, so that none is favoured for being shown more often.
        wanted = [label for label in self.labels for _ in range(-(-DEMOS // len(self.labels)))]
        random.Random(f"order of {self.name}").shuffle(wanted)
        return [dspy.Example(**next(one for one in made if one[self.answered] == label)) for label in wanted[:DEMOS]]

    def program(self) -> dspy.Module:
        """A predictor with the demos."""
        program = dspy.Predict(self.signature)
        program.demos = self.demos()
        return program

    def questions(self, count: int, seed: int) -> list[dspy.Example]:
        """Questions with their answers, none of them twice.

        Args:
            count: How many.
            seed: Which.
        """
        shown = {demo[self.asked] for demo in self.demos()}
        found: dict[str, dspy.Example] = {}
        for one in self._made(random.Random(f"{seed} of {self.name}")):
            if one[self.asked] not in shown:
                found.setdefault(one[self.asked], dspy.Example(**one).with_inputs(self.asked))
            if len(found) == count:
                break
        return list(found.values())

    def _made(self, rng: random.Random) -> Iterator[dict[str, Any]]:
        while True:
            yield self.make(rng)


def _filled(rng: random.Random, patterns: list[str], words: dict[str, list[str]]) -> str:
    """A pattern with each ``{kind}`` replaced by a word of the kind, no word twice."""
    parts = rng.choice(patterns).split("{")
    text, used = parts[0], set()
    for part in parts[1:]:
        kind, rest = part.split("}", 1)
        word = rng.choice([word for word in words[kind] if word not in used])
        used.add(word)
        text += word + rest
    return text[0].upper() + text[1:]


NAMES = {
    "country": ["Norway", "Peru", "Kenya", "Vietnam", "Portugal", "Egypt", "Chile", "Nepal", "Poland", "Ghana"],
    "city": ["Lima", "Oslo", "Nairobi", "Porto", "Hanoi", "Leeds", "Lyon", "Austin", "Osaka", "Turin"],
    "firm": ["Calder Foods", "Norvik", "Hale & Sons", "Brightline", "Orsa Steel", "Pennant Air", "Loom", "Vantor"],
    "number": ["two", "three", "four", "five", "six", "nine", "twelve"],
    "big": ["record", "surprising", "long-awaited", "controversial", "historic", "modest"],
    "body": ["Jupiter", "a distant star", "Mars", "a young galaxy", "the Moon"],
    "beast": ["octopuses", "honeybees", "bats", "coral", "a rare frog", "whales"],
    "team": ["Rovers", "Falcons", "United", "Wanderers", "Tigers", "City"],
    "goods": ["coffee", "copper", "steel", "cars", "wheat", "chips"],
}
HEADLINES = {
    "World": [
        "{country} and {country} reopen border after {number} years",
        "Voters in {country} choose a new president",
        "Thousands flee floods in northern {country}",
        "{country} recalls its ambassador over {big} treaty",
        "Rebels and army agree on a truce in {country}",
        "{country} sends aid to {country} as the crisis grows",
        "Protesters fill the streets of {city} over {big} law",
    ],
    "Sports": [
        "{team} beat {team} after a {big} comeback",
        "{country} captain ruled out for {number} weeks",
        "{team} sign striker from {city} in {big} transfer",
        "Late goal sends {team} into the final in {city}",
        "{city} runner wins {big} marathon",
        "{team} coach quits after {number} defeats",
        "{country} edge {country} in {big} cup semi-final",
    ],
    "Business": [
        "{firm} shares fall after {big} quarter",
        "{firm} to buy {firm} in {big} deal",
        "Price of {goods} climbs to a {number}-year high",
        "{firm} cuts jobs at its plant near {city}",
        "{country} central bank raises interest rates",
        "{firm} opens {number} stores in {country}",
        "Exports of {goods} lift profits at {firm}",
    ],
    "Science": [
        "Telescope spots water vapour near {body}",
        "How {beast} find their way in the dark",
        "Researchers in {city} grow a {big} crystal",
        "Fossil from {country} rewrites the story of {beast}",
        "Probe sends first pictures of {body}",
        "Study links gut bacteria and sleep in {beast}",
        "{big} vaccine trial in {city} ends early",
    ],
}


def headline(rng: random.Random) -> dict[str, Any]:
    topic = rng.choice(list(HEADLINES))
    return {"headline": _filled(rng, HEADLINES[topic], NAMES), "topic": topic}


THINGS = ["plot", "acting", "music", "ending", "service", "food", "battery", "screen", "room", "cast", "dialogue"]
GOOD = ["wonderful", "sharp", "charming", "reliable", "fresh", "moving", "generous", "superb", "clever", "warm"]
BAD = ["dull", "clumsy", "stale", "noisy", "tiresome", "flimsy", "bland", "careless", "dreary", "messy"]
REVIEWS = {
    True: [
        "The {thing} is {good} and the {thing} even better.",
        "I expected something {bad}, but the {thing} is {good}.",
        "Not {bad} at all: a {good} {thing} and a {good} {thing}.",
        "Despite a {bad} {thing}, I would come back tomorrow.",
        "Friends called it {bad}. They are wrong; the {thing} is {good}.",
        "A {good} {thing} makes up for everything.",
    ],
    False: [
        "The {thing} is {bad} and the {thing} no better.",
        "I hoped for something {good}, but the {thing} is {bad}.",
        "Hardly {good}: a {bad} {thing} and a {bad} {thing}.",
        "Despite a {good} {thing}, I want my money back.",
        "Friends called it {good}. They are wrong; the {thing} is {bad}.",
        "A {bad} {thing} spoils everything.",
    ],
}


def review(rng: random.Random) -> dict[str, Any]:
    liked = rng.random() < 0.5
    text = _filled(rng, REVIEWS[liked], {"thing": THINGS, "good": GOOD, "bad": BAD})
    return {"review": text, "sentiment": "positive" if liked else "negative"}


KINDS = {
    "a fruit": ["plum", "mango", "pear", "cherry", "apricot", "banana"],
    "an animal": ["otter", "badger", "heron", "goat", "lizard", "rabbit"],
    "a tool": ["hammer", "chisel", "wrench", "saw", "drill", "pliers"],
    "a colour": ["crimson", "green", "violet", "brown", "yellow", "blue"],
    "a musical instrument": ["cello", "flute", "trumpet", "harp", "drum", "piano"],
    "a vehicle": ["tram", "bicycle", "lorry", "ferry", "taxi", "train"],
    "a metal": ["copper", "iron", "tin", "silver", "zinc", "gold"],
    "a piece of clothing": ["scarf", "jacket", "sock", "glove", "shirt", "hat"],
    "a part of the body": ["elbow", "knee", "thumb", "ankle", "shoulder", "neck"],
    "a drink": ["coffee", "lemonade", "milk", "tea", "cider", "juice"],
}


def choice(rng: random.Random) -> dict[str, Any]:
    right, *others = rng.sample(list(KINDS), 3)
    options = [(rng.choice(KINDS[kind]), kind == right) for kind in (right, *others)]
    rng.shuffle(options)
    listed = " ".join(f"{letter}) {word}" for letter, (word, _) in zip("ABC", options, strict=True))
    letter = next(letter for letter, (_, is_right) in zip("ABC", options, strict=True) if is_right)
    return {"question": f"Which of these is {right}? {listed}", "letter": letter}


PEOPLE = ["Ana", "Ben", "Chen", "Dora", "Emil", "Fay", "Gita", "Hugo"]
COUNTED = ["apples", "books", "coins", "eggs", "pens", "stamps", "shells", "cards"]


def problem(rng: random.Random) -> dict[str, Any]:
    who, what = rng.choice(PEOPLE), rng.choice(COUNTED)
    have, more = rng.randint(3, 20), rng.randint(2, 12)
    less = rng.randint(2, have + more - 1)
    first, steps = have + more, f"{have} + {more} = {have + more}."
    if rng.random() < 0.5:
        text = f"{who} has {have} {what} and gets {more} more. How many {what} does {who} have now?"
        return {"problem": text, "reasoning": steps, "answer": first}
    text = f"{who} has {have} {what}, gets {more} more and gives {less} away. How many {what} does {who} have now?"
    return {"problem": text, "reasoning": f"{steps} {first} - {less} = {first - less}.", "answer": first - less}


def most(rng: random.Random) -> dict[str, Any]:
    people, what = rng.sample(PEOPLE, 3), rng.choice(COUNTED)
    counts = rng.sample(range(2, 40), 3)
    told = ", ".join(f"{who} has {count}" for who, count in zip(people, counts, strict=True))
    ranked = sorted(zip(counts, people, strict=True), reverse=True)
    steps = " > ".join(str(count) for count, _ in ranked)
    text = f"Who has the most {what}? {told}."
    return {"question": text, "reasoning": f"{steps}. {ranked[0][1]} has {ranked[0][0]}.", "answer": ranked[0][1]}


TASKS = {
    task.name: task
    for task in (
        Task("topic", Topic, ("World", "Sports", "Business", "Science"), headline),
        Task("sentiment", Sentiment, ("positive", "negative"), review),
        Task("choice", Choice, ("A", "B", "C"), choice),
        Task("sums", Sum, None, problem),
        Task("most", Most, None, most),
    )
}
