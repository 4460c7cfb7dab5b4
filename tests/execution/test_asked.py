"""Which language models the samples of a call ask."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from dynscale_dspy._models import LanguageModels
from dynscale_dspy.execution.asked import Asked
from tests.support import HAS_ENGINES

TYPES = {"answer": bool}


def lm(**settings: Any) -> dspy.LM:
    return dspy.LM("openai/m", api_key="k", **({"engine": "litellm"} if HAS_ENGINES else {}), **settings)


def asked(*given: Any, own: Any = None, config: dict[str, Any] | None = None) -> Asked:
    program = dspy.Predict("question -> answer: bool")
    program.lm = own
    arguments = {"config": config} if config else {}
    models = LanguageModels({str(place): each for place, each in enumerate(given)}) if given else None
    return Asked.by(program, [program], arguments, models)


def test_the_programs_own_is_asked_unless_others_are_given() -> None:
    own, one, other = lm(), lm(), lm()
    assert (asked(own=own).only, asked(own=own).instead, asked(own=own).several) == (own, None, False)
    assert (asked(one, own=own).only, asked(one, own=own).instead) == (one, one)
    both = asked(one, other, own=own)
    assert (both.only, both.instead, both.several) == (None, None, True)
    assert dict(both.by_name) == {"0": one, "1": other} and dict(asked(one).by_name) == {"": one}


def test_of_a_program_of_several_predictors_it_is_not_known() -> None:
    program = dspy.ReAct(dspy.Signature("question -> answer"), tools=[])
    with dspy.context(lm=lm()):
        assert Asked.by(program, program.predictors(), {}, None).only is None


def test_a_call_is_as_careful_as_the_model_that_needs_most_care() -> None:
    quick, slow = lm(), lm(reasoning_effort="high")
    assert asked(quick, lm(temperature=1.0)).decide_at_once(TYPES, 0)
    assert not asked(quick, slow).decide_at_once(TYPES, 0)
    assert asked(quick, lm(rollout_id=3)).wants_a_draw and not asked(quick, slow).wants_a_draw
    assert asked(quick, own=lm(rollout_id=3)).wants_a_draw


def test_which_samples_share_requests_goes_by_the_model_litellm() -> None:
    one, seeded = lm(), lm(seed=3)
    assert asked(one, seeded).sharing(8) == {"0": 8}
    assert asked(one).sharing(8) == asked(own=one).sharing(8) == {"": 8}
    assert asked(seeded, own=one).sharing(8) == {} == asked(one).sharing(1)


@pytest.mark.parametrize("temperature", [None, 0.0, 0.7])
def test_a_temperature_of_its_own_needs_no_proof(temperature: float | None) -> None:
    model = dspy.LM(f"openai/unheard-of-{temperature}", api_key="k", temperature=temperature)
    assert asked(model).is_unproven == (not temperature)
    assert asked(lm(temperature=1.0), model).is_unproven == (not temperature)
