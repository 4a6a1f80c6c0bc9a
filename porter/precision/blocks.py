"""Block scales after every step: along the axis that is summed, and as the model's file has them or as asked, never remade.

A transpose moves the blocks with the codes; what multiplies the result then sums along another axis, and no unit takes scales
that change within a term. The rules by which vendors round E8M0 scales differ by a factor of two, so that scales computed
again by another rule are numbers as good, but codes that no longer fit them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from porter.device import Device
from porter.errors import CheckFailed
from porter.formats import scaling
from porter.graph import Model, Node, Value, attributes, constant, dtype, integer, shape, source_name
from porter.precision.contract import WIDE, Formats
from porter.precision.layers import Layer, layers
from porter.precision.schemes import block_products, scheme_of

RULES: tuple[scaling.Rule, ...] = ("nvidia", "ocp", "aws")
ALIKE = 0.98  # share of scales that must follow another rule before a message names it


def blocked(node: Node | None) -> bool:
    """Whether a node decodes codes with a scale per block."""
    if node is None or node.domain != "" or node.op_type != "DequantizeLinear":
        return False
    return bool(attributes(node).get("block_size", 0))


def along_the_sum(model: Model, device: Device) -> None:
    """Holds that operands with block scales are summed along their blocks, where the device multiplies such operands as they
    are. Raises CheckFailed naming the layer."""
    if not block_products(device):
        return
    for node, value, axis in _operands(model):
        source, moved = value, axis
        while (maker := source.producer()) is not None and maker.op_type in ("Transpose", "Identity", "Cast"):
            perm = attributes(maker).get("perm")
            if maker.op_type == "Transpose":
                order = [int(i) for i in perm] if perm is not None else [*range(len(shape(source) or ()))][::-1]  # type: ignore[attr-defined]
                moved = order[moved]
            assert maker.inputs[0] is not None
            source = maker.inputs[0]
        if not blocked(maker):
            continue
        assert maker is not None
        rank = len(shape(source) or ())
        mine = integer(maker, "axis", 1) % max(rank, 1)
        if mine != moved:
            codes = maker.inputs[0]
            raise CheckFailed(
                f"{device.name}: weight '{codes.name if codes is not None else '?'}' of layer {source_name(node)}",
                expected=f"blocks along axis {moved}, which the product sums over",
                found=f"blocks along axis {mine}",
                hint="quantize after the transpose",
            )


def _operands(model: Model) -> Iterator[tuple[Node, Value, int]]:
    """Both operands of every plain contraction, and the axis that is summed."""
    for node in model.graph:
        if node.domain != "" or node.op_type not in ("MatMul", "Gemm"):
            continue
        turned = [bool(attributes(node).get(name, 0)) for name in ("transA", "transB")]
        for position, value in enumerate(node.inputs[:2]):
            rank = len((shape(value) if value is not None else None) or ())
            if value is None or rank < 2:
                continue
            last = (position == 0) != turned[position]
            yield node, value, rank - 1 if last else rank - 2


def by_the_rule(before: Model, after: Model, formats: Formats, device: Device, rule: scaling.Rule = "nvidia") -> None:
    """Holds that E8M0 scales of `after` are those that the rule gives the weights of `before`, or a choice of the weight
    method's, but not another vendor's. Raises CheckFailed naming the layer."""
    for layer in layers(before):
        name = formats.of(layer.name)
        if name == WIDE or scheme_of(name).weight.scale != "float8_e8m0fnu":
            continue
        held = after.graph.initializers.get(f"{layer.weight.name}/scale")
        scale = constant(held) if held is not None else None
        if scale is None or scale.dtype.name != "float8_e8m0fnu":
            continue
        _settled(layer, scale, scheme_of(name).weight.format, scheme_of(name).weight.block, device, rule)


def _settled(
    layer: Layer, scale: np.ndarray, codes: str, block: int, device: Device, rule: scaling.Rule
) -> None:  # fmt: skip
    weight = constant(layer.weight)
    if weight is None or layer.sums is None or scale.ndim != weight.ndim:
        return
    made = {r: scaling.blocked(weight, codes, layer.sums, block, scale="float8_e8m0fnu", rule=r).scale for r in RULES}
    if any(m.shape != scale.shape for m in made.values()):
        return
    bits = scale.view(np.uint8)
    share = {r: float(np.mean(m.view(np.uint8) == bits)) for r, m in made.items()}
    other = max((r for r in RULES if r != rule), key=lambda r: share[r])
    if share[other] >= ALIKE > share[rule]:
        raise CheckFailed(
            f"{device.name}: scales of weight '{layer.weight.name}' of layer {layer.name}",
            expected=f"the {rule} rule",
            found=f"the {other} rule, in {share[other]:.0%} of {bits.size} blocks",
            hint="carry the scales that the codes were made with",
        )


def kept(before: Model, after: Model, device: Device) -> None:
    """Holds that block scales that the model's file had are the same bytes after the passes. Raises CheckFailed naming the
    layer."""
    for node in before.graph:
        if not blocked(node) or node.inputs[1] is None:
            continue
        scale, held = constant(node.inputs[1]), after.graph.initializers.get(str(node.inputs[1].name))
        now = constant(held) if held is not None else None
        if scale is None or now is None or dtype(node.inputs[1]) != now.dtype:
            continue
        if scale.tobytes() != now.tobytes():
            moved = int(np.count_nonzero(scale.astype(np.float64) != now.astype(np.float64)))
            raise CheckFailed(
                f"{device.name}: block scales '{node.inputs[1].name}' of layer {source_name(node)}",
                expected="those of the model's file",
                found=f"{moved} of {scale.size} others",
                hint="scales are carried, never computed again",
            )
