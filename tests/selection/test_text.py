from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dynscale_dspy.selection.text import LAYERS, LONGEST, exact_text, key_of_text, undressed

# Each answer, and the same in other dress.
SAME = {
    "42": [
        *("**42**", "*42*", "***42***", "__42__", "_42_", "`42`", "``42``", "```42```", '"42"', "'42'", "“42”", "‘42’"),
        *("«42»", "「42」", "<b>42</b>", "<answer>42</answer>", "```\n42\n```", "```text\n42\n```", "~~~\n42\n~~~"),
        *("# 42", "#### 42", "• 42", "Answer: 42", "answer:42", "ANSWER: 42", "Final answer: 42", "The answer is 42."),
        *("The final answer is: **42**", "My answer: 42", "So, the answer is 42", "Thus the final answer is 42."),
        *("The correct answer is 42", "Ans: 42", "Result: 42", "Output: 42", "Solution: 42", "**Answer:** 42",
          "**Answer**: 42", "**Answer: 42**"),
        *("**Answer:** **42**", "*Answer:* 42", "### Answer\n42", "## Answer: 42", "Answer:\n42",
          "Answer:\n\n```\n42\n```"),
        *("Answer: Final answer: 42", r"\boxed{42}", r"\boxed{ 42 }", r"\fbox{42}", "$42$", "$ 42 $", "$$42$$",
          r"\(42\)"),
        *(r"\[42\]", r"\[ \boxed{42} \]", r"$\boxed{42}$.", r"\boxed{\text{42}}", r"\mathbf{42}", r"\textbf{42}"),
        *(r"$\mathrm{42}$", r"\displaystyle 42", r"The final answer is $\boxed{42}$.", r"\\boxed{42}", "\x08oxed{42}"),
        *("42.", "42.0", "42.00", "**42.**", '"42."', "42。", "４２", "𝟒𝟐", "\u200b42", "4\u200d2", "42\ufeff",
          "42\u00a0"),
        *(" 42 ", "\n42\n", "42\r\n", r"The answer is \(42\).", "$$\n42\n$$", "\\[\n42\n\\]",
          "<answer>\n42\n</answer>"),
        *("Final Answer:\n\n\\[\n\\boxed{42}\n\\]", r"The final answer is $\boxed{42}$. I hope it is correct."),
        *("### Final Answer\n\n$\\boxed{42}$", "```python\n42\n```", "٤٢", "४२", "**۴۲**"),
    ],
    "Berlin": ["Antwort: Berlin", "‹Berlin›", "『Berlin』", "Here is the answer: Berlin", "Réponse : **Berlin**"],
    "नई दिल्ली": ["नई दिल्ली।", "**नई दिल्ली**"],
    r"\{x | x > 2\}": [r"\{ x \mid x > 2 \}", r"$\{x \mid x > 2\}$"],
    "東京": ["答案：東京", "『東京』", "東京。"],
    "да": ["Да", "ДА."],
    "sí": ["SÍ", "Sí."],
    "low": ["LOW", "Low."],
    "USD 1000": ["USD 1,000", "USD 1,000.00", "**USD 1'000**"],
    "US$1000": ["US$1,000", "**US$1,000**"],
    "₩1000": ["₩1,000", "₩ 1,000"],
    "$1000 per month": ["$1,000 per month", "$1,000.00 per month."],
    "$1000/month": ["$1,000/month", "**$1,000/month**"],
    "(B) Bonn": ["**(B)** Bonn", "**B)** Bonn", "**B.** Bonn", "__B)__ Bonn."],
    "https://a.b/C": ["<https://a.b/C>", "`https://a.b/C`"],
    "2√3": [r"2\sqrt{3}", r"2 \sqrt{3}", "2 √3"],
    "12π": [r"12\pi", r"12 \pi"],
    "sin x": [r"\sin x", "$\\sin x$"],
    "cos θ": [r"\cos\theta", r"\cos \theta"],
    "x = ±2": [r"x = \pm 2", "x=± 2"],
    "±2": [r"\pm 2", r"\pm2", "± 2"],
    "x ∈ [0,1]": [r"x \in [0, 1]", "x∈[0,1]"],
    "-5": ["\u22125", "\u20135", "\u20115", "\uff0d5", "-5.0", "**-5**", "$-5$", "\u22125."],
    "1000": [
        *("1,000", "1\u00a0000", "1\u202f000", "1\u2009000", "1 000", "1'000", "1\u2019000", "1_000", "1{,}000"),
        *(r"1\,000", "1,000.00", "1000.0", r"\boxed{1,000}", "**1,000**", "$1{,}000$"),
    ],
    "1234567": ["1,234,567", "12,34,567", "1\u202f234\u202f567", "1{,}234{,}567", r"1\,234\,567"],
    "$1,000": ["$1000", r"\$1000", "$1,000.00", "$ 1000", "**$1,000**", r"\$1{,}000", r"$\$1{,}000$", "\uff041000",
    "1000 $"],
    "€1.50": ["€1.5", "€ 1.50", "1.50 €", "1.5€"],
    "50%": ["50 %", r"50\%", r"$50\%$", "**50%**", "50\u00a0%", "50.0%", "50\uff05"],
    "5 km": ["5km", "5\u00a0km", "5\u202fkm", "5 km.", "5.0 km", r"5\text{ km}", r"5\,\text{km}", r"$5\ \mathrm{km}$"],
    "1,000 km": [r"1,\!000\,\text{km}", r"1000~\mathrm{km}", "١٠٠٠ km", "1000 km", "1\u00a0000 km", "1000km"],
    "1,000 people": ["1000 people"],
    "5 m/s^2": ["5m/s^2", "5 m/s²", r"5 \text{ m/s}^2"],
    "5 µm": ["5 μm", "5µm"],
    "20 °C": ["20°C", "20 ℃", r"20^\circ C"],
    "1/2": [
        *("0.5", ".5", "1 / 2", "½", "1\u20442", r"\frac{1}{2}", r"\frac12", r"\frac 12", r"\frac{1}2",
          r"\dfrac{1}{2}"),
        *(r"\tfrac12", r"$\frac{1}{2}$", r"\boxed{\frac{1}{2}}", r"$\displaystyle\frac{1}{2}$", r"\\frac{1}{2}"),
        *("\x0crac{1}{2}", "**1/2**", "0.5.", "Answer: 1/2"),
    ],
    "-1/2": [r"-\frac{1}{2}", r"\frac{-1}{2}", "-0.5", "\u2212½", r"-\dfrac12"],
    "2 3/11": [r"2\frac{3}{11}", r"2 \frac{3}{11}"],
    "1½": ["1 1/2", r"1\frac{1}{2}"],
    "0.3": ["0.30000000000000004", ".3", "3/10"],
    "3.3": ["3.3000000000000003"],
    "0": ["0.0", ".0", "0.00", "-0"],
    "1": ["0.9999999999999999", "1.0000000000000002", "1.0"],
    "B": [
        *("(B)", "B)", "B.", "[B]", "**B**", "**(B)**", "\uff22", "\uff08B\uff09", r"\text{B}", r"\textbf{(B)}"),
        *(r"\boxed{B}", r"$\boxed{\text{B}}$", r"\mathrm{B}", "Option B", "option B", "Option (B)", "Choice B", "`B`"),
        *("Answer: B", "Answer: (B)", "The answer is (B).", "The correct option is B", "B。"),
    ],
    "B) Paris": ["(B) Paris", "B. Paris", "B: Paris", "[B] Paris", "**B) Paris**", "Option B: Paris", "B) **Paris**"],
    "Paris": [
        *("**Paris**", "*Paris*", "_Paris_", "__Paris__", "`Paris`", '"Paris"', "'Paris'", "“Paris”", "‘Paris’",
          "PARIS"),
        *("paris", "Paris.", "paris.", "- Paris", "* Paris", "> Paris", "• Paris", "# Paris", "<em>Paris</em>",
          r"\text{Paris}"),
        *(r"$\text{Paris}$", r"\boxed{\text{Paris}}", r"\emph{Paris}", "Ｐａｒｉｓ"),
        *("𝐏𝐚𝐫𝐢𝐬", "Par\u00adis", "Par\u200bis"),
        *("The answer is Paris.", "The answer is **Paris**.", "Answer: “Paris”", "**Paris**.", "'Paris.'", "Paris\r\n"),
    ],
    "Yes": ["YES.", "yes", "YES", "**Yes**", "yes."],
    "No": ["NO", "no", "NO."],
    "True": ["true", "TRUE"],
    "It's": ["It\u2019s", "it's", "It´s"],
    "New York": ["new york", "NEW YORK", "new   york", "New\u00a0York", "New York."],
    "Bank of America": ["bank of america"],
    "He lives in Paris": ["he lives in Paris", "He lives in Paris.", "He lives in paris"],
    "The White House": ["the White House", "The white house", "THE WHITE HOUSE"],
    "FA Cup": ["FA cup"],
    "C major": ["C Major"],
    "Eat Me": ["EAT ME", "eat me", "Eat me"],
    "Writer (Novelist and Journalist)": ["writer (novelist and journalist)"],
    "World War 2": ["world war 2"],
    "Well-Known": ["well-known", "Well-known", "well\u2011known"],
    "café": ["cafe\u0301", "Café", "CAFÉ"],
    "ﬁne": ["fine"],
    "Москва": ["москва", "МОСКВА"],
    "rock 'n' roll": ["rock \u2019n\u2019 roll"],
    "2010-2015": ["2010\u20132015"],
    "Washington, D.C.": ["Washington, D.C"],
    "(1, 2)": [
        *("(1,2)", "( 1 , 2 )", "(1.0, 2)", "$(1,2)$", r"\left(1, 2\right)", r"\boxed{(1,2)}", "**(1, 2)**",
          r"(1,\,2)"),
        *("(1, 2).",),
    ],
    "(3, π/2)": [r"(3, \frac{\pi}{2})", r"(3,\pi/2)", "(3,π/2)"],
    "(1/2, 3)": [r"(\frac{1}{2}, 3)", "(0.5, 3)"],
    "[1, 2, 3]": ["[1,2,3]", "[ 1, 2, 3 ]", "[\n  1,\n  2,\n  3\n]", "```json\n[1, 2, 3]\n```"],
    "[0, 1)": ["[0,1)", "$[0,1)$"],
    "(-∞, 3]": [r"(-\infty, 3]", "(-∞,3]"],
    "{1, 2}": [r"\{1, 2\}", r"$\{1,2\}$", "{1,2}"],
    '{"a": 1, "b": 2}': [
        *('{"b":2,"a":1}', "{'a': 1, 'b': 2}", '{\n  "a": 1,\n  "b": 2\n}', '```json\n{"a": 1, "b": 2.0}\n```'),
    ],
    '["a", "b"]': ["['a','b']", '["a","b"]', "[“a”, “b”]"],
    '{"ok": true, "x": null}': ["{'ok': True, 'x': None}"],
    '{"a": [1, {"b": 2}]}': ['{"a":[1,{"b":2}]}'],
    '["\\u00e9"]': ['["é"]'],
    "[true, None]": ["[True, null]"],
    "x = 5": ["x=5", "```python\nx = 5\n```"],
    "x^2 + 1": ["x^2+1", "x^{2}+1", "$x^2 + 1$", "x²+1"],
    "x ≤ 3": [r"x \le 3", r"x\leq3", "x≤3", r"$x \leq 3$"],
    "2π": [r"2\pi", r"$2\pi$"],
    "√2": [r"\sqrt{2}", r"\sqrt2", r"$\sqrt{2}$"],
    "10 × 5": [r"10 \times 5", "10×5"],
    "52_8": ["52_{8}", "52₈"],
    "1, 2, 3": ["1,2,3"],
    "sin(x) + 1": [r"\sin(x)+1", "sin(x)+1"],
    "print(1)": ["```python\nprint(1)\n```", "`print(1)`"],
    "if x:\n    y()": ["```python\nif x:\n    y()\n```", "if x:\r\n    y()\r\n", "Answer:\nif x:\n    y()"],
}  # fmt: skip

