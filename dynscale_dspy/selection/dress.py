"""What models put around an answer: markup, openings, the marks of LaTeX, the many characters that look alike."""

from __future__ import annotations

import re
import unicodedata

# ---- unicode

_ALIKE = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63", "-"),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4\u02bc\u2039\u203a", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u300c\u300d\u300e\u300f", '"'),
    **dict.fromkeys("\ufe0e\ufe0f", ""),  # which picture of a sign is shown
    "\u2044": "/",
    "\u2215": "/",
    **dict.fromkeys("\u3002\u0964\u06d4", "."),
}
_JOINERS = "\u200c\u200d"
"""They make letters of Persian, of Indian scripts, and emoji; beside ASCII they are invisible and mean nothing."""
_RAISED_AND_LOWERED = re.compile("[²³¹⁰ⁱ⁴-ⁿ]+|[₀-ₙ]+")
_IDLE_JOINERS = re.compile(rf"(?<![^\x00-\x7f{_JOINERS}])[{_JOINERS}]+|[{_JOINERS}]+(?![^\x00-\x7f{_JOINERS}])")
_NARROW_GROUPS = re.compile(r"(?<=\d)[\u00a0\u2007\u2008\u2009\u202f\u205f](?=\d{3}(?!\d))")
_VULGAR = re.compile(r"(\d?)([¼-¾⅐-⅞])")
# What a letter's decomposition may be called without changing what it means. Raised and circled digits are others.
_SAME_LETTER = ("<wide>", "<narrow>", "<small>", "<initial>", "<medial>", "<final>", "<isolated>", "<square>")


class _Alike(dict[int, str]):
    """For ``str.translate``: the plain form of each character, found when it is first met."""

    def __missing__(self, code: int) -> str:
        plain = self[code] = _plain(chr(code))
        return plain


def _plain(character: str) -> str:
    if character in _ALIKE:
        return _ALIKE[character]
    kind = unicodedata.category(character)
    if kind == "Zs":
        return " "
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    if kind == "Cf" and character not in _JOINERS and character < "\U000e0000":
        return ""
    tag, _, codes = unicodedata.decomposition(character).partition(" ")
    same = tag in _SAME_LETTER or (tag == "<font>" and "\U0001d400" <= character <= "\U0001d7ff")
    if same or (tag == "<compat>" and not codes.startswith("0020")):
        return "".join(_plain(chr(int(code, 16))) for code in codes.split())
    return character


_TABLE = _Alike()


def plain_characters(text: str) -> str:
    """One line of text in plain characters: no fullwidth or invisible ones, no typographic dashes, quotes and spaces.

    Raised and lowered digits become ``^2`` and ``_2``, and ``½`` becomes ``1/2``: no character changes its value.
    """
    if text.isascii():
        return text
    text = _NARROW_GROUPS.sub(",", text)
    text = _IDLE_JOINERS.sub("", text)
    text = _VULGAR.sub(lambda found: found[1] + " " * bool(found[1]) + _unicode_compatible(found[2]), text)
    text = _RAISED_AND_LOWERED.sub(_marked, text).translate(_TABLE)
    text = _RAISED_AND_LOWERED.sub(_marked, text)  # "㎡" is "m²" by now
    return unicodedata.normalize("NFC", text).strip()


def _marked(found: re.Match[str]) -> str:
    return ("_" if "\u2080" <= found[0] <= "\u209f" else "^") + _unicode_compatible(found[0])


def _unicode_compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("\u2044", "/").replace("\u2212", "-")


# ---- markup

_INFO = re.compile(r"[\w+#.-]*")
_NO_LANGUAGE = frozenset({"", "text", "txt", "plaintext", "plain", "json", "latex", "tex", "math", "markdown", "md"})
_TAGGED = re.compile(r"<(answer|final_answer|p|b|strong|i|em|code)>(.*)</\1>", re.IGNORECASE | re.DOTALL)
_LINK = re.compile(r"<(https?://[^\s<>]+)>")
_NAME = re.compile(r"[a-z0-9_.\-]*[a-z_][a-z0-9_.\-]*")
_HEADING = re.compile(r"#{1,6} +(?=\S)")
_BULLET = re.compile(r"(?:[-*>] +(?=[^\W\d_]{3,}[ .!]*(?: |$)(?!\()[^\d()=]*$)|• *)(?=\S)")


