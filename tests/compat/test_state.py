"""State goes from plain to wrapped and back, in every file format, with the scaling settings beside it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dspy
import pytest

from dynscale_dspy import (
    UCB,
    BudgetPool,
    DynScaling,
    Integrated,
    KnowledgeGradient,
    Parallel,
    Sequential,
    Uniform,
    unwrap,
    wrap,
)
from tests.compat.rows import Both, TwoStage, search
from tests.support import ScriptedModel, cycle

Scale = Callable[[dspy.Module], dspy.Module]


def uniform() -> BudgetPool:
    return BudgetPool(per_call=3, policy=Uniform())


def scaled(module: dspy.Module) -> dspy.Module:
    return DynScaling(module, budget=uniform())


class Nested(dspy.Module):
    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.first = scale(dspy.ChainOfThought("question -> answer"))
        self.deep = Both(scale(Both(scale(dspy.ChainOfThought("question -> answer")))))
        self.listed = [scale(TwoStage()), dspy.Predict("question -> answer")]

    def forward(self, question: str) -> dspy.Prediction:
        return self.first(question=question)


PROGRAMS: dict[str, Callable[[Scale], dspy.Module]] = {
    "Predict": lambda scale: scale(dspy.Predict("question -> answer")),
    "ChainOfThought": lambda scale: scale(dspy.ChainOfThought("question -> answer")),
    "ReAct": lambda scale: scale(dspy.ReAct("question -> answer", tools=[search])),
    "two stages": lambda scale: scale(TwoStage()),
    "nested": Nested,
    "BestOfN around": lambda scale: dspy.BestOfN(
        scale(dspy.ChainOfThought("question -> answer")), N=2, reward_fn=lambda a, p: 1.0, threshold=1.0
    ),
    "wrapped in place": lambda scale: TwoStage() if scale is plain else wrap(TwoStage(), budget=uniform()),
    "wrapped in place, bare": lambda scale: Bare() if scale is plain else wrap(Bare(), budget=uniform()),
    "bare": lambda scale: Bare(scale),
    "bare, wrapped twice": lambda scale: Bare(lambda module: scale(scale(module))),
    "bare, inside and around": lambda scale: scale(Bare(scale)),
}


def plain(module: dspy.Module) -> dspy.Module:
    return module


class Bare(dspy.Module):
    """Predictors that are attributes themselves, where wrappers take their place."""

    def __init__(self, scale: Scale = lambda module: module) -> None:
        super().__init__()
        self.qa = scale(dspy.Predict("question -> answer"))
        self.listed = [scale(dspy.Predict("question -> answer")), dspy.Predict("question -> answer")]
        self.named = {"a": scale(dspy.Predict("question -> answer"))}

    def forward(self, question: str) -> dspy.Prediction:
        return self.qa(question=question)


def compile_by_hand(program: dspy.Module) -> None:
    """What optimizers change."""
    for number, predictor in enumerate(program.predictors()):
        predictor.demos = [dspy.Example(question="1 + 1", answer=f"{number}")]
        predictor.signature = predictor.signature.with_instructions(f"Instruction {number}.")


def parameters_of(program: dspy.Module) -> Any:
    return [(name, without_scaling(predictor.dump_state())) for name, predictor in program.named_predictors()]


def without_scaling(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "dynscale"}


@pytest.mark.parametrize("suffix", [".json", ".pkl"])
@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS)
def test_from_plain_to_wrapped_and_back(make: Callable[[Scale], dspy.Module], suffix: str, tmp_path: Path) -> None:
    first, middle, last = make(plain), make(scaled), make(plain)
    compile_by_hand(first)
    first.save(tmp_path / f"plain{suffix}")
    middle.load(tmp_path / f"plain{suffix}", allow_pickle=True)
    assert parameters_of(middle) == parameters_of(first)
    middle.save(tmp_path / f"wrapped{suffix}")
    last.load(tmp_path / f"wrapped{suffix}", allow_pickle=True)
    assert parameters_of(last) == parameters_of(first)
    again = make(scaled)
    again.load(tmp_path / f"wrapped{suffix}", allow_pickle=True)
    assert parameters_of(again) == parameters_of(first)


@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS)
def test_whole_programs(make: Callable[[Scale], dspy.Module], tmp_path: Path) -> None:
    program = make(scaled)
    compile_by_hand(program)
    if "<lambda>" in repr(getattr(program, "reward_fn", None)):
        program.reward_fn = None  # only the state matters here
    program.save(tmp_path / "program", save_program=True)
    loaded = dspy.load(tmp_path / "program", allow_pickle=True)
    assert parameters_of(loaded) == parameters_of(program)
    assert type(loaded) is type(program)


@pytest.mark.parametrize("name", ["Predict", "two stages", "wrapped in place"])
def test_pickles_answer_as_before(name: str) -> None:
    model = ScriptedModel(lambda prompt, number: {"reasoning": "r", "search_query": "q", "answer": "A"})
    program = PROGRAMS[name](scaled)
    loaded = cloudpickle.loads(cloudpickle.dumps(program))  # the standard pickle cannot take DSPy's own signatures
    with dspy.context(lm=model.lm()):
        assert loaded(question="q").answer == "A"
    assert len(model.requests) > len(loaded.predictors())


def test_compiled_programs_stay_frozen_and_load() -> None:
    model = ScriptedModel(cycle("A"))
    trainset = [dspy.Example(question=f"q{i}", answer="A").with_inputs("question") for i in range(4)]
    with dspy.context(lm=model.lm()):
        compiled = dspy.BootstrapFewShot(metric=lambda e, p, trace=None: True, max_bootstrapped_demos=2).compile(
            dspy.ChainOfThought("question -> answer"), trainset=trainset
        )
    assert compiled._compiled
    wrapped = DynScaling(compiled, budget=4)
    state = wrapped.dump_state()
    assert len(state["predict"]["demos"]) == 4
    fresh = dspy.ChainOfThought("question -> answer")
    fresh.load_state(state)
    assert parameters_of(fresh) == parameters_of(wrapped)
    outer = Both(wrapped)
    assert outer.named_parameters() == Both(compiled).named_parameters() == []


def test_files_saved_around_another_wrapper(tmp_path: Path) -> None:
    for kind in (dspy.BestOfN, dspy.Refine):
        other = kind(dspy.ChainOfThought("question -> answer"), N=2, reward_fn=_reward, threshold=1.0)
        compile_by_hand(other)
        other.save(tmp_path / "other.json")
        wrapped = DynScaling(dspy.ChainOfThought("question -> answer"), budget=4)
        wrapped.load(tmp_path / "other.json")
        assert [state for _, state in parameters_of(wrapped)] == [state for _, state in parameters_of(other)]


def _reward(arguments: Any, prediction: Any) -> float:
    return 1.0


def test_a_copy_keeps_its_own_history() -> None:
    model = ScriptedModel(cycle("A"))
    program = copy.deepcopy(DynScaling(dspy.Predict("question -> answer"), budget=uniform()))
    with dspy.context(lm=model.lm()):
        program(question="q")
    assert len(program.history) == len(program.module.history) == len(model.requests) == 3
    assert program.history is not program.module.history
    assert program.callbacks is not program.module.callbacks


# ---- settings beside the state


def settings_of(program: DynScaling) -> Any:
    return program.scaling_settings, program.pool.settings


@pytest.mark.parametrize("suffix", [".json", ".pkl"])
@pytest.mark.parametrize(
    "sampling",
    [Parallel(), Sequential(length=3), Integrated(independent=3, width=2, when="always", predictors="last")],
    ids=lambda sampling: type(sampling).__name__,
)
def test_settings_are_restored(sampling: Any, suffix: str, tmp_path: Path) -> None:
    def make(**settings: Any) -> DynScaling:
        return DynScaling(dspy.ChainOfThought("question -> answer, note"), **settings)

    saved = make(
        budget=6.5,
        sampling=sampling,
        policy=UCB(exploration=0.3),
        answer="answer",
        temperature=0.7,
        max_samples=9,
        max_choices=3,
        stop_when_decided=True,
        leader=True,
        min_confidence=0.8,
        on_low="raise",
        seed=5,
    )
    saved.save(tmp_path / f"state{suffix}")
    loaded = make(budget=2)
    loaded.load(tmp_path / f"state{suffix}", allow_pickle=True)
    assert settings_of(loaded) == settings_of(saved)


def test_a_shared_pool_stays_whatever_the_file_says() -> None:
    saved = DynScaling(dspy.Predict("question -> answer"), budget=6, max_samples=9)
    pool = BudgetPool(samples=100)
    for budget in (pool, None):
        loaded = DynScaling(dspy.Predict("question -> answer"), budget=budget)
        loaded.load_state(saved.dump_state())
        assert loaded.max_samples == 9
        with pool:
            assert loaded.pool is pool
    assert "budget" not in DynScaling(dspy.Predict("question -> answer"), budget=pool).dump_state()["dynscale"]


def test_what_json_cannot_hold_is_left_out() -> None:
    class Own(KnowledgeGradient):
        """A user's policy."""

    program = DynScaling(dspy.Predict("question -> answer"), budget=4, policy=Own(), answer=lambda p: p.answer)
    settings = program.dump_state()["dynscale"]
    assert json.loads(json.dumps(settings)) == settings
    assert "answer" not in settings and "budget" not in settings
    fresh = DynScaling(dspy.Predict("question -> answer"), budget=3)
    before = settings_of(fresh)
    fresh.load_state(program.dump_state())
    assert settings_of(fresh) == before


