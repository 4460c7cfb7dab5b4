"""Spaces and capitals in text: where they mean something, and where they do not."""

from __future__ import annotations

import re
from collections.abc import Collection

_LONGEST_FORMULA = 2_000
_OPERATOR = re.compile(
    r"(?<=\S) ([=<>≤≥≠≈×·÷/^*±∈∪∩→|]) (?=\S)|(?<=[^\s(,=<>+\-*/^]) ([+-]) (?=\S)|(?<=\S) ?(,) ?(?=\S)"
)
_UNARY = re.compile(r"(?:^|(?<=[=,(\[]))([±∓]) ")
_TIMES = re.compile(r"(?<![\w/^.,√])(\d+) (?=[√π])")  # "2 √3", but not "1/2 √3"
_LETTERS = r"[^\W\d_]"
_LONG_WORD = re.compile(rf"{_LETTERS}{{3}}")
_FUNCTION = re.compile(rf"(?<!{_LETTERS})(?:sin|cos|tan|log|exp)(?!{_LETTERS})")
WORD = re.compile(rf"[(]?({_LETTERS}+(?:['\-]{_LETTERS}+)*)[,.;:!?)]{{0,3}}")
_ONE_LETTER = re.compile(rf"(?:^|-){_LETTERS}-")
_PARTS = re.compile("['-]")
_BLANK = re.compile(r"\s+")
_FORMULA_SIGN = re.compile(r"[=<>≤≥≠≈×·÷/^*±∈∪∩→|,√π]|[^\s(] [+-] ")
_SAME_IN_CAPITALS = frozenset({"YES", "NO", "OK", "LOW", "JA", "OUI", "NON", "SÍ", "SIM", "NÃO", "ДА", "НЕТ"})
# Small words with which sentences begin, and no line of code or command.
_BEGIN_SENTENCES = frozenset(
    {"the", "a", "an", "at", "on", "in", "of", "by", "to", "he", "she", "it", "they", "we", "you", "his", "her", "its"}
)


def plain_words(text: str, layers: Collection[str]) -> str:
    """Text with single spaces and in small letters, where neither spaces nor capitals mean anything in it."""
    if "\t" in text:
        return text  # columns, or the beginning of a rule
    if "spacing" in layers and _is_formula(text):
        return _UNARY.sub(r"\1", _OPERATOR.sub(_joined, _TIMES.sub(r"\1", _BLANK.sub(" ", text))))
    tokens = text.split()
    matches = [WORD.fullmatch(token) for token in tokens]
    if matches[-1] is None and len(tokens) > 1 and tokens[-1].isdecimal():
        del matches[-1]  # "World War 2"
    if not all(matches):
        return text
    if "case" in layers:
        words = [match[1] for match in matches if match is not None]
        tokens = _in_small_letters(tokens, words)
    if "spacing" in layers:
        return " ".join(tokens)
    pieces = re.split(r"(\s+)", text)
    pieces[::2] = tokens
    return "".join(pieces)


def _is_formula(text: str) -> bool:
    """Whether a text is numbers, signs and short names, so that spaces on both sides of a sign mean nothing."""
    if len(text) > _LONGEST_FORMULA or "'" in text or '"' in text or "\\" in text or ":" in text or "$" in text:
        return False
    return _LONG_WORD.search(_FUNCTION.sub("", text)) is None and _FORMULA_SIGN.search(text) is not None


def _joined(found: re.Match[str]) -> str:
    sign = found[1] or found[2]
    if sign:
        return sign
    # "1, 5" may be two numbers, and "1,5" one.
    text = found.string
    beside = text[found.start() - 1 : found.start()].isdigit() and text[found.end() : found.end() + 1].isdigit()
    return found[0] if beside and text.count(",") == 1 and "∈" not in text else ","


def _in_small_letters(tokens: list[str], words: list[str]) -> list[str]:
    """Tokens in small letters, so far as their capitals are those of a text in capitals, or of words in a sentence.

    Other capitals tell things apart: in ``US`` and ``pH``; after a small beginning that may be a command, as in
    ``cd Downloads``; and in words of one or two letters, such as ``Co``, ``CO``, ``mW`` and ``MW``.
    """
    first, longest = words[0], max(map(len, words))
    if any(_ONE_LETTER.search(word) for word in words):
        return tokens  # "D-glucose" and "d-glucose"
    if len(words) == 1 and first.upper() in _SAME_IN_CAPITALS:
        return [token.lower() for token in tokens]
    if all(map(str.isupper, words)):
        are_words = (longest > 3 or (longest == 3 and len(words) > 1)) and not _stands_for_letters(first)
        return [token.lower() for token in tokens] if are_words else tokens
    if longest < 3:
        return tokens
    if not (_has_one_capital(first) or (first.isupper() and len(first) <= 3) or tokens[0] in _BEGIN_SENTENCES):
        return tokens
    small = [_has_one_capital(word) and (len(word) > 1 or at == 0) for at, word in enumerate(words)]
    small += [False] * (len(tokens) - len(words))
    return [token.lower() if is_small else token for token, is_small in zip(tokens, small, strict=True)]


def _has_one_capital(word: str) -> bool:
    """Whether a word is written as at the beginning of a sentence, or each part of it is, as in ``Well-Known``."""
    return (
        word[0].isupper() and (word == "A" or len(word) > 1) and all(p[1:] == p[1:].lower() for p in _PARTS.split(word))
    )


def _stands_for_letters(word: str) -> bool:
    """Whether a word in capitals is no word, such as the genotype AABB, which is not aabb."""
    return word[:2] == word[:1] * 2