def fenced(text: str) -> tuple[str, bool] | None:
    """What a block of code holds, and whether the block names a programming language; None if the text is no block."""
    if text[:3] not in ("```", "~~~"):
        return None
    mark = text[: len(text) - len(text.lstrip(text[0]))]
    first, _, rest = text[len(mark) :].partition("\n")
    body = rest[: -len(mark)].rstrip(" \t").removesuffix("\n")
    language = first.strip().lower()
    if not rest.endswith(mark) or not body.strip() or mark in body or not _INFO.fullmatch(language):
        return None
    return body, language not in _NO_LANGUAGE


def within_lines(text: str) -> str:
    """The one line between marks that have lines of their own: dollars, tags, brackets of a formula; else the text."""
    inner = without_latex_marks(text) if text[0] in "$\\" else text
    if text[0] == "<" and (found := _TAGGED.fullmatch(text)):
        inner = found[2].strip()
    return inner if inner and "\n" not in inner else text


def without_markup(text: str) -> str:
    """One line of text without its outermost markup: emphasis, code, quotes, tags, a heading's or a bullet's mark."""
    first = text[0]
    if first == "<" and (link := _LINK.fullmatch(text)):
        return link[1]
    if first == "#":
        return _HEADING.sub("", text, count=1)
    if first in "-•>" or text.startswith("* "):
        return _BULLET.sub("", text, count=1)
    if first != text[-1]:
        if first == "<" and (found := _TAGGED.fullmatch(text)) and f"<{found[1]}>".lower() not in found[2].lower():
            return found[2].strip() or text
        return text
    if first in "\"'":
        return _within(text, first)
    if first == "`":
        return _within(text, re.match("`{1,3}", text)[0])  # type: ignore[index]
    if first not in "*_":
        return text
    mark = next(mark for mark in (first * 3, first * 2, first) if text.startswith(mark))
    inner = _within(text, mark)
    # A glob such as `*log*` and a name such as `__init__` are no emphasis.
    if inner is text or inner[0] == "/" or inner[-1] == "/" or (mark not in ("**", "***") and _NAME.fullmatch(inner)):
        return text
    return inner


def _within(text: str, mark: str) -> str:
    """What is between two such marks that hold all of the text; the text itself where they do not."""
    inner = text[len(mark) : -len(mark)]
    if not inner or not text.endswith(mark) or mark in inner or mark[0] in (inner[0], inner[-1]):
        return text
    if inner != inner.strip():
        return text
    return inner


# ---- openings and the full stop

_SUBJECT = (
    r"(?:(?:so|thus|hence|therefore|finally|here is|here's)\b,? +)?"
    r"(?:(?:the|my|our) +)?(?:(?:final|correct|right|best|short|exact|numerical) +)*"
    r"(?:answer|ans|result|output|response|solution|option|choice|"
    r"antwort|réponse|respuesta|resposta|risposta|ответ|答案|回答)\b"
)
_VERB = r"(?:(?:is|are|was|would be|must be)\b:?|:|\n)"
_OPENING = re.compile(
    rf"(?:\#{{1,6}}[ ]*)?(?:(?P<mark>[*_]{{1,3}}){_SUBJECT}(?:(?P=mark)\s*{_VERB}|\s*{_VERB}\s*(?P=mark))"
    rf"|{_SUBJECT}\s*{_VERB})\s*",
    re.IGNORECASE,
)
_OPENING_LINE = re.compile(rf"(?:{_OPENING.pattern})(?<=\n)", re.IGNORECASE)
_CLOSING = re.compile(r"\. I hope (?:it|this) is correct\.?$")
_FIRST_OF_OPENINGS = frozenset("#*_sthfmocrbaenо答回")

# What a regular expression has, in which a dot stands for any character, and a sentence has not.
_REGULAR_EXPRESSION = re.compile(r"\||\?|\[\^|\w-\w\]|[\w)\]]\{\d+(?:,\d*)?\}")


def without_opening(text: str) -> str:
    """Text without a beginning such as "Answer:" or "The final answer is". Of several lines, it must have its own."""
    if text[0].lower() not in _FIRST_OF_OPENINGS:
        return text
    found = (_OPENING_LINE if "\n" in text else _OPENING).match(text)
    if found is None:
        return text
    return _CLOSING.sub(".", text[found.end() :]) or text


