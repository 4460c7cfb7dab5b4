"""What version 0.1 has saved loads.

``version_0_1/`` holds files that it wrote. Whole programs are not among them, since their pickles hold DSPy's
signatures and so are of one version of DSPy and Python: they are written here as it wrote them.
"""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import cloudpickle
import dspy
import pytest

from dynscale_dspy import (
    UCB,
    BudgetPool,
    Cost,
    DynScaling,
    Integrated,
    KnowledgeGradient,
    Parallel,
    Price,
    Sequential,
    explain,
    wrap,
)
from dynscale_dspy.allocation.policies import POLICIES
from dynscale_dspy.budget import pool as pool_module
from dynscale_dspy.config import PoolSettings, ScalingSettings
from dynscale_dspy.execution.answer_reader import AnswerReader
from dynscale_dspy.reporting.explanation import Explanation
from tests.compat.test_state import TwoStage
from tests.support import ScriptedModel, cycle

FILES = Path(__file__).parent / "version_0_1"
MODULES = {
    "dynscale_dspy.budget.pool": "dynscale_dspy.pool",
    "dynscale_dspy.execution.answer_reader": "dynscale_dspy.answers",
    "dynscale_dspy.allocation.costs": "dynscale_dspy.allocation.ledger",
    "dynscale_dspy.reporting.explanation": "dynscale_dspy.report",
}
"""Where version 0.1 had the classes that its pickles name."""
ALL_SETTINGS = {
    "sampling": Integrated(independent=3, width=2, when="always"),
    "answer": ("answer",),
    "temperature": 0.7,
    "max_samples": 9,
    "max_choices": 3,
    "stop_when_decided": True,
    "leader": True,
    "min_confidence": 0.8,
    "on_low": "raise",
}


@pytest.fixture(autouse=True)
def _old_names_warn() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "dynscale_dspy.* has moved", DeprecationWarning)
        yield


