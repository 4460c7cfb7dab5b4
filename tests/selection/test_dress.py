from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection import dress


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\uff21\uff22", "AB"),
        ("5\u00a0km", "5 km"),
        ("1\u202f000", "1,000"),
        ("x\u00b2", "x^2"),
        ("10\u207b\u00b3", "10^-3"),
        ("H\u2082O", "H_2O"),
        ("\u338f", "kg"),
        ("\u33a1", "m^2"),
        ("1\u00bd", "1 1/2"),
        ("\u211d", "\u211d"),
        ("\u2460", "\u2460"),
        ("\ufb01", "fi"),
        ("e\u0301", "\u00e9"),
        ("\u200f\u05d0", "\u05d0"),
        ("\u2764\ufe0f", "\u2764"),
    ],
)
def test_plain_characters(text, plain):
    assert dress.plain_characters(text) == plain


@given(st.text())
def test_plain_characters_stay_as_they_are(text):
    plain = dress.plain_characters(text)
    assert dress.plain_characters(plain) == plain


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_ascii_is_plain(text):
    assert dress.plain_characters(text) == text


@given(st.characters(categories=["Nd"]))
def test_a_digit_keeps_its_value(digit):
    plain = dress.plain_characters(digit)
    assert len(plain) == 1 and unicodedata.digit(plain) == unicodedata.digit(digit)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (r"\frac{1}{2}", "1/2"),
        (r"\frac{x+1}{2}", "(x+1)/2"),
        (r"\frac{\frac{1}{2}}{3}", "(1/2)/3"),
        (r"x\frac{1}{2}", "x 1/2"),
        (r"\sqrt{x+1}", "√(x+1)"),
        (r"\sqrt[3]{8}", r"\sqrt[3]{8}"),
        (r"2\pi r", "2πr"),
        (r"x^{10}", "x^10"),
        (r"x^{n+1}", "x^(n+1)"),
        (r"90^{\circ}", "90°"),
        (r"\mathbb{R}", r"\mathbb{R}"),
        (r"\binom{7}{4}", r"\binom{7}{4}"),
        (r"\d{2}\s", r"\d{2}\s"),
        (r"C:\users\pie", r"C:\users\pie"),
        (r"\frac{1", "/{1"),
        (r"\frac", "/"),
        (r"\boxed{}", r"\boxed{}"),
    ],
)
def test_latex_in_plain_characters(text, plain):
    assert dress.without_latex(text) == plain


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("```\n42\n```", ("42", False)),
        ("```json\n[1]\n```", ("[1]", False)),
        ("```python\n x\n  y\n```", (" x\n  y", True)),
        ("~~~~\na\n~~~~", ("a", False)),
        ("```\na\n```\nb\n```\nc\n```", None),
        ("```\n\n```", None),
        ("```two words\na\n```", None),
        ("a", None),
    ],
)
def test_a_block_of_code(text, held):
    assert dress.fenced(text) == held