def test_settings_of_another_version_never_keep_a_program_from_loading(caplog: Any) -> None:
    program = DynScaling(dspy.Predict("question -> answer"), budget=4, sampling=Sequential())
    state = program.dump_state()
    state["dynscale"]["sampling"] = {"name": "Telepathic", "distance": 3}
    state["dynscale"]["budget"]["policy"] = {"name": "UCB", "courage": 3}
    state["dynscale"]["mood"] = "good"
    program.load_state(state)
    assert program.sampling == Sequential() and program.pool.settings.per_call == 4
    assert "Telepathic" in caplog.text and "courage" in caplog.text and "mood" in caplog.text


def test_settings_of_predictors_scaled_in_place(tmp_path: Path) -> None:
    program = wrap(TwoStage(), budget=4, sampling=Integrated(length=2), max_samples=7, temperature=0.5)
    program.save(tmp_path / "state.json")
    other = wrap(TwoStage(), budget=4)
    pool = other.query.predict.scaling.pool
    other.load(tmp_path / "state.json")
    for stage in (other.query, other.respond):
        scaling = stage.predict.scaling
        assert (scaling.sampling, scaling.max_samples, scaling.temperature) == (Integrated(length=2), 7, 0.5)
        assert scaling.pool is pool
    unwrapped = TwoStage()
    unwrapped.load(tmp_path / "state.json")
    assert parameters_of(unwrapped) == parameters_of(unwrap(program))


