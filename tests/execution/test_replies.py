"""What tells a reply from another one, in DSPy's history entries."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dynscale_dspy.execution.replies import made_of, replies_of


def entry(response, *outputs):
    return {"response": response, "outputs": list(outputs)}


def test_choices_of_one_response_have_its_id_and_places_of_their_own():
    one, two = replies_of(entry(SimpleNamespace(id="r"), "a", "a"))
    assert (one.id, one.choice, two.id, two.choice) == ("r", 0, "r", 1) and one.text == two.text


def test_a_request_a_choice_has_ids_of_their_own():
    replies = replies_of(
        entry((SimpleNamespace(id="r"), SimpleNamespace(id="r"), SimpleNamespace(id="s")), "a", "a", "b")
    )
    assert [(reply.id, reply.choice) for reply in replies] == [("r", 0), ("r", 0), ("s", 0)]
    assert replies[0] == replies[1]


@pytest.mark.parametrize(
    "response", [None, SimpleNamespace(), SimpleNamespace(id=None), SimpleNamespace(id=""), {"id": "r"}]
)
def test_without_an_id_nothing_is_known_of_the_whole_sample(response):
    assert replies_of(entry(response, "a")) == [None]
    assert made_of([entry(SimpleNamespace(id="r"), "a"), entry(response, "b")]) == ()


def test_a_sample_is_made_of_all_its_requests():
    replies = made_of([entry(SimpleNamespace(id="r"), "a"), entry(SimpleNamespace(id="s"), {"text": "b"})])
    assert [reply.id for reply in replies] == ["r", "s"]
    assert made_of([]) == () and made_of([{}]) == ()
