"""Samples that share a request: fewer prompts, the same votes, exact books."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import dspy
import pydantic
import pytest
from dspy.utils.callback import BaseCallback

from dynscale_dspy import BudgetPool, Cost, DynScaling, Integrated, KnowledgeGradient, Parallel, Uniform, explain
from dynscale_dspy.execution.choices_route import LITELLM
from dynscale_dspy.testing import FakeQuestion, FakeServer, questions
from dynscale_dspy.testing.fake_model import Prompt
from tests.support import HAS_ENGINES, needs_engines, needs_lm_errors

BANK = questions(6, seed=3)
EACH = 8


@pytest.fixture(params=["litellm", pytest.param("auto", marks=needs_engines)], ids=["litellm", "auto by litellm"])
def server(request: pytest.FixtureRequest, server: Any) -> Callable[..., FakeServer]:
    """Servers whose language models go through LiteLLM; or by default, so that only shared requests do."""

    def start(*args: Any, **options: Any) -> FakeServer:
        fake = server(*args, **options)
        fake.lm = partial(lm_of, fake.lm, request.param)
        return fake

    return start


def lm_of(make: Callable[..., dspy.LM], engine: str, asked: str, **options: Any) -> dspy.LM:
    if engine == "auto" and asked == "litellm":
        assert LITELLM.wait()
        return make("auto", **options)
    return make(asked, **options)


def call(qa: DynScaling, bank: list[FakeQuestion]) -> list[Any]:
    return [qa(question=question.text) for question in bank]


def gather(qa: DynScaling, bank: list[FakeQuestion]) -> list[Any]:
    async def main() -> list[Any]:
        return await asyncio.gather(*(qa.acall(question=question.text) for question in bank))

    return asyncio.run(main())


def batch(qa: DynScaling, bank: list[FakeQuestion]) -> list[Any]:
    return qa.batch([{"question": question.text} for question in bank], num_threads=4, disable_progress_bar=True)


MODES: dict[str, Callable[[DynScaling, list[FakeQuestion]], list[Any]]] = {
    "litellm call": call,
    "litellm gather": gather,
    "litellm batch": batch,
}


def uniform(module: dspy.Module | None = None, *, samples: int = EACH * len(BANK), **options: Any) -> DynScaling:
    caps = {name: options.pop(name) for name in ("tokens", "dollars", "prices") if name in options}
    pool = BudgetPool(samples=samples, policy=Uniform(), **caps).expect(len(BANK))
    return DynScaling(module or dspy.ChainOfThought("question -> answer"), pool, sampling=Parallel(), **options)


def tallies(predictions: list[Any]) -> list[Counter[Any]]:
    return [Counter(sample.answer for sample in explain(prediction).samples) for prediction in predictions]


def assert_books(pool: BudgetPool, fake: FakeServer) -> None:
    now, counted = pool.statistics(), fake.statistics()
    assert now.reserved == Cost()
    assert now.open_calls == 0
    assert now.spent.requests == counted.requests
    assert now.spent.prompt_tokens == counted.prompt_tokens
    assert now.spent.completion_tokens == counted.completion_tokens


@pytest.mark.parametrize("mode", MODES)
def test_eight_samples_are_one_request_with_the_same_votes(mode: str, server: Any) -> None:
    fake = server(BANK)
    qa = uniform()
    with dspy.context(lm=fake.lm("litellm"), track_usage=True):
        folded = MODES[mode](qa, BANK)
    counted = fake.statistics()
    assert counted.requests == len(BANK)
    assert counted.delivered == qa.pool.statistics().spent.samples == EACH * len(BANK)
    assert_books(qa.pool, fake)
    usage = [prediction.get_lm_usage()["openai/fake"] for prediction in folded]
    assert sum(used["prompt_tokens"] for used in usage) == counted.prompt_tokens
    assert sum(used["completion_tokens"] for used in usage) == counted.completion_tokens

    other = server(BANK)
    with dspy.context(lm=other.lm("litellm")):
        alone = MODES[mode](uniform(max_choices=1), BANK)
    assert other.statistics().requests == EACH * len(BANK)
    assert tallies(folded) == tallies(alone)


@pytest.mark.parametrize(
    "adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()], ids=lambda a: type(a).__name__
)
def test_the_users_adapter_reads_each_choice_litellm(adapter: dspy.Adapter, server: Any) -> None:
    fake = server(BANK)
    with dspy.context(lm=fake.lm("litellm"), adapter=adapter):
        predictions = call(uniform(), BANK)
    assert fake.statistics().requests == len(BANK)
    for question, prediction in zip(BANK, predictions, strict=True):
        assert {sample.answer for sample in explain(prediction).samples} <= question.answers.keys()


class Watcher(BaseCallback):
    """Counts runs of programs and of the adapter."""

    def __init__(self) -> None:
        self.runs = self.programs = self.formats = 0
        self._lock = threading.Lock()

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        with self._lock:
            self.runs += 1
            self.programs += isinstance(instance, dspy.Predict)

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        with self._lock:
            self.formats += 1

    def __deepcopy__(self, memo: dict[int, Any]) -> Watcher:
        return self


class Quiet(pydantic.RootModel[str]):
    """Text that does not shout."""

    @pydantic.field_validator("root")
    @classmethod
    def check(cls, text: str) -> str:
        """Refuse what does."""
        if text.isupper():
            raise ValueError(text)
        return text


class Asked(dspy.Signature):
    """Answer quietly."""

    question: str = dspy.InputField()
    answer: Quiet = dspy.OutputField()


LOUD = [FakeQuestion(f"{word}?", {"few": 0.7, "MANY": 0.3}, "few") for word in ("how many", "how much", "how long")]


@pytest.mark.parametrize(
    "signature, bank, fault_rate",
    [
        ("question -> answer", BANK, 0.0),
        ("question -> answer", BANK, 0.3),
        (Asked, LOUD, 0.0),
    ],
    ids=["readable", "some requests unreadable", "some choices unreadable"],
)
@pytest.mark.parametrize("mode", MODES)
def test_one_run_reads_all_choices_unless_someone_watches(
    mode: str, signature: Any, bank: list[FakeQuestion], fault_rate: float, server: Any
) -> None:
    """Each sample is then what a run of its own makes it: the same votes, predictions, traces and books."""
    found = []
    for watched in (True, False):
        fake = server(bank, fault_rate=fault_rate, faults=("prose",))
        watcher = Watcher()
        pool = BudgetPool(samples=EACH * len(bank), policy=Uniform()).expect(len(bank))
        qa = DynScaling(dspy.ChainOfThought(signature), pool, sampling=Parallel())
        with dspy.context(
            lm=fake.lm("litellm"),
            adapter=dspy.ChatAdapter(callbacks=[watcher]),
            callbacks=[watcher] if watched else [],
            trace=[],
        ):
            predictions = MODES[mode](qa, bank)
            traces = sorted((inputs["question"], dict(made).items()) for _, inputs, made in dspy.settings.trace)
            assert all(predictor is qa.module.predict for predictor, _, _ in dspy.settings.trace)
        assert_books(qa.pool, fake)
        samples = [explain(prediction).samples for prediction in predictions]
        drawn = [[(s.index, s.answer, s.problem, s.cost) for s in each] for each in samples]
        found.append((drawn, [dict(prediction) for prediction in predictions], traces, fake.statistics().requests))
        if watched:
            assert watcher.programs == EACH * len(bank)
        elif bank is BANK and not fault_rate:
            assert watcher.formats == len(bank)
        if bank is LOUD:  # the adapter's fallback, for those that could not be read
            assert len(bank) < fake.statistics().requests < EACH * len(bank)
    assert found[0] == found[1]


@pytest.mark.parametrize("part", ["program", "predictor"])
def test_callbacks_of_the_programs_own_see_a_run_a_sample_litellm(part: str, server: Any) -> None:
    watcher = Watcher()
    program = dspy.ChainOfThought("question -> answer")
    (program if part == "program" else program.predict).callbacks = [watcher]
    fake = server(BANK)
    with dspy.context(lm=fake.lm("litellm")):
        call(uniform(program), BANK)
    assert fake.statistics().requests == len(BANK)
    assert watcher.runs == EACH * len(BANK)


def test_a_forward_of_the_instances_own_makes_every_sample_litellm(server: Any) -> None:
    program = dspy.ChainOfThought("question -> answer")

    def forward(**inputs: Any) -> dspy.Prediction:
        prediction = program.predict(**inputs)
        return dspy.Prediction(answer=f"<{prediction.answer}>")

    program.forward = forward  # type: ignore[method-assign]
    fake = server(BANK)
    with dspy.context(lm=fake.lm("litellm")):
        predictions = call(uniform(program), BANK)
    assert fake.statistics().requests == len(BANK)
    answers = [sample.answer for prediction in predictions for sample in explain(prediction).samples]
    assert len(answers) == EACH * len(BANK) and all(answer.startswith("<") for answer in answers)


@pytest.mark.skipif(not HAS_ENGINES, reason="DSPy's decisions come with 3.4")
def test_decisions_are_made_for_every_sample_litellm(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made around the adapter, of evidence that it was asked for in the answer's place."""
    from dspy.experimental import Noul

    plain = Prompt._value

    def value(self: Prompt, name: str, kind: str, answer: str) -> Any:
        return {"noul": float(answer)} if name == "answer" else plain(self, name, kind, answer)

    monkeypatch.setattr(Prompt, "_value", value)
    decided = dspy.Signature("question -> answer").with_updated_fields("answer", type_=Noul, desc="whether it is")
    fake = server([FakeQuestion("Is it?", {"0.9": 0.6, "0.1": 0.4}, "0.9")])
    with dspy.context(lm=fake.lm("litellm")):
        prediction = uniform(dspy.Predict(decided))(question="Is it?")
    assert fake.statistics().requests == 1
    samples = explain(prediction).samples
    assert {type(sample.answer) for sample in samples} == {Noul}
    assert {sample.answer.value for sample in samples} == {True, False}


