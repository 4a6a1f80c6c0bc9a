"""Matrix products in XLA programs: which precision they ask for, and what a matrix unit of bf16 passes makes of them.

On a TPU a float32 product takes one bf16 pass at precision DEFAULT, three at HIGH and six at HIGHEST; XLA's CPU and
Pallas' interpret mode multiply float32 exactly whatever is asked. So `dot_general` here stands in for theirs, with the
parts and terms of porter.formats.matmul, and `products` reads back what a program really asks for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from porter.errors import CheckFailed
from porter.formats.matmul import PRECISIONS

# XLA's precision: porter's name of the scheme, as TPUs and Neuron's bf16 casting run it.
SCHEME = {"DEFAULT": "bf16", "HIGH": "bf16x3", "HIGHEST": "bf16x6"}

_PRODUCT = re.compile(r'"?stablehlo\.(dot_general|convolution|dot)"?\(?')
_PRECISION = re.compile(r"precision\s*=\s*\[([^\]]*)\]|precision_config\s*=\s*\[([^\]]*)\]")
_TYPES = re.compile(r":\s*\(tensor<([^>]*)>,\s*tensor<([^>]*)>\)\s*->")


def dot_general(
    lhs: Any, rhs: Any, dimension_numbers: Any, precision: Any = None, preferred_element_type: Any = None, **rest: Any
) -> Any:
    """lax.dot_general as a matrix unit of bf16 passes computes it; narrower operands multiply exactly, in float32."""
    if not (jnp.issubdtype(lhs.dtype, jnp.floating) and jnp.issubdtype(rhs.dtype, jnp.floating)):
        lhs, rhs = (
            x.astype(jnp.int8) if x.dtype == jnp.int4 else x for x in (lhs, rhs)
        )  # the CPU's products begin there
        return lax.dot_general(lhs, rhs, dimension_numbers, precision=precision,
                               preferred_element_type=preferred_element_type, **rest)  # fmt: skip
    result = preferred_element_type or jnp.result_type(lhs, rhs)
    both = lhs.dtype == rhs.dtype == jnp.float32
    name = str(precision[0] if isinstance(precision, tuple) else precision or "DEFAULT").rpartition(".")[2].upper()
    scheme = PRECISIONS[SCHEME[name] if both else "fp32"]
    left, right = (_parts(x.astype(jnp.float32), scheme.parts, both) for x in (lhs, rhs))
    total = None
    for i, j in scheme.terms:
        if total is not None and (i, j) == (0, 0):
            total = jnp.where(jnp.isnan(total), jnp.float32(0), total)  # Inf - Inf in the split is no NaN of the model
        product = lax.dot_general(left[i], right[j], dimension_numbers, precision=lax.Precision.HIGHEST,
                                  preferred_element_type=jnp.float32)  # fmt: skip
        total = product if total is None else total + product
    assert total is not None
    return total.astype(result)


def _parts(x: Any, count: int, cut: bool) -> list[Any]:
    """The bf16 values that add up to x, as float32. reduce_precision, since XLA drops a cast to bfloat16 and back."""
    if not cut:
        return [x]
    parts, rest = [], x
    for _ in range(count):
        parts.append(lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=7))
        rest = rest - parts[-1]
    return parts


def products(text: str) -> list[tuple[str, str, str]]:
    """(operation, operand type, scheme) of each product in StableHLO text; the scheme of float32 operands is that of
    their precision, else the operand type itself."""
    found = []
    for line in text.splitlines():
        match = _PRODUCT.search(line)
        if match is None:
            continue
        types = _TYPES.search(line)
        kinds = [t.split("x")[-1] for t in types.groups()] if types else ["f32"]
        asked = _PRECISION.search(line)
        words = re.findall(r"DEFAULT|HIGHEST|HIGH", (asked.group(1) or asked.group(2)) if asked else "") or ["DEFAULT"]
        lowest = min(words, key=["DEFAULT", "HIGH", "HIGHEST"].index)
        found.append((match.group(1), kinds[0], SCHEME[lowest] if "f32" in kinds else kinds[0]))
    return found


_LINE = re.compile(
    r"^(\s*)(%[\w.$-]+) = (\"?stablehlo\.(?:dot_general|convolution)\"?)([ (])\s*(%[\w.$#-]+), (%[\w.$#-]+)(.*)$"
)


def by_passes(text: str) -> str:
    """StableHLO text with each float32 product spelled out as the bf16 passes that a TPU makes of its precision."""
    lines: list[str] = []
    for line in text.splitlines():
        match, types = _LINE.match(line), _TYPES.search(line)
        if match is None or types is None or not all(t.endswith("xf32") or t == "f32" for t in types.groups()):
            lines.append(line)
        else:
            lines += _spelled(line, match, types.group(1), types.group(2))
    return "\n".join(lines) + "\n"


def _spelled(line: str, match: re.Match[str], left_type: str, right_type: str) -> list[str]:
    """The lines that stand for one product: operands split into parts, a product per term, their sum in order."""
    space, name, op, opening, left, right, rest = match.groups()
    result = rest.rpartition("-> ")[2].strip()
    scheme = PRECISIONS[products(line)[0][2]]
    one = f"%p.{name[1:]}"
    lines: list[str] = []

    def put(target: str, value: str) -> str:
        lines.append(f"{space}{target} = {value}")
        return target

    def parts(whole: str, side: str, kind: str) -> list[str]:
        kept = []
        for i in range(scheme.parts):
            kept.append(put(f"{one}.{side}{i}", f"stablehlo.reduce_precision {whole}, format = e8m7 : tensor<{kind}>"))
            whole = put(f"{one}.{side}rest{i}", f"stablehlo.subtract {whole}, {kept[-1]} : tensor<{kind}>")
        return kept

    lefts, rights = parts(left, "a", left_type), parts(right, "b", right_type)
    flags = f"tensor<{result[len('tensor<') : -len('f32>')]}i1>"
    total = ""
    for number, (i, j) in enumerate(scheme.terms):
        if total and (i, j) == (0, 0):  # Inf - Inf in the split is no NaN of the model
            odd = put(f"{one}.nan", f"stablehlo.compare NE, {total}, {total} : ({result}, {result}) -> {flags}")
            zero = put(f"{one}.zero", f"stablehlo.constant dense<0.0> : {result}")
            total = put(f"{one}.small", f"stablehlo.select {odd}, {zero}, {total} : {flags}, {result}")
        last = number == len(scheme.terms) - 1
        product = put(name if last and not total else f"{one}.t{number}", f"{op}{opening}{lefts[i]}, {rights[j]}{rest}")
        if total:
            product = put(name if last else f"{one}.s{number}", f"stablehlo.add {total}, {product} : {result}")
        total = product
    return lines


def require_products(where: str, found: Sequence[str], asked: Sequence[str]) -> None:
    """The schemes of float32 products that a program realizes must be the ones that were asked for.

    Raises CheckFailed naming both: a float32 port never multiplies in one bf16 pass unsaid.
    """
    if set(found) - set(asked):
        raise CheckFailed(where, expected=f"float32 products as {', '.join(sorted(set(asked))) or 'none'}",
                          found=', '.join(sorted(set(found) - set(asked))),
                          hint="set the product's precision to HIGHEST, or port with --precision bf16")  # fmt: skip
