"""How alike texts are by vectors, and by words where there are none."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy._fields import Unsaved
from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.default import told
from dynscale_dspy.selection.embeddings import Embeddings, by_embedder, embedded, embeds, vectors, without_vectors
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.judge import Judge
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.prepared import Prepared
from dynscale_dspy.selection.saved import dump
from dynscale_dspy.selection.similarity import TokenF1
from dynscale_dspy.testing import SelectorLaws

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def by_letters(texts):
    """A vector of a text has how often it has each letter."""
    return [[1e-9 + text.count(letter) for letter in LETTERS] for text in texts]


class Counting:
    """An embedder that notes what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked.append(texts)
        return by_letters(texts)


class TestMedoidOfEmbeddings(SelectorLaws):
    def selector(self):
        return Medoid(Embeddings(by_letters))

    def alike(self):
        return ("a red rose", "a red tulip", "the red rose", "blue")


def winner_of(selector, votes):
    selection = selector.empty()
    for vote in votes:
        selection = selection.add(vote)
    return selection.winner()


TEXTS = st.lists(st.text(LETTERS, min_size=1, max_size=12), min_size=2, max_size=6)


@given(TEXTS)
def test_it_is_the_cosine_of_the_vectors(texts):
    alike = Embeddings(by_letters)
    made = embedded([Vote(text, features=Prepared(alike.prepare(text))) for text in texts])
    passages = [vote.features.value for vote in made if vote is not None]
    for one in range(len(texts)):
        for other in range(len(texts)):
            first, second = np.asarray(by_letters([texts[one], texts[other]]))
            cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
            assert alike.between(passages[one], passages[other]) == pytest.approx(cosine, abs=1e-5)
            assert alike.between(passages[one], passages[other]) == alike.between(passages[other], passages[one])
        assert alike.between(passages[one], passages[one]) == 1


@given(st.lists(st.text("ab ", max_size=9), min_size=2, max_size=5))
def test_without_vectors_it_is_the_words(texts):
    alike, words = Embeddings(by_letters), TokenF1()
    for one in texts:
        for other in texts:
            expected = words.between(words.prepare(one), words.prepare(other))
            assert alike.between(alike.prepare(one), alike.prepare(other)) == expected


def test_opposite_vectors_are_not_alike():
    alike = Embeddings(lambda texts: [[1.0, 0.0] if text == "up" else [-1.0, 0.0] for text in texts])
    made = embedded([Vote(text, features=Prepared(alike.prepare(text))) for text in ("up", "down")])
    up, down = (vote.features.value for vote in made if vote is not None)
    assert alike.between(up, down) == 0


def test_vectors_decide_who_wins():
    texts = ["q", "x y", "y x", "abab", "baba", "aabb"]
    selector = Medoid(Embeddings(by_letters))
    votes = [selector.read(text) for text in texts]
    assert winner_of(selector, votes) == winner_of(Medoid(), map(Medoid().read, texts)) == 1
    assert winner_of(selector, embedded(votes)) == 3


def test_what_was_compared_before_there_was_a_vector_is_compared_anew():
    texts = ["q", "x y", "y x", "abab", "baba", "aabb"]
    selector = Medoid(Embeddings(by_letters))
    votes = [selector.read(text) for text in texts]
    winner_of(selector, votes)
    assert winner_of(selector, embedded(votes)) == 3


def test_each_embedder_is_asked_once_for_each_text_wherever_it_stands():
    one, other = Counting(), Counting()
    fields = {"title": Embeddings(one), "body": Embeddings(one), "label": Plurality(), "tone": Embeddings(other)}
    selector = told(Fieldwise(fields), {"title": str, "body": str, "label": int, "tone": str})
    record = {"title": "rain", "body": "it rains", "label": 3, "tone": "dry"}
    votes = [selector.read(each) for each in (record, {**record, "body": "rain"}, {**record, "tone": "  "})]
    made = embedded([*votes, None])
    assert one.asked == [["rain", "it rains"]] and other.asked == [["dry"]]
    assert made[-1] is None and without_vectors(made) == []


def test_which_selectors_embed():
    alike = Embeddings(by_letters)
    for selector in (Medoid(alike), Plurality(ties=alike), Judge(selector=Medoid(alike)), Fieldwise({"a": alike})):
        assert embeds(selector)
    for selector in (Medoid(), Plurality(), Fieldwise({"a": TokenF1()}), Judge()):
        assert not embeds(selector)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param([[1.0]], id="too few"),
        pytest.param([1.0, 2.0], id="no vectors"),
        pytest.param([[1.0], [float("nan")]], id="no numbers"),
        pytest.param([[1.0], [0.0]], id="zeros"),
    ],
)
def test_what_is_no_vector_for_each_text_is_refused(made):
    with pytest.raises(ValueError, match="^an embedder "):
        vectors(lambda texts: made, ["a", "b"])


def test_copies_and_settings():
    selector = Medoid(Embeddings(by_letters))
    (vote,) = embedded([selector.read("a")])
    assert vote is not None
    kept = pickle.loads(pickle.dumps(vote)).features.value
    assert kept == vote.features.value and (kept.vector == vote.features.value.vector).all()
    assert copy.deepcopy(selector) == selector
    assert by_embedder([vote.features.value, replace(vote.features.value, text="b")]) == [(by_letters, ["a", "b"])]
    with pytest.raises(Unsaved):
        dump(selector)
    with pytest.raises(ValueError, match=r"^embedder must be .*got 'a/model': dspy.Embedder\(model\) makes one"):
        Embeddings("a/model")  # type: ignore[arg-type]


def test_what_has_to_be_awaited_is_refused():
    async def embed(texts):
        return by_letters(texts)

    with pytest.raises(ValueError, match="has to be awaited: pass a function"):
        Embeddings(embed)
