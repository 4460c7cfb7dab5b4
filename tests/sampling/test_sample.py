from __future__ import annotations

from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.selection.base import Vote


def test_a_sample_is_known_by_its_votes_key():
    assert Sample(Draw(0), answer="42.0", vote=Vote("42.0", ("number", 42))).key == ("number", 42)
    assert Sample(Draw(0), answer="cut off", problem="truncated").key is None


def test_a_draw_is_conditioned_if_it_shows_anything():
    assert Draw(3, shown=(0,), chain={"predictor": "text"}).conditioned
    assert not Draw(3).conditioned
