"""A jaxpr in 32 bits and at a stated precision: what a program for a device computes instead of 64-bit types.

Device indices are 32-bit; so int64 values become int32 and uint64 uint32, in arguments, constants and the parameters of
primitives. The caller checks that integers fit. No float64 becomes a float32: a jaxpr that has one anywhere computes in
its own types, and only its arguments and results hold integers in 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax import lax

from porter.xla import windows
from porter.xla.coded import Stood, product, widened

NARROW = {"int64": "int32", "uint64": "uint32"}
_PRODUCTS = ("dot_general", "conv_general_dilated")
_MOVEMENT = ("reshape", "transpose", "broadcast_in_dim", "squeeze", "slice", "rev", "copy")
_INLINED = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")


def narrow_dtype(dtype: Any, types: Mapping[str, str] = NARROW) -> np.dtype:
    """The dtype in at most 32 bits; float64 stays."""
    dtype = np.dtype(dtype)
    return np.dtype(types.get(dtype.name, dtype.name)) if dtype.name in NARROW else dtype


def is_double(closed: Any) -> bool:
    """Whether a jaxpr has a float64 anywhere: it is traced and run where x64 is on."""
    jaxpr = getattr(closed, "jaxpr", closed)
    variables = [*jaxpr.invars, *jaxpr.constvars, *(v for e in jaxpr.eqns for v in (*e.invars, *e.outvars))]
    if any(getattr(v.aval, "dtype", None) == np.float64 for v in variables):
        return True
    return any(is_double(inner) for e in jaxpr.eqns for inner in _inner(e))


def _inner(equation: Any) -> list[Any]:
    found = []
    for value in equation.params.values():
        for x in value if isinstance(value, tuple | list) else (value,):
            if isinstance(x, jex.ClosedJaxpr | jex.Jaxpr):
                found.append(x)
    return found


def narrowed(closed: Any, precision: Any = None, units: Collection[str] = ()) -> Callable[..., list[Any]]:
    """A function of the jaxpr's arguments that evaluates it in 32 bits; call it where x64 is `is_double(closed)`.

    precision: for every dot and convolution of float32 that states none. A product of two bfloat16 tensors that were
    widened to float32 is the product of the bfloat16 tensors, summed in float32: equal, in one pass of the matrix unit. So is one
    of codes, whose scales move behind it (porter.xla.coded); those of `units` meet as they lie.
    """
    types = {} if is_double(closed) else NARROW

    def run(*arguments: Any) -> list[Any]:
        given = [_cast(x, v.aval.dtype, types) for x, v in zip(arguments, closed.jaxpr.invars, strict=True)]
        found = _evaluate(closed.jaxpr, closed.consts, given, precision, types, units)
        return [_cast(x, x.dtype, NARROW) for x in found]

    return run


def _cast(x: Any, dtype: Any, types: Mapping[str, str]) -> Any:
    kind = narrow_dtype(dtype, types)
    return x if x.dtype == kind else x.astype(kind)


def _evaluate(
    jaxpr: Any,
    consts: list[Any],
    arguments: list[Any],
    precision: Any,
    types: Mapping[str, str],
    units: Collection[str] = (),
) -> list[Any]:
    values: dict[Any, Any] = {}
    before: dict[Any, Stood] = {}  # values that were widened to float32, and scaled: a product takes them as they were

    def read(v: Any) -> Any:
        if isinstance(v, jex.Literal):
            return _array(v.val, getattr(v.aval, "dtype"), types)  # noqa: B009  (an AbstractValue has none to mypy)
        return values[v]

    for v, x in zip(jaxpr.constvars, consts, strict=True):
        values[v] = _array(x, v.aval.dtype, types)
    for v, x in zip(jaxpr.invars, arguments, strict=True):
        values[v] = x

    def stood(v: Any) -> Stood | None:
        return None if isinstance(v, jex.Literal) else before.get(v)

    for e in jaxpr.eqns:
        inputs = [read(v) for v in e.invars]
        if e.primitive.name in _INLINED:
            inner = next(e.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in e.params)
            held = getattr(inner, "consts", [])
            outputs = _evaluate(getattr(inner, "jaxpr", inner), held, inputs, precision, types, units)
        else:
            params = {k: _parameter(v, precision, types) for k, v in e.params.items()}
            found = None
            if e.primitive.name in _PRODUCTS:
                a, b = (stood(v) for v in e.invars)
                if a is not None and b is not None:
                    found = product(partial(_bound, e.primitive), (a, b), params, units)
                if found is None and precision is not None and params["precision"] is None:
                    params["precision"] = (precision, precision)
            found = _bound(e.primitive, inputs, params) if found is None else found
            outputs = list(found) if e.primitive.multiple_results else [found]
        values.update(zip(e.outvars, outputs, strict=True))
        if (now := _stood(e, inputs, outputs, [stood(v) for v in e.invars])) is not None:
            before[e.outvars[0]] = now
    return [read(v) for v in jaxpr.outvars]


def _stood(e: Any, inputs: list[Any], outputs: list[Any], held: list[Stood | None]) -> Stood | None:
    """What an equation's result was before it was widened, scaled and moved."""
    name = e.primitive.name
    if name == "convert_element_type":
        return widened(inputs[0], outputs[0])
    if name == "mul":
        pairs = [(h, inputs[1 - i]) for i, h in enumerate(held) if h is not None]
        return next((s for h, factor in pairs if (s := h.scaled(factor)) is not None), None)
    if name in _MOVEMENT and held[0] is not None:
        return held[0].moved(e.primitive, inputs[1:], e.params)
    return None


def _bound(primitive: Any, inputs: list[Any], params: dict[str, Any]) -> Any:
    if primitive is lax.conv_general_dilated_p:
        x, w = inputs
        axis = windows.long(x, w, params)
        if axis is not None:
            return windows.convolution(x, w, axis, params)
    return primitive.bind(*inputs, **params)


def _array(value: Any, dtype: Any, types: Mapping[str, str]) -> Any:
    return jnp.asarray(np.asarray(value).astype(narrow_dtype(dtype, types)))


def _parameter(value: Any, precision: Any, types: Mapping[str, str]) -> Any:
    """A primitive's parameter with its dtypes and inner jaxprs narrowed."""
    if isinstance(value, jex.ClosedJaxpr):
        given = [jax.ShapeDtypeStruct(v.aval.shape, narrow_dtype(v.aval.dtype, types)) for v in value.jaxpr.invars]
        return jax.make_jaxpr(lambda *x: _evaluate(value.jaxpr, value.consts, list(x), precision, types))(*given)
    if isinstance(value, jex.Jaxpr):  # what a scatter does with two numbers
        return _parameter(jex.ClosedJaxpr(value, ()), precision, types).jaxpr
    if isinstance(value, tuple) and any(isinstance(x, jex.ClosedJaxpr) for x in value):
        return tuple(_parameter(x, precision, types) for x in value)
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return narrow_dtype(value, types)
    return value
