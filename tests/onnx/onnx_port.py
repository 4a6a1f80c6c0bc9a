"""One official case ported to one target and run there: through the tile programs, or through the emitted text.

Passes, partition and tiling are those of `porter port`; their own checks are left out, since the case brings its truth
along. The sizes of the inputs are those of the case's data. Where a shape is computed from an input (the shape of a
Reshape, the ends of a Slice), the small inputs are bound as well, as a user would bind them before a port.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parent.parent / "ops"))
from onnx_cases import Case, fed
from onnx_cases import all_cases as cases  # noqa: F401
from test_backend import DATA_DEPENDENT, EXACTER, ROUNDED, TIES, difference, in_float64, in_jax, in_source

from porter import device, graph, ops, pipeline
from porter.check import draw
from porter.errors import PorterError
from porter.porting.checks import check_text
from porter.porting.kernels import Distinct, program_of, run
from porter.porting.port import PIPELINES
from porter.tile import interpret
from porter.tile.form import Cut
from porter.tile.target import CannotEmit, Emitted, Kernel, target_of
from porter.tile.tiler import tile_form

NAMESPACES = {"source": in_source, "float64": in_float64, "jax": in_jax}
PLACES = ("interpreter", *NAMESPACES)  # the interpreter is numpy in the source's types, and in float64
TARGETS = ("gpu", "tpu", "trainium", "maia")
# recorded values that porter does not reproduce within the tolerance, and why
KNOWN = (
    EXACTER
    | ROUNDED
    | TIES
    | {
        "real/test_squeezenet": "a thousand equal classes of 9.5e9 before the softmax, where the last bit of a sum decides"
    }
)
SMALL = 64  # elements of an input that may say a shape
PAIRS = (
    "float64 within the range of float32"  # what a TPU program expects of a float64, which XLA makes a pair of float32
)


@dataclass
class Outcome:
    """What became of a case.

    status: 'device' (all of it), 'host' (some of it: `host` says which operators and why), 'explained' (it differs from
    the recorded values, and `message` says why porter's are better), 'failed'.
    """

    case: str
    target: str
    status: str
    operators: list[str]
    host: dict[str, str] = field(default_factory=dict)
    message: str = ""
    bound: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    seconds: float = 0.0


def operators(model: onnx.ModelProto) -> list[str]:
    """The operators that a case is about: those of its graph, without constants."""
    return sorted({n.op_type for n in model.graph.node if n.op_type != "Constant"})


def evaluated(case: Case, namespace: str) -> Outcome:
    """The case in one of porter's namespaces: 'device' where it is right, 'host' where jax cannot have its shapes."""
    if namespace == "jax" and case.id in DATA_DEPENDENT:
        return Outcome(case.id, namespace, "host", operators(case.model), message=DATA_DEPENDENT[case.id])
    outcome = Outcome(case.id, namespace, "device", operators(case.model))
    model = graph.read(case.model)
    for inputs, outputs in case.sets():
        feeds = dict(zip((v.name for v in fed(case.model.graph)), inputs, strict=True))
        results = list(NAMESPACES[namespace](model, feeds).values())
        _compare(outcome, results, outputs, case)
    return outcome


def interpreted(case: Case) -> Outcome:
    """The case in the reference interpreter: in the source's types, else (the message says why) in float64."""
    made = evaluated(case, "source")
    if made.status != "device":
        exact = evaluated(case, "float64")
        if exact.status == "device":
            made = exact
            made.message = f"in float64, not in the source's types: {KNOWN.get(case.id, 'the order of sums decides')}"
    made.target = "interpreter"
    return made


def ported(case: Case, family: str, *, text: bool) -> Outcome:
    """The case on the default device of a family. text: run the emitted text, else the tile programs."""
    proto = case.model
    outcome = Outcome(case.id, family, "device", operators(proto))
    for inputs, outputs in case.sets():
        small = [i for i, x in enumerate(inputs) if x.ndim <= 1 and x.size <= SMALL]
        whole = [i for i in small if inputs[i].dtype.kind in "iub"]
        best: Outcome | None = None
        for bound in ([], whole, small):
            if best is not None and (not best.host or not bound):
                continue
            made = _ported(case, proto, inputs, outputs, family, text, bound)
            if best is None or made.status == "failed" or len(made.host) <= len(best.host):
                best = made
        assert best is not None
        if best.status in ("failed", "explained"):
            return best
        outcome.host |= best.host
        outcome.bound, outcome.languages = best.bound, sorted({*outcome.languages, *best.languages})
    if outcome.host:
        outcome.status = "host"
    return outcome


def _ported(
    case: Case, proto: onnx.ModelProto, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], family: str, text: bool,
    bound: Sequence[int],
) -> Outcome:  # fmt: skip
    places = fed(proto.graph)
    outcome = Outcome(case.id, family, "device", operators(proto), bound=[places[i].name for i in bound])
    feeds = {places[i].name: x for i, x in enumerate(inputs) if i not in bound}
    specialized = _specialized(proto, inputs, set(bound))
    results, outcome.host, outcome.languages = executed(
        specialized, feeds, family, text=text, sampled=case.kind == "real"
    )
    exact = lambda: list(ops.evaluate(graph.load(specialized), feeds, ops.float64).values())
    _compare(outcome, list(results.values()), outputs, case, exact)
    if outcome.host and outcome.status == "device":
        outcome.status = "host"
    return outcome


