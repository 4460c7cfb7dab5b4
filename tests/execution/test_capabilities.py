from __future__ import annotations

import gc
import weakref

from dynscale_dspy.execution.capabilities import Capability


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
