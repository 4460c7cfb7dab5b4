from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

import dspy
import pytest

from dynscale_dspy import DynScaling
from dynscale_dspy._naming import named_predictors
from dynscale_dspy.execution import introspection
from dynscale_dspy.execution.introspection import (
    are_labels,
    asks_one_model,
    check_ready,
    choices_per_request,
    decides_at_once,
    has_aforward,
    innermost,
    lm_of,
    needs_each_run,
    signature_of,
)
from tests.support import ScriptedModel, cycle


class Nested(dspy.Module):
    """Predictors in attributes, lists and dicts, one of them twice."""

    def __init__(self):
        super().__init__()
        self.first = dspy.Predict("a -> b")
        self.steps = [dspy.ChainOfThought("b -> c")]
        self.named = {"last": DynScaling(dspy.Predict("c -> d"), 2)}
        self.again = self.first
        self.size = 3


def names(module, **options):
    return [name for name, _ in named_predictors(module, **options)]


# ---- predictors


def test_every_predictor_is_found_once_under_its_name_in_dspy():
    assert names(Nested()) == ["first", "steps[0].predict", "named['last']"]
    assert names(dspy.Predict("a -> b")) == ["self"]


def test_compiled_programs_are_looked_into_and_others_on_demand():
    program = Nested()
    program.steps[0]._compiled = True
    assert "steps[0].predict" in names(program)
    assert names(program, into=lambda part: not isinstance(part, DynScaling)) == ["first", "steps[0].predict"]


def test_the_history_of_calls_is_not_walked():
    program = dspy.ChainOfThought("a -> b")
    program.history = [dspy.Predict("c -> d")]
    assert names(program) == ["predict"]


def test_signatures():
    assert list(signature_of(dspy.ChainOfThought("a -> b")).output_fields) == ["reasoning", "b"]
    assert list(signature_of(dspy.Predict("a -> b")).output_fields) == ["b"]
    assert signature_of(dspy.Module()) is None


# ---- language models


def test_what_a_predictor_asks_is_its_calls_its_own_or_the_settings():
    of_call, own, configured = (ScriptedModel(cycle("A")).lm() for _ in range(3))
    predictor = dspy.Predict("a -> b")
    program = dspy.Module()
    with dspy.context(lm=configured):
        assert lm_of(predictor, predictor, {}) is configured
        predictor.lm = own
        assert lm_of(predictor, predictor, {}) is own
        assert lm_of(predictor, predictor, {"lm": of_call}) is of_call
        assert lm_of(predictor, program, {"lm": of_call}) is own  # what another program makes of `lm` nobody knows
        around = dspy.ChainOfThought("a -> b")
        assert lm_of(around.predict, around, {"lm": of_call}) is of_call


def test_a_program_that_asks_one_model_is_made_of_dspys_own_parts():
    lm, adapter = ScriptedModel(cycle("A")).lm(), dspy.ChatAdapter()

    class Other(dspy.ChatAdapter):
        """May ask whatever it likes."""

    for program in (dspy.Predict("a -> b"), dspy.ChainOfThought("a -> b")):
        assert asks_one_model(program, lm, adapter)
        assert not asks_one_model(program, lm, Other())
        assert not asks_one_model(program, None, adapter)
    assert not asks_one_model(Nested(), lm, adapter)


def test_a_program_whose_runs_someone_watches_needs_each_of_them():
    program = dspy.ChainOfThought("a -> b")
    assert innermost(program) is program.predict
    assert not needs_each_run(program)
    program.predict.forward = lambda **inputs: None
    assert needs_each_run(program)
    watched = dspy.Predict("a -> b")
    watched.callbacks = [object()]
    assert innermost(watched) is watched and needs_each_run(watched)


def test_programs_that_can_be_awaited():
    assert has_aforward(dspy.Predict("a -> b")) and not has_aforward(dspy.Module())


# ---- what a call may do


