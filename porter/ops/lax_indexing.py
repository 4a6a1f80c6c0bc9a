"""Gathers, scatters and sorts of the jax namespaces. Indices are in range already: the clip is a formality."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax

_SCATTER = {
    "none": lax.scatter,
    "add": lax.scatter_add,
    "mul": lax.scatter_mul,
    "max": lax.scatter_max,
    "min": lax.scatter_min,
}


class Indexing:
    """What selects elements by their place or order."""

    slice: Callable[..., Any]

    def take(self, x: Any, indices: Any, axis: int) -> Any:
        axis, rank = axis % x.ndim, np.ndim(indices)
        offset = (*range(axis), *range(axis + rank, x.ndim - 1 + rank))
        numbers = lax.GatherDimensionNumbers(offset_dims=offset, collapsed_slice_dims=(axis,), start_index_map=(axis,))
        sizes = tuple(1 if i == axis else n for i, n in enumerate(x.shape))
        return lax.gather(x, lax.expand_dims(indices, (rank,)), numbers, sizes, mode="clip")

    def take_along_axis(self, x: Any, indices: Any, axis: int) -> Any:
        axis = axis % x.ndim
        lead = tuple(i for i in range(x.ndim) if i != axis)
        x = self.slice(x, (0,) * x.ndim, tuple(n if i == axis else indices.shape[i] for i, n in enumerate(x.shape)))
        numbers = lax.GatherDimensionNumbers(
            offset_dims=(),
            collapsed_slice_dims=(axis,),
            start_index_map=(axis,),
            operand_batching_dims=lead,
            start_indices_batching_dims=lead,
        )
        return lax.gather(x, lax.expand_dims(indices, (x.ndim,)), numbers, (1,) * x.ndim, mode="clip")

    def gather_nd(self, x: Any, indices: Any, batch_dims: int = 0) -> Any:
        depth, rank = indices.shape[-1], indices.ndim - 1
        lead = tuple(range(batch_dims))
        mapped = tuple(range(batch_dims, batch_dims + depth))
        numbers = lax.GatherDimensionNumbers(
            offset_dims=tuple(range(rank, rank + x.ndim - batch_dims - depth)),
            collapsed_slice_dims=mapped,
            start_index_map=mapped,
            operand_batching_dims=lead,
            start_indices_batching_dims=lead,
        )
        sizes = tuple(1 if i < batch_dims + depth else n for i, n in enumerate(x.shape))
        return lax.gather(x, indices, numbers, sizes, mode="clip")

    def scatter_nd(self, x: Any, indices: Any, updates: Any, reduction: str) -> Any:
        depth, rank = indices.shape[-1], indices.ndim - 1
        numbers = lax.ScatterDimensionNumbers(
            update_window_dims=tuple(range(rank, rank + x.ndim - depth)),
            inserted_window_dims=tuple(range(depth)),
            scatter_dims_to_operand_dims=tuple(range(depth)),
        )
        return _SCATTER[reduction](x, indices, updates.astype(x.dtype), numbers, mode="clip")

    def scatter_along_axis(self, x: Any, indices: Any, updates: Any, axis: int, reduction: str) -> Any:
        where = [lax.broadcasted_iota(indices.dtype, indices.shape, i) for i in range(x.ndim)]
        where[axis] = indices
        return self.scatter_nd(x, lax.concatenate([lax.expand_dims(w, (x.ndim,)) for w in where], x.ndim),
                               updates, reduction)  # fmt: skip
