"""The checkpoint's tokenizer and chat template: from chat messages to token ids, and from token ids to bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROLES = ("system", "user", "assistant")


class ChatTokenizer:
    """Turns chat messages into token ids and token ids into bytes.

    A conversation reads `<|role|>content<|end|>` for each message, then `<|assistant|>`. The markers are put in as
    token ids and the contents are encoded with their special tokens taken as ordinary characters, so a message that
    spells out a marker cannot forge a turn. The many tokens that stand for whole lines of DSPy's prompts are not
    special and are matched as usual.

    Attributes:
        end: The id of `<|end|>`, which closes every message.
        size: How many token ids mean something. The model has a few more rows than that.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(path))
        self._tokenizer.encode_special_tokens = True
        self.size: int = self._tokenizer.get_vocab_size()
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {token.content: number for number, token in added.items() if token.special}
        self.end = self._special["<|end|>"]

        characters = _characters_of_bytes()
        self._bytes: list[bytes] = []
        for number in range(self.size):
            if number in added:
                self._bytes.append(added[number].content.encode())
            else:
                token = self._tokenizer.id_to_token(number)
                self._bytes.append(bytes(characters[character] for character in token))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_chat(
        self, messages: Sequence[tuple[str, str]], open_turn: bool = True, continue_last: bool = False
    ) -> list[int]:
        """Return the token ids of a conversation.

        Args:
            messages: Pairs of a role and a content.
            open_turn: Whether an assistant's turn is opened at the end.
            continue_last: Whether the last message is left open, for the model to go on with it.
        """
        ids = []
        for role, content in messages:
            ids += [self._special[f"<|{role}|>"], *self.encode(content), self.end]
        if continue_last:
            ids.pop()
        if open_turn:
            ids.append(self._special["<|assistant|>"])
        return ids

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes a token stands for. A token may hold part of a character only."""
        return self._bytes[token]

    def unspeakable(self, vocabulary: int) -> np.ndarray:
        """Return which of `vocabulary` ids a reply may not hold: special tokens, save the end, and ids of no token."""
        banned = np.ones(vocabulary, bool)
        banned[: self.size] = False
        banned[[number for number in self._special.values() if number != self.end]] = True
        return banned


def _characters_of_bytes() -> dict[str, int]:
    """Return byte-level BPE's alphabet: printable Latin-1 bytes stand for themselves, the others for U+0100 onwards."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
