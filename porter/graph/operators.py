"""Which operators exist: the standard's own at each opset, model-local functions, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from functools import cache

import onnx

from porter.errors import PorterError

HOME_OPSET = 24
"""Models are brought to this opset of ai.onnx; a newer model keeps its own."""


@cache
def schema(op_type: str, opset: int, domain: str = "") -> onnx.defs.OpSchema | None:
    """The standard's definition of an operator at an opset; None where it has none, or has withdrawn it."""
    try:
        found = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    return None if found.deprecated else found


@cache
def holders() -> frozenset[str]:
    """The operators that hold subgraphs."""
    kinds = (onnx.defs.OpSchema.AttrType.GRAPH, onnx.defs.OpSchema.AttrType.GRAPHS)
    return frozenset(
        entry.name
        for entry in onnx.defs.get_all_schemas_with_history()
        if any(attribute.type in kinds for attribute in entry.attributes.values())
    )


@cache
def _readable(op_type: str, opset: int) -> bool:
    """Whether a model of that opset may have the operator: also one that was replaced under its own name later."""
    if schema(op_type, opset) is not None:
        return True
    try:
        return onnx.defs.get_schema(op_type, opset, "").deprecated and schema(op_type, HOME_OPSET) is not None
    except onnx.defs.SchemaError:
        return False


@cache
def _standard() -> dict[str, int]:
    """Every operator of ai.onnx and the opset that brought it."""
    first: dict[str, int] = {}
    for entry in onnx.defs.get_all_schemas_with_history():
        if entry.domain == "":
            first[entry.name] = min(first.get(entry.name, entry.since_version), entry.since_version)
    return first


def refuse_unknown(
    where: str,
    nodes: Iterable[onnx.NodeProto],
    opsets: Mapping[str, int],
    local: Collection[tuple[str, str]],
) -> None:
    """Raises PorterError for the first node whose operator neither the standard nor the model defines."""
    for node in nodes:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (node.domain, node.op_type) in local or (domain, node.op_type) in local:
            continue
        name = node.name or next((f"-> {output}" for output in node.output if output), "")
        place = f"{where}: node '{name}'"
        if domain:
            _refuse_domain(place, domain, node.op_type, local)
        if "" not in opsets:
            raise PorterError(place, expected="an opset of ai.onnx in opset_import", found="none")
        if not _readable(node.op_type, opsets[""]):
            _refuse_operator(place, node.op_type, opsets[""])


def _refuse_domain(place: str, domain: str, op_type: str, local: Collection[tuple[str, str]]) -> None:
    own = sorted({name for owner, name in local if owner == domain})
    near = get_close_matches(op_type, own, 1)
    known = {
        "ai.onnx.ml": "a model of ai.onnx operators: classical machine learning has no place on these devices",
        "ai.onnx.training": "a model for inference",
        "ai.onnx.preview.training": "a model for inference",
        "com.microsoft": "operators of ai.onnx, or those of onnxruntime that language models use",
    }
    hints = {
        "com.microsoft": "export without onnxruntime's graph optimizer",
        "ai.onnx.ml": "keep the pre- or postprocessing outside of the model",
    }
    raise PorterError(
        place,
        expected=known.get(domain, "operators of ai.onnx or functions that the model defines"),
        found=f"operator {domain}.{op_type}",
        hint=f"{domain}.{near[0]}" if near else hints.get(domain),
    )


def _refuse_operator(place: str, op_type: str, opset: int) -> None:
    first = _standard().get(op_type)
    hint: str | None
    if first is not None and first > opset:
        expected, hint = f"an operator of opset {opset}", f"{op_type} exists since opset {first}"
    elif first is not None:
        expected, hint = f"an operator of opset {opset}", f"{op_type} was withdrawn before opset {opset}"
    else:
        near = get_close_matches(op_type, _standard(), 1)
        expected, hint = "an operator of ai.onnx", near[0] if near else None
    raise PorterError(place, expected=expected, found=f"operator {op_type}", hint=hint)
