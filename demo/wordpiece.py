"""WordPiece, BERT's tokenizer: text to ids of a vocabulary, by the longest known piece first."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np


class WordPiece:
    """Uncased BERT tokenization: lower case, accents stripped, punctuation and Chinese characters are words."""

    def __init__(self, vocabulary: Sequence[str], longest_word: int = 100) -> None:
        self.ids = {piece: i for i, piece in enumerate(vocabulary)}
        self.longest_word = longest_word

    @staticmethod
    def read(path: Path) -> WordPiece:
        """From vocab.txt: one piece per line, its line number is its id."""
        return WordPiece(path.read_text(encoding="utf-8").splitlines())

    def encode(self, text: str) -> list[int]:
        """The ids of a text between [CLS] and [SEP]."""
        return [self.ids["[CLS]"], *(i for word in _words(text) for i in self._pieces(word)), self.ids["[SEP]"]]

    def batch(self, texts: Sequence[str], length: int) -> dict[str, np.ndarray]:
        """input_ids and attention_mask, int64[texts, length], padded with [PAD]. Longer texts are cut before [SEP]."""
        ids = np.full((len(texts), length), self.ids["[PAD]"], np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            found = self.encode(text)
            found = found if len(found) <= length else [*found[: length - 1], self.ids["[SEP]"]]
            ids[row, : len(found)] = found
            mask[row, : len(found)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def _pieces(self, word: str) -> list[int]:
        if len(word) > self.longest_word:
            return [self.ids["[UNK]"]]
        found, start = [], 0
        while start < len(word):
            mark = "##" if start else ""
            ends = (e for e in range(len(word), start, -1) if mark + word[start:e] in self.ids)
            if (end := next(ends, None)) is None:
                return [self.ids["[UNK]"]]
            found.append(self.ids[mark + word[start:end]])
            start = end
        return found


def _words(text: str) -> Iterator[str]:
    plain = unicodedata.normalize("NFD", "".join(_clean(c) for c in text).lower())
    word = ""
    for c in plain:
        if unicodedata.category(c) == "Mn":
            continue
        if c.isspace() or _alone(c):
            if word:
                yield word
            word = ""
            if not c.isspace():
                yield c
        else:
            word += c
    if word:
        yield word


def _clean(c: str) -> str:
    """Control characters vanish, white space is a space."""
    if c in "\t\n\r" or unicodedata.category(c) == "Zs":
        return " "
    return "" if c in "\0\ufffd" or unicodedata.category(c).startswith("C") else c


def _alone(c: str) -> bool:
    """Punctuation (ASCII symbols included, as BERT has it) and Chinese characters stand alone."""
    ascii_symbol = 33 <= ord(c) <= 47 or 58 <= ord(c) <= 64 or 91 <= ord(c) <= 96 or 123 <= ord(c) <= 126
    chinese = any(a <= ord(c) <= b for a, b in _CHINESE)
    return ascii_symbol or chinese or unicodedata.category(c).startswith("P")


_CHINESE = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
