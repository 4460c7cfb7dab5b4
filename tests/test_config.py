"""Every setting survives whatever is done with a program or a pool. Tests run over the fields of the models."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import pickle
import re
import time
from decimal import Decimal
from typing import Annotated, Any, Literal, get_type_hints

import cloudpickle
import dspy
import pydantic
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dynscale_dspy import (
    UCB,
    BudgetPool,
    Calibrate,
    Cost,
    DynScaling,
    Integrated,
    KnowledgeGradient,
    Parallel,
    Price,
    Sequential,
    _fields,
    wrap,
)
from dynscale_dspy._fields import Count, Field, Refused, Seconds, check, field_of, fields_of
from dynscale_dspy._models import Models
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.budget.stores.sqlite import SQLiteStore
from dynscale_dspy.config import KEY, PRIVATE, OfUsers, PoolSettings, ScalingSettings, ScopeSettings, Settings
from dynscale_dspy.distributed.coordinator import Published
from tests.settings import OwnSelector, OwnStore, bad, fall_back, first_field, good, saved_part, settings_of
from tests.support import ScriptedModel

MODELS = (ScalingSettings, ScopeSettings, PoolSettings)
STRATEGIES = (Parallel, Sequential, Integrated)
DECLARED = [(owner, name, field) for owner in MODELS for name, field in owner.fields().items()]
DECLARED += [(owner, name, field) for owner in STRATEGIES for name, field in fields_of(owner).items()]
IDS = [f"{owner.__name__}-{name}" for owner, name, _ in DECLARED]
NEEDED: dict[Any, dict[str, Any]] = {
    model: {"samples": 5, "requests": 5, "warn_at": 0.5} if model is PoolSettings else {"samples": 5, "requests": 5}
    for model in (ScopeSettings, PoolSettings)
} | {ScalingSettings: {"min_confidence": 0.5}}
"""Arguments without which nothing is made."""


def made(model: Any, arguments: dict[str, Any]) -> Any:
    """Settings of these arguments, if they fit each other."""
    try:
        return model(**arguments)
    except ValueError as error:
        assume("must be at least min_per_call" not in str(error))
        assume("needs" not in str(error))
        assume("path= and store= both" not in str(error))
        raise


@st.composite
def all_settings(draw: Any, model: Any) -> Any:
    return made(model, draw(settings_of(model)))


def program() -> dspy.Module:
    return dspy.Predict("question -> answer, note")


# ---- every setting, every way


@pytest.mark.parametrize("model", MODELS)
@given(data=st.data())
def test_settings_survive_files_copies_and_pickles(model: Any, data: Any) -> None:
    one = data.draw(all_settings(model))
    for other in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one)), one.replace()):
        assert other == one and type(other) is model
        assert dict(other) == dict(one)
    state = json.loads(json.dumps(one.to_json()))
    loaded = made(model, {**NEEDED.get(model, {}), "max_samples": 7} if model is ScalingSettings else {"samples": 3})
    assert saved_part(one) == {name: getattr(loaded.updated(state), name) for name in state}
    assert {name: getattr(model.from_json(state), name) for name in state} == saved_part(one)


@pytest.mark.parametrize("model", MODELS)
@given(data=st.data())
def test_only_functions_and_objects_of_users_are_left_out_of_files(model: Any, data: Any) -> None:
    one = data.draw(all_settings(model))
    for name in model.model_fields.keys() - one.to_json().keys():
        pair = name in ("min_confidence", "on_low") and (callable(one.on_low) or one.min_confidence is None)
        assert callable(getattr(one, name)) or pair or isinstance(model.fields()[name].check, (OfUsers, Models))


@settings(max_examples=20)
@given(one=all_settings(ScalingSettings))
def test_settings_of_a_program_survive_with_it(one: ScalingSettings) -> None:
    scaled = DynScaling(program(), 5, policy=UCB(exploration=0.2), seed=4, **dict(one))
    assert scaled.scaling_settings == one
    for other in (copy.copy(scaled), copy.deepcopy(scaled), scaled.deepcopy(), scaled.reset_copy()):
        assert other.scaling_settings == one and other.pool is scaled.pool
    state = json.loads(json.dumps(scaled.dump_state()))
    fresh = DynScaling(program(), 2)
    fresh.load_state(state)
    assert (
        saved_part(fresh.scaling_settings) == saved_part(one)
        or saved_part(one).keys() < ScalingSettings.fields().keys()
    )
    assert {name: getattr(fresh.scaling_settings, name) for name in saved_part(one)} == saved_part(one)
    assert fresh.pool.settings == scaled.pool.settings


@given(one=all_settings(ScalingSettings))
@settings(max_examples=20)
def test_settings_of_predictors_in_place_survive_with_them(one: ScalingSettings) -> None:
    pool = BudgetPool(per_call=3)
    scaled = wrap(program(), pool, **dict(one))
    assert scaled.scaling.scaling_settings == one
    for other in (copy.deepcopy(scaled), cloudpickle.loads(cloudpickle.dumps(scaled))):
        assert other.scaling.scaling_settings == one
    fresh = wrap(program(), pool)
    fresh.load_state(json.loads(json.dumps(scaled.dump_state())))
    assert {name: getattr(fresh.scaling.scaling_settings, name) for name in saved_part(one)} == saved_part(one)


def other_than(value: Any, field: Field) -> Any:
    """A value for a setting that is not this one."""
    found: list[Any] = []

    @settings(max_examples=20, database=None, derandomize=True)
    @given(good(field))
    def look(candidate: Any) -> None:
        if candidate != value and not found:
            found.append(candidate)

    look()
    return found[0]


def off_default(model: Any, *, without: str = "store") -> dict[str, Any]:
    """A value that is not the default for every setting, but for one of the two that exclude each other."""
    defaults = model.model_construct()
    return {
        name: other_than(getattr(defaults, name), field) for name, field in model.fields().items() if name != without
    }


def test_calibration_keeps_every_setting_but_those_it_chooses() -> None:
    changed = off_default(ScalingSettings)
    model = ScriptedModel(lambda prompt, number: {"answer": "A", "note": "n"})
    changed |= {"answer": ("answer",), "max_samples": 9, "max_choices": 3, "min_confidence": 0.3, "temperature": 0.7}
    changed |= {"lms": {"own": model.lm()}}
    default = ScalingSettings()
    assert all(value != getattr(default, name) for name, value in changed.items())
    student = DynScaling(program(), 4, **changed)
    examples = [dspy.Example(question=f"q{i}", answer="A").with_inputs("question") for i in range(2)]

    def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
        return prediction.answer == example.answer

    calibrate = Calibrate(metric, budget=2, sampling=[Parallel()], num_threads=1)
    tuned = calibrate.compile(student, trainset=examples)
    assert tuned.scaling_settings == student.scaling_settings.replace(sampling=Parallel())
    with dspy.context(lm=model.lm()):
        calibrate = Calibrate(metric, budget=2, sampling=[Parallel()], temperatures=[None], num_threads=1)
        tuned = calibrate.compile(student, trainset=examples)
    assert tuned.scaling_settings == student.scaling_settings.replace(sampling=Parallel(), temperature=None)
    assert student.scaling_settings == ScalingSettings(**changed)


@pytest.mark.parametrize("without", ["store", "path"])
@pytest.mark.parametrize("model", MODELS)
def test_every_setting_can_be_off_its_default(model: Any, without: str) -> None:
    changed = off_default(model, without=without)
    changed |= {name: value for name, value in {"max_per_call": 2, "min_per_call": 2}.items() if name in changed}
    one = model(**changed)
    default = model.model_construct()
    for name in model.model_fields:
        assert getattr(one, name) != getattr(default, name) or name == without
        assert one.replace(**{name: getattr(one, name)}) == one


# ---- what is refused


@pytest.mark.parametrize(("owner", "name", "field"), DECLARED, ids=IDS)
def test_bad_values_are_refused_by_name_and_with_the_value(owner: Any, name: str, field: Field) -> None:
    for value in bad(field):
        with pytest.raises((TypeError, ValueError)) as caught:
            owner(**{**NEEDED.get(owner, {}), name: value})
        assert type(caught.value) in (TypeError, ValueError)
        assert str(caught.value).startswith(f"{name} must ")
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("owner", "name", "field"), DECLARED, ids=IDS)
@settings(max_examples=20)
@given(data=st.data())
def test_good_values_are_taken(owner: Any, name: str, field: Field, data: Any) -> None:
    value = data.draw(good(field))
    arguments = {**NEEDED.get(owner, {}), name: value}
    if name == "min_per_call":
        arguments["max_per_call"] = value
    assert getattr(owner(**arguments), name) == (field.check.check(value) if value is not None else None)


@pytest.mark.parametrize("model", MODELS)
def test_an_unknown_setting_is_refused_by_name(model: Any) -> None:
    message = rf"^{model.__name__}\(\) got an unexpected keyword argument 'mood'$"
    with pytest.raises(TypeError, match=message):
        model(**NEEDED.get(model, {}), mood="good")
    with pytest.raises(TypeError, match=message):
        model(**NEEDED.get(model, {})).replace(mood="good")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScalingSettings(on_low=print), "on_low needs min_confidence=, the confidence below which to call it"),
        (lambda: ScopeSettings(), "a pool needs a limit: give samples=, requests= or per_call=, or tokens=, dollars="),
        (lambda: PoolSettings(max_per_call=3), "a pool needs a limit"),
        (
            lambda: PoolSettings(samples=5, min_per_call=3, max_per_call=2),
            "max_per_call must be at least min_per_call=3",
        ),
        (lambda: PoolSettings(samples=5, on_warning=print), "on_warning needs warn_at=, the share of a cap"),
        (
            lambda: PoolSettings(samples=5, path="budget.sqlite", store=OwnStore("here")),
            "path= and store= both say where to keep the budget: give one of them",
        ),
        (
            lambda: PoolSettings(samples=5, path="budget.sqlite").replace(store=OwnStore("here")),
            "path= and store= both say where to keep the budget: give one of them",
        ),
        (lambda: ScalingSettings(temperature=float("nan")), "temperature must be finite, got nan"),
        (lambda: ScalingSettings(temperature=float("inf")), "temperature must be finite, got inf"),
    ],
)
def test_settings_that_do_not_fit(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        make()
    assert not isinstance(caught.value, pydantic.ValidationError)


def test_settings_are_frozen() -> None:
    one = ScalingSettings()
    with pytest.raises(AttributeError, match=r"settings are frozen: settings.replace\(leader=...\) makes new ones"):
        one.leader = True  # type: ignore[misc]
    assert one.replace(leader=True).leader and not one.leader
    assert hash(one) == hash(ScalingSettings())


def test_none_stands_for_some_defaults() -> None:
    assert ScalingSettings(sampling=None).sampling == Integrated()
    pool = PoolSettings(samples=5, policy=None, prices=None, clock=None)
    assert (pool.policy, pool.prices, pool.clock) == (KnowledgeGradient(), {}, time.time)


# ---- one place


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    found = inspect.signature(function).parameters
    return {name: one for name, one in found.items() if name != "self" and not name.startswith("_")}


@pytest.mark.parametrize(
    ("function", "model", "besides"),
    [
        (DynScaling.__init__, ScalingSettings, {"module", "budget", *PRIVATE} - {"per_call"}),
        (BudgetPool.__init__, PoolSettings, set()),
        (BudgetPool.scope, ScopeSettings, set()),
    ],
)
def test_what_users_can_say_is_what_the_models_declare(function: Any, model: Any, besides: set[str]) -> None:
    said = parameters(function)
    assert said.keys() - besides == model.model_fields.keys()
    defaults = model.model_construct()
    for name in model.model_fields:
        assert said[name].default == getattr(defaults, name) or said[name].default is None
    documentation = DynScaling.__doc__ if model is ScalingSettings else BudgetPool.__doc__
    assert documentation is not None
    for name in model.model_fields:
        assert f"{name}: " in documentation


def test_private_pools_have_settings_of_pools() -> None:
    assert set(PRIVATE) < PoolSettings.model_fields.keys()
    settings = DynScaling(program(), 3, policy=UCB(exploration=0.2), seed=4).pool.settings
    assert settings == PoolSettings(**{name: getattr(settings, name) for name in PRIVATE})
    assert (settings.per_call, settings.policy, settings.seed) == (3, UCB(exploration=0.2), 4)


def test_settings_of_a_pool_that_only_it_has_are_its_settings() -> None:
    assert PoolSettings.model_fields.keys() > PoolSettings.NOT_FOR_CLIENTS
    assert PoolSettings.model_fields.keys() - ScopeSettings.model_fields.keys() > PoolSettings.NOT_FOR_SCOPES


# ---- scopes


@settings(max_examples=50)
@given(around=all_settings(PoolSettings), scope=all_settings(ScopeSettings))
def test_a_scope_has_the_pools_settings_where_it_says_nothing(around: PoolSettings, scope: ScopeSettings) -> None:
    within = scope.within(around)
    for name in PoolSettings.model_fields:
        if name in ScopeSettings.model_fields:
            expected = getattr(scope, name)
        elif name in PoolSettings.NOT_FOR_SCOPES:
            expected = None
        else:
            expected = getattr(around, name)
        if name == "min_per_call" and scope.max_per_call is not None:
            expected = min(expected, scope.max_per_call)
        assert getattr(within, name) == expected, name


@pytest.mark.parametrize("name", ScopeSettings.model_fields)
def test_a_scope_that_says_one_thing(name: str) -> None:
    around = PoolSettings(**{**off_default(PoolSettings), "path": None, "min_per_call": 3, "max_per_call": 9})
    said = {"samples": 5, name: 2}
    with BudgetPool.made(around).scope(**said) as scope:
        assert scope.settings == ScopeSettings(**said).within(around)
        admission = scope.admission
        assert (admission.policy, admission.strict, admission.prices) == (around.policy, around.strict, around.prices)
        assert scope.on_empty == around.on_empty and scope.seed == around.seed
        assert admission.min_per_call == scope.min_per_call == (2 if name == "max_per_call" else 3)
        assert admission.max_per_call == scope.max_per_call == said.get("max_per_call")


# ---- publishing


@settings(max_examples=50)
@given(pool=all_settings(PoolSettings))
def test_what_a_client_in_another_process_is_made_with(pool: PoolSettings) -> None:
    store = OwnStore("of the client")
    leased = pool.leased(store)
    for name in PoolSettings.model_fields:
        if name in PoolSettings.NOT_FOR_CLIENTS:
            expected = {"samples": 1, "store": store}.get(name, getattr(PoolSettings.model_construct(), name))
        else:
            expected = getattr(pool, name)
        assert getattr(leased, name) == expected, name


def test_what_a_client_keeps_by_name() -> None:
    assert PoolSettings.model_fields.keys() - PoolSettings.NOT_FOR_CLIENTS == {
        *("per_call", "min_per_call", "max_per_call", "policy", "on_empty", "strict", "prices"),
        *("max_failures", "max_concurrency", "hedge", "seed"),
    }
    pool = PoolSettings(**{**off_default(PoolSettings), "min_per_call": 2, "max_per_call": 2})
    assert BudgetPool.made(pool.leased(OwnStore("of the client"))).policy == pool.policy


@settings(max_examples=50)
@given(pool=all_settings(PoolSettings))
def test_what_is_published_reaches_other_processes(pool: PoolSettings) -> None:
    published = Published("budget", pool, tuple(unit for unit, limit in pool.limits.items() if limit is not None))
    for other in (pickle.loads(pickle.dumps(published)), cloudpickle.loads(cloudpickle.dumps(published))):
        assert (other.budget, other.capped) == (published.budget, published.capped)
        for name in PoolSettings.model_fields:
            assert getattr(other.settings, name) == getattr(pool, name), name


@pytest.mark.parametrize("dollars", [0.1, Decimal("2.50"), 3])
def test_money_is_taken_as_written(dollars: Any) -> None:
    assert ScopeSettings(dollars=dollars).nanodollars == Decimal(str(dollars)) * 10**9


@pytest.mark.parametrize("kind", [MemoryStore, SQLiteStore])
def test_a_pool_in_a_store_of_this_library_is_saved_with_its_program(kind: Any, tmp_path: Any) -> None:
    store = MemoryStore() if kind is MemoryStore else SQLiteStore(tmp_path / "budget.sqlite")
    spent = Cost(samples=2)
    store.settle(store.reserve(spent, {}), spent)
    scaled = DynScaling(program(), BudgetPool(samples=5, store=store))
    scaled.save(tmp_path / "program", save_program=True)
    loaded = dspy.load(tmp_path / "program", allow_pickle=True)
    assert loaded.pool.store is not store
    # A file is the same budget, memory is not saved.
    assert loaded.pool.statistics().spent == (Cost() if kind is MemoryStore else spent)
    assert loaded.pool.settings == scaled.pool.settings.replace(store=loaded.pool.store)
    for copied in (copy.deepcopy(scaled.pool.settings), copy.copy(scaled.pool.settings)):
        assert copied == scaled.pool.settings and copied.store is store


def test_periods_in_seconds() -> None:
    assert [PoolSettings(samples=1, period=period).period_seconds for period in (None, "hour", "day", 7)] == [
        *(None, 3600.0, 86400.0, 7.0)
    ]


# ---- attributes of wrapped programs


@pytest.mark.parametrize("name", sorted(ScalingSettings.model_fields.keys() - {"answer"}))
def test_a_setting_is_read_and_assigned_by_its_name(name: str) -> None:
    field = ScalingSettings.fields()[name]
    scaled = DynScaling(program(), 3)
    assert getattr(scaled, name) == getattr(ScalingSettings(), name)
    value = other_than(getattr(scaled, name), field)
    before = scaled.scaling_settings
    setattr(scaled, name, value)
    assert getattr(scaled, name) == value == getattr(scaled.scaling_settings, name)
    assert name not in vars(scaled) and not hasattr(scaled.module, name)
    assert before == ScalingSettings()
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be "):
        setattr(scaled, name, object())
    assert getattr(scaled, name) == value


def test_settings_that_belong_together_are_assigned_in_any_order() -> None:
    scaled = DynScaling(program(), 3)
    scaled.on_low = fall_back
    scaled.min_confidence = 0.9
    assert scaled.scaling_settings == ScalingSettings(on_low=fall_back, min_confidence=0.9)


def test_a_programs_own_attributes_stay_its_own() -> None:
    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer = dspy.Predict("question -> answer")
            self.settings = {"mood": "good"}
            self.leader = "me"

    scaled = DynScaling(Program(), 3, answer=first_field)
    assert isinstance(scaled.answer, dspy.Predict) and scaled.settings == {"mood": "good"}
    assert scaled.leader is False and scaled.scaling_settings.answer is first_field


def test_a_program_pickled_by_version_0_1_has_its_settings() -> None:
    scaled = DynScaling(program(), 3, answer="note", temperature=0.4, max_samples=7)
    old = {name: value for name, value in vars(scaled).items() if name != "_settings"}
    old |= {name: getattr(scaled, name) for name in ScalingSettings.model_fields if name != "answer"}
    loaded = DynScaling.__new__(DynScaling)
    loaded.__setstate__(old)
    assert loaded.scaling_settings == scaled.scaling_settings
    assert loaded.max_samples == 7 and "max_samples" not in vars(loaded)


# ---- files from elsewhere


@pytest.mark.parametrize(
    "junk",
    [
        5,
        ["temperature"],
        {"sampling": 3, "temperature": "hot", "max_samples": 0, "on_low": "panic", "leader": None},
        {"sampling": {"name": ["Parallel"]}, "answer": 4, "budget": 7},
        {"sampling": {"name": "Parallel", "mood": 1}, "answer": ["nothing"], "budget": {"per_call": 0}},
        {"budget": {"per_call": 5, "policy": {"name": "UCB", "courage": 3}, "seed": 1}},
        {"budget": {"per_call": 5}},
        {"selector": {"name": "OwnSelector"}},
        {"selector": {"name": "Plurality", "without": ["mood"]}},
        {"selector": None},
    ],
)
def test_a_file_from_elsewhere_changes_nothing_it_should_not(junk: Any, caplog: Any) -> None:
    scaled = DynScaling(
        program(),
        3,
        temperature=0.5,
        sampling=Sequential(length=3),
        selector=OwnSelector(),
        min_confidence=0.9,
        on_low=fall_back,
    )
    before, pool = scaled.scaling_settings, scaled.pool.settings
    with caplog.at_level(logging.WARNING, "dynscale_dspy"):
        scaled.load_state({**program().dump_state(), KEY: junk})
    assert scaled.scaling_settings == before and scaled.pool.settings == pool
    assert caplog.text or junk == {"budget": {"per_call": 5}}


def test_what_is_known_of_a_file_is_taken(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, "dynscale_dspy"):
        loaded = ScalingSettings(leader=True).updated({"mood": "good", "max_samples": 9, "temperature": "hot"})
    assert loaded == ScalingSettings(leader=True, max_samples=9)
    assert "mood='good' is unknown" in caplog.text and "temperature must be a number, got 'hot'" in caplog.text


def test_a_file_that_says_nothing_of_unsure_answers_leaves_them_as_they_are() -> None:
    careful = ScalingSettings(min_confidence=0.9, on_low=fall_back)
    assert careful.updated(ScalingSettings(max_samples=9).to_json()) == careful.replace(max_samples=9)
    assert careful.updated(ScalingSettings(on_low="raise").to_json()) == ScalingSettings(on_low="raise")
    assert careful.updated({"min_confidence": None}) == careful  # a function needs one


# ---- the vocabulary


def test_single_arguments_are_checked_alike() -> None:
    assert check("calls", 3, Count) == 3 and check("calls", None, Count | None) is None
    for value, kind, message in [
        (0, ValueError, "calls must be at least 1, got 0"),
        (None, TypeError, "calls must be an integer, got None"),
        (2**62, ValueError, f"calls must be below 2**62, got {2**62}"),
    ]:
        with pytest.raises(kind, match=f"^{re.escape(message)}$"):
            check("calls", value, Count)
    with pytest.raises(ValueError, match="interval must be a positive, finite number of seconds, got nan"):
        check("interval", float("nan"), Seconds)


def test_fields_are_found_in_types() -> None:
    assert field_of(Count) == Field(field_of(Count).check)  # type: ignore[union-attr]
    assert field_of(Count | None) == Field(field_of(Count).check, optional=True)  # type: ignore[union-attr]
    assert field_of(int) is None and field_of(int | None) is None
    words = field_of(Annotated[Literal["a", "b"], _fields.OneOfWords])
    assert words == Field(_fields.Words(("a", "b")))


def test_a_users_strategy_may_have_fields_of_its_own() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Own(Integrated):
        mood: Unheard = None  # type: ignore[name-defined]  # noqa: F821

    assert Own(independent=3).independent == 3
    with pytest.raises(ValueError, match="length must be an integer of at least 1, got 0"):
        Own(length=0)
    with pytest.raises(_fields.Unsaved):
        ScalingSettings.fields()["sampling"].dump(Own())
    assert "sampling" not in ScalingSettings(sampling=Own()).to_json()


def test_every_setting_has_its_words() -> None:
    for model in MODELS:
        source = inspect.getsource(model)
        for name in model.__annotations__.keys() & model.model_fields.keys():
            assert re.search(rf"\n    {name}: [^#]*?\n    \"\"\"\S", source, re.DOTALL)


def test_a_setting_without_a_known_type_is_no_setting() -> None:
    class Bad(Settings):
        mood: str = "good"

    with pytest.raises(AssertionError, match="Bad.mood is not declared with a type of dynscale_dspy._fields"):
        Bad.fields()


def test_refusals_say_the_kind() -> None:
    assert str(Refused("must be so, got 1").of("mood")) == "mood must be so, got 1"
    assert type(Refused("x", TypeError).of()) is TypeError
    assert get_type_hints(Price)["prompt"] is float
