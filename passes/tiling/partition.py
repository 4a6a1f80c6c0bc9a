"""Cuts the model into kernels: convex regions, each one affine loop nest that computes nothing dear twice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import networkx as nx
import numpy as np

from porter import graph, ops
from porter.errors import PorterError
from porter.graph import Function, Model, Node, Value
from porter.pipeline import Pass, exact
from porter.rewrite import Rewrite
from porter.rewrite.regions import boundary, content, has_subgraphs, region
from porter.tile.block_scales import scaled
from porter.tile.canonical import NARROW, canonical
from porter.tile.choose import choose
from porter.tile.form import Cast, Cut, Dot, Elementwise, Form, Reduce
from porter.tile.limits import Limits
from porter.tile.pull import pull
from porter.tile.target import target_of
from porter.tile.work import repeats, work

DOMAIN = "porter.kernel"
SHAPES = 64  # integer constants of at most this many elements are part of a kernel's meaning: shapes, axes, indices
AGAIN = 1.25  # a merged kernel may do this much more arithmetic than its parts apart
RANK = {"movement": 0, "elementwise": 1, "reduction": 2, "contraction": 3}


@dataclass(frozen=True)
class Partition(Pass):
    """Kernels: each becomes a function of domain porter.kernel, equal ones the same function."""

    contract = exact
    after: ClassVar[tuple[str, ...]] = ("resize",)

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        limits = target_of(device.family).limits(device) if device is not None else Limits()
        _copied_outputs(model)
        ops.infer(model)
        _without_elements(model)
        clusters = _ordered(_Partitioner(model, limits).clusters())
        described = [
            (tuple(n.op_type for n in c.nodes), tuple(dict.fromkeys(map(graph.source_name, c.nodes)))) for c in clusters
        ]
        _replace(model, clusters)
        for number, (kinds, sources) in enumerate(described, 1):
            yield Rewrite(number, "tiling.partition", kinds, sources)


@dataclass(frozen=True)
class Trial:
    """What a set of nodes would be as one kernel, or why it cannot be one."""

    kind: str
    work: int = 0
    dots: int = 0
    again: int = 1  # how often the contraction that is repeated most is computed
    why: str = ""


@dataclass(eq=False)
class Cluster:
    """Nodes of one kernel, in the order of the graph."""

    nodes: list[Node]
    trial: Trial = field(default_factory=lambda: Trial("movement"))
    outputs: list[Value] = field(default_factory=list)
    name: str = ""  # of the node that weighs most


class _Partitioner:
    def __init__(self, model: Model, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.order = {node: i for i, node in enumerate(model.graph)}
        self.home: dict[Node, Cluster] = {}
        self.trials: dict[str, Trial] = {}

    def clusters(self) -> list[Cluster]:
        for node in self.order:
            if all(graph.constant(v) is not None for v in node.outputs):
                continue  # a Constant node; it moves into the kernels that use it
            mine = Cluster([node])
            mine.trial = self.trial(mine.nodes)
            self.home[node] = mine
            while merged := self._absorb(self.home[node]):
                for n in merged.nodes:
                    self.home[n] = merged
        self._spread()
        for cluster in self._all():
            cluster.outputs = cluster.outputs or self._escaping(cluster.nodes)
            cluster.name = max(cluster.nodes, key=lambda n: RANK[self.trial([n]).kind]).op_type.lower()
        return self._all()

    def _all(self) -> list[Cluster]:
        return sorted({id(c): c for c in self.home.values()}.values(), key=lambda c: self.order[c.nodes[-1]])

    def _absorb(self, consumer: Cluster) -> Cluster | None:
        """The consumer merged with one of its producers, the heaviest first; None where nothing fits."""
        found = {
            id(p): p
            for n in consumer.nodes
            for v in n.inputs
            if v is not None and (p := self._maker(v)) not in (None, consumer)
        }
        producers = [p for p in found.values() if p is not None]
        for producer in sorted(producers, key=lambda c: (-RANK[c.trial.kind], -self.order[c.nodes[-1]])):
            if merged := self._merged(producer, consumer):
                return merged
        return None

    def _maker(self, value: Value) -> Cluster | None:
        node = value.producer()
        return None if node is None else self.home.get(node)

    def _merged(self, producer: Cluster, consumer: Cluster) -> Cluster | None:
        kinds = RANK[producer.trial.kind], RANK[consumer.trial.kind]
        if (
            producer.trial.why
            or consumer.trial.why
            or kinds in ((3, 3), (3, 2), (2, 3))
            or not self._convex(producer, consumer)
        ):
            return None
        if (consumer.trial.kind == "movement" or _decodes(consumer.nodes)) and self._grows(consumer):
            return None
        merged = Cluster(sorted({*producer.nodes, *consumer.nodes}, key=self.order.__getitem__))
        escaping = self._escaping(merged.nodes)
        if len(escaping) > 1 and (len({tuple(v.shape or ()) for v in escaping}) > 1 or (3 in kinds and kinds[0] < 2)):
            return None
        merged.trial = self.trial(merged.nodes)
        apart = (producer.trial, consumer.trial)
        if (
            merged.trial.why
            or merged.trial.dots > sum(t.dots for t in apart)
            or merged.trial.again > max(t.again for t in apart)
        ):
            return None
        return merged if merged.trial.work <= AGAIN * sum(t.work for t in apart) + 1 else None

    def _grows(self, cluster: Cluster) -> bool:
        """Whether more bytes come out than go in (a broadcast, a widening): such movement belongs to those who read it."""
        outputs = self._escaping(cluster.nodes)
        return not any(v.is_graph_output() for v in outputs) and _bytes(outputs) > _bytes(
            kernel_inputs(cluster.nodes, outputs)
        )

    def _spread(self) -> None:
        """Movement that several kernels read goes into each of them, if it fits into all."""
        for cluster in self._all():
            cluster.outputs = self._escaping(cluster.nodes)
        moved: dict[Node, list[Cluster]] = {}  # nodes that have gone into others, and into which
        for cluster in reversed(self._all()):
            if (
                cluster.trial.kind != "movement"
                or cluster.trial.why
                or any(v.is_graph_output() for v in cluster.outputs)
            ):
                continue
            if any(u.graph is not self.model.graph for v in cluster.outputs for u, _ in v.uses()):
                continue  # a body of control flow reads it
            readers = [u for v in cluster.outputs for u, _ in v.uses()]
            homes = [c for u in readers for c in ([self.home[u]] if u in self.home else moved.get(u, []))]
            users = {id(c): c for c in homes if c is not cluster}
            plans = []
            for user in sorted(users.values(), key=lambda c: self.order[c.nodes[-1]]):
                merged = Cluster(sorted({*cluster.nodes, *user.nodes}, key=self.order.__getitem__))
                merged.trial = self.trial(merged.nodes, user.outputs)
                plans.append((user, merged))
            if all(
                not m.trial.why and not u.trial.why and m.trial.dots <= u.trial.dots and m.trial.again <= u.trial.again
                for u, m in plans
            ):
                for user, merged in plans:
                    user.nodes, user.trial = merged.nodes, merged.trial
                for node in cluster.nodes:
                    self.home.pop(node, None)
                    moved[node] = list(users.values())

    def _convex(self, producer: Cluster, consumer: Cluster) -> bool:
        """No path from the producer to the consumer through a third kernel."""
        inside = {*producer.nodes, *consumer.nodes}
        last = max(self.order[n] for n in consumer.nodes)
        stack = [u for n in producer.nodes for v in n.outputs for u, _ in v.uses() if u not in inside]
        seen: set[Node] = set()
        while stack:
            node = stack.pop()
            cluster = self.home.get(node)
            for n in cluster.nodes if cluster else [node]:
                if n in seen or (self.order.get(n, last + 1) > last and cluster is None):
                    continue
                seen.add(n)
                for v in n.outputs:
                    for u, _ in v.uses():
                        if u in consumer.nodes:
                            return False
                        if u not in seen and u not in inside:
                            stack.append(u)
        return True

    def _escaping(self, nodes: list[Node]) -> list[Value]:
        inside = set(nodes)
        return [v for n in nodes for v in n.outputs if v.is_graph_output() or any(u not in inside for u, _ in v.uses())]

    # One kernel, tried

    def trial(self, nodes: list[Node], outputs: list[Value] | None = None) -> Trial:
        if has_subgraphs(nodes):
            return Trial("movement", why="control flow")
        outputs = self._escaping(nodes) if outputs is None else outputs
        inputs = kernel_inputs(nodes, outputs)
        if any(graph.shape(v) is None for v in (*inputs, *outputs)):
            return Trial("movement", why="a shape depends on data")
        alone = region(nodes, inputs, outputs, self.model.functions, opset=self.model.opset_imports[""])
        key = content(alone)
        if key not in self.trials:
            self.trials[key] = self._try(alone)
        return self.trials[key]

    def _try(self, alone: Model) -> Trial:
        try:
            form = scaled(pull(meaning(alone.graph, alone)), self.limits.block_scaled)
            form = canonical(form, keep_last=self.limits.apart, integer=self.limits.integer)
            axes = choose(form, self.limits)
        except (Cut, PorterError) as e:
            return Trial("movement", why=str(e).splitlines()[0])
        dots = [i for i in form.reachable() if isinstance(form[i], Dot)]
        again = max((repeats(form, axes, i) for i in dots), default=1)
        return Trial(_kind(form), work(form, axes), len(dots) - _halves(form), again)


def _halves(form: Form) -> int:
    """How many dots are only a further part of another's sum (porter.tile.halves)."""
    added = [n for i in form.reachable() if isinstance(n := form[i], Elementwise) and n.op == "add"]
    return sum(all(isinstance(form[a], Dot) for a in n.args) for n in added)


