from __future__ import annotations

import gc
import weakref

import dspy

from dynscale_dspy.execution import capabilities
from dynscale_dspy.execution.capabilities import DOUBT, SERVERS, Capability, Refusals
from tests.support import ScriptedModel, cycle, needs_engines


class Model:
    """What a language model is known by."""


def test_what_is_found_of_one_model_says_nothing_of_another():
    capability, one, other = Capability(), Model(), Model()
    capability.found(one, False)
    assert not capability.is_expected(one) and capability.is_expected(other)


def test_only_news_are_news():
    capability, model = Capability(), Model()
    assert not capability.found(model, True)  # as expected
    assert capability.found(model, False)
    assert not capability.found(model, False)
    assert capability.found(model, True)
    assert capability.is_expected(model)


def test_capabilities_are_known_apart():
    first, second, model = Capability(), Capability(), Model()
    first.found(model, False)
    assert second.is_expected(model)


def test_a_finding_does_not_keep_a_model_alive():
    capability, model = Capability(), Model()
    capability.found(model, False)
    gone = []
    weakref.finalize(model, gone.append, True)
    del model
    gc.collect()
    assert gone


# ---- what stands for a language model


def local(**options):
    return dspy.LM("openai/any", **{"api_base": "http://127.0.0.1:1/v1", "api_key": "local", **options})


def test_a_model_at_an_address_is_known_whichever_object_asks_it():
    capability = Capability()
    capability.found(local(), False)
    for same in (local(temperature=0.3), local(cache=False).copy(rollout_id=3)):
        assert not capability.is_expected(same)
    for other in (local(api_base="http://127.0.0.1:2/v1"), local(model_type="responses"), dspy.LM("openai/other")):
        assert capability.is_expected(other)


@needs_engines
def test_the_engine_belongs_to_the_language_model():
    capability, model = Capability(), ScriptedModel(cycle("A"))
    capability.found(local(engine="litellm"), False)
    assert capability.is_expected(local()) and not capability.is_expected(local(engine="litellm"))
    lm = model.lm()
    capability.found(lm, False)
    assert not capability.is_expected(lm.copy()) and capability.is_expected(ScriptedModel(cycle("A")).lm())


def test_a_language_model_of_another_class_is_known_by_itself():
    class Own(dspy.BaseLM):
        pass

    class Unhashable(dspy.BaseLM):
        __hash__ = None  # type: ignore[assignment]

    for kind in (Own, Unhashable):
        capability, one, other = Capability(), kind("m"), kind("m")
        capability.found(one, False)
        assert not capability.is_expected(one) and capability.is_expected(other)


def test_of_very_many_servers_those_found_first_are_forgotten(monkeypatch):
    monkeypatch.setattr(capabilities, "MOST_SERVERS", 2)
    capability = Capability()
    for port in (1, 2, 3):
        capability.found(local(api_base=f"http://127.0.0.1:{port}"), False)
    expected = [capability.is_expected(local(api_base=f"http://127.0.0.1:{port}")) for port in (3, 2)]
    assert expected == [False, False] and capability.is_expected(local(api_base="http://127.0.0.1:1"))
    SERVERS.forget()
    assert capability.is_expected(local(api_base="http://127.0.0.1:3"))


# ---- doubts


def test_a_doubt_passes_and_lasts_longer_each_time_it_was_right():
    now = 0.0
    capability, model = Capability(lambda: now), Model()
    for seconds in (DOUBT, 2 * DOUBT, 4 * DOUBT):
        assert capability.doubted(model) and not capability.doubted(model)
        assert not capability.is_expected(model)
        now += seconds
        assert capability.is_expected(model)
    capability.found(model, True)
    capability.doubted(model)
    now += DOUBT
    assert capability.is_expected(model)


# ---- settings


def test_a_setting_is_refused_always_or_beside_others():
    refusals, model = Refusals(), Model()
    assert refusals.of(model, {"temperature": 1.0}) == set()
    assert refusals.found(model, {"temperature": frozenset({"top_p"}), "seed": frozenset()}) == {"temperature", "seed"}
    assert refusals.found(model, {"temperature": frozenset({"top_p"})}) == set()  # no news
    assert refusals.of(model, {"temperature": 1.0, "top_p": None}) == set()
    assert refusals.of(model, {"temperature": 1.0, "top_p": 0.9, "seed": 3}) == {"temperature", "seed"}
    assert refusals.found(model, {"temperature": frozenset()}) == {"temperature"}
    assert refusals.found(model, {"temperature": frozenset({"top_p"})}) == set()
    assert refusals.of(model, {"temperature": 1.0}) == {"temperature"}
    assert refusals.of(Model(), {"temperature": 1.0}) == set()


def test_what_a_language_model_takes_is_known_by_its_answers():
    refusals, model = Refusals(), Model()
    assert not refusals.takes(model, "temperature")
    refusals.took(model, ["temperature"])
    refusals.took(model, ["seed"])
    assert refusals.takes(model, "temperature") and refusals.takes(model, "seed")
    assert not refusals.takes(Model(), "seed")
