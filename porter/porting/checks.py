"""The two checks of a kernel: its tile program against its function in full, its text against the tile program by samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from porter import graph, ops
from porter.check import draw
from porter.check.execution import run as evaluate
from porter.check.execution import single_thread
from porter.check.gate import WORST_RATIO, Errors, floor
from porter.check.measure import difference, distance, rms
from porter.device import Device
from porter.errors import CheckFailed
from porter.formats.matmul import PRECISIONS
from porter.graph import Model
from porter.porting.kernels import Distinct
from porter.tile import interpret
from porter.tile.points import footprint, sample
from porter.tile.program import Dot, Program, walk
from porter.tile.target import Emitted, Target

DRAWS = 4  # a failure by less than four times the limit may be chance; more draws decide
FAITHFUL = (
    2.0**-20
)  # relative error up to which a product may stand for float32's: tf32x3 and bf16x6 do, tf32 and bf16x3 do not
TEXT_ULPS = 16  # of the largest value: the interpreters' exp and sums differ from numpy's in the last bits


@dataclass(frozen=True)
class KernelCheck:
    """What was seen: errors of the tile program, difference of the text, and which grid points ran."""

    ok: bool
    tile: dict[str, float] = field(default_factory=dict)
    text: dict[str, float] = field(default_factory=dict)
    points: int = 0
    grid: int = 0
    message: str = ""

    def json(self) -> dict[str, Any]:
        return {"ok": self.ok, "tile": self.tile, "text": self.text, "points": self.points, "grid": self.grid}


def check_kernel(
    kernel: Distinct, program: Program, emitted: Emitted, target: Target, device: Device, seed: int = 0
) -> KernelCheck:
    """Both checks, on inputs that neither side chose. Raises CheckFailed with the kernel, the output and the amount."""
    with single_thread():
        inputs, outputs, tile = check_tile(kernel, program, seed)
        return check_text(kernel, emitted, target, device, inputs, outputs, tile, seed)


def check_tile(
    kernel: Distinct, program: Program, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray], dict[str, float]]:
    """The tile program, every grid point, against the function in float64; its error held against the function's own."""
    for s in walk(program.body):
        if isinstance(s, Dot) and PRECISIONS[s.precision].roundoff > FAITHFUL:
            found = (
                f"{s.name} multiplies float32 as {s.precision}, which errs by {PRECISIONS[s.precision].roundoff:.2g}"
            )
            where = f"kernel {kernel.name}: tile program against its function"
            raise CheckFailed(where, expected="float32 products as exact as float32", found=found)
    names = [str(v.name) for v in kernel.alone.graph.inputs]
    wanted = [str(v.name) for v in kernel.alone.graph.outputs]
    errors = {n: Errors() for n in wanted}
    first: tuple[list[np.ndarray], list[np.ndarray]] | None = None
    for attempt in range(DRAWS):
        drawn = draw(kernel.alone, seed + attempt)
        arrays = [drawn[n] for n in names]
        truth = evaluate(kernel.alone, drawn, ops.float64)
        source = evaluate(kernel.alone, drawn, ops.source)
        outputs = interpret.run(program, arrays)
        first = first or (arrays, outputs)
        metric: dict[str, float] = {}
        bad = ""
        for name, got in zip(wanted, outputs, strict=True):
            exact, e = np.asarray(truth[name]), errors[name]
            if got.dtype.kind in "iub":
                apart = got != source[name]
                if apart.any():
                    low, high = rounded(kernel.alone, drawn, name)
                    apart &= (got < low) | (got > high)
                if apart.any():
                    bad = f"{name}: {np.count_nonzero(apart)} of {got.size} integers differ"
                continue
            e.floor = floor(exact, got.dtype)
            e.add("before", exact, source[name])
            e.add("after", exact, got)
            e.must.append(formats_make(program, exact))
            judged = e.judge(exact, got)
            growth = judged.values["error_base"] / max(rms(difference(exact, np.asarray(source[name]))), e.floor)
            metric = {**metric, "growth": max(growth, metric.get("growth", 1.0)),
                      "sqnr_db": min(judged.distance.sqnr_db, metric.get("sqnr_db", 300.0)),
                      "error_ratio": max(judged.values["error_ratio"], metric.get("error_ratio", 0.0))}  # fmt: skip
            if not judged.ok:
                far = judged.distance
                bad = f"{name}: {far.moved} of {got.size} elements moved, worst {far.max_abs:.3g}; {judged.limit}"
        if not bad:
            assert first is not None
            return (*first, metric)
        if not all(e.marginal for e in errors.values()):
            break
    raise CheckFailed(
        f"kernel {kernel.name}: tile program against its function",
        expected="the error of the source formats",
        found=bad,
    )


