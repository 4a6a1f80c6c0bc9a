"""Smaller shapes that still fail: each extent of the inputs and weights cut to 1, 2 or half of it, everywhere at once.

    models, inputs = shrink((before, after), inputs, fails)

Nothing is known of what an axis means: all axes of one extent are cut together, shapes among the constants follow, and
what does not evaluate any more, or no longer fails, is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from porter import graph
from porter.errors import PorterError
from porter.graph import Model

Inputs = Mapping[str, np.ndarray]
Fails = Callable[[Sequence[Model], Inputs], bool]

TRIES = 36  # evaluations of candidates in all
WEIGHTS = 1 << 28  # bytes of weights of a model beyond which it is left as it is
SHAPE = 8  # integers in a constant up to which it may be a shape


def shrink(models: Sequence[Model], inputs: Inputs, fails: Fails) -> tuple[Sequence[Model], Inputs]:
    """The models and inputs with every extent as small as it can be; as they are where nothing smaller fails."""
    if any(sum(w.nbytes for w in _weights(m).values()) > WEIGHTS for m in models):
        return models, inputs
    tries = 0
    for extent in sorted(_extents(models, inputs), reverse=True):
        for size in dict.fromkeys((1, 2, extent // 2)):
            if size >= extent or tries == TRIES:
                continue
            tries += 1
            try:
                made = [_cut(m, extent, size) for m in models], {n: _slice(x, extent, size) for n, x in inputs.items()}
                kept = fails(*made)
            except (PorterError, ValueError, IndexError, ArithmeticError):  # no valid model of that size
                continue
            if kept:
                models, inputs = made
                break
    return models, inputs


def _extents(models: Sequence[Model], inputs: Inputs) -> set[int]:
    weights = [w for m in models for w in _weights(m).values() if not _shape_like(w)]
    return {d for x in (*inputs.values(), *weights) for d in x.shape if d > 1}


def _weights(model: Model) -> dict[str, np.ndarray]:
    held = {n: graph.constant(v) for n, v in model.graph.initializers.items()}
    return {n: w for n, w in held.items() if w is not None}


def _shape_like(array: np.ndarray) -> bool:
    return array.dtype.kind == "i" and array.ndim < 2 and array.size <= SHAPE


def _slice(array: np.ndarray, extent: int, size: int) -> np.ndarray:
    return np.ascontiguousarray(array[tuple(slice(size) if d == extent else slice(None) for d in array.shape)])


def _cut(model: Model, extent: int, size: int) -> Model:
    """A copy with all axes of that extent cut to the size, weights and shapes among the constants too."""
    copy = graph.clone(model)
    for name, array in _weights(copy).items():
        made = np.where(array == extent, size, array).astype(array.dtype) if _shape_like(array) else None
        value = copy.graph.initializers[name]
        new: np.ndarray = made if made is not None else _slice(array, extent, size)
        value.const_value = graph.make_tensor(new, name=name)
        value.shape = graph.new_value(None, new.dtype, new.shape).shape
    for node in copy.graph:
        stored = graph.constant(node.outputs[0]) if node.op_type == "Constant" else None
        if stored is not None and _shape_like(stored) and (stored == extent).any():
            changed = np.where(stored == extent, size, stored).astype(stored.dtype)
            name = graph.fresh(f"{node.outputs[0].name}_cut", graph.names(copy.graph))
            held = graph.new_value(name, changed.dtype, changed.shape)
            held.const_value = graph.make_tensor(changed, name=name)
            copy.graph.register_initializer(held)
            node.outputs[0].replace_all_uses_with(held)
    for value in copy.graph.inputs:
        dims = graph.shape(value) or ()
        value.shape = graph.new_value(None, None, [size if d == extent else d for d in dims]).shape
    for value in copy.graph.outputs:
        value.shape = None
    graph.infer_types(copy)
    return copy