def _kind(form: Form) -> str:
    nodes = [form[i] for i in form.reachable()]
    if any(isinstance(n, Dot) for n in nodes):
        return "contraction"
    if any(isinstance(n, Reduce) for n in nodes):
        return "reduction"
    output = form.params[-1].dtype
    index = {"bool", "int32", "int64"} - {output}  # arithmetic on positions, not on what is moved
    computed = [n for n in nodes if isinstance(n, Elementwise | Cast) and n.dtype not in index]
    widened = all(isinstance(n, Cast) and form[n.arg].dtype in NARROW for n in computed)
    return "movement" if widened else "elementwise"


def _decodes(nodes: list[Node]) -> bool:
    """Whether nothing happens but that codes become the numbers they stand for: memory holds codes, readers decode."""
    kinds = {
        "DequantizeLinear" if n.op_type.startswith("Decoded_") else n.op_type if n.domain == "" else n.domain
        for n in nodes
    }
    return "DequantizeLinear" in kinds and kinds <= {
        "DequantizeLinear",
        "Cast",
        "Transpose",
        "Reshape",
        "Identity",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
    }


def _bytes(values: Iterable[Value]) -> int:
    return sum(math.prod(graph.shape(v) or ()) * (graph.dtype(v) or np.dtype(np.float32)).itemsize for v in values)


