from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection.words import plain_words

BOTH = ("spacing", "case")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Paris", "paris"),
        ("New   York", "new york"),
        ("NEW YORK", "new york"),
        ("YES", "yes"),
        ("The White House", "the white house"),
        ("the White House", "the white house"),
        ("O'Neil", "o'neil"),
        ("Apollo 11", "apollo 11"),
        ("FA Cup", "FA cup"),
        ("C Major", "C major"),
        ("A Cat", "a cat"),
        ("x  =  5", "x=5"),
        ("a - b", "a-b"),
        ("a, b", "a,b"),
        ("1, 5", "1, 5"),
        ("sin(x) + 1", "sin(x)+1"),
    ],
)
def test_spaces_and_capitals_that_mean_nothing(text, plain):
    assert plain_words(text, BOTH) == plain


@pytest.mark.parametrize(
    "text",
    [
        *("US", "WHO", "CO", "Co", "pH", "AABB", "T", "McDonald", "cd Downloads", "import Foo", "SELECT Name FROM t"),
        *("ls -L", "print('a  b')", "1 -2", "- x", "x: Y", "5 MW", "Foo.bar", "foo_Bar", "name\tage"),
    ],
)
def test_those_that_may_mean_something(text):
    assert plain_words(text, BOTH) == text


def test_each_layer_alone():
    assert plain_words("New   York", ("case",)) == "new   york"
    assert plain_words("New   York", ("spacing",)) == "New York"
    assert plain_words("New   York", ()) == "New   York"


@given(st.text(min_size=1).map(str.strip).filter(bool))
def test_what_is_plain_stays_as_it_is(text):
    plain = plain_words(text, BOTH)
    assert plain_words(plain, BOTH) == plain


@given(st.from_regex(r"[a-z]{3,9}( [a-z]{1,9}){0,3}", fullmatch=True))
def test_a_text_in_small_letters_is_found_again(text):
    assert {plain_words(form, BOTH) for form in (text.capitalize(), f"{text} ", text.replace(" ", "  "))} == {text}