class Pickler(cloudpickle.Pickler):
    """Writes what version 0.1 wrote: its modules, its attributes, its names of amounts."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, BudgetPool):
            settings = dict(obj.settings)
            samples, settings["calls"] = settings.pop("samples"), settings.pop("requests")
            del settings["store"]
            return pool_module._rebuild, (samples, settings)
        if isinstance(obj, DynScaling):
            state = {name: value for name, value in obj.__getstate__().items() if name not in ("_settings", "_choice")}
            settings = dict(obj.scaling_settings)
            del settings["answer"], settings["selector"]
            return _new, (DynScaling,), {**state, **settings}
        if isinstance(obj, AnswerReader):
            return _new, (AnswerReader,), {"answer": obj.answer, "_known_to_exist": True}
        if isinstance(obj, Cost):
            old = {"requests": "calls", "cached_requests": "cached_calls"}
            return _new, (Cost,), {old.get(name, name): amount for name, amount in vars(obj).items()}
        return super().reducer_override(obj)


def _new(kind: type) -> Any:
    return kind.__new__(kind)


def saved_by_0_1(value: Any) -> bytes:
    """A pickle as version 0.1 wrote it."""
    file = io.BytesIO()
    Pickler(file, protocol=3).dump(value)  # names modules as lines of text
    data = file.getvalue()
    for new, old in MODULES.items():
        data = data.replace(f"c{new}\n".encode(), f"c{old}\n".encode())
        assert new.encode() not in data
    return data


def objects() -> dict[str, Any]:
    return pickle.loads((FILES / "objects.pkl").read_bytes())


# ---- files that it wrote


def test_a_pool() -> None:
    assert objects()["pool"].settings == PoolSettings(
        samples=50,
        requests=200,
        tokens=10**6,
        dollars=2.5,
        deadline=1000,
        per_call=4,
        min_per_call=2,
        max_per_call=9,
        policy=UCB(exploration=0.3),
        on_empty="run_once",
        strict=True,
        prices={"m": Price(1, 2)},
        period="day",
        warn_at=0.5,
        max_failures=7,
        max_concurrency=3,
        hedge=0.9,
        seed=5,
    )


def test_policies_and_strategies() -> None:
    assert objects()["policies"] == [make() for make in POLICIES.values()]
    sequential, integrated = objects()["strategies"][1:]
    assert objects()["strategies"][0] == Parallel()
    assert sequential == Sequential(length=3) and sequential.samplers == Sequential(length=3).samplers
    like = Integrated(independent=3, width=2, when="always", predictors="last")
    assert integrated == like and integrated.samplers == like.samplers


def test_a_cost() -> None:
    cost = Cost(1, 2, 3, 4, 5, 6, 1)
    assert objects()["cost"] == cost and vars(objects()["cost"]) == vars(cost)


AS_WRITTEN = Integrated(when="close")
"""The default of version 0.1 is in the file, so it stays; what is not in it is as today."""


def test_the_state_of_a_program_with_every_setting_off_its_default() -> None:
    program = DynScaling(dspy.Predict("question -> answer, note"), 2)
    program.load(FILES / "all_settings.json")
    assert program.scaling_settings == ScalingSettings(**ALL_SETTINGS)
    assert program.pool.settings == PoolSettings(per_call=6.5, policy=UCB(exploration=0.3), seed=5)


def test_the_state_of_a_program_with_none() -> None:
    program = DynScaling(dspy.Predict("question -> answer, note"), 2, min_confidence=0.5, on_low=first)
    program.load(FILES / "defaults.json")
    # It says nothing of unsure answers.
    assert program.scaling_settings == ScalingSettings(min_confidence=0.5, on_low=first, sampling=AS_WRITTEN)
    assert program.pool.settings == PoolSettings(per_call=3)


def test_the_state_of_a_predictor_in_place() -> None:
    program = wrap(dspy.ChainOfThought("question -> answer"), 2)
    program.load(FILES / "in_place.json")
    scaling = program.predict.scaling
    assert scaling.scaling_settings == ScalingSettings(max_samples=7, temperature=0.5, sampling=AS_WRITTEN)
    assert scaling.pool.settings.per_call == 2
    plain = dspy.ChainOfThought("question -> answer")
    plain.load(FILES / "in_place.json")


def first(prediction: Any, **inputs: Any) -> Any:
    return prediction


# ---- whole programs


def test_a_pickle_written_here_is_as_it_wrote_them() -> None:
    data = saved_by_0_1(BudgetPool(samples=5))
    assert b"cdynscale_dspy.pool\n_rebuild\n" in data and b"calls" in data and b"requests" not in data
    data = saved_by_0_1(DynScaling(dspy.Predict("question -> answer"), 5))
    assert b"cdynscale_dspy.answers\nAnswerReader\n" in data
    assert b"\x00_settings" not in data and b"\x00_choice" not in data  # names as pickles write them


def test_a_program_with_every_setting_off_its_default() -> None:
    program = DynScaling(
        dspy.Predict("question -> answer, note"), 6.5, policy=UCB(exploration=0.3), seed=5, **ALL_SETTINGS
    )
    loaded = cloudpickle.loads(saved_by_0_1(program))
    assert loaded.scaling_settings == program.scaling_settings and loaded.pool.settings == program.pool.settings
    assert vars(loaded).keys() == vars(program).keys()
    again = cloudpickle.loads(cloudpickle.dumps(loaded))
    assert again.scaling_settings == program.scaling_settings


@pytest.mark.parametrize(
    "make",
    [
        lambda: DynScaling(dspy.Predict("question -> answer"), 3),
        lambda: DynScaling(TwoStage(), 3, answer=lambda prediction: prediction.answer),
        lambda: wrap(dspy.ChainOfThought("question -> answer"), 3),
        lambda: wrap(TwoStage(), 3),
    ],
    ids=["bare", "two stages", "in place", "two stages in place"],
)
def test_a_program_answers(make: Any) -> None:
    model = ScriptedModel(lambda prompt, number: {"reasoning": "r", "search_query": "q", "answer": "A"})
    with dspy.context(lm=model.lm()):
        assert cloudpickle.loads(saved_by_0_1(make()))(question="q").answer == "A"
    assert len(model.requests) > 1


def test_a_program_whose_unsure_answers_another_one_gives() -> None:
    strong = DynScaling(dspy.Predict("question -> answer"), 2)
    program = DynScaling(dspy.Predict("question -> answer"), 3, min_confidence=0.99, on_low=strong)
    loaded = cloudpickle.loads(saved_by_0_1(program))
    assert isinstance(loaded.on_low, DynScaling) and loaded.on_low.pool is not loaded.pool
    assert loaded.scaling_settings.on_low is loaded.on_low
    with dspy.context(lm=ScriptedModel(cycle("A", "B", "C", "D", "D")).lm()):
        assert loaded(question="q").answer == "D"


def test_programs_of_one_pool_have_one_pool() -> None:
    pool = BudgetPool(samples=9, requests=20)
    programs = [DynScaling(dspy.Predict("question -> answer"), pool), wrap(dspy.Predict("question -> answer"), pool)]
    one, other = cloudpickle.loads(saved_by_0_1(programs))
    assert one.pool is other.scaling.pool and one.pool.settings == pool.settings


def test_a_program_without_a_pool_of_its_own() -> None:
    loaded = cloudpickle.loads(saved_by_0_1(DynScaling(dspy.Predict("question -> answer"))))
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()), BudgetPool(samples=3, policy=KnowledgeGradient()):
        assert loaded(question="q").answer == "A"


def test_a_setting_that_was_assigned_without_its_pair() -> None:
    program = DynScaling(dspy.Predict("question -> answer"), 3)
    program.on_low = first
    assert cloudpickle.loads(saved_by_0_1(program)).on_low is first


def test_an_explanation() -> None:
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()):
        prediction = DynScaling(dspy.Predict("question -> answer"), 3)(question="q")
    told = explain(prediction)
    loaded = cloudpickle.loads(saved_by_0_1(told))
    assert isinstance(loaded, Explanation) and loaded.cost == told.cost and loaded.cost.requests > 0
    assert str(loaded) == str(told)