# ---- a wrapper around a bare predictor is that predictor to DSPy


def test_a_wrapper_takes_the_place_of_a_bare_predictor_under_its_name() -> None:
    program = Bare(scaled)
    assert [name for name, _ in program.named_predictors()] == ["qa", "listed[0]", "listed[1]", "named['a']"]
    inside = program.qa.module
    assert program.predictors()[0] is program.qa and isinstance(program.qa, DynScaling)
    assert isinstance(program.qa, dspy.Predict) and type(inside) is dspy.Predict
    compile_by_hand(program)
    assert inside.demos == [dspy.Example(question="1 + 1", answer="0")]
    assert program.qa.signature is inside.signature and inside.signature.instructions == "Instruction 0."
    with dspy.context(lm=ScriptedModel(cycle("A")).lm(), trace=[]):
        prediction = program(question="q")
        [(predictor, inputs, traced)] = dspy.settings.trace
    assert predictor is program.qa and inputs == {"question": "q"} and traced is prediction
    program.qa.reset()
    assert inside.demos == [] and inside.lm is None
    with pytest.raises(ValueError, match="Positional arguments are not allowed"):
        program.qa("q")


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda p: p.deepcopy(), lambda p: cloudpickle.loads(cloudpickle.dumps(p))]
)
def test_its_copies_are_predictors_too(copied: Callable[[Any], Any]) -> None:
    program = Bare(scaled)
    compile_by_hand(program)
    twin = copied(program)
    assert parameters_of(twin) == parameters_of(program)
    assert isinstance(twin.qa, DynScaling) and isinstance(twin.qa, dspy.Predict) and twin.qa is not program.qa
    twin.reset_copy()
    twin.qa.demos = []
    assert program.qa.demos != []


def test_what_was_pickled_before_wrappers_were_predictors_is_one() -> None:
    old = DynScaling(dspy.ChainOfThought("question -> answer"), budget=3)
    vars(old)["module"] = dspy.Predict("question -> answer")
    assert type(old) is DynScaling
    assert isinstance(copy.deepcopy(old), dspy.Predict)


def test_its_predictors_are_mapped_where_they_are() -> None:
    program = Bare(scaled)
    other = dspy.Predict("question -> answer")
    program.qa.map_named_predictors(lambda predictor: other)
    assert program.qa.module is other
    program.map_named_predictors(lambda predictor: other)
    assert program.qa is other


def test_scaling_in_place_leaves_it_alone() -> None:
    program = Bare(scaled)
    wrap(program, budget=uniform())
    assert [hasattr(predictor, "scaling") for predictor in program.predictors()] == [False, False, True, False]
    with pytest.raises(ValueError, match="predictors names 'qa'"):
        wrap(Bare(scaled), budget=uniform(), predictors="qa")
