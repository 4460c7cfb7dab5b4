"""The setting ``lms``: what it takes, what it is called, and what becomes of it."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from typing import Any

import cloudpickle
import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetPool, Calibrate, DynScaling, Escalate, Integrated, Parallel, wrap
from dynscale_dspy._models import LanguageModels, choices_in
from dynscale_dspy.config import ScalingSettings
from dynscale_dspy.sampling.by_price import ByPrice
from dynscale_dspy.tuning import check
from tests.settings import OwnLM

CHEAP, DEAR = OwnLM("cheap"), OwnLM("dear")


def program() -> dspy.Module:
    return dspy.ChainOfThought("question -> answer")


def models(*names: str) -> list[OwnLM]:
    return [OwnLM(name) for name in names]


# ---- names


def test_models_of_a_list_are_called_what_their_provider_calls_them() -> None:
    qa = DynScaling(program(), 4, lms=models("openai/a", "openai/b", "openai/a", "openai/a"))
    assert list(qa.lms) == ["openai/a", "openai/b", "openai/a (2)", "openai/a (3)"]


def test_models_of_a_dict_have_the_names_given() -> None:
    qa = DynScaling(program(), 4, lms={"fast": CHEAP, "strong": DEAR})
    assert dict(qa.lms) == {"fast": CHEAP, "strong": DEAR}
    assert "lms=[fast, strong] by ByPrice(): from fast to strong, in the order given: no price is known yet" in repr(qa)


def test_no_key_is_shown() -> None:
    lm = dspy.LM("openai/a", api_key="secret-key")
    qa = DynScaling(program(), 4, lms=[lm, DEAR])
    assert "secret" not in repr(qa) and "secret" not in repr(qa.scaling_settings)
    assert "secret" not in json.dumps(qa.dump_state())


# ---- what is refused


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        ([], ValueError, r"lms must be a list of language models, .* got \[\]; None is for the program's own"),
        ({}, ValueError, r"lms must be a list .* got \{\}"),
        (CHEAP, TypeError, "lms must be a list .* got <"),
        (["openai/gpt-4o"], TypeError, r"got 'openai/gpt-4o' in it: pass dspy.LM\('openai/gpt-4o'\)"),
        ([CHEAP, None], TypeError, r"got \[<.*>, None\]"),
        ({"a": CHEAP, "b": 3}, TypeError, r"got \{'a': <.*>, 'b': 3\}"),
        ({"": CHEAP}, TypeError, "names of text for language models, got ''"),
        ({3: CHEAP}, TypeError, "names of text for language models, got 3"),
        ({"plain": CHEAP, "b": DEAR}, ValueError, "names a language model 'plain', which is what a way of sampling"),
        ([CHEAP, DEAR, CHEAP], ValueError, r"has one language model twice, as 'cheap' and 'cheap \(2\)'"),
    ],
)
def test_bad_models_are_refused_before_anything_is_spent(given: Any, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told):
        DynScaling(program(), 4, lms=given)


def test_a_strategy_and_the_models_have_to_fit() -> None:
    both = [CHEAP, DEAR]
    with pytest.raises(ValueError, match=r"needs a sampling= that chooses between them, such as ByPrice.* got Para"):
        DynScaling(program(), 4, lms=both, sampling=Parallel())
    with pytest.raises(ValueError, match=r"sampling=Escalate\(first=2, .*\) needs lms="):
        DynScaling(program(), 4, sampling=Escalate(first=2))
    with pytest.raises(ValueError, match="needs lms= with several language models"):
        DynScaling(program(), 4, lms=[CHEAP], sampling=Escalate())
    assert DynScaling(program(), 4, lms=both, sampling=Escalate(first=2)).sampling == Escalate(first=2)
    assert DynScaling(program(), 4, lms=both).sampling == ByPrice()
    assert DynScaling(program(), 4, lms=[CHEAP]).sampling == Integrated()
    with pytest.raises(TypeError, match=r"sampling must be .* Escalate\(\) or BestOf\(\), got 'both'"):
        DynScaling(program(), 4, lms=both, sampling="both")  # type: ignore[arg-type]


def test_equal_models_are_taken_with_a_warning() -> None:
    def lm(**settings: Any) -> dspy.LM:
        return dspy.LM("openai/a", api_key="k", **settings)

    with pytest.warns(UserWarning, match=r"'openai/a' and 'openai/a \(2\)' in lms are the same"):
        DynScaling(program(), 4, lms=[lm(), lm()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qa = DynScaling(program(), 4, lms=[lm(api_base="http://a/v1"), lm(api_base="http://b/v1")])
        qa.max_samples = 3  # what was checked is not checked again
        copy.deepcopy(qa)


# ---- one after the other


def test_models_and_strategy_can_be_assigned_one_after_the_other() -> None:
    qa = DynScaling(program(), 4)
    qa.lms = [CHEAP, DEAR]
    assert qa.sampling == ByPrice()
    qa.sampling = Escalate(first=2)
    qa.lms = {"a": CHEAP, "b": DEAR}
    assert qa.sampling == Escalate(first=2)
    qa.sampling = None  # the default for one
    assert qa.scaling_settings.sampling == Integrated() and "lms=[a, b]" in repr(qa)
    with pytest.raises(ValueError, match="needs a sampling= that chooses"):
        qa(question="q")
    qa.sampling = ByPrice()
    qa.lms = None
    assert qa.sampling == Integrated() and "lms" not in repr(qa)
    with pytest.raises(TypeError, match="lms must be"):
        qa.lms = "cheap"


def test_what_is_for_one_language_model_says_so_before_anything_is_spent() -> None:
    qa = DynScaling(program(), 4, lms=[CHEAP, DEAR])
    examples = [dspy.Example(question=f"q{n}", answer="a").with_inputs("question") for n in range(2)]
    with pytest.raises(ValueError, match="Calibrate chooses ways of sampling one language model, and lms has 2"):
        Calibrate(lambda example, made, trace=None: True).compile(qa, trainset=examples)
    with pytest.raises(ValueError, match=r"check\(\) measures ways of sampling one language model, and lms has 2"):
        check(qa, examples)


def test_models_of_a_predictor_that_is_scaled_in_place() -> None:
    scaled = wrap(program(), budget=4, lms=[CHEAP, DEAR])
    assert list(scaled.predict.scaling.lms) == ["cheap", "dear"]
    with pytest.raises(ValueError, match="lms must be a list"):
        wrap(program(), budget=4, lms=[])


# ---- by predictor


class Planned(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plan = dspy.Predict("question -> plan")
        self.answer = dspy.Predict("question, plan -> answer")


MORE = OwnLM("more")


def test_a_dict_of_lists_is_by_predictor() -> None:
    qa = DynScaling(Planned(), 4, lms={"answer": [CHEAP, DEAR], "plan": {"small": CHEAP}})
    assert [(name, dict(each)) for name, each in qa.lms.items()] == [
        ("cheap", {"answer": CHEAP, "plan": CHEAP}),
        ("dear", {"answer": DEAR, "plan": CHEAP}),
    ]
    assert qa.sampling == ByPrice() and qa.lms.predictors == ("answer", "plan")
    assert "lms={answer: [cheap, dear], plan: [small]} by ByPrice(): from cheap to dear, in the order" in repr(qa)


def test_what_predictors_ask_together_is_called_by_all_that_change() -> None:
    qa = DynScaling(Planned(), 4, lms={"answer": {"a": CHEAP, "b": DEAR}, "plan": {"c": CHEAP, "b": DEAR}})
    assert list(qa.lms) == ["a + c", "b"]
    turned = DynScaling(Planned(), 4, lms={"answer": {"a": CHEAP, "b": DEAR}, "plan": {"b": DEAR, "a": CHEAP}})
    assert list(turned.lms) == ["a + b", "b + a"]


def test_one_for_each_predictor_is_no_choice() -> None:
    qa = DynScaling(Planned(), 4, lms={"answer": [DEAR], "plan": [CHEAP]})
    assert qa.sampling == Integrated() and dict(qa.lms.only) == {"answer": DEAR, "plan": CHEAP}
    assert "lms={answer: [dear], plan: [cheap]}" in repr(qa)
    with pytest.raises(ValueError, match="needs lms= with several language models"):
        DynScaling(Planned(), 4, lms={"answer": [DEAR], "plan": [CHEAP]}, sampling=Escalate())


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        (
            {"reply": [CHEAP]},
            ValueError,
            r"gives language models to a predictor 'reply', but this program has \['plan', 'answer'\]",
        ),
        (
            {"answer": [CHEAP, DEAR], "plan": CHEAP},
            TypeError,
            r"lms has lists .* by predictor, and <.*> for 'plan': write \{'plan': \[lm\]\}",
        ),
        ({"answer": [CHEAP], "plan": []}, ValueError, "lms has no language model for 'plan': leave it out"),
        ({"answer": [CHEAP, DEAR], "plan": [CHEAP, DEAR, MORE]}, ValueError, "has 2 .* for 'answer' and 3 for another"),
        ({"answer": [CHEAP, CHEAP]}, ValueError, "has one language model twice"),
        ({"answer": ["openai/gpt-4o"]}, TypeError, r"pass dspy.LM\('openai/gpt-4o'\)"),
        ({3: [CHEAP]}, TypeError, "lms must have names of predictors, .* got 3"),
    ],
)
def test_a_bad_map_is_refused_when_the_program_is_wrapped(given: Any, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told):
        DynScaling(Planned(), 4, lms=given)
    qa = DynScaling(Planned(), 4)
    with pytest.raises(kind, match=told):
        qa.lms = given
    assert qa.lms is None


def test_every_name_that_dspy_gives_a_predictor_is_taken() -> None:
    class Many(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = [dspy.Predict("a -> b"), dspy.ChainOfThought("b -> c")]
            self.by_name = {"x": dspy.Predict("c -> d")}
            self.part = DynScaling(dspy.Predict("d -> e"), 4)
            self.agent = dspy.ReAct("e -> f", tools=[])

    program = Many()
    for name, _ in program.named_predictors():
        assert DynScaling(program, 4, lms={name: [CHEAP, DEAR]}).lms.predictors == (name,)
    for lone in (dspy.Predict("a -> b"), dspy.ChainOfThought("a -> b")):
        ((name, _),) = lone.named_predictors()
        assert DynScaling(lone, 4, lms={name: [CHEAP]}).lms.predictors == (name,)


def test_each_predictor_that_is_scaled_in_place_gets_its_own() -> None:
    scaled = wrap(Planned(), budget=4, lms={"answer": [CHEAP, DEAR]}, sampling=Escalate(first=2))
    assert list(scaled.answer.scaling.lms) == ["cheap", "dear"]
    assert scaled.answer.scaling.sampling == Escalate(first=2)
    assert scaled.plan.scaling.lms is None and scaled.plan.scaling.sampling == Integrated()
    program = Planned()
    with pytest.raises(ValueError, match=r"to a predictor 'plan', but those to scale are \['answer'\]"):
        wrap(program, budget=4, predictors="answer", lms={"plan": [CHEAP]})
    assert not hasattr(program.answer, "scaling")


def test_copies_and_files_of_a_map() -> None:
    qa = DynScaling(Planned(), 4, lms={"answer": [dspy.LM("openai/a"), DEAR], "plan": [CHEAP]}, max_samples=9)
    for other in (copy.copy(qa), copy.deepcopy(qa), qa.reset_copy()):
        assert other.lms == qa.lms and other.lms["openai/a"]["answer"] is qa.lms["openai/a"]["answer"]
    for codec in (pickle, cloudpickle):
        again = codec.loads(codec.dumps(qa.scaling_settings)).lms
        assert repr(again) == repr(qa.lms) == "{answer: [openai/a, dear], plan: [cheap]}"
        assert again["dear"]["answer"] == DEAR
    state = json.loads(json.dumps(qa.dump_state()))
    assert not state["dynscale"].keys() & {"lms", "sampling"}
    qa.load_state(state)
    assert list(qa.lms) == ["openai/a", "dear"]
    assert hash(qa.lms["dear"]) == hash(copy.copy(qa.lms["dear"]))


@given(st.lists(st.booleans(), min_size=1, max_size=4), st.integers(2, 4))
def test_predictors_go_up_together_and_lone_ones_stay(changes: list[bool], most: int) -> None:
    own = {f"p{n}": models(*(f"{n}.{m}" for m in range(most if many else 1))) for n, many in enumerate(changes)}
    assert choices_in(own) == (most if any(changes) else 1)
    made = ScalingSettings(lms=own).lms
    assert made is not None and len(made) == choices_in(own) == choices_in(made)
    for place, each in enumerate(made.values()):
        assert {name: each[name] for name in own} == {name: lms[min(place, len(lms) - 1)] for name, lms in own.items()}
    for name, lms in own.items():
        alone = made.of_predictor(name)
        assert alone is not None and list(alone.values()) == lms
    assert made.of_predictor("none") is None


# ---- what becomes of them


def test_copies_have_the_same_models() -> None:
    lm = dspy.LM("openai/a", api_key="k")
    qa = DynScaling(program(), 4, lms=[lm, DEAR], sampling=Escalate(first=2))
    for other in (copy.copy(qa), copy.deepcopy(qa), qa.deepcopy(), qa.reset_copy()):
        assert other.lms == qa.lms and other.lms["openai/a"] is lm
        assert other.sampling == Escalate(first=2)


@pytest.mark.parametrize("codec", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
def test_pickles_have_models_of_the_same_settings(codec: Any) -> None:
    settings = ScalingSettings(lms=[dspy.LM("openai/a", api_key="k", temperature=0.5), DEAR])
    other = codec.loads(codec.dumps(settings))
    assert list(other.lms) == ["openai/a", "dear"] and other.lms["dear"] == DEAR
    assert other.lms["openai/a"].kwargs == settings.lms["openai/a"].kwargs  # type: ignore[index]
    assert other.sampling == ByPrice()


def test_files_hold_neither_models_nor_what_chooses_between_them() -> None:
    both = DynScaling(program(), 4, lms=[CHEAP, DEAR], sampling=Escalate(first=2), max_samples=9)
    state = json.loads(json.dumps(both.dump_state()))
    assert not state["dynscale"].keys() & {"lms", "sampling"}
    plain = DynScaling(program(), 4, sampling=Parallel())
    plain.load_state(state)
    assert (plain.sampling, plain.lms, plain.max_samples) == (Parallel(), None, 9)


def test_a_file_leaves_the_models_and_what_chooses_as_they_are() -> None:
    state = json.loads(json.dumps(DynScaling(program(), 4, sampling=Parallel(), max_samples=9).dump_state()))
    both = DynScaling(program(), 4, lms=[CHEAP, DEAR], sampling=Escalate(first=2))
    both.load_state(state)
    assert (both.sampling, both.max_samples) == (Escalate(first=2), 9)
    assert list(both.lms) == ["cheap", "dear"]
    one = DynScaling(program(), 4, lms=[CHEAP])
    one.load_state(state)
    assert one.sampling == Parallel() and one.lms == LanguageModels({"cheap": CHEAP})


def test_a_whole_program_is_saved_with_its_models(tmp_path: Any) -> None:
    pool = BudgetPool(per_call=2)
    qa = DynScaling(program(), pool, lms=[dspy.LM("openai/a"), dspy.LM("openai/b")])
    qa.save(tmp_path / "qa", save_program=True)
    loaded = dspy.load(str(tmp_path / "qa"), allow_pickle=True)
    assert list(loaded.lms) == ["openai/a", "openai/b"] and loaded.sampling == ByPrice()


def test_models_compare_by_name_and_order() -> None:
    assert LanguageModels({"a": CHEAP, "b": DEAR}) != LanguageModels({"b": DEAR, "a": CHEAP})
    assert LanguageModels({"a": CHEAP}) == LanguageModels({"a": CHEAP}) != {"a": CHEAP}
    assert hash(LanguageModels({"a": CHEAP})) == hash(LanguageModels({"a": CHEAP}))
    assert LanguageModels({"a": CHEAP}).only is CHEAP and LanguageModels({"a": CHEAP, "b": DEAR}).only is None