# Pairs that are two answers, however alike they look.
DIFFERENT = [
    # numbers
    ("3.10", "3.1"), ("0.10", "0.1"), ("2.0.0", "2.0"), ("1.10.0", "1.1.0"), ("v1.10", "v1.1"), ("+49", "49"),
    ("007", "7"), ("00501", "501"), ("01234", "1234"), ("-5", "5"), ("- 5", "5"), ("1.5", "15"), ("1,234", "1.234"),
    ("1,5", "15"), ("1,5", "1, 5"), ("1, 234", "1,234"), ("12,34", "1234"), ("12 345", "12345"), ("1 2", "12"),
    ("1 -2", "1 - 2"), ("1,000.5", "1.000,5"), ("1/2", "2/1"), ("1/2", "1-2"), ("1/2", "12"), ("2/4", "2/3"),
    ("6/8", "3/4"), ("1/3", "0.333"), ("12:30", "1230"), ("1:30", "1.30"), ("1e5", "1e6"), ("0e12", "0e34"),
    ("3.14159265358979", "3.14159265358978"), ("3.141592653589793", "3.141592653589794"),
    ("12345678901234567890", "12345678901234567891"), ("0.1234567890123456", "0.1234567890123457"), ("5!", "5"),
    ("555-1234", "5551234"), ("2024-01-05", "2024-05-01"), ("1-0", "0-1"), (">5", "5"), ("~5", "5"), ("5'", '5"'),
    ("$100", "$1.00"), ("$5", "€5"), ("50%", "50"), ("50%", "50‰"), ("5²", "52"), ("10₂", "102"), ("①", "1"), ("O",
    "0"),
    ("$5 per month", "$5 per year"), ("$5k", "$5"), ("$5 M", "$5 m"), ("USD 5", "EUR 5"), ("US$5", "$5"), ("USD 1.234",
    "USD 1,234"), ("١٫٥", "١٥"), ("٤٢", "٢٤"), ("３．１０", "3.1"),
    # units, symbols, formulas
    ("1/2 √3", "1/2√3"), (r"\sin x", "sinx"), ("D-glucose", "d-glucose"), ("N-methyl", "n-methyl"),
    ("L-Alanine", "l-alanine"), ("x ± 2", "x = ±2"),
    ("5 mW", "5 MW"), ("5 km", "5 m"), ("5 Mb", "5 mb"), ("5 MB", "5 Mb"), ("10 mm", "10 Mm"), ("1.10 LTS", "1.1 LTS"),
    ("CO", "Co"), ("NO2", "No2"), ("CH3", "Ch3"), ("pH", "PH"), ("AABB", "aabb"), ("Aa", "aa"), ("Bb", "bb"),
    ("C", "c"), ("Am", "am"), ("x²", "x2"), ("x^2", "x2"), ("x_1", "x1"), ("x₁", "x¹"), ("f(x)", "F(x)"), ("ℝ", "R"),
    ("x = T", "x = t"), ("x ≠ 5", "x = 5"), ("A→B", "B→A"), ("-x", "x"), ("a b", "ab"), ("(a+b)(c)", "a+b)(c"),
    ("2\\frac{1}{3}", "21/3"), (r"\frac{1}{2x}", r"\frac{1}{2}x"), (r"\frac{1}{2}3", r"\frac{1}{23}"),
    (r"\sqrt{3}2", r"\sqrt{32}"), (r"x^{2}3", r"x^{23}"), (r"a_{1}2", r"a_{12}"),
    (r"\boxed{4}", r"\boxed{2}"), (r"\text{4}", r"\text{2}"), ("$x$ and $y$", "x$ and $y"), ("XIV", "XVI"),
    # tuples, lists, JSON
    ("(1, 2)", "[1, 2]"), ("{1, 2}", "(1, 2)"), ("{1, 2}", "[1, 2]"), ("[1, 2]", "[2, 1]"), ("[0, 1)", "(0, 1]"),
    ("[0, 1]", "[0, 1)"), ("(5)", "5"), ("[5]", "5"), ('["1"]', "[1]"), ('{"a": "1"}', '{"a": 1}'),
    ('{"A": 1}', '{"a": 1}'), ('{"a": "X"}', '{"a": "x"}'), ('{"v": "3.10"}', '{"v": "3.1"}'), ("[3.10]", "[3.1]"),
    ('{"a": 1, "a": 2}', '{"a": 2}'), ('["a b"]', '["a  b"]'), ('{"a": null}', "{}"), ('{"a": true}',
    '{"a": "true"}'), ('{"a": null}', '{"a": "null"}'), ('["a,b"]', '["a", "b"]'),
    # code, commands, names, paths
    ("ls -L", "ls -l"), ("git checkout -b x", "git checkout -B x"), ("cd Downloads", "cd downloads"),
    ("git add .", "git add"), ("ls ..", "ls ."), (r"find . -exec rm {} \;", "find . -exec rm {} ;"),
    ("(a|b).", "(a|b)"), ("[a-z].", "[a-z]"), ("x{2}.", "x{2}"), ("colou?r.", "colou?r"), ("$.", "$"),
    ("[^a].", "[^a]"), ("a: 1", "a: '1'"), ("a: Yes", "a: yes"),
    (r"\d+", r"\D+"), (r"\d.", r"\d"), ("^a.", "^a"), (r"My\ File", "My File"), ("*.txt", ".txt"), ("*log*", "log"),
    ("__init__", "init"), ("_private", "private"), ("_x_", "x"), ("*args", "args"), ("**kwargs", "kwargs"),
    ("MyClass", "myclass"), ("myVar", "myvar"), ("MY_VAR", "my_var"), ("C:\\temp", "C:\\Temp"), ("/Home", "/home"),
    ("https://a.b/C", "https://a.b/c"), ("user@A.com", "user@a.com"), ("aGVsbG8=", "AGVsbG8="), ("#define", "define"),
    ("SELECT a FROM t WHERE city = 'Oslo'", "SELECT a FROM t WHERE city = 'oslo'"), ("SELECT 1;", "SELECT 1"),
    ("print('a  b')", "print('a b')"), ('echo "a"', "echo a"), ("'a' + 'b'", "a' + 'b"), ('"a" OR "b"', 'a" OR "b'),
    ("`a` and `b`", "a` and `b"), ("**a** and **b**", "a** and **b"), ("'", '"'),
    ("if ok:\n    charge()\nsend()", "if ok:\n    charge()\n    send()"), ("a\nb", "a b"), ("a\tb", "a b"), ("a\n\nb",
    "a\nb"),
    ("  x\ny", "x\ny"), ("Polish\nx", "polish\nx"), ("answer = 42\nprint(1)", "42\nprint(1)"),
    ("```python\nFoo\n```", "```python\nfoo\n```"),
    # words
    ("C++", "C"), ("C#", "C"), ("US", "us"), ("IT", "it"), ("WHO", "who"), ("US Army", "us army"), ("Vitamin A",
    "Vitamin a"), ("E string", "e string"),
    ("import Foo", "import foo"), ("SELECT Name FROM t", "SELECT name FROM t"), ("Aa Bb", "aa bb"), ("NO CO", "No Co"),
 ("Maße", "Masse"), ("résumé", "resume"),
    ("A", "\u0410"), ("True", "False"), ("not 42", "42"), ("The answer is not 42", "42"), ("Answer: 41", "Answer: 42"),
    ("key: Value", "key: value"), ("a;b", "a:b"), ("x.", "x..."), ("م\u200cخ", "مخ"), ("\U0001f468\u200d\U0001f469",
    "\U0001f468\U0001f469"),
    ("\U0001f3f4\U000e0067\U000e007f", "\U0001f3f4\U000e0073\U000e007f"),
    # options
    ("(B)", "(C)"), ("Option B", "Option C"), ("B) Paris", "B"), ("B) Paris", "Paris"), ("B) Paris", "C) Paris"),
    ("1. Paris", "2. Paris"), ("A cat", "(A) cat"),
]  # fmt: skip


