"""`make formats`: every code of every format there and back, every conversion against ml_dtypes, ONNX's low-bit cases.

python tests/formats/run.py [--target gpu|tpu|trainium|maia]... [--tile]

Prints counts, and every difference. Exit code 1 where there is one.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto

sys.path.insert(0, str(Path(__file__).parent.parent / "onnx"))
sys.path.insert(0, str(Path(__file__).parent.parent / "ops"))
from onnx_cases import Case, all_cases, fed

from porter.formats import FORMATS, Format, scaling

SCALE = "float8_e8m0fnu"
NARROW = [f for f in FORMATS.values() if f.dtype is not None and f.bits <= 16]
TARGETS = ("gpu", "tpu", "trainium", "maia")
SHORT = ("FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2")
LOW = {v for name, v in TensorProto.DataType.items() if name.startswith(SHORT)}


@dataclass
class Tally:
    """What was compared, what differed, and (for cases on a target) what went to the host."""

    title: str
    count: int = 0
    wrong: list[str] = field(default_factory=list)
    host: Counter[str] = field(default_factory=Counter)

    def add(self, count: int, bad: np.ndarray | int, what: str) -> None:
        self.count += count
        if (n := int(np.count_nonzero(bad))) > 0:
            self.wrong.append(f"{what}: {n} of {count} differ")

    def __str__(self) -> str:
        on_host = sum(self.host.values())
        lines = [f"{self.title}: {self.count - len(self.wrong) - on_host} of {self.count}" if self.host else
                 f"{self.title}: {self.count} compared, {len(self.wrong)} differ"]  # fmt: skip
        lines += [f"  host {n:4d}  {why}" for why, n in self.host.most_common()]
        return "\n".join([*lines, *(f"  differs  {w}" for w in self.wrong)])


def numbers(f: Format) -> np.ndarray:
    """Every code of a format as float64."""
    with np.errstate(all="ignore"):
        return f.codes().astype(np.float64)


def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two float64 arrays hold the same number, NaN and the sign of zero included."""
    return (np.isnan(a) & np.isnan(b)) | ((a == b) & (np.signbit(a) == np.signbit(b)))


def round_trips() -> Tally:
    """decode, then encode, gives the same number; pack, then unpack, the same bytes; in every format of at most 16 bits."""
    made = Tally("codes there and back")
    for f in NARROW:
        codes = f.codes()
        again = f.encode(numbers(f))
        made.add(codes.size, ~same(again.astype(np.float64), numbers(f)), f"{f.name} encoded")
        ragged = np.concatenate([codes, codes[:3]])
        back = f.unpack(f.pack(ragged), ragged.shape)
        made.add(codes.size, back.tobytes() != ragged.tobytes(), f"{f.name} packed")
        if f.pack(ragged).size != -(-ragged.size * f.bits // 8):
            made.wrong.append(f"{f.name} is not packed at its true size")
    return made


def conversions() -> Tally:
    """Every code of one format in every other, as ml_dtypes converts it."""
    made = Tally("conversions, code by code")
    for source in NARROW:
        values = numbers(source)
        for target in NARROW:
            if target is source:
                continue
            got, wanted, fine = _converted(source, target, values)
            made.add(int(fine.sum()), fine & ~same(got, wanted), f"{source.name} to {target.name}")
    return made


def _converted(source: Format, target: Format, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ours, ml_dtypes', and which codes both define: integers take no NaN and no float beyond them, scales no zero."""
    fine = np.ones(values.shape, bool)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not target.is_float:
            fine = np.isfinite(values) & (values >= target.min) & (values <= target.max)
            wanted = np.where(fine, values, 0).astype(np.float64)
            return target.encode(np.rint(wanted)).astype(np.float64), np.rint(wanted) + 0.0, fine
        if target.name == SCALE:  # below 2**-126 ml_dtypes meets float32's subnormals
            fine = np.isfinite(values) & (values >= 2.0**-126)
        elif not target.has_nan:
            fine = ~np.isnan(values)
        wanted = values.astype(np.float32).astype(target.dtype).astype(np.float64)
    return target.encode(values).astype(np.float64), wanted, fine


def roundings() -> Tally:
    """Each direction, at every midpoint and a step beside it: on the side that it names, less than one step away."""
    made = Tally("directed roundings")
    for f in (f for f in NARROW if f.is_float and f.name != SCALE):
        values = np.unique(numbers(f)[np.isfinite(numbers(f))])
        middle = (values[1:] + values[:-1]) / 2
        x = np.concatenate([middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)])
        above = values[np.minimum(np.searchsorted(values, x), values.size - 1)]
        below = values[np.maximum(np.searchsorted(values, x, side="right") - 1, 0)]
        nearer_zero = np.where(x > 0, below, above)
        far = np.where(x > 0, above, below)
        expected = {"up": above, "down": below, "zero": nearer_zero}
        tie = np.abs(x - above) == np.abs(x - below)
        closest = np.where(np.abs(x - above) < np.abs(x - below), above, below)
        expected["away"] = np.where(tie, far, closest)
        for rounding, wanted in expected.items():
            made.add(x.size, f.round(x, rounding=rounding) != wanted, f"{f.name} {rounding}")  # type: ignore[arg-type]
        beyond = np.array([f.max * 2, -f.max * 2, np.inf, -np.inf])
        clipped = np.where(beyond > 0, f.max, f.min)
        made.add(beyond.size, f.round(beyond, saturate=True) != clipped, f"{f.name} saturated")
    return made


def blocks() -> Tally:
    """Each block format and rule: what a number becomes is its code times its scale, at true size."""
    made = Tally("blocks of MXFP8, MXFP6, MXFP4, MXINT8, NVFP4")
    x = np.random.default_rng(0).standard_normal((96, 40)).astype(np.float32)
    x[:32, 0] = 0
    for name, bits in (("float8_e4m3fn", 8.25), ("float8_e5m2", 8.25), ("float6_e2m3fn", 6.25), ("float6_e3m2fn", 6.25),
                       ("float4_e2m1fn", 4.25), ("int8", 8.25)):  # fmt: skip
        for rule in ("ocp", "nvidia", "aws"):
            held = scaling.blocked(x, name, 0, 32, scale=SCALE, rule=rule)
            scale = np.repeat(held.scale.astype(np.float64), 32, 0)
            nearest = FORMATS[name].round(x / scale, saturate=True) * scale
            made.add(x.size, ~same(held.decode().astype(np.float64), nearest + 0.0 * x), f"MX {name}, {rule}")
            made.add(1, held.bits != bits, f"MX {name}: {held.bits} bits a value")
    held = scaling.blocked(x, "float4_e2m1fn", 0, 16, scale="float8_e4m3fn")
    made.add(1, held.bits != 4.5, f"NVFP4: {held.bits} bits a value")
    scale = np.repeat((held.scale.astype(np.float32) * np.float32(held.tensor)).astype(np.float64), 16, 0)
    near = FORMATS["float4_e2m1fn"].round(np.divide(x, scale, out=np.zeros(x.shape), where=scale != 0), saturate=True)
    made.add(x.size, np.abs(held.decode() - (near * scale).astype(np.float32)) > 0, "NVFP4")
    return made


def low_bit(model: ModelProto) -> bool:
    """Whether a type of fewer than 8 bits, or an 8-bit float, occurs in the model."""
    found = {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output, *model.graph.value_info)}
    found |= {t.data_type for t in model.graph.initializer}
    for node in model.graph.node:
        for a in node.attribute:
            found |= {a.i} if a.name in ("to", "output_dtype") else set()
            found |= {a.t.data_type} if a.type == AttributeProto.TENSOR else set()
    return bool(found & LOW)


