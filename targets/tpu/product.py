"""How a tile's dot becomes a product on the matrix unit, or multiply-and-add where one side has no lanes to fill it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from porter.targets.tpu import instructions, values
from porter.targets.tpu.values import Value, axes, fits, merge, shape
from porter.targets.tpu.views import Layout
from porter.tile.program import Dot, Tile
from porter.tile.target import CannotEmit

if TYPE_CHECKING:
    from porter.targets.tpu.kernel import Body

# What Mosaic multiplies, beside equal floats and float32.
_INTEGERS = ("int8", "uint8", "int4")


def product(body: Body, s: Dot) -> Value:
    """name = dot: one `lax.dot_general` of two matrices (or batches), laid out as the program orders its axes."""
    a, b = body.laid(body.values[s.a]), body.laid(body.values[s.b])
    dtype = instructions.held(s.type.dtype)
    over = [x for x in s.axes if body.roles.wide(x)]
    a, b = (_with(body, v, over) for v in (a, b))
    held_a, held_b = axes(a.layout or ()), axes(b.layout or ())
    batch = [x for x in body.order if x in held_a and x in held_b and x not in over]
    rows = [x for x in body.order if x in held_a and x not in over and x not in batch]
    columns = [x for x in body.order if x in held_b and x not in over and x not in batch]
    if not over or (not rows and not columns):
        result = _multiply(body, s, a, b, over, dtype)
    else:
        if (columns and rows and body.order.index(columns[0]) < body.order.index(rows[0])) or not columns:
            a, b, rows, columns = (
                b,
                a,
                columns,
                rows,
            )  # the result lies as the output does; a lone vector is the left row
        result = _matrices(body, s, a, b, batch, rows, columns, over, dtype)
    if s.acc is None:
        return body.bind(s.name, result.text, dtype, result.layout)
    acc = body.laid(body.values[s.acc], result.layout)
    layout = merge([x for x in (result.layout, acc.layout) if x is not None],
                   frozenset({*axes(result.layout or ()), *axes(acc.layout or ())}), body.order)  # fmt: skip
    if not fits(result.layout or (), layout):
        result = body.bind(body.names.fresh("product"), result.text, dtype, result.layout)
    return body.bind(s.name, f"{body.turn(acc, layout)} + {body.turn(result, layout)}", dtype, layout)


def _with(body: Body, v: Value, over: list[str]) -> Value:
    """An operand that is the same along a summed axis counts once per lane."""
    held = axes(v.layout or ())
    if all(x in held for x in over):
        return v
    layout = values.of([x for x in body.order if x in {*held, *over}])
    return Value(body.as_array(v, Tile(v.dtype, axes(layout)), layout), v.dtype, layout)


def _multiply(body: Body, s: Dot, a: Value, b: Value, over: list[str], dtype: str) -> Value:
    """No summed lanes, or nothing but summed lanes: the vector unit multiplies, exactly in float32."""
    if not instructions.is_float(dtype):
        raise CannotEmit("a sum of integer products with no rows and no columns")
    held = frozenset({*axes(a.layout or ()), *axes(b.layout or ())})
    layout = merge([x for x in (a.layout, b.layout) if x is not None], held, body.order)
    left, right = (f"{body.turn(v, layout)}{'' if v.dtype == dtype else f'.astype(jnp.{dtype})'}" for v in (a, b))
    text, after = f"{left} * {right}", layout
    if over:
        positions = tuple(i for i, x in enumerate(layout) if x in over)
        after = tuple(None if x in over else x for x in layout)
        text = f"jnp.sum({text}, axis={positions}, keepdims=True)"
    return Value(text, dtype, after)


def _matrices(body: Body, s: Dot, a: Value, b: Value, batch: list[str], rows: list[str], columns: list[str],
              over: list[str], dtype: str) -> Value:  # fmt: skip
    left, contract_left = _matrix(body, a, batch, rows, over)
    right, contract_right = _matrix(body, b, batch, columns, over)
    left, right, precision = _precision(body, s, a, b, left, right, dtype)
    lead = ((0,), (0,)) if batch else ((), ())
    dims = f"((({contract_left},), ({contract_right},)), ({_dims(lead[0])}, {_dims(lead[1])}))"
    tail = f", precision={precision}" if precision else ""
    text = f"lax.dot_general({left}, {right}, {dims}{tail}, preferred_element_type=jnp.{dtype})"
    flat = ([_size(body, batch)] if batch else []) + [_size(body, rows), _size(body, columns)]
    layout: Layout = (*batch, *(rows or (None,)), *columns)
    if not columns:
        layout = (*layout, None)
    if len(layout) < 2:
        layout = (None, *layout)
    full = list(shape(layout, body.program))
    if not batch and not rows and len(columns) == 2:
        layout, text = tuple(columns), _rows_of(text, full[-2])
    elif full != flat:
        text = f"{text}.reshape({', '.join(map(str, full))})"
    return Value(text, dtype, layout)


def _rows_of(row: str, count: int) -> str:
    """[1, count * n] as [count, n]. Mosaic reshapes lanes into sublanes only below a longer dimension."""
    return f"jnp.concatenate(jnp.split({row}, {count}, axis=1), axis=0)"


def _row_of(matrix: str, count: int) -> str:
    """[count, n] as [1, count * n]."""
    return f"jnp.concatenate(jnp.split({matrix}, {count}, axis=0), axis=1)"


def _dims(d: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, d))}{',' if len(d) == 1 else ''})"


def _size(body: Body, names: list[str]) -> int:
    total = 1
    for n in names:
        total *= body.program.axis(n).tile
    return total


def _matrix(body: Body, v: Value, batch: list[str], free: list[str], over: list[str]) -> tuple[str, int]:
    """An operand as [free, over] or [over, free], at most one batch axis before, and which dimension is summed."""
    assert v.layout is not None
    lead = 1 if batch else 0
    held = list(axes(v.layout))
    plain = len(batch) <= 1 and len(free) <= 1 and len(over) == 1
    if plain and len(v.layout) == 2 + lead and held[:lead] == batch:
        return v.text, v.layout.index(over[0])
    wanted = [*batch, *free, *over]
    text = v.text
    if held != wanted:
        order = [v.layout.index(x) for x in wanted]
        ones = [i for i, x in enumerate(v.layout) if x is None]
        text = f"jnp.transpose({text}, {tuple(ones + order)})"
    if not batch and not free and len(over) == 2:
        return _row_of(text, _size(body, wanted[:1])), 1
    flat = ([_size(body, batch)] if batch else []) + [_size(body, free), _size(body, over)]
    return f"{text}.reshape({', '.join(map(str, flat))})", 1 + lead


def _precision(body: Body, s: Dot, a: Value, b: Value, left: str, right: str, dtype: str) -> tuple[str, str, str]:
    """Operands in a type that the unit takes, and the precision to ask for: float32 never goes in one pass unasked."""
    kinds = {a.dtype, b.dtype}
    if not any(instructions.is_float(k) for k in kinds):
        if not kinds <= set(_INTEGERS) or len(kinds) > 1:
            raise CannotEmit(f"the matrix unit multiplies no {' by '.join(sorted(kinds))}")
        body.products.add("int4" if kinds == {"int4"} else "int8")
        return left, right, ""
    if kinds == {"float32"}:
        if s.precision not in instructions.PRECISION:
            raise CannotEmit(f"Mosaic has no product of float32 as {s.precision}")
        precision = instructions.PRECISION[s.precision]
        body.products.add(instructions.PRODUCT[precision])
        return left, right, precision
    if "float32" in kinds:  # a narrow operand is exact in float32
        left = left if a.dtype == "float32" else f"{left}.astype(jnp.float32)"
        right = right if b.dtype == "float32" else f"{right}.astype(jnp.float32)"
        body.products.add(instructions.PRODUCT["HIGHEST"])
        return left, right, "HIGHEST"
    if len(kinds) == 1 and kinds <= set(body.fp8):
        body.products.add(a.dtype)
        return left, right, ""
    if kinds != {"bfloat16"}:
        left, right = (
            f"{left}.astype(jnp.bfloat16)",
            f"{right}.astype(jnp.bfloat16)",
        )  # 8-bit floats are exact in bfloat16
    body.products.add("bfloat16")
    return left, right, ""
