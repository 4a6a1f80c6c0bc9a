"""WordPiece: lower case, no accents, longest known piece first, unknown words as one."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo"))

from wordpiece import WordPiece

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "un",
    "##aff",
    "##able",
    "##a",
    "cafe",
    ",",
    "!",
    "$",
    "5",
    "中",
    "文",
    "##ff",
]
TOKENS = WordPiece(PIECES)


def pieces(text: str) -> list[str]:
    return [PIECES[i] for i in TOKENS.encode(text)][1:-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unaffable", ["un", "##aff", "##able"]),  # '##aff' before '##a' and '##ff'
        ("Unaff", ["un", "##aff"]),
        ("CAFÉ,  café!", ["cafe", ",", "cafe", "!"]),
        ("un\tcafe\u0000\n", ["un", "cafe"]),
        ("unknown", ["[UNK]"]),  # no piece for the rest: the whole word is unknown
        ("$5", ["$", "5"]),
        ("中文", ["中", "文"]),
        ("un" * 60, ["[UNK]"]),  # longer than a hundred characters
        ("", []),
    ],
)
def test_pieces(text, expected):
    assert pieces(text) == expected


def test_batches_are_padded_and_cut_before_the_end_mark():
    batch = TOKENS.batch(["un", "un cafe un cafe un"], 5)
    np.testing.assert_array_equal(batch["input_ids"], [[2, 4, 3, 0, 0], [2, 4, 8, 4, 3]])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
