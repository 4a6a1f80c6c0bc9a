"""What the tiler asks of a device: the limits within which it chooses tile sizes and roles."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits on tiles, read by a target from its device file.

    Sizes count elements unless they say bytes. `dot_m`, `dot_n`, `dot_k` bound the product of the tile sizes on each
    side of one dot; their minima are what the matrix unit wants to be filled (smaller dots are still legal where
    `small_dots` holds).
    """

    power_of_two: bool = False  # tile sizes are powers of two, edges are masked (Triton); else exact where resident
    dot_m: tuple[int, int] = (1, 128)
    dot_n: tuple[int, int] = (1, 128)
    dot_k: tuple[int, int] = (1, 128)
    elements: int = 1 << 14  # of one tile value
    bytes: int = 1 << 20  # of all tiles live at once
    resident: int = 4096  # longest axis that may lie in one tile for a reduction
    whole: int = 256  # longest output axis that is kept whole to avoid computing something again
    elementwise: int = 1024  # elements of a tile that only elementwise operations touch
    #: of the last positions of each access, last first: (128, 8) on TPU; or the full extent
    multiples: tuple[int, ...] = ()
    partitions: int = 0  # lanes of the partition axis where one value axis lies across them (Trainium)
    #: a loop's last tile may stick out; else its tile divides the extent, or the axis is resident
    ragged_loops: bool = True
    cores: int = 1  # instances that run side by side: a smaller grid leaves some idle
    least: tuple[int, int] = (64, 16)  # rows and columns of a dot's tile that are not halved for that
    grid: int = (1 << 31) - 1  # grid points
    float32_product: str = "fp32"  # how float32 operands of a dot are multiplied (porter.formats.matmul)
    #: integers that the matrix unit multiplies into int32, faster than bf16: 'int8', 'int4'
    integer: tuple[str, ...] = ()
    subbyte: bool = (
        False  # the languages have elements of 4 bits, which lie packed in memory; else bytes hold two codes
    )

    #: products of operands with block scales that the emitter asks for: 'mxfp8' (E4M3, an E8M0 scale per 32 of the sum), ...
    block_scaled: tuple[str, ...] = ()
    block_depth: tuple[int, int] = (0, 0)  # the depth of such a product: in codes of 8 bits, in bytes of two of 4 bits
    block_rows: int = 0  # its least rows (dot_m's own where 0)
    #: the depth of a product of 8-bit floats, and of which ones (dot_k's own for others)
    float8_depth: int = 0
    float8: frozenset[str] = frozenset()
    lacking: frozenset[str] = frozenset()  # number formats that the language has no word for: their codes lie in bytes
    saturating: frozenset[str] = frozenset()  # those whose casts saturate where numpy's overflow

    @property
    def apart(self) -> int:
        """How many of the last positions of an access the tiler must not merge with their neighbours."""
        return len(self.multiples) or (2 if self.partitions else 0)
