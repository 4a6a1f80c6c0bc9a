"""A random graph in the making: values with types and shapes, and an `add` that keeps it valid at its opset.

What a drawn node returns is what onnx's own shape inference says of it, so the generator holds no second opinion; a node that the
standard does not allow there (a type, an attribute, a shape) is refused, and another is drawn.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference

FLOATS = ("float32", "float16", "bfloat16", "float64")
INTEGERS = ("int64", "int32", "int8", "uint8", "int16", "uint16", "uint32", "uint64")
LARGEST = 4096  # elements of a value


class Refused(Exception):
    """The standard does not allow this node, or its result is of no use."""


def dtype_of(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def element(name: str) -> int:
    """ONNX's number of an element type."""
    return helper.np_dtype_to_tensor_dtype(dtype_of(name))


@dataclass(frozen=True)
class Kind:
    """Type and shape of a value; no shape where it depends on data, and then the rank."""

    dtype: str
    shape: tuple[int, ...] | None
    loose: int = 0

    @property
    def rank(self) -> int:
        return len(self.shape or ())

    @property
    def size(self) -> int:
        return int(np.prod(self.shape or (), dtype=int))

    def proto(self) -> onnx.TypeProto:
        return helper.make_tensor_type_proto(element(self.dtype), self.dims)

    @property
    def dims(self) -> tuple[int | None, ...]:
        """The shape as a model declares it."""
        return (None,) * self.loose if self.shape is None else self.shape


@dataclass
class Draft:
    """The nodes so far; `outer` is the draft that a subgraph reads from."""

    opset: int
    rng: random.Random
    numbers: np.random.Generator
    prefix: str = ""
    outer: Draft | None = None
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)  # of Constant nodes
    values: dict[str, Kind] = field(default_factory=dict)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    count: int = 0

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{self.prefix}{stem}{self.count}"

    def root(self) -> Draft:
        return self if self.outer is None else self.outer.root()

    # what there is

    def kind(self, name: str) -> Kind:
        if name in self.values:
            return self.values[name]
        if name in self.weights:
            return Kind(self.weights[name].dtype.name, self.weights[name].shape)
        assert self.outer is not None, name
        return self.outer.kind(name)

    def seen(self) -> dict[str, Kind]:
        """All values in reach, those of enclosing graphs too."""
        return {**(self.outer.seen() if self.outer else {}), **self.values}

    def pick(self, *dtypes: str, least: int = 0, most: int = 9) -> str:
        """A value of one of these types and a rank in this range; the latest are likelier."""
        found = [n for n, k in self.seen().items() if k.shape is not None and (not dtypes or k.dtype in dtypes)]
        found = [n for n in found if least <= self.kind(n).rank <= most]
        if not found:
            raise Refused(f"no value of {dtypes}")
        return found[min(int(self.rng.expovariate(0.5)), len(found) - 1) * -1 - 1]

    def like(self, shape: tuple[int, ...], dtype: str) -> str:
        """Another value of this kind, or a weight."""
        same = [n for n, k in self.seen().items() if k == Kind(dtype, shape)]
        return self.rng.choice(same) if same and self.rng.random() < 0.5 else self.filled(shape, dtype)

    # what is added

    def weight(self, array: Any) -> str:
        """A constant: an initializer, or a Constant node; an equal one is shared, now and then."""
        array = np.asarray(array)
        same = [n for n, w in self.weights.items() if w.dtype == array.dtype and np.array_equal(w, array)]
        if same and self.rng.random() < 0.7:
            return same[0]
        old = ("float16", "float32", "float64")  # what the Constant of opset 1 may hold; that of 13 also bfloat16
        if self.rng.random() < 0.2 and (self.opset >= 13 or array.dtype.name in old):
            name = self.fresh("c")
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
            self.values[name] = Kind(array.dtype.name, array.shape)
            self.constants[name] = array
            return name
        name = self.fresh("w")
        self.weights[name] = array
        return name

    def ints(self, *numbers: int) -> str:
        return self.weight(np.array(numbers, np.int64))

    def filled(self, shape: tuple[int, ...], dtype: str, positive: bool = False, scale: float = 1.0) -> str:
        """A weight of random numbers; an earlier one of the same kind where there is one, now and then."""
        kind = dtype_of(dtype)
        if not positive and scale == 1.0 and self.rng.random() < 0.3:
            same = [n for n, w in self.weights.items() if w.dtype == kind and w.shape == shape and w.ndim]
            if same:
                return self.rng.choice(same)
        return self.weight(random_array(self.numbers, shape, dtype, positive, scale))

    def axis(self, name: str) -> int:
        """An axis of a value, counted from the end now and then where the opset allows it."""
        rank = self.kind(name).rank
        if not rank:
            raise Refused("no axis")
        return self.rng.randrange(-rank if self.opset >= 13 else 0, rank)

    def add(self, op: str, inputs: list[str], outputs: int = 1, *, domain: str = "", **attributes: Any) -> list[str]:
        """The outputs of a new node. Raises Refused where it is not valid here."""
        try:
            schema = defs.get_schema(op, self.opset, domain)
        except defs.SchemaError:
            raise Refused(f"{op} at opset {self.opset}") from None
        if schema.deprecated:
            raise Refused(f"{op} at opset {self.opset}")
        names = [self.fresh("v") for _ in range(outputs)]
        node = helper.make_node(op, inputs, names, name=self.fresh("n"), domain=domain, **attributes)
        given = [name for name in inputs if name]
        if op in ("Max", "Min", "Sum", "Mean") and self.opset < 8 and len({self.kind(n).shape for n in given}) > 1:
            raise Refused(f"{op} broadcasts from opset 8 on")
        self._types_allowed(schema, inputs)
        types = {name: self.kind(name).proto() for name in given}
        data = {
            name: numpy_helper.from_array(array, name)
            for name in given
            if (array := self._known(name)) is not None and array.size <= 64
        }
        imports = [helper.make_opsetid("", self.opset)]
        try:
            result = shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)
        except Exception as e:
            raise Refused(str(e)) from None
        kinds = []
        for name in names:
            if name not in result:
                raise Refused(f"{op}: no type of an output")
            kinds.append(_kind(result[name]))
        self.take(node, dict(zip(names, kinds, strict=True)))
        if op == "Shape":  # what a shape holds is known
            self.constants[names[0]] = np.array(self.kind(inputs[0]).shape, np.int64)
        return names

    def take(self, node: onnx.NodeProto, results: dict[str, Kind]) -> None:
        """Enters a node whose results are known."""
        if any(k.size > LARGEST or min(k.shape or (0,)) < 0 for k in results.values()):
            raise Refused("too large, or onnx's inference is wrong")
        self.nodes.append(node)
        self.values.update(results)

    def _known(self, name: str) -> np.ndarray | None:
        found = self.weights.get(name, self.constants.get(name))
        return self.outer._known(name) if found is None and self.outer is not None else found

    def _types_allowed(self, schema: defs.OpSchema, inputs: list[str]) -> None:
        """ONNX's inference does not hold inputs against the type constraints."""
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        bound: dict[str, str] = {}
        for position, name in enumerate(inputs):
            formal = schema.inputs[min(position, len(schema.inputs) - 1)]
            if not name:
                continue
            kind = self.kind(name).dtype
            text = f"tensor({ {'float32': 'float', 'float64': 'double'}.get(kind, kind) })".replace(" ", "")
            if text not in allowed.get(formal.type_str, [formal.type_str]):
                raise Refused(f"{schema.name} takes no {kind}")
            if formal.is_homogeneous and bound.setdefault(formal.type_str, kind) != kind:
                raise Refused(f"{schema.name} takes one type")