def test_the_tables_are_large():
    assert sum(map(len, SAME.values())) >= 270 and len(DIFFERENT) >= 160


@pytest.mark.parametrize(("plain", "other"), [(plain, other) for plain, others in SAME.items() for other in others])
def test_the_same_in_other_dress(plain, other):
    assert key_of_text(plain) == key_of_text(other)
    assert hash(key_of_text(plain)) == hash(key_of_text(other))


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_only_looks_alike(one, other):
    assert key_of_text(one) != key_of_text(other)


def test_answers_of_the_table_are_told_apart():
    numbers = {"1", "0.3", "3.3"}
    for one, other in itertools.combinations(SAME.keys() - numbers, 2):
        assert key_of_text(one) != key_of_text(other), (one, other)


@pytest.mark.parametrize("nothing", ["", " ", "\n", "\r\n \t", "\u200b", "\u00a0"])
def test_blank_text_has_no_key(nothing):
    assert key_of_text(nothing) is None


@pytest.mark.parametrize(
    "bare", ["**", '""', "''", "``", "$$", r"\boxed{}", "Answer:", "**Answer:**", ".", "()", "#", "- "]
)
def test_dress_around_nothing_is_an_answer(bare):
    assert key_of_text(bare) is not None


# ---- layers


@pytest.mark.parametrize(
    ("layer", "one", "other"),
    [
        ("unicode", "４２", "42"),
        ("markup", "**42**", "42"),
        ("latex", r"\boxed{42}", "42"),
        ("opening", "Answer: 42", "42"),
        ("stop", "Paris.", "Paris"),
        ("option", "(B)", "B"),
        ("number", "1,000", "1000"),
        ("structure", '{"a": 1, "b": 2}', '{"b": 2, "a": 1}'),
        ("spacing", "new   york", "new york"),
        ("case", "Paris", "paris"),
    ],
)
def test_a_layer_comes_off_unless_it_is_left_on(layer, one, other):
    assert key_of_text(one) == key_of_text(other)
    assert key_of_text(one, LAYERS.keys() - {layer}) != key_of_text(other, LAYERS.keys() - {layer})


