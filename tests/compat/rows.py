"""The programs of the compatibility table: one row each, built plain or scaled by the same function."""

from __future__ import annotations

import enum
import inspect
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import dspy
import pydantic
from packaging.version import Version

from dynscale_dspy import BudgetPool, DynScaling, Integrated, Uniform, wrap
from tests.compat.server import ModelServer

DSPY = Version(dspy.__version__)
QUESTIONS = ({"question": "What is the capital of France?"}, {"question": "Where does the Seine meet the Louvre?"})
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAA"
    "DUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SAMPLES = 3


class Plain:
    """Leaves every module as it is."""

    def __call__(self, module: dspy.Module) -> dspy.Module:
        return module

    def elsewhere(self, module: dspy.Module) -> dspy.Module:
        return module

    def inside(self, program: dspy.Module) -> dspy.Module:
        return program


class Scaled:
    """Scales a module on one pool, or on a second one: two independent samples, then one that sees them."""

    def __init__(self, per_call: int = SAMPLES) -> None:
        self.pools = [BudgetPool(per_call=per_call, policy=Uniform()) for _ in range(2)]
        self._options: dict[str, Any] = {
            "sampling": Integrated(independent=2, width=2, when="always", first="own"),
            "max_samples": SAMPLES,
        }

    def __call__(self, module: dspy.Module) -> dspy.Module:
        return DynScaling(module, budget=self.pools[0], **self._options)

    def elsewhere(self, module: dspy.Module) -> dspy.Module:
        return DynScaling(module, budget=self.pools[1], **self._options)

    def inside(self, program: dspy.Module) -> dspy.Module:
        return wrap(program, budget=self.pools[0], **self._options)


Scale = Plain | Scaled
ALL = ("Chat", "JSON", "XML", "BAML", "TwoStep")


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        name: As it stands in the table.
        build: Makes the program; a second argument is the server, for programs that bring their own models.
        expected: Fields of the right prediction.
        inputs: Makes two sets of inputs, new ones each time: some of DSPy's agents write into theirs.
        adapters: Names of the adapters that apply, through DSPy's native engine.
        litellm: Those that are also run through LiteLLM, awaited and not; driven in the other ways, which are all
            synchronous calls in threads, it is the first of them.
        per_call: Samples a call may take.
        requests: Requests a scaled call makes for each of a plain one; None if that depends.
        conditioned: Whether samples that see earlier ones can be told from the requests.
        lm: Options of the language model.
        native_tools: Whether adapters are to use the model's own tool calls.
        since: The first DSPy that has what the program is made of.
        deno: Whether it runs in DSPy's sandbox, which needs Deno.
        parts: Counts what must reach the model with every request, in a request.
    """

    name: str
    build: Callable[..., dspy.Module]
    expected: Mapping[str, Any] = field(default_factory=lambda: {"answer": "Paris"})
    inputs: Callable[[], Sequence[Mapping[str, Any]]] = lambda: QUESTIONS
    adapters: Sequence[str] = ALL
    litellm: Sequence[str] = ("Chat",)
    per_call: int = SAMPLES
    requests: int | None = SAMPLES
    conditioned: bool = True
    lm: Mapping[str, Any] = field(default_factory=dict)
    native_tools: bool = False
    since: str = "3.1"
    deno: bool = False
    parts: Callable[[dict[str, Any]], int] | None = None

    @property
    def skipped(self) -> str:
        """Why it cannot be run here; empty if it can."""
        if Version(self.since) > DSPY:
            return f"needs DSPy {self.since}"
        if self.deno and shutil.which("deno") is None:
            return "needs Deno, which is absent"
        return ""

    def program(self, scale: Scale, server: ModelServer) -> dspy.Module:
        """The program, plain or scaled."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of DSPy's own modules are on their way out
            if len(inspect.signature(self.build).parameters) > 1:
                return self.build(scale, server)
            return self.build(scale)

    def adapter(self, name: str, server: ModelServer, engine: str) -> Any:
        """An adapter by its name in the table."""
        from dspy.adapters.baml_adapter import BAMLAdapter

        if name == "TwoStep":
            return dspy.TwoStepAdapter(server.lm(engine))
        kinds: dict[str, Any] = {
            "Chat": dspy.ChatAdapter,
            "JSON": dspy.JSONAdapter,
            "XML": dspy.XMLAdapter,
            "BAML": BAMLAdapter,
        }
        return kinds[name](use_native_function_calling=True) if self.native_tools else kinds[name]()