def random_array(
    numbers: np.random.Generator, shape: tuple[int, ...], dtype: str, positive: bool = False, scale: float = 1.0
) -> np.ndarray:
    """Moderate numbers: floats are normal, or 0.5 to 2; integers small, from 1 where they must be positive."""
    kind = dtype_of(dtype)
    if dtype == "bool":
        return numbers.integers(0, 2, shape).astype(bool)
    if dtype in INTEGERS:
        low = 1 if positive else -4 if kind.kind == "i" else 0
        return numbers.integers(low, 6, shape).astype(kind)
    x = numbers.uniform(0.5, 2.0, shape) if positive else numbers.standard_normal(shape)
    return np.asarray(x * scale, np.float64).astype(np.float32).astype(kind)


def _kind(found: onnx.TypeProto) -> Kind:
    tensor = found.tensor_type
    if not tensor.elem_type:
        raise Refused("no type")
    name = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    if not tensor.HasField("shape"):
        raise Refused("no rank")
    if not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return Kind(name, None, len(tensor.shape.dim))
    return Kind(name, tuple(d.dim_value for d in tensor.shape.dim))


def graph_of(d: Draft, name: str, inputs: dict[str, Kind], outputs: list[str]) -> onnx.GraphProto:
    """The draft as a graph with these inputs and outputs."""
    info = lambda n, k: helper.make_tensor_value_info(n, element(k.dtype), k.dims)
    return helper.make_graph(
        d.nodes, name, [info(n, k) for n, k in inputs.items()], [info(n, d.kind(n)) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in d.weights.items()],
    )  # fmt: skip


__all__ = [
    "FLOATS",
    "INTEGERS",
    "Draft",
    "Kind",
    "Refused",
    "TensorProto",
    "dtype_of",
    "element",
    "graph_of",
    "random_array",
]