@given(st.text(), st.text())
def test_with_all_layers_left_on_text_is_compared_as_it_is(one, other):
    plain = [exact_text(text).strip("\n").rstrip() for text in (one, other)]
    plain = [text if "\n" in text else text.strip() for text in plain]
    assert (key_of_text(one, ()) == key_of_text(other, ())) == (plain[0] == plain[1])


# ---- properties

words = st.lists(st.from_regex("[A-Z]?[a-z]{2,8}", fullmatch=True), min_size=1, max_size=4).map(" ".join)
integers = st.integers(-(10**9), 10**9)
numbers = integers.map(str) | integers.map("{:,}".format) | st.decimals(-999, 999, places=2).map(str)
tuples = st.lists(integers, min_size=2, max_size=4).map(lambda items: f"({', '.join(map(str, items))})")
fractions = st.tuples(st.integers(1, 99), st.integers(2, 99)).map(lambda pair: f"{pair[0]}/{pair[1]}")
amounts = st.tuples(st.integers(1, 999), st.sampled_from(["km", "mW", "MW", "kg", "%"])).map("{0[0]} {0[1]}".format)
options = st.sampled_from("ABCDE")
answers = words | numbers | tuples | fractions | amounts | options

DRESSES: dict[str, Callable[[str], str]] = {
    "bold": "**{}**".format,
    "code": "`{}`".format,
    "quotes": '"{}"'.format,
    "typographic quotes": "‘{}’".format,
    "boxed": lambda text: r"\boxed{" + text + "}",
    "text": lambda text: r"\text{" + text + "}",
    "opening": "Answer: {}".format,
    "sentence": "The final answer is {}".format,
    "stop": "{}.".format,
    "invisible": "\u200b{}\ufeff".format,
    "heading": "### {}".format,
    "fullwidth": lambda text: text.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)}),
}


