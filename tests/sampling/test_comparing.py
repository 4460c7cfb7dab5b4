from __future__ import annotations

from dynscale_dspy.allocation.peers import PRIOR, Peers
from dynscale_dspy.sampling.comparing import Comparing
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.sampling.samplers import Sampler
from dynscale_dspy.selection.plurality import Plurality
from tests.support import vote


def hear(*said: str) -> Peers:
    """What is known after a call whose votes are told as ``"cheap A"``; ``"cheap"`` casts none."""
    peers = Peers()
    comparing, selection = Comparing(peers), Plurality().empty()
    for index, told in enumerate(said):
        name, _, key = told.partition(" ")
        draw = Draw(index, sampler=Sampler(name, model=name))
        sample = Sample(draw, answer=key or None, vote=vote(key) if key else None)
        before, selection = selection, selection.add(sample.vote, sample=index)
        comparing.hear(sample, before, selection)
    return peers


def test_the_first_two_votes_of_one_model_are_a_pair():
    assert hear("cheap A", "cheap A").belief("cheap")[0] > hear("cheap A", "cheap B").belief("cheap")[0]
    assert hear("cheap A", "cheap", "cheap B").pairs("cheap") == 1
    assert hear("cheap A", "cheap A", "cheap A").pairs("cheap") == 1


def test_votes_after_those_of_another_model_are_no_pair():
    """Where others have voted before, the call may have gone on because they did not agree."""
    told = hear("cheap A", "dear A", "cheap A", "dear A")
    assert told.pairs("cheap") == told.pairs("dear") == 0


def test_a_second_vote_against_the_leader_speaks_for_the_model_and_one_for_it_against():
    assert hear("cheap A", "cheap A", "dear B", "dear B").evidence("dear") > PRIOR
    assert hear("cheap A", "cheap A", "dear B", "cheap A", "dear A").evidence("dear") < PRIOR


def test_nothing_is_told_where_the_first_vote_is_for_the_leader_or_nothing_led():
    for said in (
        ["cheap A", "dear A", "dear B"],
        ["cheap A", "cheap B", "dear C", "dear C"],
        ["cheap A", "dear B", "dear C"],
        ["dear B", "dear B"],
        ["cheap", "dear B", "dear B"],
    ):
        assert hear(*said).evidence("dear") == PRIOR, said


def test_a_call_tells_of_a_model_once():
    once = hear("cheap A", "dear B", "dear B")
    assert hear("cheap A", "dear B", "dear B", "dear A", "dear B").evidence("dear") == once.evidence("dear")
