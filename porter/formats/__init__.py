"""Number formats: what a value becomes when a chip stores it, and what a matrix unit makes of a product.

>>> from porter import formats
>>> formats.of("bf16").round(1.005859375)
1.0078125
>>> formats.of("float8_e4m3fn").max, formats.of("float8_e4m3b11fnuz").max
(448.0, 30.0)

`number.Format` rounds, encodes and packs; `matmul.dot` multiplies as a matrix unit does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from porter.formats.number import FORMATS as FORMATS
    from porter.formats.number import Format as Format
    from porter.formats.number import of as of

__all__ = ["FORMATS", "Format", "of"]


def __getattr__(name: str) -> Any:
    """numpy and ml_dtypes load on first use, so that the command line starts without them."""
    if name in __all__:
        return getattr(import_module("porter.formats.number"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