@given(answers, st.lists(st.sampled_from(list(DRESSES)), max_size=6, unique=True))
def test_no_composition_of_dress_changes_the_key(answer, dresses):
    dressed = answer
    for name in dresses:
        dressed = DRESSES[name](dressed)
    assert key_of_text(dressed) == key_of_text(answer), dressed
    fenced = f"```\n  {dressed} \n```"
    assert key_of_text(fenced) == key_of_text(f"**Answer:**\n\n{fenced}\n") == key_of_text(answer)


@given(st.text() | answers)
@example("**a**b**")
@example("$**`a`**$.")
def test_undressing_twice_changes_nothing(text):
    assert undressed(undressed(text)) == undressed(text)
    assert key_of_text(undressed(text)) == key_of_text(text)


@given(st.text(alphabet="0123456789.,'_ eE+-/$€%km()[]{}", min_size=1))
def test_anything_like_a_number_has_a_key(text):
    assert key_of_text(text) is not None or not text.strip()


@given(words, words)
def test_different_words_are_never_merged(one, other):
    assume(one.lower() != other.lower())
    assert key_of_text(one) != key_of_text(other)


@given(numbers, numbers)
def test_different_numbers_are_never_merged(one, other):
    assume(float(one.replace(",", "")) != float(other.replace(",", "")))
    assert key_of_text(one) != key_of_text(other)


