"""The geometry of a TensorCore that lowering asks for, read from the device's facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes  # noqa: F401  (numpy learns bfloat16 and narrower)
import numpy as np

if TYPE_CHECKING:
    from porter.device import Device


FP8 = ("float8_e4m3fn", "float8_e5m2")  # 8-bit floats that Mosaic has products of


@dataclass(frozen=True)
class Geometry:
    """Lanes x sublanes of a vector register of 32-bit elements, the matrix unit's width, and VMEM of one core."""

    name: str
    lanes: int
    sublanes: int
    matrix: int
    vmem: int
    fp8: tuple[str, ...] = ()  # 8-bit floats whose product is faster than bfloat16's

    @staticmethod
    def of(device: Device) -> Geometry:
        faster = device.get("peak.fp8", 0.0) > device["peak.bf16"]
        fp8 = tuple(f for f in device["formats.matmul"] if f in FP8) if faster else ()
        return Geometry(device.name.partition(":")[2], int(device["vector.lanes"]), int(device["vector.sublanes"]),
                        int(device["matrix.cols"]), int(device["memory.vmem.bytes"]), fp8)  # fmt: skip

    def multiple(self, from_last: int) -> int:
        """What a block dimension must be a multiple of, unless it is whole; from_last 0 is the last dimension."""
        return (self.lanes, self.sublanes)[from_last] if from_last < 2 else 1

    def padded(self, shape: tuple[int, ...], dtype: str) -> int:
        """Bytes of an array in VMEM: the last two dimensions in tiles of (sublanes x packing, lanes)."""
        size = np.dtype(dtype).itemsize if dtype != "bool" else 4  # Mosaic keeps predicates in 32 bits
        *lead, rows, columns = (1, 1, *shape)[-max(len(shape), 2) :]
        pack = self.sublanes * max(1, 4 // size)
        total = -(-columns // self.lanes) * self.lanes * (-(-rows // pack) * pack) * size
        for n in lead:
            total *= n
        return total
