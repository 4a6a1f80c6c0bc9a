"""A jaxpr in 32 bits and at a stated precision: what a program for a device computes instead of 64-bit types.

Device indices are 32-bit; so int64 values become int32, uint64 uint32 and float64 float32, in arguments, constants and
the parameters of primitives. The caller checks that integers fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

NARROW = {"int64": "int32", "uint64": "uint32", "float64": "float32"}
_PRODUCTS = ("dot_general", "conv_general_dilated")
_MOVEMENT = ("reshape", "transpose", "broadcast_in_dim", "squeeze", "slice", "rev", "copy")
_INLINED = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")


def narrow_dtype(dtype: Any) -> np.dtype:
    """The dtype in at most 32 bits."""
    dtype = np.dtype(dtype)
    return np.dtype(NARROW.get(dtype.name, dtype.name)) if dtype.name in NARROW else dtype


def narrowed(closed: Any, precision: Any = None) -> Callable[..., list[Any]]:
    """A function of the jaxpr's arguments that evaluates it in 32 bits; call it where x64 is off.

    precision: for every dot and convolution of float32 that states none. A product of two bfloat16 tensors that were
    widened to float32 is the product of the bfloat16 tensors, summed in float32: equal, in one pass of the matrix unit.
    """

    def run(*arguments: Any) -> list[Any]:
        return _evaluate(closed.jaxpr, closed.consts, list(arguments), precision)

    return run


def _evaluate(jaxpr: Any, consts: list[Any], arguments: list[Any], precision: Any) -> list[Any]:
    values: dict[Any, Any] = {}
    before: dict[Any, Any] = {}  # bfloat16 values that were widened to float32: a product takes them as they were

    def read(v: Any) -> Any:
        if isinstance(v, jex.Literal):
            return _array(v.val, getattr(v.aval, "dtype"))  # noqa: B009  (an AbstractValue has none to mypy)
        return values[v]

    for v, x in zip(jaxpr.constvars, consts, strict=True):
        values[v] = _array(x, v.aval.dtype)
    for v, x in zip(jaxpr.invars, arguments, strict=True):
        values[v] = x
    for e in jaxpr.eqns:
        inputs = [read(v) for v in e.invars]
        if e.primitive.name in _INLINED:
            inner = next(e.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in e.params)
            outputs = _evaluate(getattr(inner, "jaxpr", inner), getattr(inner, "consts", []), inputs, precision)
        else:
            params = {k: _parameter(v, precision) for k, v in e.params.items()}
            if e.primitive.name in _PRODUCTS:
                narrow = [before.get(v) if not isinstance(v, jex.Literal) else None for v in e.invars]
                if all(x is not None for x in narrow):
                    inputs, params["preferred_element_type"] = narrow, np.dtype("float32")
                elif precision is not None and params["precision"] is None:
                    params["precision"] = (precision, precision)
            found = e.primitive.bind(*inputs, **params)
            outputs = list(found) if e.primitive.multiple_results else [found]
        values.update(zip(e.outvars, outputs, strict=True))
        kinds = (inputs[0].dtype, outputs[0].dtype) if e.primitive.name == "convert_element_type" else None
        if kinds == (jnp.bfloat16, jnp.float32):
            before[e.outvars[0]] = inputs[0]
        elif e.primitive.name in _MOVEMENT and not isinstance(e.invars[0], jex.Literal) and e.invars[0] in before:
            before[e.outvars[0]] = e.primitive.bind(before[e.invars[0]], *inputs[1:], **params)
    return [read(v) for v in jaxpr.outvars]


def _array(value: Any, dtype: Any) -> Any:
    return jnp.asarray(np.asarray(value).astype(narrow_dtype(dtype)))


def _parameter(value: Any, precision: Any) -> Any:
    """A primitive's parameter with its dtypes and inner jaxprs narrowed."""
    if isinstance(value, jex.ClosedJaxpr):
        types = [jax.ShapeDtypeStruct(v.aval.shape, narrow_dtype(v.aval.dtype)) for v in value.jaxpr.invars]
        return jax.make_jaxpr(narrowed(value, precision))(*types)
    if isinstance(value, tuple) and any(isinstance(x, jex.ClosedJaxpr) for x in value):
        return tuple(_parameter(x, precision) for x in value)
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return narrow_dtype(value)
    return value