def without_stop(text: str) -> str:
    """One line of text without a final full stop. An ellipsis, and the dot in ``git add .``, stay."""
    if text[-1] != "." or len(text) < 2 or text[0] == "^":
        return text
    if "\\" in text:
        return text[:-1] if text.endswith((r"\).", r"\].")) else text
    before = text[-2]
    if _REGULAR_EXPRESSION.search(text) and " " not in text:
        return text
    after_word = before.isalnum() or before in ")]}%°" or unicodedata.category(before)[0] == "M"
    return text[:-1] if after_word or (before in "\"'*_`$" and before == text[0] and len(text) > 3) else text


# ---- LaTeX

_SYMBOLS = {
    "pi": "π", "theta": "θ", "alpha": "α", "beta": "β", "gamma": "γ", "lambda": "λ", "mu": "μ", "sigma": "σ",
    "phi": "φ", "omega": "ω", "infty": "∞", "times": "×", "cdot": "·", "div": "÷", "pm": "±", "mp": "∓", "le": "≤",
    "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "approx": "≈", "in": "∈", "cup": "∪", "cap": "∩",
    "circ": "°", "degree": "°", "to": "→", "rightarrow": "→", "mid": "|", "ldots": "...", "dots": "...", "sin": "sin",
    "cos": "cos", "tan": "tan", "log": "log", "ln": "ln", "exp": "exp",
}  # fmt: skip
_OPERATORS = "×·÷±∓≤≥≠≈∈∪∩→|"
_AROUND = ("text", "textbf", "textit", "textrm", "mathrm", "mathbf", "mathit", "mathsf", "mbox", "emph", "operatorname")
_WHOLE = re.compile(rf"\\(?:boxed|fbox|{'|'.join(_AROUND)}) *\{{")
_PAIRS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
# Where JSON has read "\b", "\f" and "\t" as characters.
_MANGLED = (
    (re.compile("\x08(?=oxed *{)"), r"\\b"),
    (re.compile("\x0c(?=rac)"), r"\\f"),
    (re.compile("\t(?=ext *{)"), r"\\t"),
)
_COMMANDS = (*_SYMBOLS, *_AROUND, "frac", "dfrac", "tfrac", "cfrac", "sqrt", "boxed", "left", "right", "displaystyle")
_COMMAND = re.compile(rf"\\(?:{'|'.join(sorted(_COMMANDS, key=len, reverse=True))})(?![a-zA-Z])")
_DOUBLED = re.compile(rf"\\(?={_COMMAND.pattern})")
_STEP = re.compile(r"\\([a-zA-Z]+)|\\([^a-zA-Z])|([\^_])(?=\{)")
_ARGUMENT = re.compile(r" *([^\s{}\\])")
_ARGUMENT_OF_FUNCTION = re.compile(r"[^\W_]|\\(?!left)[a-zA-Z]")
_TIE = re.compile(r"(?<=\d)~(?=\\(?:text|mathrm)\b)")
_SCRIPT = re.compile(r"[^\\\s]*[\^_]\{[^\\\s]*")
_SIMPLE = re.compile(r"-?(?:\d+(?:\.\d+)?|\w|√\w|√\d+)")
_LETTER_OR_DIGIT = re.compile(r"[\w)\]]")
_SPACED_FORMULA = re.compile(r"(?=.*\d)(?:[^\W_](?![^\W\d_])|[\s.,()\[\]+\-*/^=<>]|\\[,;:!])+")
_DIGIT_GROUP = re.compile(r"(?<=\d)(?:\\[,!]|,\\!|\{,\})(?=\d{3}(?!\d))")
LONGEST_LATEX = 2_000
"""Characters of a formula that is rewritten; longer ones are compared as they are."""


def repaired(text: str) -> str:
    """Text with the beginnings of LaTeX commands that JSON took for control characters."""
    for pattern, command in _MANGLED:
        text = pattern.sub(command, text)
    return text