def kernel_inputs(nodes: list[Node], outputs: list[Value]) -> list[Value]:
    """What the kernel reads at run time: computed values and weights; small integers and numbers are part of its meaning."""
    found = boundary(nodes, outputs, keep=[v for n in nodes for v in n.inputs if v is not None and not _embedded(v, n)])
    return [v for v in found if v not in {o for n in nodes for o in n.outputs}]


def _embedded(value: Value, user: Node) -> bool:
    tensor = graph.constant_tensor(value)
    if tensor is None or graph.is_unread(value):
        return False
    quantized = user.op_type in ("QuantizeLinear", "DequantizeLinear") and user.domain == ""
    if quantized or user.op_type.startswith("Decoded_"):
        return False  # scales are weights: they differ from layer to layer
    if user.op_type == "Resize" and value is not user.inputs[0]:
        return bool(tensor.size <= SHAPES)  # scales are floats, and say the shape
    dtype = graph.dtype(value)
    integral = dtype is not None and np.issubdtype(dtype, np.integer)
    return tensor.size <= 1 or (integral and tensor.size <= SHAPES and len(tensor.shape) <= 1)


def meaning(function: Any, model: Model) -> Any:
    """The jaxpr of a kernel's function, from the types of its inputs."""
    types = [ops.ShapeDtype(graph.shape(v), graph.dtype(v)) for v in function.inputs]
    return ops.trace(function, model, types)


def _copied_outputs(model: Model) -> None:
    """An output that is an input, a weight or a constant gets a node: a kernel that copies it."""
    for number, value in enumerate(model.graph.outputs):
        if value.producer() is None or graph.constant(value) is not None:
            result = graph.new_value(value.name, graph.dtype(value), graph.shape(value))
            copy = graph.new_node("Identity", [value], outputs=[result], name=f"copy_{value.name}")
            model.graph.append(copy)
            value.name = value.name if value.is_graph_input() else f"{value.name}_copied"
            model.graph.outputs[number] = result