def executed(
    proto: onnx.ModelProto, feeds: dict[str, np.ndarray], family: str, *, text: bool, sampled: bool = False
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """The outputs of a model ported to a family's default device; operators on the host and why; languages of the kernels.

    sampled: the tile programs run whole, and each text as in `porter port`: on grid points that cover every edge and on
    numbers drawn for it. Light models have one weight for all: sums of equal terms, which each order rounds another way.
    """
    chip, target = device.load_device(device.default_device(family)), target_of(family)
    model = graph.load(proto)
    ported = pipeline.run(model, PIPELINES["fp32"], chip, checks=False).model
    program = program_of(ported)
    limits, host = target.limits(chip), {}
    ready: dict[str, Emitted | Any] = {}
    seen: set[str] = set()
    for kernel in program.kernels.values():
        if kernel.host or kernel.form is None:
            host[kernel.op] = kernel.host
            continue
        try:
            tiled = tile_form(kernel.form, limits, name=kernel.name)
            ready[kernel.name] = target.lower(Kernel(kernel.name, tiled, kernel.meaning), chip) if text else tiled
        except (Cut, CannotEmit) as e:
            host[kernel.op] = f"cannot say it: {e}"

    def execute(kernel: Distinct, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        if kernel.name not in ready:
            names = [str(v.name) for v in kernel.alone.graph.inputs]
            return list(ops.evaluate(kernel.alone, dict(zip(names, arrays, strict=True)), ops.source).values())
        made = ready[kernel.name]
        tiled = made.kernel.program if text else made
        shaped = [np.asarray(a).reshape(p.shape) for a, p in zip(arrays, tiled.inputs, strict=True)]
        if not text:
            return interpret.run(made, shaped)
        if not sampled:
            return target.execute(made, shaped, chip)
        if kernel.name not in seen:
            seen.add(kernel.name)
            values = draw(kernel.alone)
            drawn = [
                values[str(v.name)].reshape(p.shape)
                for v, p in zip(kernel.alone.graph.inputs, tiled.inputs, strict=True)
            ]
            check_text(kernel, made, target, chip, drawn, interpret.run(tiled, drawn), {})
        return interpret.run(tiled, shaped)

    languages = sorted({made.language for made in ready.values()}) if text else []
    return run(program, feeds, execute), host, languages


def _specialized(proto: onnx.ModelProto, inputs: Sequence[np.ndarray], bound: set[int]) -> onnx.ModelProto:
    """The model at the sizes of these inputs; those in `bound` become initializers."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    places = fed(made.graph)
    for i, (value, x) in enumerate(zip(places, inputs, strict=True)):
        value.type.tensor_type.shape.Clear()
        for n in x.shape:
            value.type.tensor_type.shape.dim.add().dim_value = n
        if i in bound:
            made.graph.initializer.append(numpy_helper.from_array(x, value.name))
            made.graph.input.remove(value)
    for value in made.graph.output:  # what the case declares may be free; the inputs say it
        value.type.tensor_type.ClearField("shape")
    return made


def _nearer(got: Any, want: np.ndarray, exact: np.ndarray) -> bool:
    """Whether a narrow float result is as near to float64 as the recorded one, which was rounded in another order."""
    if want.dtype.name not in ("float16", "bfloat16"):
        return False
    mine, theirs = (np.nan_to_num(np.asarray(x).astype(np.float64) - exact) for x in (got, want))
    return bool(np.sqrt((mine**2).mean()) <= np.sqrt((theirs**2).mean()))


def _compare(
    outcome: Outcome,
    results: Sequence[Any],
    outputs: Sequence[np.ndarray],
    case: Case,
    truth: Callable[[], Sequence[Any]] | None = None,
) -> None:
    if len(results) != len(outputs):
        outcome.status, outcome.message = "failed", f"{len(results)} outputs instead of {len(outputs)}"
    for number, (got, want) in enumerate(zip(results, outputs, strict=False)):
        if bad := difference(got, want, case):
            known = KNOWN.get(case.id)
            if known is None and truth is not None and _nearer(got, want, np.asarray(truth()[number])):
                known = "the recorded values were rounded after every operator; these are nearer to float64"
            outcome.status, outcome.message = ("failed", bad) if known is None else ("explained", known)
            return


def outcome(case: Case, where: str, *, text: bool = True) -> Outcome:
    """The case in a namespace or on a target; an exception is a failure of its case."""
    import time
    import warnings

    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if where == "interpreter":
                made = interpreted(case)
            else:
                made = evaluated(case, where) if where in NAMESPACES else ported(case, where, text=text)
        except PorterError as e:
            status = "explained" if e.expected == PAIRS else "failed"
            made = Outcome(case.id, where, status, operators(case.model), message=" ".join(str(e).split()))
        except Exception as e:
            message = f"{type(e).__name__}: {' '.join(str(e).split())}"
            made = Outcome(case.id, where, "failed", operators(case.model), message=message)
    made.seconds = round(time.perf_counter() - began, 3)
    return made