def test_samples_share_requests_where_one_predictor_asks_as_many_as_the_user_allows(monkeypatch):
    seen = []

    def can_share(lm, config, *, wait, turn=None):
        seen.append((lm, dict(config), wait))
        return True

    monkeypatch.setattr(introspection, "can_share", can_share)
    predictor = dspy.Predict("a -> b", temperature=0.5)
    lm = ScriptedModel(cycle("A")).lm()
    with dspy.context(lm=lm):
        assert choices_per_request(predictor, [predictor], {"config": {"n": 2}}, 8, wait=True) == 8
        assert choices_per_request(predictor, [predictor], {}, 1) == 1
        assert choices_per_request(predictor, [predictor, predictor], {}, 8) == 1
        assert choices_per_request(DynScaling(predictor, 2), [predictor], {}, 8) == 1
    assert seen == [(lm, {"temperature": 0.5, "n": 2}, True)]


@pytest.mark.parametrize("program", [dspy.Predict("a -> b"), dspy.ChainOfThought("a -> b")])
def test_a_predictor_without_a_language_model_is_not_ready(program):
    with pytest.raises(ValueError, match=r"^No LM is loaded"):
        check_ready(program.predictors(), program, {}, temperature=None, vary=False)


def test_whatever_may_choose_its_language_model_as_it_runs_is_ready():
    check_ready(Nested().predictors(), Nested(), {}, temperature=None, vary=True)
    patched = dspy.Predict("a -> b")
    patched.forward = lambda **inputs: None
    check_ready([patched], patched, {}, temperature=None, vary=True)


def test_temperature_zero_is_refused_where_it_was_asked_for_and_samples_must_differ():
    predictor = dspy.Predict("a -> b")
    with dspy.context(lm=ScriptedModel(cycle("A")).lm(temperature=0.0)):
        with pytest.raises(ValueError, match=r"^temperature is 0, so every sample would be the same"):
            check_ready([predictor], predictor, {}, temperature=0.0, vary=True)
        for asked, vary in [(None, True), (0.7, True), (0.0, False)]:
            check_ready([predictor], predictor, {}, temperature=asked, vary=vary)


# ---- programs that decide at once


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


Label = Literal["a", "b"]


def at_once(program, *, lm=None, written=0.0, answer=None):
    reader = DynScaling(program, 2, answer=answer)._reader
    return decides_at_once(program, reader.output_types, lm or dspy.LM("openai/m"), written)


@pytest.mark.parametrize(
    "kind", [Label, Colour, bool, Label | None, Annotated[Label, "of a kind"], Literal[1, 2], Colour | bool]
)
def test_a_program_that_answers_with_a_label_first_decides_at_once(kind):
    asked = dspy.Signature("text -> label").with_updated_fields("label", type_=kind)
    assert at_once(dspy.Predict(asked))
    assert not at_once(dspy.ChainOfThought(asked))
    assert not at_once(dspy.Predict(asked.prepend("thought", dspy.OutputField(), type_=str)), answer="label")
    assert at_once(dspy.Predict(asked.append("why", dspy.OutputField(), type_=str)), answer="label")


@pytest.mark.parametrize("kind", [str, int, float, list[Label], dict[str, bool]])
def test_a_program_whose_answers_are_no_labels_does_not(kind):
    assert not at_once(dspy.Predict(dspy.Signature("text -> label").with_updated_fields("label", type_=kind)))


def test_answers_are_labels_if_each_field_of_them_is():
    assert are_labels({"label": Label}) and are_labels({"label": Label, "sure": bool})
    assert not are_labels({"label": Label, "count": int}) and not are_labels({"answer": str}) and not are_labels({})


def test_a_language_model_that_reasons_by_itself_does_not():
    program = dspy.Predict(dspy.Signature("text -> label").with_updated_fields("label", type_=Label))
    assert not at_once(program, lm=dspy.LM("openai/m", reasoning_effort="low"))
    assert at_once(program, written=20) and not at_once(program, written=400)


def test_other_programs_do_not():
    class Two(dspy.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = dspy.Predict("a -> b: bool"), dspy.Predict("b -> c: bool")

        def forward(self, a):
            return self.second(b=self.first(a=a).b)

    assert not at_once(Two())
    assert not at_once(dspy.Predict("a -> b: bool"), answer=lambda prediction: prediction.b)
