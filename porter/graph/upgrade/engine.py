"""Walks a model from its opset to the home opset, and gives the upgrade functions what they need to edit a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import onnx
import onnx_ir as ir

from porter.errors import PorterError
from porter.graph.edit import fresh, inherit, new_node, remove, replace_uses
from porter.graph.operators import HOME_OPSET
from porter.graph.repair import note
from porter.graph.values import constant, source_name

Step = Callable[["Edit"], None]
Table = dict[tuple[str, int], Step]
"""(operator, opset) to the function that brings a node from the opset before to this one."""


def changes(steps: Table, opset: int, *op_types: str) -> Callable[[Step], Step]:
    """Enters a function into a table: `opset` changed these operators, and this is how a node follows."""

    def enter(step: Step) -> Step:
        for op_type in op_types:
            steps[op_type, opset] = step
        return step

    return enter


@dataclass
class Edit:
    """One node on its way to the next opset."""

    node: ir.Node
    graph: ir.Graph
    in_function: bool
    used: set[str]
    notes: list[str]

    def input(self, index: int) -> ir.Value | None:
        """The input at an index; None where it is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def required(self, index: int) -> ir.Value:
        """The input at an index, which must be there."""
        value = self.input(index)
        if value is None:
            self.refuse(f"an input {index}", "none")
        return value

    def attribute(self, name: str, default: Any = None) -> Any:
        """The plain value of an attribute; `default` where the node does not carry it."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        if attribute.is_ref():
            self.refuse(f"a fixed attribute '{name}' in opsets before {HOME_OPSET}", "a function's attribute")
        value = attribute.value
        return tuple(value) if isinstance(value, list | tuple) else value

    def pop(self, name: str, default: Any = None) -> Any:
        """As `attribute`, and the node carries it no longer."""
        value = self.attribute(name, default)
        self.node.attributes.pop(name, None)
        return value

    def set(self, name: str, value: Any) -> None:
        """Gives the node an attribute."""
        self.node.attributes[name] = ir.convenience.convert_attribute(name, value)

    def rank(self, value: ir.Value | None) -> int | None:
        """The rank of a value; None where it is not known."""
        return None if value is None or value.shape is None else len(value.shape.dims)

    def need_rank(self, value: ir.Value | None) -> int:
        """The rank of a value, without which this node cannot be upgraded."""
        rank = self.rank(value)
        if rank is None:
            self.refuse(f"a known rank of '{value.name if value else ''}'", "an unknown one")
        return rank

    def dim(self, value: ir.Value | None, axis: int) -> int | None:
        """A dim of a value; None where it is not known."""
        if value is None or value.shape is None or not -len(value.shape.dims) <= axis < len(value.shape.dims):
            return None
        size = value.shape.dims[axis]
        return size if isinstance(size, int) else None

    def known(self, index: int) -> np.ndarray | None:
        """The array of an input that is constant; None otherwise."""
        return constant(self.input(index))

    def constant(self, array: np.ndarray | Sequence[int], name: str) -> ir.Value:
        """A constant: a weight of the graph, or in a function, which has none, a Constant node before this one."""
        array = np.asarray(array, np.int64) if not isinstance(array, np.ndarray) else array
        tensor = ir.tensor(array)
        full = fresh(f"{self.node.name or self.node.op_type}/{name}", self.used)
        if self.in_function:
            return self.before("Constant", [], {"value": tensor}, name=name)[0]
        value = ir.Value(
            name=full, type=ir.TensorType(tensor.dtype), shape=ir.Shape(list(array.shape)), const_value=tensor
        )
        tensor.name = full
        self.graph.register_initializer(value)
        return value

    def scalar_like(self, number: float, like: ir.Value, name: str) -> ir.Value:
        """A scalar constant in the type of another value, which in a function may only be known when it is called."""
        if like.dtype is not None and like.dtype != ir.DataType.UNDEFINED:
            with np.errstate(over="ignore"):
                return self.constant(np.asarray(number).astype(like.dtype.numpy()), name)
        value = self.constant(np.asarray(number, np.float32), name)
        return self.before("CastLike", [value, like], name=name)[0]

    def before(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        outputs: int = 1,
    ) -> Sequence[ir.Value]:
        """A new node before this one; returns its outputs."""
        label = f"{self.node.name or self.node.op_type}/{name or op_type}"
        node = new_node(op_type, inputs, dict(attributes or {}), outputs=outputs, name=fresh(label, self.used))
        for value in node.outputs:
            value.name = fresh(label, self.used)
        inherit([node], [self.node])
        self.graph.insert_before(self.node, node)
        return node.outputs

    def replace(self, *values: ir.Value) -> None:
        """These values take the place of the node's outputs, and the node goes."""
        for old, new in zip(self.node.outputs, values, strict=False):
            if new.type is None:
                new.type = old.type
            if new.shape is None:
                new.shape = old.shape
            replace_uses(old, new)
        remove([self.node])

    def become(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """The node turns into another operator with the same outputs; attributes are kept unless given."""
        self.node.op_type = op_type
        if attributes is not None:
            self.node.attributes.clear()
            for key, value in attributes.items():
                self.set(key, value)
        if inputs is not None:
            self.set_inputs(inputs)

    def set_inputs(self, inputs: Sequence[ir.Value | None]) -> None:
        """Gives the node these inputs; left-out ones at the end are dropped."""
        values = list(inputs)
        while values and values[-1] is None:
            values.pop()
        self.node.resize_inputs(len(values))
        for index, value in enumerate(values):
            self.node.replace_input_with(index, value)

    def unused_outputs(self, first: int) -> bool:
        """Whether nothing reads the outputs from `first` on."""
        return all(not value.uses() and not value.is_graph_output() for value in self.node.outputs[first:])

    def drop_outputs(self, first: int) -> None:
        """Takes the outputs from `first` on, which nothing reads, off the node."""
        if len(self.node.outputs) > first:
            self.node.resize_outputs(first)

    def refuse(self, expected: str, found: str, hint: str | None = None) -> NoReturn:
        """Raises PorterError: this node cannot follow."""
        raise PorterError(
            f"node '{source_name(self.node)}' ({self.node.op_type})", expected=expected, found=found, hint=hint
        )


def upgrade(model: ir.Model, table: Table, home: int = HOME_OPSET) -> None:
    """Brings the model and its functions, in place, to `home` or leaves them at their own newer opset.

    All end at one opset, the newest among them. Raises PorterError, naming the node, where an old meaning cannot be
    kept.
    """
    roots = [model.graph, *(function.graph for function in model.functions.values())]
    for function in model.functions.values():
        function.graph.opset_imports.setdefault("", model.opset_imports.get("", home))
    target = max(home, *(root.opset_imports.get("", 0) for root in roots))
    notes: list[str] = []
    for root in roots:
        start = root.opset_imports.get("", target)
        _upgrade(root, start, target, table, in_function=root is not model.graph, notes=notes)
        root.opset_imports[""] = target
    imports = [onnx.helper.make_opsetid("", target)]
    model.ir_version = max(model.ir_version or 0, onnx.helper.find_min_ir_version_for(imports))
    note(model, notes)


def taken(root: ir.Graph) -> set[str]:
    """The names of all nodes and values in a graph and its subgraphs."""
    used = {value.name for node in root.all_nodes() for value in node.outputs if value.name}
    used |= {node.name for node in root.all_nodes() if node.name}
    for graph in [root, *root.subgraphs()]:
        used |= {value.name for value in [*graph.inputs, *graph.initializers.values()] if value.name}
    return used


def _upgrade(root: ir.Graph, start: int, target: int, table: Table, *, in_function: bool, notes: list[str]) -> None:
    used = taken(root)
    for opset in range(start + 1, target + 1):
        if not any(opset == version for _, version in table):
            continue
        # the graphs of before: a step may build one of its own around a node that it has brought to this opset
        for graph in [root, *root.subgraphs()]:
            for node in list(graph):
                step = table.get((node.op_type, opset)) if node.domain == "" else None
                if step is not None:
                    step(Edit(node, graph, in_function, used, notes))