def without_latex_marks(text: str) -> str:
    r"""One line of text without what marks all of it as a formula: dollars, ``\(``, ``\boxed{}``, ``\text{}``."""
    if text[0] not in "$\\":
        return text
    for begin, end in _PAIRS:
        if text.startswith(begin) and text.endswith(end) and len(text) > len(begin) + len(end):
            inner = text[len(begin) : -len(end)]
            unescaped = inner.replace(r"\$", "")
            if begin not in unescaped and end not in unescaped and inner.strip():
                return inner.strip()
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return "{" + text[2:-2] + "}"
    if (found := _WHOLE.match(text)) and _closing(text, found.end() - 1) == len(text) - 1:
        return text[found.end() : -1].strip() or text
    return text


def without_latex(text: str) -> str:
    r"""One line of text with LaTeX's commands in plain characters: ``\frac{1}{2}`` is ``1/2``, ``\pi`` is ``π``.

    Text without a known command stays as it is: a backslash of a path, a shell or a regular expression has its meaning.
    """
    if len(text) > LONGEST_LATEX or not any(mark in text for mark in ("\\", "^{", "_{", "{,}")):
        return text
    text = _TIE.sub(" ", _DIGIT_GROUP.sub(",", text))
    text = _DOUBLED.sub("", text)
    if _COMMAND.search(text) or _SCRIPT.fullmatch(text) or _SPACED_FORMULA.fullmatch(text):
        return _rewritten(text, 0) or text
    return text


def _rewritten(text: str, depth: int) -> str:
    if depth > 20:
        return text
    parts, at = [], 0

    def put(part: str) -> None:
        # "2\frac{1}{3}" is no 21/3.
        if part and parts and parts[-1] and part[0].isdigit() and _LETTER_OR_DIGIT.fullmatch(parts[-1][-1]):
            parts.append(" ")
        parts.append(part)

    def part_digits() -> None:
        # "\sqrt{3}2" is no root of 32.
        if text[at : at + 1].isdigit():
            parts.append(" ")

    while found := _STEP.search(text, at):
        parts.append(text[at : found.start()])
        name, sign, script = found.groups()
        at = found.end()
        if script:
            argument, at = _argument(text, at, depth)
            parts.append("°" if script == "^" and argument == "°" else script + _grouped(argument))
            part_digits()
        elif sign:
            parts.append(sign if sign in "{}%$&#_|" else " " if sign in ",;:!> " else "\\" + sign)
        elif name in ("frac", "dfrac", "tfrac", "cfrac"):
            above, at = _argument(text, at, depth)
            below, at = _argument(text, at, depth)
            put(f"{_grouped(above)}/{_grouped(below)}")
            part_digits()
        elif name == "sqrt" and not text.startswith("[", at):
            argument, at = _argument(text, at, depth)
            parts.append("√" + _grouped(argument))
            part_digits()
        elif name in _AROUND or name == "boxed":
            argument, at = _argument(text, at, depth)
            parts.append(argument)
        elif name in _SYMBOLS:
            symbol = _SYMBOLS[name]
            if symbol == "°" and parts and parts[-1].endswith("^"):
                parts[-1] = parts[-1][:-1]
            parts.append(symbol)
            if symbol in _OPERATORS:
                parts[-1] = f" {symbol} "
            elif symbol.isalpha() and symbol.isascii():
                if _ARGUMENT_OF_FUNCTION.match(text, at):
                    parts.append(" ")
            elif re.match(" [a-zA-Z]", text[at:]):
                at += 1  # it only ends the command's name
        elif name not in ("left", "right", "displaystyle"):
            parts.append(found[0])
    parts.append(text[at:])
    return " ".join("".join(parts).split())


def _argument(text: str, at: int, depth: int) -> tuple[str, int]:
    """The argument of a command that begins here, rewritten, and where it ends."""
    begin = at + len(text[at:]) - len(text[at:].lstrip(" "))
    if text.startswith("{", begin):
        end = _closing(text, begin)
        if end is not None:
            return _rewritten(text[begin + 1 : end], depth + 1), end + 1
    found = _ARGUMENT.match(text, at)
    return (found[1], found.end()) if found else ("", at)


def _grouped(argument: str) -> str:
    return argument if not argument or _SIMPLE.fullmatch(argument) else f"({argument})"


def _closing(text: str, begin: int) -> int | None:
    """Where the brace that opens here is closed."""
    depth = 0
    for found in re.finditer(r"(?<!\\)[{}]", text[begin:]):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return begin + found.start()
    return None
