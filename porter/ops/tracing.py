"""A kernel's meaning: a model-local function traced to a jaxpr of lax primitives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from porter.errors import PorterError
from porter.graph import Function, Model
from porter.ops.evaluation import evaluate
from porter.ops.lax import jax_namespace, kernel_namespace

ShapeDtype = jax.ShapeDtypeStruct


def trace(
    function: Function,
    model: Model,
    inputs: Sequence[Any],
    attributes: dict[str, Any] | None = None,
) -> Any:
    """The function as a jax ClosedJaxpr: one invar per input that is a type, outputs in the declared types.

    `inputs` are `ShapeDtype(shape, dtype)` or arrays; an array is a known constant (a shape, an axis, a weight), None
    an absent optional input. Narrow floats are cast to float32 where they enter, arithmetic is in float32, and casts
    stand where ONNX has Cast and where a narrow output leaves; a dot of two bfloat16 tensors is the dot of their casts.
    Raises PorterError where a shape depends on data.
    """
    if len(inputs) != len(function.inputs):
        raise PorterError(
            f"function '{function.name}'", expected=f"{len(function.inputs)} inputs", found=str(len(inputs))
        )
    free = [i for i, x in enumerate(inputs) if x is not None and not isinstance(x, np.ndarray | np.generic)]
    types = [jax.ShapeDtypeStruct(tuple(inputs[i].shape), np.dtype(inputs[i].dtype)) for i in free]

    def run(xp: Any, *arrays: Any) -> list[Any]:
        given = dict(zip(free, arrays, strict=True))
        named = {str(v.name): given.get(i, inputs[i]) for i, v in enumerate(function.inputs) if inputs[i] is not None}
        found = evaluate(function, named, xp, functions=model.functions, bound=attributes or {})
        return [found[str(v.name)] for v in function.outputs]

    # what the rounding namespace returns has the declared types: the kernel's stores cast to them
    declared = [out.dtype for out in jax.eval_shape(lambda *a: run(jax_namespace, *a), *types)]

    def kernel(*arrays: Any) -> list[Any]:
        results = run(kernel_namespace, *arrays)
        return [kernel_namespace.cast(jax.numpy.asarray(r), d) for r, d in zip(results, declared, strict=True)]

    return jax.make_jaxpr(kernel)(*types)
