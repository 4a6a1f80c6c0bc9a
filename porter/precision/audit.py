"""The audit: formats asked for against formats built, per layer, read from the final graph and from the emitted products.

A layer's weight must lie in memory in the format that was asked for, and its kernel must multiply as asked. Where a device
does otherwise, a rule here says so and why; any other difference fails the port: FP4 asked and FP8 built, an expert that
was skipped, codes that the device's flavour of E4M3 cannot hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from porter.device import Device
from porter.errors import CheckFailed
from porter.formats import of
from porter.graph import Model, Node, Value, attributes, constant, constant_tensor, dtype, integer, shape, source_name
from porter.precision import caches
from porter.precision.contract import WIDE, Formats
from porter.precision.layers import Layer, layers
from porter.precision.schemes import E4M3, block_products, flavour, legal, multiplies, products, scheme_of, whole_blocks

FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
INTEGER = {"MatMulInteger": 1, "ConvInteger": 1, "QLinearMatMul": 3, "QLinearConv": 3}  # and which input is the weight
KERNEL = "porter.kernel"  # the domain of a partitioned model's launches
LANES = {"vector"}  # what a kernel says that sums products of lanes; others say nothing
# terms of a sum that every unit takes: of codes of 8 bits, the longest of the least (porter/triton/dots.py)
FEWEST = 32
SHOWN = 3  # layers that a message names


@dataclass(frozen=True)
class Row:
    """One layer: what was asked, what was built, and the rule that allows a difference ('' for none needed)."""

    layer: str
    asked: str
    stored: str
    product: tuple[str, ...]
    macs: int
    rule: str = ""
    wrong: str = ""


@dataclass
class Audit:
    """All layers; bytes of weights and share of multiply-adds by format."""

    rows: list[Row] = field(default_factory=list)
    bytes: Counter[str] = field(default_factory=Counter)
    caches: list[Row] = field(
        default_factory=list
    )  # one per output of a decoder that is keys or values, where few bits are asked

    @property
    def share(self) -> dict[str, float]:
        total = sum(r.macs for r in self.rows) or 1
        found: Counter[str] = Counter()
        for r in self.rows:
            found["+".join(r.product) or "none"] += r.macs
        return {p: round(n / total, 6) for p, n in sorted(found.items())}

    def metric(self) -> dict[str, Any]:
        kept = Counter(f"{r.stored}: {r.rule}" if r.rule else r.stored for r in self.caches)
        return {
            **({"caches": dict(sorted(kept.items()))} if kept else {}),
            "layers": len(self.rows),
            "as_asked": sum(not r.rule and not r.wrong for r in self.rows),
            "by_rule": dict(Counter(r.rule for r in self.rows if r.rule)),
            "bytes": dict(sorted(self.bytes.items())),
            "multiply_adds": self.share,
        }

    def settle(self, device: Device) -> None:
        """Raises CheckFailed naming the first layers whose formats differ without a rule."""
        wrong = [r for r in (*self.rows, *self.caches) if r.wrong]
        if wrong:
            first = "; ".join(f"{r.layer}: {r.wrong}" for r in wrong[:SHOWN])
            raise CheckFailed(
                f"{device.name}: precision audit, {len(wrong)} of {len(self.rows) + len(self.caches)} layers",
                expected="the formats that were asked for",
                found=first,
                hint="a precision contract that asks for what the device has",
            )


Built = Mapping[str, tuple[str, ...]]  # products per source layer, as emitted (and as the toolchain's result says)


def audit(
    before: Model, after: Model, formats: Formats, device: Device, built: Built, smaller: Mapping[str, Sequence[str]]
) -> Audit:
    """Every layer of `before` (float32 weights) against the graph `after` (codes) and the products of its kernel.

    smaller   by layer: products in the compiled kernel that are wider than asked, as the toolchain built them
    """
    found = Audit()
    stored, decoded = _stored(after), _decoded(after)
    for layer in layers(before):
        scheme = formats.of(layer.name)
        if layer.is_table:
            if scheme != WIDE:
                _tabled(found, layer, scheme, stored.get(str(layer.weight.name), []))
            continue
        first = layer.name.partition("+")[0]
        made = built.get(first)
        kinds = stored.get(str(layer.weight.name), [])
        coding = "bfloat16" if scheme == WIDE else scheme_of(scheme).weight.format
        product = "bfloat16" if scheme == WIDE else multiplies(scheme_of(scheme), device)
        rule, wrong = _judged(layer, scheme, coding, product, kinds, made, device, smaller.get(first, ()))
        if not wrong and (wide := decoded.get(str(layer.weight.name))):
            if short := _short(layer, scheme):
                rule = rule or short
            else:
                wrong = f"weight '{layer.weight.name}' decoded into {wide} by a kernel of its own: memory holds it wide"
        if not rule and not wrong and scheme != WIDE and scheme_of(scheme).product != product:
            rule = "; ".join(legal(scheme_of(scheme), device).why)
        found.rows.append(Row(layer.name, scheme, "+".join(kinds) or "none", made or (), layer.macs, rule, wrong))
    for tensor in after.graph.initializers.values():
        held = constant_tensor(tensor)
        kind = dtype(tensor)
        if held is not None and kind is not None:
            if (packed := _packed(str(tensor.name), kind)) is not None:
                found.bytes[packed[1]] += held.size
                continue
            found.bytes[kind.name] += -(-held.size * (of(kind).bits if kind.name in _KNOWN else 8 * kind.itemsize) // 8)
    return found


def _tabled(found: Audit, layer: Layer, scheme: str, kinds: list[str]) -> None:
    """A table, or a stack of matrices that is gathered from, is held to its stored format alone: it multiplies nothing."""
    asked = scheme_of(scheme).weight.format
    if set(kinds) != {asked}:
        wrong = f"table '{layer.weight.name}' asked as {asked}, stored as {' and '.join(kinds) or 'nothing'}"
        found.rows.append(Row(layer.name, scheme, "+".join(kinds) or "none", (), 0, "", wrong))


def cached(before: Model, after: Model, format: str, device: Device) -> list[Row]:
    """Every cache of `before` against the final graph: the codes whose numbers its output is. The output itself is as wide as the
    model has it, which the row says."""
    asked, rows = caches.coding(format, device), []
    made = {str(v.name): v for v in after.graph.outputs}
    for value in caches.caches(before):
        name = str(value.name)
        kind = caches.held(after, made[name])
        if kind == asked.format:
            rows.append(Row(name, format, f"{kind} codes, handed out as {_kind(made[name])}", (), 0))
            continue
        rule = "" if caches.fits(value, asked) else f"a head's channels are no whole blocks of {asked.block}"
        wrong = "" if rule else f"cache asked as {asked.format}, built as {kind}"
        rows.append(Row(name, format, kind, (), 0, rule, wrong))
    return rows


def _short(layer: Layer, scheme: str) -> str:
    """The rule for a sum shorter than a block: no scales lie along it, and a kernel of its own may decode it. No more than that:
    its codes and its product are those of any layer."""
    coding = scheme_of(scheme).weight if scheme != WIDE else None
    dims = shape(layer.weight)
    if (
        coding is None
        or coding.per != "block"
        or layer.sums is None
        or dims is None
        or dims[layer.sums] >= coding.block
    ):
        return ""
    return f"a sum over fewer than {coding.block}: one scale per channel, decoded by a kernel of its own"


def _judged(
    layer: Layer,
    scheme: str,
    coding: str,
    product: str,
    kinds: list[str],
    built: tuple[str, ...] | None,
    device: Device,
    compiled: Sequence[str],
) -> tuple[str, str]:
    if kinds != [coding]:
        return "", f"weight '{layer.weight.name}' asked as {coding}, stored as {' and '.join(kinds) or 'nothing'}"
    if built is None:
        return "", "no kernel carries the layer"
    if set(built) <= LANES:
        rule = _lanes(layer)
        return rule, "" if rule else f"product asked as {product}, none in its kernel"
    if product in built or (product in E4M3 and str(flavour(device)) in built):
        widened = next((c for c in compiled if c.endswith(".f16")), None) if product in FLOAT8 else None
        rule = f"{product} widened to float16 by the toolchain: fewer rows than a warpgroup's 64" if widened else ""
        return rule, ""
    activation = legal(scheme_of(scheme), device).scheme.activation if scheme != WIDE else None
    if (
        product in block_products(device)
        and "bfloat16" in built
        and activation is not None
        and not whole_blocks(layer, activation)
    ):
        return (
            f"{product} multiplied as bfloat16: the other operand is no rows of whole blocks of {activation.block}",
            "",
        )
    if product in FLOAT8 and "bfloat16" in built and device.get("peak.fp8", 0.0) <= device["peak.bf16"]:
        rule = f"{product} multiplied as bfloat16: fp8 runs at the bf16 rate on {device.name}, and every code is exact"
        return rule, ""
    return "", f"product asked as {product}, built as {' and '.join(built)}"


def _lanes(layer: Layer) -> str:
    """The rule for a kernel that multiplies lane by lane, in float32, where every code is exact: what such a layer multiplies is
    no matrix, or sums fewer terms than a unit takes. '' for a layer that should be on the unit."""
    rows, columns, terms = layer.sides
    if rows == 1:
        return "one row, multiplied lane by lane: no matrix"
    if columns == 1:
        return "one column, multiplied lane by lane: no matrix"
    return f"a sum over {terms}, multiplied lane by lane: fewer than a unit takes" if terms < FEWEST else ""


_KNOWN = {"int2", "uint2", "int4", "uint4", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"}


def _packed(name: str, held: np.dtype | None) -> tuple[str, str] | None:
    """The source weight and the format of the codes that an initializer of bytes holds, two in each; None for others."""
    origin, _, kind = name.removesuffix("/packed").rpartition("/")
    return (origin, kind) if name.endswith("/packed") and kind in _KNOWN and held == np.uint8 else None


def _stored(model: Model) -> dict[str, list[str]]:
    """By the source weight's name: the formats in which it lies in memory. `quantization` names codes 'weight/format',
    and bytes of two codes 'weight/format/packed'."""
    found: dict[str, list[str]] = {}
    for name, value in model.graph.initializers.items():
        held = dtype(value)
        if (packed := _packed(name, held)) is not None:
            found.setdefault(packed[0], []).append(packed[1])
            continue
        origin, slash, kind = name.rpartition("/")
        if slash and held is not None and kind.split("_")[0] in ("bf16", *(n.split("_")[0] for n in (held.name,))):
            found.setdefault(origin, []).append(held.name)
        elif held == np.float32:
            found.setdefault(name, []).append("float32")
    return found


def _decoded(model: Model) -> dict[str, str]:
    """Weights that a kernel decodes and does nothing else with, and the format that it writes: (source weight, format)."""
    found: dict[str, str] = {}
    for node in model.graph:
        if node.domain != KERNEL or not node.inputs or not all(v is None or v.is_initializer() for v in node.inputs):
            continue
        for value in node.inputs:
            name = str(value.name) if value is not None else ""
            packed = _packed(name, dtype(value)) if value is not None else None
            origin, slash, kind = name.rpartition("/")
            if packed is not None or (slash and kind.split("_")[0] in ("int8", "float8", "float4", "int4")):
                found[packed[0] if packed is not None else origin] = _kind(node.outputs[0])
    return found


def flavours(model: Model, device: Device) -> None:
    """Holds that every E4M3 code of the graph is a number of the device's own E4M3. Raises CheckFailed naming the layer.

    240 (Trn1, Trn2): codes beyond 240 read as Inf or NaN there, and a cast beyond it is NaN, so weights end at 240 and what
    is quantized is clamped before. E4M3B11FNUZ (TPU v5, v6): 0x80 is NaN there, 0x7F is 30.
    """
    own = flavour(device)
    if own in (None, "float8_e4m3fn"):
        return
    for node in model.graph:
        for value in node.inputs:
            if value is None or _kind(value) != "float8_e4m3fn":
                continue
            codes = constant(value)
            if codes is not None:
                _codes(codes, str(own), f"{device.name}: weight '{value.name}' of layer {source_name(node)}")
        made = node.op_type == "QuantizeLinear" and _kind(node.outputs[0]) == "float8_e4m3fn"
        if own == "float8_e4m3" and made and node.outputs[0].uses():  # codes that nothing here reads are the user's own
            source = node.inputs[0].producer() if node.inputs[0] is not None else None
            limits = _limits(source)
            scale = constant(node.inputs[1])
            if _ends_at(node, of(own).max):
                continue
            if scale is None or not limits or not all(_within(b, scale, of(own).max) for b in limits):
                raise CheckFailed(
                    f"{device.name}: what layer {source_name(node)} quantizes to E4M3",
                    expected=f"a clamp at {of(own).max:g} codes",
                    found="codes up to 448: casts beyond 240 are NaN there, they do not saturate",
                    hint="--precision fp8 for this device",
                )


def _limits(node: Node | None) -> list[np.ndarray]:
    """What a node clamps its input to: a Clip, or Max and Min with a limit per row."""
    found: list[np.ndarray] = []
    if node is not None and node.op_type == "Clip":
        return [b for b in map(constant, node.inputs[1:3]) if b is not None]
    while node is not None and node.op_type in ("Min", "Max") and len(node.inputs) == 2:
        found += [b for b in [constant(node.inputs[1])] if b is not None]
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return found if len(found) == 2 else []


def _ends_at(node: Node, most: float) -> bool:
    """Whether blocks are scaled by their own largest magnitude over a code up to `most`, upward to a power of two: no code is
    beyond."""
    held = node.inputs[1]
    made = held.producer() if held is not None else None
    while made is not None and made.op_type == "Cast" and made.inputs[0] is not None:
        if _kind(made.outputs[0]) == "float8_e8m0fnu" and attributes(made).get("round_mode") != "up":
            return False
        made = made.inputs[0].producer()
    top = (
        constant(made.inputs[1]) if made is not None and made.op_type == "Div" and integer(node, "block_size") else None
    )
    largest = made.inputs[0].producer() if made is not None and made.inputs[0] is not None else None
    return top is not None and float(np.max(top)) <= most and largest is not None and largest.op_type == "ReduceMax"


def _within(limit: np.ndarray, scale: np.ndarray, most: float) -> bool:
    """Whether limits are no codes beyond the largest, row by row where there is one scale a row."""
    steps = scale.reshape(-1) if limit.size == scale.size else np.max(scale)
    return bool(np.all(np.abs(limit.reshape(-1)) <= most * steps * (1 + 2.0**-20)))


def _codes(codes: np.ndarray, own: str, where: str) -> None:
    bits = np.ascontiguousarray(codes).view(np.uint8)
    if own == "float8_e4m3":
        beyond = int(np.count_nonzero((bits & 0x7F) >= 0x78))
        if beyond:
            raise CheckFailed(
                where,
                expected="E4M3 codes up to 240",
                found=f"{beyond} codes of 256 and more: scaled for 448",
                hint="--precision fp8w for this device",
            )
        return
    wrong = int(np.count_nonzero((bits & 0x7F) == 0x7F))
    if wrong:
        raise CheckFailed(where, expected="no NaN codes", found=f"{wrong}: they read as 30 in {own}")
    negative = int(np.count_nonzero(bits == 0x80))
    if negative:
        raise CheckFailed(where, expected="no -0 codes", found=f"{negative}: 0x80 is NaN in {own}")


def _kind(value: Value) -> str:
    kind = dtype(value)
    return "" if kind is None else kind.name


def integers(model: Model, device: Device) -> None:
    """Holds that integer products accumulate where they are exact: in int32, or in float32 up to 2**24. Raises CheckFailed.

    127 * 127 * K passes 2**24 at K = 1041; Neuron turns integer products into float32 silently.
    """
    if "int8" in products(device):
        return
    for node in model.graph:
        if node.op_type in INTEGER and node.domain == "":
            weight = node.inputs[INTEGER[node.op_type]]
            dims = (shape(weight) if weight is not None else None) or (1,)
            length = int(np.prod(dims[1:])) if "Conv" in node.op_type else dims[-2] if len(dims) > 1 else dims[0]
            if 127 * 127 * length > 2**24:
                raise CheckFailed(
                    f"{device.name}: an integer product of length {length} in layer {source_name(node)}",
                    expected="an int32 accumulator",
                    found=f"float32, exact to 2**24 = {2**24}; the sum may reach {127 * 127 * length}",
                    hint="QuantizeLinear and DequantizeLinear around MatMul",
                )


def products_of(emitted: Iterable[tuple[Sequence[str], Sequence[str]]]) -> dict[str, tuple[str, ...]]:
    """By source layer the products of its kernel, from (sources of a launch, products of its kernel)."""
    found: dict[str, tuple[str, ...]] = {}
    for sources, made in emitted:
        for layer in sources:
            found[layer] = tuple(sorted({*found.get(layer, ()), *made}))
    return found