@pytest.mark.parametrize("watched", [True, False])
def test_a_format_that_the_server_checks_is_one_request_also_where_a_choice_cannot_be_read_litellm(
    watched: bool, server: Any
) -> None:
    """DSPy makes a new class for the same format in each call of its JSON adapter."""
    fake = server(LOUD)
    options = {"engine": "litellm"} if HAS_ENGINES else {}
    options |= {"api_base": fake.url, "api_key": "local", "cache": False, "num_retries": 0, "temperature": 1.0}
    lm = dspy.LM("openai/gpt-4o-mini", **options)
    callbacks = [Watcher()] if watched else []
    qa = DynScaling(dspy.Predict(Asked), BudgetPool(samples=8, policy=Uniform()).expect(1), sampling=Parallel())
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter(), callbacks=callbacks):
        prediction = qa(question=LOUD[0].text)
    assert fake.bodies[0]["response_format"]["type"] == "json_schema"
    problems = Counter(sample.problem for sample in explain(prediction).samples)
    assert set(problems) == {"", "failed"} and problems[""] > 1
    asked = [body.get("n", 1) for body in fake.bodies]
    if HAS_ENGINES:
        assert asked == [8]
    else:  # before 3.4 the adapter asks again, for a plain object, where one cannot be read
        assert asked == [8] + [1] * (len(asked) - 1) and problems["failed"] <= len(asked) - 1 < 8
    assert_books(qa.pool, fake)