def low_bit_cases() -> list[Case]:
    return [c for c in all_cases() if low_bit(c.model)]


def official(where: str, *, text: bool = True, cases: Sequence[Case] | None = None) -> Tally:
    """ONNX's low-bit cases, bit for bit: in the reference interpreter ('reference') or on a target's default device."""
    from onnx_port import _specialized, executed

    from porter import graph, ops

    chosen = low_bit_cases() if cases is None else cases
    made = Tally(f"ONNX's low-bit cases, {where}")
    for case in chosen:
        for inputs, outputs in case.sets():
            names = [v.name for v in fed(case.model.graph)]
            feeds = dict(zip(names, inputs, strict=True))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if where == "reference":
                    got, host = ops.evaluate(graph.read(case.model), feeds, ops.source), {}
                else:
                    proto = _specialized(case.model, inputs, set())
                    got, host, _ = executed(proto, feeds, where, text=text)
            made.count += 1
            bad = [
                o for o, (g, w) in enumerate(zip(got.values(), outputs, strict=True)) if not _equal(np.asarray(g), w)
            ]
            if bad:
                made.wrong.append(f"{case.id}: output {bad[0]}")
            elif host:
                made.host[", ".join(sorted(set(host.values())))[:120]] += 1
    return made


def _equal(got: np.ndarray, want: np.ndarray) -> bool:
    """The same type and bits; a NaN is a NaN."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    if got.tobytes() == want.tobytes():
        return True
    a, b = got.astype(np.float64), want.astype(np.float64)
    return bool(same(a, b).all())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", action="append", choices=TARGETS, default=[])
    parser.add_argument("--tile", action="store_true", help="run the tile programs, not the emitted text")
    options = parser.parse_args()
    print(f"ml_dtypes {ml_dtypes.__version__}, {len(NARROW)} formats of at most 16 bits, tfloat32 beside them")
    failed = 0
    for work in (round_trips, conversions, roundings, blocks):
        tally = work()
        print(tally, flush=True)
        failed += len(tally.wrong)
    for where in ("reference", *(options.target or TARGETS)):
        tally = official(where, text=not options.tile)
        print(tally, flush=True)
        failed += len(tally.wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
