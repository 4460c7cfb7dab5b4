"""Probabilities of labels, read from the tokens of a reply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.distribution import UNITS, Token, begins_at, probabilities, spread
from dynscale_dspy.selection.labels import Labels

TOPICS = ("World", "Sports", "Business", "Sci/Tech")


def token(text: str, probability: float = 1.0, **others: float) -> Token:
    return Token(text.encode(), probability, {name.encode(): p for name, p in others.items()})


def of(labels: Sequence[str], tokens: Sequence[Token], said: str, *, field: str = "topic") -> list[float] | None:
    reply = b"".join(each.text for each in tokens).decode("utf-8", "replace")
    return probabilities(Labels(labels), tokens, reply, field, list(labels).index(said))


def close(found: list[float] | None, wanted: Sequence[float]) -> None:
    assert found is not None and found == pytest.approx(list(wanted), abs=1e-9)


CHAT = [token("[[ ## topic ## ]]"), token("\n")]
END = [token("\n\n[[ ## completed ## ]]")]
WORLD = token("World", 0.6, World=0.6, Sports=0.2, Business=0.15, Sci=0.05)
ONE = [0.6, 0.2, 0.15, 0.05]


@pytest.mark.parametrize(
    "tokens",
    [
        [*CHAT, WORLD, *END],
        [token("[[ ## topic ## ]]\n"), WORLD, *END],
        [token("[["), token(" ## topic"), token(" ## ]]\n"), WORLD],
        # In quotes, and by other adapters.
        [token('{"topic": "'), WORLD, token('"}')],
        [token('{"topic":'), token(' "'), WORLD, token('"}')],
        [token("```json\n{'topic': '"), WORLD, token("'}\n```")],
        [token("<topic>\n"), WORLD, token("\n</topic>")],
        # After thoughts that the reply does not have, as servers tell that read thoughts out of it.
        [token("<think>World or Sports?</think>\n\n"), *CHAT, WORLD],
        # After text that mentions labels, in each framing.
        [token("[[ ## reasoning ## ]]\nThe topic: Sports. \"topic\": 'Sports' <topic>Sports\n\n"), *CHAT, WORLD, *END],
        [token('{"reasoning": "not \\"topic\\": \\"Sports\\", and no <topic>Sports</topic>", "topic": "'), WORLD],
        [token('<reasoning>"topic": "World" it is</reasoning>\n<topic>'), WORLD, token("</topic>")],
    ],
)
def test_the_label_is_found_wherever_an_adapter_has_it(tokens: list[Token]) -> None:
    reply = b"".join(each.text for each in tokens).decode().split("</think>")[-1]
    close(probabilities(Labels(TOPICS), tokens, reply, "topic", 0), ONE)


def test_tokens_with_what_comes_before_the_label() -> None:
    others = {"\nWorld": 0.5, "\nSports": 0.3, "\n": 0.1, " Sports": 0.05, "\nMaybe": 0.05}
    close(of(TOPICS, [CHAT[0], token("\nWorld", 0.5, **others)], "World"), [0.5 / 0.85, 0.35 / 0.85, 0, 0])
    # What would not have begun the field tells nothing of its value.
    others = {'": "World': 0.4, '": "Sports': 0.4, '" : "Sports': 0.1, "s": 0.1}
    close(of(TOPICS, [token('{"topic'), token('": "World', 0.4, **others)], "World"), [0.5, 0.5, 0, 0])


def test_spellings_of_one_label_add_up() -> None:
    others = {"positive": 0.3, "Positive": 0.2, " positive": 0.1, "POS": 0.05, "negative": 0.35}
    close(of(["positive", "negative"], [*CHAT, token("positive", 0.3, **others)], "positive"), [0.65, 0.35])


def test_labels_that_share_first_tokens_part_later() -> None:
    labels = ["entailment", "entails", "neutral"]
    first = token("ent", 0.8, ent=0.8, neutral=0.2)
    second = token("ail", 1.0, ail=1.0)
    third = token("ment", 0.25, ment=0.25, s=0.75)
    close(of(labels, [*CHAT, first, second, third, *END], "entailment"), [0.2, 0.6, 0.2])
    # Where the path leads elsewhere, nothing tells them apart.
    close(of(labels, [*CHAT, token("neutral", 0.2, ent=0.8, neutral=0.2)], "neutral"), [0.4, 0.4, 0.2])
    # What may begin both is theirs as the rest is.
    first = token("entails", 0.6, entails=0.6, entailment=0.2, ent=0.2)
    close(of(labels, [*CHAT, first, *END], "entails"), [0.25, 0.75, 0])


def test_a_label_that_begins_another_ends_before_it() -> None:
    labels = ["not", "not sure"]
    close(of(labels, [*CHAT, token("not"), token("\n\n", 0.7, **{"\n\n": 0.7, " sure": 0.3})], "not"), [0.7, 0.3])
    close(of(labels, [*CHAT, token("not"), token(" sure", 0.3, **{"\n\n": 0.7, " sure": 0.3})], "not sure"), [0.7, 0.3])
    close(of(["1", "10"], [*CHAT, token("1", 0.9)], "1"), [1, 0])  # nothing follows


def test_words_that_are_no_label_are_left_out() -> None:
    others = {"World": 0.4, "Sports": 0.2, "Politics": 0.3, "The": 0.1}
    close(of(TOPICS, [*CHAT, token("World", 0.4, **others)], "World"), [2 / 3, 1 / 3, 0, 0])
    unlikely = {"World": 0.3, "Sports": 0.1, "Politics": 0.5, "The": 0.1}
    assert of(TOPICS, [*CHAT, token("World", 0.3, **unlikely)], "World") is None


def test_what_is_not_told_is_spread_over_labels_that_are_not_seen() -> None:
    cut = token("World", 0.5, World=0.5, Sports=0.3)
    close(of(TOPICS, [*CHAT, cut], "World"), [0.5, 0.3, 0.1, 0.1])
    # Each is at most as likely as the least likely one told.
    cut = token("World", 0.7, World=0.7, Sports=0.02)
    close(of(TOPICS, [*CHAT, cut], "World"), [0.7 / 0.76, 0.02 / 0.76, 0.02 / 0.76, 0.02 / 0.76])
    # Where a server tells the token alone that was written, the others share the rest.
    close(of(["yes", "no"], [*CHAT, token("yes", 0.9)], "yes"), [0.9, 0.1])
    # A label that was drawn against the odds is not among those told.
    cut = token("Business", 0.01, World=0.6, Sports=0.3)
    close(of(TOPICS, [*CHAT, cut], "Business"), [0.6, 0.3, 0.01, 0.09])


def test_characters_in_several_tokens() -> None:
    labels = ["naïve", "neat"]
    raw = "ï".encode()
    tokens = [
        *CHAT,
        Token(b"na", 0.7, {b"na": 0.7, b"neat": 0.3}),
        Token(raw[:1], 1.0, {}),
        Token(raw[1:], 1.0, {}),
        token("ve"),
    ]
    close(probabilities(Labels(labels), tokens, "[[ ## topic ## ]]\nnaïve", "topic", 0), [0.7, 0.3])


@pytest.mark.parametrize(
    ("tokens", "reply"),
    [
        ([], "[[ ## topic ## ]]\nWorld"),
        ([token("[[ ## topic ## ]]\nSports", 0.5)], "[[ ## topic ## ]]\nWorld"),  # not the reply's
        ([token("▁World", 0.5)], " World"),
        ([token("World", 0.5)], "World"),  # no field
        ([token("[[ ## topic ## ]]\nSports", 0.5)], "[[ ## topic ## ]]\nSports"),  # read as another label
        ([token("[[ ## topic ## ]]\n", 0.5)], "[[ ## topic ## ]]\n"),  # nothing written
        ([token("", 0.5)], ""),
        ([*CHAT, Token(b"World", 0.0, {})], "[[ ## topic ## ]]\nWorld"),  # no probability at all
    ],
)
def test_nothing_is_known_where_the_label_is_not_found(tokens: list[Token], reply: str) -> None:
    assert probabilities(Labels(TOPICS), tokens, reply, "topic", 0) is None


def test_where_a_reply_begins() -> None:
    tokens = [token("thought, "), token("said")]
    assert begins_at(tokens, "said") == 9 and begins_at(tokens, " said\n") == 9
    assert begins_at(tokens, "other") is None and begins_at(tokens, "  ") is None and begins_at([], "said") is None


# ---- properties

words = st.lists(st.text("abc", min_size=1, max_size=4), min_size=2, max_size=6, unique=True)
weights = st.integers(1, 100)


@given(words, st.data())
def test_the_probability_of_the_label_said_is_exact_where_all_is_told(labels: list[str], data: st.DataObject) -> None:
    """A model that writes character by character, each label with its probability; "." ends it."""
    weight = {label: data.draw(weights) for label in labels}
    total = sum(weight.values())
    said = data.draw(st.sampled_from(labels))
    tokens = list(CHAT)
    for end in range(len(said) + 1):
        going_on = {label: w for label, w in weight.items() if label.startswith(said[:end])}
        following: dict[bytes, float] = {}
        for label, w in going_on.items():
            letter = (label + ".")[end].encode()
            following[letter] = following.get(letter, 0.0) + w / sum(going_on.values())
        letter = (said + ".")[end].encode()
        tokens.append(Token(letter, following[letter], following))
    found = of(labels, tokens, said)
    assert found is not None and math.isclose(sum(found), 1)
    assert found[labels.index(said)] == pytest.approx(weight[said] / total)


numbers = st.floats(0, 1)
texts = st.sampled_from([b"World", b" Sports", b"\n", b'"', b"Sci", b"/Tech", b"x", b"", b"[[ ## topic ## ]]", b"\xef"])


@given(st.lists(st.builds(Token, texts, numbers, st.dictionaries(texts, numbers, max_size=5)), max_size=8), st.data())
def test_whatever_a_server_tells_is_a_distribution_or_nothing(tokens: list[Token], data: st.DataObject) -> None:
    reply = b"".join(each.text for each in tokens).decode("utf-8", "replace")
    said = data.draw(st.integers(0, len(TOPICS) - 1))
    for framed in (tokens, [*CHAT, *tokens]):
        found = probabilities(Labels(TOPICS), framed, reply, "topic", said)
        assert found is None or (math.isclose(sum(found), 1) and min(found) >= 0)


# ---- into a vote


def test_shares_are_those_of_keys() -> None:
    labels = Labels(["yes", "Yes", "no"])
    vote = spread(Vote("Yes", "y"), ["y", "y", "n"], labels, [0.5, 0.25, 0.25], is_whole=True)
    assert [(share.answer, share.key, share.weight) for share in vote.shares] == [("Yes", "y", 0.75), ("no", "n", 0.25)]
    assert vote.is_whole and vote.answer == "Yes" and vote.key == "y"


def test_an_answer_of_hardly_any_probability_has_no_share_unless_it_was_given() -> None:
    labels = Labels(["a", "b", "c"])
    vote = spread(Vote("c", "c"), ["a", "b", "c"], labels, [0.9999, 0.0001, 0.0])
    assert [share.key for share in vote.shares] == ["a", "c"] and vote.shares[1].weight == 1 / UNITS


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.data())
def test_shares_sum_to_one_exactly(raw: list[float], data: st.DataObject) -> None:
    total = sum(raw)
    shares = [each / total for each in raw] if total > 0 else [1 / len(raw)] * len(raw)
    keys = [f"label {i}" for i in range(len(raw))]
    said = data.draw(st.integers(0, len(raw) - 1))
    vote = spread(Vote(keys[said], keys[said]), keys, Labels(keys), shares)
    assert sum(Fraction(share.weight) for share in vote.shares) == 1
    assert keys[said] in {share.key for share in vote.shares} and all(share.weight > 0 for share in vote.shares)


def test_a_label_that_others_begin_with_keeps_what_was_thought_of_it() -> None:
    numbers, whole = ("1", "2", "10"), {"1": 0.6, "2": 0.1, "10": 0.3}
    for said, share in whole.items():
        close(of(numbers, [CHAT[0], token("\n"), token(said, share, **whole), token("\n")], said), [0.6, 0.1, 0.3])
    words, whole = ("Yes", "No", "Yes and no"), {"Yes": 0.2, "No": 0.1, "Yes and no": 0.7}
    for said, share in whole.items():
        close(of(words, [CHAT[0], token("\n"), token(said, share, **whole), token("\n")], said), [0.2, 0.1, 0.7])
    two = {"1": 0.6, "10": 0.4}
    close(of(("1", "10"), [CHAT[0], token("\n"), token("10", 0.4, **two), token("\n")], "10"), [0.6, 0.4])
