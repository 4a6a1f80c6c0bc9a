"""A user's arrays against the names, dtypes and shapes that a program wants."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from porter.bundle.manifest import Tensor
from porter.errors import PorterError

if TYPE_CHECKING:
    import numpy as np


def read_inputs(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name. Raises PorterError for what is no such file; never unpickles."""
    import numpy as np

    path = Path(path)
    how = "numpy.savez(file, name=array, ...)"
    if not path.is_file():
        raise PorterError(f"inputs {path}: no such file", expected=".npz", hint=how)
    if not zipfile.is_zipfile(path):
        raise PorterError(f"inputs {path} is not an .npz file", hint=how)
    try:
        with np.load(path, allow_pickle=False) as z:
            return {name: z[name] for name in z.files}
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise PorterError(f"inputs {path} cannot be read", found=str(e).partition("\n")[0], hint=how) from None


def check_inputs(given: Mapping[str, np.ndarray], wanted: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """The arrays in the program's order. Raises PorterError naming the first input that does not fit."""
    import ml_dtypes  # noqa: F401  registers bfloat16 and the narrow floats with numpy
    import numpy as np

    names = [t.name for t in wanted]
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            raise PorterError(
                f"there is no input '{name}'",
                expected=", ".join(names) or "no inputs",
                hint=f"'{near[0]}'" if near else None,
            )
    fitting = {}
    for t in wanted:
        if t.name not in given:
            raise PorterError(f"input '{t.name}' is missing", expected=_type(t.dtype, t.shape), found=", ".join(given))
        array = np.asarray(given[t.name])
        dtype = np.dtype(t.dtype)
        if array.dtype.kind == "V" and array.dtype.itemsize == dtype.itemsize:
            array = array.view(dtype)  # .npz keeps bfloat16 and the narrow floats as raw bytes
        if array.dtype != dtype or tuple(array.shape) != t.shape:
            wrong = "dtype" if array.dtype != dtype else "shape"
            raise PorterError(
                f"input '{t.name}' has another {wrong}",
                expected=_type(t.dtype, t.shape),
                found=_type(array.dtype.name, array.shape),
                hint=f"array.astype('{t.dtype}')" if wrong == "dtype" else "port with the --dim values of these inputs",
            )
        fitting[t.name] = array
    return fitting


def _type(dtype: str, shape: Sequence[int] | None) -> str:
    return f"{dtype}[{', '.join(map(str, shape or ()))}]"