def _without_elements(model: Model) -> None:
    """A value that has no elements is a constant: there is nothing to compute, on a device or elsewhere."""
    for node in list(model.graph):
        for value in node.outputs if node.op_type != "Constant" else ():
            shape, dtype = graph.shape(value), graph.dtype(value)
            if shape is None or dtype is None or 0 not in shape:
                continue
            made = graph.new_value(value.name, dtype, shape)
            constant = graph.new_node(
                "Constant", [], {"value": np.zeros(shape, dtype)}, outputs=[made], name=f"none_{value.name}"
            )
            model.graph.insert_before(model.graph[0], constant)
            value.replace_all_uses_with(made, replace_graph_outputs=True)
            value.name = f"{value.name}_before"
    for node in reversed(list(model.graph)):
        if not _read(node):
            graph.remove([node])


def _read(node: Node) -> bool:
    return any(v.is_graph_output() or any(v.uses()) for v in node.outputs)


def _call(model: Model, cluster: Cluster, known: dict[str, str]) -> Node:
    """The node that stands for the cluster: a call of a kernel function, the same one for equal clusters."""
    outputs = cluster.outputs
    inputs = kernel_inputs(cluster.nodes, outputs)
    alone = region(cluster.nodes, inputs, outputs, model.functions, opset=model.opset_imports[""])
    key = content(alone)
    if key not in known:
        known[key] = f"{cluster.name}_{key[:8]}"
        identifier = (DOMAIN, known[key], "")
        model.functions[identifier] = _function(identifier, alone)
        model.opset_imports.setdefault(DOMAIN, 1)
    results = [graph.new_value(v.name, graph.dtype(v), graph.shape(v)) for v in outputs]
    makers = {v.producer() for v in outputs}  # movement that several kernels repeat may be the last node of each
    last = next(n for n in reversed(cluster.nodes) if n in makers)
    call = graph.new_node(known[key], inputs, domain=DOMAIN, outputs=results, name=last.name)
    graph.inherit([call], cluster.nodes)
    return call


def _function(identifier: tuple[str, str, str], alone: Model) -> Function:
    """A region as a function; its constants become Constant nodes, so that the function says all it means."""
    body = alone.graph
    first = body[0]
    for value in list(body.initializers.values()):
        assert value.const_value is not None and value.name is not None
        made = graph.new_node("Constant", [], {"value": value.const_value.numpy()}, outputs=1, name=f"c_{value.name}")
        made.outputs[0].type, made.outputs[0].shape, made.outputs[0].name = value.type, value.shape, f"{value.name}_k"
        body.insert_before(first, made)
        value.replace_all_uses_with(made.outputs[0])
        body.initializers.pop(value.name)
    return Function(*identifier, graph=body, attributes=[])


def _replace(model: Model, clusters: list[Cluster]) -> list[Node]:
    """Calls in the place of all nodes, in an order of evaluation; what is no kernel stays a node. Returns the new nodes."""
    known: dict[str, str] = {}
    made: list[Node] = []
    for cluster in clusters:
        made.append(cluster.nodes[0] if cluster.trial.why else _call(model, cluster, known))
    old = [n for n in model.graph if n not in made]
    for cluster, call in zip(clusters, made, strict=True):
        if call.graph is not None:
            model.graph.remove(call)
        model.graph.append(call)
        if not cluster.trial.why:
            for before, after in zip(cluster.outputs, call.outputs, strict=True):
                name = before.name
                before.replace_all_uses_with(after, replace_graph_outputs=True)
                before.name, after.name = f"{name}_before", name
    graph.remove([n for n in old if n.op_type != "Constant" or not _read(n)])
    return made


def _ordered(clusters: list[Cluster]) -> list[Cluster]:
    """Clusters in an order of evaluation."""
    maker = {v: c for c in clusters for v in c.outputs}
    order = nx.DiGraph()
    order.add_nodes_from(range(len(clusters)))
    number = {id(c): i for i, c in enumerate(clusters)}
    for c in clusters:
        inside = {v for n in c.nodes for v in n.outputs}
        for n in c.nodes:
            for v in n.inputs:
                if v is not None and v not in inside and (p := maker.get(v)) is not None and p is not c:
                    order.add_edge(number[id(p)], number[id(c)])
    return [clusters[i] for i in nx.lexicographical_topological_sort(order)]