class Kind(enum.Enum):
    CITY = "city"
    RIVER = "river"


class Place(pydantic.BaseModel):
    name: str
    people: int


class Choices(dspy.Signature):
    """Judge."""

    question: str = dspy.InputField()
    label: Literal["yes", "no"] = dspy.OutputField()
    kind: Kind = dspy.OutputField()
    sure: bool = dspy.OutputField()
    score: int = dspy.OutputField()


class Structures(dspy.Signature):
    """Tell."""

    question: str = dspy.InputField()
    tags: list[str] = dspy.OutputField()
    prices: dict[str, int] = dspy.OutputField()
    place: Place = dspy.OutputField()


class Look(dspy.Signature):
    """Look."""

    picture: dspy.Image = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Listen(dspy.Signature):
    """Listen."""

    sound: dspy.Audio = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Chat(dspy.Signature):
    """Chat."""

    history: dspy.History = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


def search(query: str) -> str:
    """Look something up."""
    return f"found: {query}"


def is_paris(arguments: Any, prediction: Any) -> float:
    return float(prediction.answer == "Paris")


def cot() -> dspy.Module:
    return dspy.ChainOfThought("question -> answer")


class TwoStage(dspy.Module):
    """Retrieval: a query, documents, an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.query = dspy.ChainOfThought("question -> search_query")
        self.respond = dspy.ChainOfThought("context: list[str], question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        query = self.query(question=question).search_query
        return self.respond(context=[f"About {query}."], question=question)

    async def aforward(self, question: str) -> dspy.Prediction:
        query = (await self.query.acall(question=question)).search_query
        return await self.respond.acall(context=[f"About {query}."], question=question)


class Staged(TwoStage):
    """The same, each stage scaled by itself, on one pool or on two."""

    def __init__(self, scale: Scale, *, pools: int) -> None:
        super().__init__()
        self.query = scale(self.query)  # type: ignore[assignment]
        self.respond = (scale if pools == 1 else scale.elsewhere)(self.respond)  # type: ignore[assignment]


class SyncOnly(dspy.Module):
    """A module as most users write it: no ``aforward``."""

    def __init__(self, predict: dspy.Module | None = None) -> None:
        super().__init__()
        self.predict = predict or dspy.ChainOfThought("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.predict(question=question)


class Both(SyncOnly):
    async def aforward(self, question: str) -> dspy.Prediction:
        return await self.predict.acall(question=question)


class SeveralModels(TwoStage):
    def __init__(self, server: ModelServer) -> None:
        super().__init__()
        self.query.set_lm(server.lm(model="openai/small"))
        self.respond.set_lm(server.lm(model="openai/large", temperature=0.5))


class Direct(dspy.Module):
    """Calls a language model itself, without a predictor."""

    def forward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=dspy.settings.lm(question)[0])

    async def aforward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=(await dspy.settings.lm.acall(question))[0])


class Compared(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.think = cot()
        self.compare = dspy.MultiChainComparison("question -> answer", M=2)

    def forward(self, question: str) -> dspy.Prediction:
        thoughts = [self.think(question=question, config={"rollout_id": number}) for number in (1, 2)]
        return self.compare(completions=thoughts, question=question)


class Positional(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.predict = cot()

    def forward(self, question: str, *, shout: bool = False) -> dspy.Prediction:
        return self.predict(question=question.upper() if shout else question)

    async def aforward(self, question: str, *, shout: bool = False) -> dspy.Prediction:
        return await self.predict.acall(question=question.upper() if shout else question)


def first_answer(outputs: list[dspy.Prediction]) -> dspy.Prediction:
    return outputs[0]


def few_shot() -> dspy.Module:
    program = cot()
    program.predictors()[0].demos = [
        dspy.Example(question="What is the capital of Spain?", reasoning="I know it.", answer="Madrid")
    ]
    return program


def with_tool(scale: Scale) -> dspy.Module:
    """An agent one of whose tools is a scaled program."""
    looker = scale(dspy.Predict("query -> answer"))

    def search(query: str) -> str:
        """Look something up."""
        return f"found: {looker(query=query).answer}"

    return dspy.ReAct("question -> answer", tools=[search], max_iters=3)


def _local(module: type, *arguments: Any, **options: Any) -> dspy.Module:
    from dspy.primitives.local_interpreter import LocalInterpreter

    return module(*arguments, interpreter_factory=LocalInterpreter, **options)


def images(request: dict[str, Any]) -> int:
    return sum(part["type"] == "image_url" for part in _parts(request))


def sounds(request: dict[str, Any]) -> int:
    return sum(part["type"] == "input_audio" for part in _parts(request))


def _parts(request: dict[str, Any]) -> list[dict[str, Any]]:
    contents = [message.get("content") for message in request["messages"]]
    return [part for content in contents if isinstance(content, list) for part in content]


def _with(**inputs: Any) -> Callable[[], list[dict[str, Any]]]:
    return lambda: [{**inputs, **question} for question in QUESTIONS]


def _chats() -> list[dict[str, Any]]:
    past = {"question": "What is the capital of Spain?", "answer": "Madrid"}
    return [{"history": dspy.History(messages=[dict(past)]), **question} for question in QUESTIONS]


ROWS: list[Row] = [
    Row("`Predict`", lambda scale: scale(dspy.Predict("question -> answer")), litellm=ALL),
    Row("`ChainOfThought`", lambda scale: scale(cot()), litellm=ALL),
    Row("`ChainOfThought` with demos", lambda scale: scale(few_shot()), litellm=ALL),
    Row(
        "typed outputs: Literal, Enum, bool, int",
        lambda scale: scale(dspy.Predict(Choices)),
        {"label": "yes", "kind": Kind.CITY, "sure": True, "score": 7},
        litellm=ALL,
    ),
    Row(
        "typed outputs: list, dict, pydantic",
        lambda scale: scale(dspy.ChainOfThought(Structures)),
        {"tags": ["big", "old"], "prices": {"tea": 2, "cake": 5}, "place": Place(name="Paris", people=2000000)},
        litellm=ALL,
    ),
    Row(
        "`dspy.Image` input",
        lambda scale: scale(dspy.Predict(Look)),
        inputs=_with(picture=dspy.Image(PIXEL)),
        parts=images,
        litellm=ALL,
    ),
    Row(
        "`dspy.Audio` input",
        lambda scale: scale(dspy.Predict(Listen)),
        inputs=_with(sound=dspy.Audio(data="UklGRg==", audio_format="wav")),
        parts=sounds,
        litellm=ALL,
    ),
    Row(
        "native `dspy.Reasoning`",
        lambda scale: scale(dspy.ChainOfThought("question -> answer", rationale_field_type=dspy.Reasoning)),
        lm={"model": "openai/o3-mini"},
        litellm=ALL,
    ),
    Row("`History` chat program", lambda scale: scale(dspy.Predict(Chat)), inputs=_chats, litellm=ALL),
    Row(
        "`ReAct`, text tools",
        lambda scale: scale(dspy.ReAct("question -> answer", tools=[search], max_iters=4)),
        litellm=ALL,
    ),
    Row(
        "`ReActV2`, text tools",
        lambda scale: scale(dspy.ReActV2("question -> answer", tools=[search], max_iters=4)),
        litellm=ALL,
        since="3.3",
    ),
    Row(
        "`ReActV2`, native tools",
        lambda scale: scale(dspy.ReActV2("question -> answer", tools=[search], max_iters=4)),
        native_tools=True,
        litellm=ALL,
        since="3.3",
    ),
    Row(
        "`ReActV2` with a chat `History`",
        lambda scale: scale(dspy.ReActV2("question -> answer", tools=[search], max_iters=4)),
        inputs=_chats,
        litellm=ALL,
        since="3.3",
    ),
    Row(
        "`ProgramOfThought` (local interpreter)",
        lambda scale: scale(_local(dspy.ProgramOfThought, "question -> answer")),
        adapters=("Chat", "JSON"),
        since="3.4",
    ),
    Row(
        "`CodeAct` (local interpreter)",
        lambda scale: scale(_local(dspy.CodeAct, "question -> answer", tools=[search])),
        adapters=("Chat", "JSON"),
        since="3.4",
    ),
    Row(
        "`ProgramOfThought` in Deno",
        lambda scale: scale(dspy.ProgramOfThought("question -> answer")),
        adapters=("Chat", "JSON"),
        deno=True,
    ),
    Row(
        "`CodeAct` in Deno",
        lambda scale: scale(dspy.CodeAct("question -> answer", tools=[search])),
        adapters=("Chat", "JSON"),
        deno=True,
    ),
    Row(
        "`RLM` inside a wrapper (local interpreter)",
        lambda scale: scale(_local(dspy.RLM, "question -> answer", max_iters=3)),
        adapters=("Chat", "JSON"),
        since="3.4",
    ),
    Row(
        "`RLM` around a wrapper: a scaled program as tool",
        lambda scale: _rlm_with_tool(scale),
        requests=None,
        adapters=("Chat", "JSON"),
        since="3.4",
    ),
    Row(
        "`BestOfN` inside a wrapper",
        lambda scale: scale(dspy.BestOfN(cot(), N=2, reward_fn=is_paris, threshold=1.0)),
        requests=None,
    ),
    Row(
        "`BestOfN` around a wrapper",
        lambda scale: dspy.BestOfN(scale(cot()), N=2, reward_fn=is_paris, threshold=1.0),
    ),
    Row(
        "`Refine` inside a wrapper",
        lambda scale: scale(dspy.Refine(cot(), N=2, reward_fn=is_paris, threshold=1.0)),
        requests=None,
    ),
    Row(
        "`Refine` around a wrapper",
        lambda scale: dspy.Refine(scale(cot()), N=2, reward_fn=is_paris, threshold=1.0),
    ),
    Row("`MultiChainComparison`", lambda scale: scale(Compared()), requests=None),
    Row(
        "`Ensemble` of wrapped programs",
        lambda scale: dspy.Ensemble(reduce_fn=first_answer).compile([scale(cot()), scale(few_shot())]),
    ),
    Row(
        "`Ensemble` inside a wrapper",
        lambda scale: scale(dspy.Ensemble(reduce_fn=first_answer).compile([cot(), few_shot()])),
    ),
    Row("retrieval in two stages, wrapped whole", lambda scale: scale(TwoStage()), requests=None),
    Row("retrieval in two stages, each wrapped, one pool", lambda scale: Staged(scale, pools=1)),
    Row("retrieval in two stages, each wrapped, two pools", lambda scale: Staged(scale, pools=2)),
    Row("retrieval in two stages, `wrap(program)`", lambda scale: scale.inside(TwoStage())),
    Row("several language models in one program", lambda scale, server: scale(SeveralModels(server)), requests=None),
    Row("a module without `aforward`", lambda scale: scale(SyncOnly())),
    Row("a module with further arguments", lambda scale: scale(Positional()), inputs=_with(shout=True)),
    Row(
        "a program that calls a language model itself",
        lambda scale: scale(Direct()),
        adapters=("Chat",),
        conditioned=False,
    ),
    Row("an agent with a scaled program as tool", with_tool, requests=None),
    Row("nested wrappers on one pool", lambda scale: scale(Both(scale(cot()))), requests=None, per_call=9),
    Row("nested wrappers on two pools", lambda scale: scale(Both(scale.elsewhere(cot()))), requests=None),
]


def _rlm_with_tool(scale: Scale) -> dspy.Module:
    looker = scale(dspy.Predict("query -> answer"))

    def look_up(query: str) -> str:
        """Look something up."""
        return looker(query=query).answer

    return _local(dspy.RLM, "question -> answer", tools=[look_up], max_iters=3)