def rounded(alone: Model, drawn: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest integers that an output may hold: what its real number rounds to, anywhere within the error
    that the number may have (five times the source's own worst, as everywhere). Near a tie that is two integers, else one.
    """
    quantized = [
        str(node.inputs[0].name)
        for node in alone.graph
        if node.op_type in ("QuantizeLinear", "Cast")
        and node.inputs[0] is not None
        and node.outputs[0].dtype is not None and node.outputs[0].dtype.is_integer()
        and node.inputs[0].dtype is not None and node.inputs[0].dtype.is_floating_point()
    ]  # fmt: skip
    source = evaluate(alone, drawn, ops.source, want=[name, *quantized])
    truth = evaluate(alone, drawn, ops.float64, want=quantized)
    ends = [source[name]]
    for side in (-1, 1):
        moved = dict(drawn)
        for value in quantized:
            exact, seen = truth[value].astype(np.float64), source[value]
            error = max(float(difference(exact, seen).max(initial=0.0)), floor(exact, seen.dtype))
            moved[value] = exact + side * WORST_RATIO * error
        ends.append(evaluate(alone, moved, ops.float64, want=[name])[name])
    return np.minimum.reduce(ends), np.maximum.reduce(ends)


def formats_make(program: Program, truth: np.ndarray) -> tuple[float, float]:
    """The error (rms, worst) that the program's dots must make of a result: from the product's format and the length K.

    Adding K products one after another in float32 (u = 2**-24), partial sums grow as sqrt(k), each rounding errs by u/sqrt(3)
    of its partial sum: together u sqrt(K/6) of the result's rms. The product itself drops what its precision says
    (porter.formats.matmul), as an rms 1/sqrt(3) of it. Dots in a row add as squares; four times the rms is the worst of many.
    """
    square = 0.0
    for s in walk(program.body):
        if isinstance(s, Dot):
            length = math.prod(program.axis(a).extent for a in s.axes)
            square += 2.0**-48 * length / 6 + min(PRECISIONS[s.precision].roundoff, FAITHFUL) ** 2 / 3
    made = math.sqrt(square) * rms(truth[np.isfinite(truth)])
    return made, 4 * made


def check_text(
    kernel: Distinct, emitted: Emitted, target: Target, device: Device, inputs: list[np.ndarray], wanted: list[np.ndarray],
    tile: dict[str, float], seed: int = 0,
) -> KernelCheck:  # fmt: skip
    """The emitted text against the tile program, nearly bit for bit, on grid points that cover every edge."""
    program = emitted.kernel.program
    points = sample(program, seed)
    grid = int(np.prod([a.steps for a in program.grid], dtype=int))
    everything = len(points) == grid
    got = target.execute(emitted, inputs, device, None if everything else points)
    sums = target.fp8_accumulator(device)
    if sums != "float32" and any(p.startswith("float8") for p in emitted.products):
        wanted = interpret.run(
            program, inputs, fp8=sums
        )  # the text ran under the unit's own sums: so must what it is held to
    masks = [np.ones(w.shape, bool) for w in wanted] if everything else footprint(program, points)
    text: dict[str, float] = {"max_abs": 0.0}
    for number, (g, w, mask) in enumerate(zip(got, wanted, masks, strict=True)):
        a, b = np.asarray(g)[mask], w[mask]
        if a.dtype.kind in "iub":
            apart = a != b
            if apart.any():
                drawn = {str(v.name): x for v, x in zip(kernel.alone.graph.inputs, inputs, strict=True)}
                name = str(kernel.alone.graph.outputs[number].name)
                low, high = (end.reshape(w.shape)[mask] for end in rounded(kernel.alone, drawn, name))
                apart &= (a < low) | (a > high)
            if apart.any():
                raise _differs(kernel, emitted, number, f"{np.count_nonzero(apart)} of {a.size} integers differ")
            continue
        seen = distance(b, a)
        text["max_abs"] = max(text["max_abs"], seen.max_abs)
        finite = np.abs(b.astype(np.float64))[np.isfinite(b.astype(np.float64))]
        ulp = float(ops_eps(b.dtype)) * float(finite.max(initial=0.0))
        allowed = TEXT_ULPS * ulp if b.dtype.itemsize >= 4 else ulp
        if not seen.max_abs <= allowed and b.dtype.itemsize >= 4:
            allowed = max(allowed, WORST_RATIO * _worst(kernel.alone, inputs, number, w))
        if not seen.max_abs <= allowed:
            raise _differs(kernel, emitted, number, f"{seen.max_abs:.3g} apart, allowed {allowed:.3g}")
    return KernelCheck(True, tile, text, len(points), grid)


def _worst(alone: Model, inputs: list[np.ndarray], number: int, made: np.ndarray) -> float:
    """The largest error of what the tile program made of these inputs, or the function in its own types: a text that adds up in
    another order, as XLA's does, errs as much, and its difference is of that size."""
    drawn = {str(v.name): x.reshape(graph.shape(v) or ()) for v, x in zip(alone.graph.inputs, inputs, strict=True)}
    name = str(alone.graph.outputs[number].name)
    exact = np.asarray(evaluate(alone, drawn, ops.float64)[name]).reshape(made.shape)
    source = np.asarray(evaluate(alone, drawn, ops.source)[name]).reshape(made.shape)
    return max(float(difference(exact, x).max(initial=0.0)) for x in (made, source))


def ops_eps(dtype: np.dtype) -> float:
    """The spacing of a float dtype above 1."""
    from porter import formats

    return float(formats.of(dtype.name).eps)


def _differs(kernel: Distinct, emitted: Emitted, output: int, found: str) -> CheckFailed:
    return CheckFailed(f"kernel {kernel.name}: {emitted.language} text against its tile program, output {output}",
                       expected="the same numbers", found=found)  # fmt: skip