@given(st.text(alphabet="abcxyz+-#/%$^", min_size=1, max_size=6), st.text(alphabet="abcxyz+-#/%$^", min_size=1))
def test_punctuation_tells_answers_apart(one, other):
    assume(not any(len(text) > 2 and text[0] == text[-1] == "$" for text in (one, other)))  # formulas
    assert (key_of_text(one) == key_of_text(other)) == (one == other)


@given(st.lists(st.text(alphabet=" \tabAB=.,;:'\"(){}[]\\", min_size=1, max_size=9), min_size=2, max_size=4))
def test_several_lines_are_compared_exactly(lines):
    text = "\n".join(["if x:", *lines, "end"])
    for other in ("\n".join(["if x:", *lines, " end"]), text.swapcase(), text.replace("\n", " ")):
        assert key_of_text(text) != key_of_text(other)
    assert key_of_text(text) == key_of_text(text.replace("\n", "\r\n") + "\n")


# ---- cost

BAD = [
    *("(", "[", "{", "()", "[1,", "1,", "$", "*", "`", "'", '"', "-", " ", "\\", "\n", ".", "_", "#", "a ", "a+",
      "a + "),
    *(r"\frac", r"\frac{", r"\text{", r"\sqrt{", "^{", "the ", "final ", "answer:", "answer\n", "<b>", "(A) ", "A) ",
      "- "),
    *('"a",', "\u200c", "\u00a0", "²", "e\u0301", ",000", "m/", "x,", "```\n", "word-word'word ", "\u2013 ", "{'a':"),
]  # fmt: skip


@pytest.mark.parametrize("part", BAD)
def test_no_text_takes_long(part):
    """A bound far above what is needed (a tenth of a second) and far below what backtracking would take."""
    began = time.process_time()
    for size in (LONGEST, 2_000, 1_000_000):
        text = (part * size)[:size]
        for dressed in (text, f"[{text}]", f"${text}$", f"Answer: {text}x", f"```\n{text}\n```", f"1{text}"):
            key_of_text(dressed)
    assert time.process_time() - began < 15


def test_long_text_is_compared_as_it_is():
    long = "word " * LONGEST
    assert key_of_text(f"**{long}**") != key_of_text(long)
    assert key_of_text(long) == key_of_text(long.rstrip())