def test_answers_that_cannot_be_read_do_not_end_a_fold_litellm(server: Any) -> None:
    """Only a request that fails does: here each sample asks for itself, since the server will not have several."""
    fake = server(LOUD, choices="refuse")
    qa = DynScaling(dspy.Predict(Asked), BudgetPool(samples=8, policy=Uniform()).expect(1), sampling=Parallel())
    with dspy.context(lm=fake.lm("litellm"), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        prediction = qa(question=LOUD[0].text)
    problems = Counter(sample.problem for sample in explain(prediction).samples)
    assert problems["failed"] >= 2 and problems.total() == 8
    assert fake.statistics().requests == 1 + 8


@pytest.mark.parametrize("mode", MODES)
def test_no_call_walks_the_programs_history(mode: str, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows with every call, and DSPy's own walk over a program's parts goes through it."""
    walked = []
    monkeypatch.setattr(dspy.Module, "named_sub_modules", lambda self, *_, **__: walked.append(self) or iter(()))
    with dspy.context(lm=server(BANK).lm("litellm")):
        MODES[mode](uniform(), BANK)
    assert not walked


def test_at_most_so_many_choices_litellm(server: Any) -> None:
    fake = server(BANK)
    with dspy.context(lm=fake.lm("litellm")):
        call(uniform(max_choices=3), BANK)
    assert Counter(body.get("n", 1) for body in fake.bodies) == {3: 2 * len(BANK), 2: len(BANK)}


@needs_engines
def test_the_native_engine_is_never_asked_for_several(server: Any) -> None:
    fake = server(BANK)
    with dspy.context(lm=fake.lm("lm15")):
        call(uniform(), BANK)
    assert all("n" not in body for body in fake.bodies)
    assert fake.statistics().requests == EACH * len(BANK)


@pytest.mark.parametrize("options", [{"seed": 3}, {"n": 2}], ids=["seed", "n"])
def test_a_seed_or_choices_of_the_users_own_are_left_alone_litellm(options: dict[str, Any], server: Any) -> None:
    fake = server(BANK)
    with dspy.context(lm=fake.lm("litellm", **options)):
        call(uniform(), BANK)
    assert fake.statistics().delivered == EACH * len(BANK) * options.get("n", 1)
    assert all(body.get("n", 1) <= options.get("n", 1) for body in fake.bodies)


@pytest.mark.parametrize("mode", MODES)
def test_a_warm_cache_makes_no_request(mode: str, server: Any) -> None:
    fake = server(BANK)
    with dspy.context(lm=fake.lm("litellm", cache=True)):
        first, asked = MODES[mode](uniform(), BANK), fake.statistics().requests
        again = MODES[mode](uniform(), BANK)
    assert fake.statistics().requests == asked == len(BANK)
    assert tallies(first) == tallies(again)


@pytest.mark.parametrize("choices", ["one", "refuse"])
@pytest.mark.parametrize("mode", ["litellm call", "litellm gather"])
def test_a_server_that_cannot_is_not_asked_twice(mode: str, choices: str, server: Any) -> None:
    fake = server(BANK, choices=choices)
    lm = fake.lm("litellm")
    qa = uniform()
    with dspy.context(lm=lm):
        MODES[mode](qa, BANK[:1])
        assert sum("n" in body for body in fake.bodies) == 1
        MODES[mode](qa, BANK[1:])
    assert sum("n" in body for body in fake.bodies) == 1
    assert fake.statistics().delivered == qa.pool.statistics().spent.samples == EACH * len(BANK)
    refused = 1 if choices == "refuse" else 0
    assert fake.statistics().requests == EACH * len(BANK) + refused


@needs_engines
@pytest.mark.parametrize("mode", MODES)
def test_what_litellm_cannot_read_costs_no_sample_where_the_engine_of_its_own_gets_answers(mode: str) -> None:
    LITELLM.wait()
    with FakeServer(BANK, median_latency=0.001, refused={"n": (200, "<html>no</html>")}) as fake:
        pools = []
        with dspy.context(lm=fake.lm()):
            for _ in range(2):
                qa = uniform()
                made = MODES[mode](qa, BANK)
                assert all(sample.error is None for each in made for sample in explain(each).samples)
                pools.append(qa.pool.statistics())
        assert 1 <= sum("n" in body for body in fake.bodies) <= len(BANK)  # none in the second round
        assert all(now.reserved == Cost() and now.spent.samples == EACH * len(BANK) for now in pools)


class Picky(dspy.Module):
    """Fails on one answer."""

    def __init__(self, bad: str) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")
        self.bad = bad

    def forward(self, question: str) -> dspy.Prediction:
        prediction = self.answer(question=question)
        if prediction.answer == self.bad:
            raise ZeroDivisionError(prediction.answer)
        return prediction

    async def aforward(self, question: str) -> dspy.Prediction:
        prediction = await self.answer.acall(question=question)
        if prediction.answer == self.bad:
            raise ZeroDivisionError(prediction.answer)
        return prediction


@pytest.mark.parametrize("mode", ["litellm call", "litellm gather"])
def test_what_goes_wrong_with_one_choice_costs_one_vote(mode: str, server: Any) -> None:
    bank = [FakeQuestion("heads or tails?", {"heads": 0.5, "tails": 0.5}, "heads")]
    fake = server(bank)
    pool = BudgetPool(samples=8, policy=Uniform()).expect(1)
    with dspy.context(lm=fake.lm("litellm")):
        [prediction] = MODES[mode](DynScaling(Picky("tails"), pool, sampling=Parallel()), bank)
    samples = explain(prediction).samples
    assert fake.statistics().requests == 1
    assert {sample.answer for sample in samples if sample.error is None} == {"heads"}
    assert 0 < sum(isinstance(sample.error, ZeroDivisionError) for sample in samples) < 8


def test_choices_that_cannot_be_read_are_asked_for_again_each_alone_litellm(server: Any) -> None:
    fake = server(BANK, fault_rate=1.0, faults=("prose",))
    with dspy.context(lm=fake.lm("litellm")):
        with pytest.raises(Exception):  # noqa: B017  # whatever the adapter makes of it
            uniform()(question=BANK[0].text)
    # The one request, and then the adapter's own fallback for each of the eight.
    assert [body.get("n", 1) for body in fake.bodies] == [8] + [1] * 8


@pytest.mark.parametrize("mode", ["litellm call", "litellm gather"])
def test_choices_that_were_cut_off_cast_no_vote(mode: str, server: Any) -> None:
    bank = [FakeQuestion("heads or tails?", {"heads": 0.5, "tails": 0.5}, "heads")]
    fake = server(bank, fault_rate=1.0, faults=("length",))
    pool = BudgetPool(samples=8, policy=Uniform()).expect(1)
    qa = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())
    with dspy.context(lm=fake.lm("litellm"), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        [prediction] = MODES[mode](qa, bank)
    assert fake.statistics().requests == 1
    assert [sample.problem for sample in explain(prediction).samples] == ["truncated"] * 8


@needs_lm_errors
@pytest.mark.parametrize("mode", ["litellm call", "litellm gather"])
def test_a_request_that_fails_twice_fails_its_samples(mode: str, server: Any) -> None:
    fake = server(BANK, fault_rate=1.0, faults=("503",))
    qa = uniform()
    with dspy.context(lm=fake.lm("litellm")), pytest.raises(Exception, match="503"):
        MODES[mode](qa, BANK[:1])
    # One alone where nothing else is tried again, since some servers answer so to several choices.
    assert [body.get("n", 1) for body in fake.bodies] == [8, 1, 7]
    assert qa.pool.statistics().reserved == Cost()
    assert qa.pool.statistics().spent.samples == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [4_000, 20_000])
def test_a_cap_on_tokens_holds(mode: str, tokens: int, server: Any) -> None:
    fake = server(BANK)
    pool = BudgetPool(tokens=tokens, policy=KnowledgeGradient()).expect(len(BANK))
    qa = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Integrated())
    with dspy.context(lm=fake.lm("litellm", max_tokens=40)):
        MODES[mode](qa, BANK)
    assert pool.statistics().spent.tokens <= tokens
    assert_books(pool, fake)


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_counts_one_choice_is_not_asked_for_several_again(mode: str, server: Any) -> None:
    bank = [FakeQuestion(f"{i} Say much?", {"word " * 60: 1.0}, "word") for i in range(len(BANK))]
    fake = server(bank, fault_rate=1, faults=["usage_of_one"])
    qa = uniform(samples=3 * len(bank), tokens=1_000_000)
    with dspy.context(lm=fake.lm("litellm", max_tokens=400)):
        call(qa, bank[:1])
        assert fake.statistics().requests == 2  # the first sample alone, until what one costs is known
        MODES[mode](qa, bank[1:])
    now, counted = qa.pool.statistics(), fake.statistics()
    assert now.distrusted == {"the usage of one choice for several": 1}
    assert counted.requests == 2 + 3 * (len(bank) - 1)
    assert now.spent.completion_tokens >= counted.completion_tokens


@pytest.mark.parametrize("mode", MODES)
def test_with_faults_of_every_kind_the_cap_holds_and_calls_answer(mode: str, server: Any) -> None:
    fake = server(BANK, fault_rate=0.3, hang=0.05)
    qa = uniform(tokens=100_000)
    with dspy.context(lm=fake.lm("litellm", max_tokens=60, num_retries=3)):
        predictions = MODES[mode](qa, BANK)
    assert None not in predictions
    now = qa.pool.statistics()
    assert now.reserved == Cost()
    assert now.spent.samples <= EACH * len(BANK)
    assert now.spent.tokens <= 100_000


def test_a_cancelled_call_gives_back_what_was_not_asked_for_litellm(server: Any) -> None:
    fake = server(BANK)
    qa = uniform(tokens=100_000)

    async def main() -> Cost:
        with dspy.context(lm=fake.lm("litellm", max_tokens=60)), contextlib.ExitStack() as holding:
            await qa.acall(question=BANK[1].text)  # so that it is known what a sample takes
            fake.reset()
            spent = qa.pool.statistics().spent
            holding.enter_context(fake.held())
            task = asyncio.ensure_future(qa.acall(question=BANK[0].text))
            await asyncio.to_thread(fake.wait_until, lambda now: now.in_flight > 0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return spent

    before = asyncio.run(main())
    now = qa.pool.statistics()
    assert now.reserved == Cost()
    assert now.open_calls == 0
    assert now.spent.samples - before.samples == 1
    # Nobody knows what the provider makes of it: the request counts at its bound, all of its choices included.
    assert fake.bodies[-1]["n"] == 8
    assert now.spent.completion_tokens - before.completion_tokens == 8 * 60


@pytest.mark.parametrize("mode", MODES)
def test_the_bandit_decides_between_requests(mode: str, server: Any) -> None:
    bank = questions(20, seed=5)
    fake = server(bank)
    pool = BudgetPool(samples=100).expect(len(bank))
    qa = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())
    with dspy.context(lm=fake.lm("litellm")):
        predictions = MODES[mode](qa, bank)
    drawn = [len(explain(prediction).samples) for prediction in predictions]
    assert sum(drawn) <= 100
    assert min(drawn) < max(drawn)
    assert_books(pool, fake)


def test_max_choices_is_checked() -> None:
    for bad, kind in ((0, ValueError), (True, TypeError), (2.5, TypeError)):
        with pytest.raises(kind, match="max_choices"):
            DynScaling(dspy.Predict("question -> answer"), 4, max_choices=bad)
