"""What has to hold in the file's own message before a graph can be built: names, definitions, cycles, tensor sizes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir

from porter.errors import PorterError
from porter.graph.operators import refuse_unknown

# How many elements one entry of int32_data holds, where it is more than one: packed sub-byte formats. From onnx.proto3.
_UNPACKED = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}


def check_proto(where: str, proto: onnx.ModelProto, more: Collection[tuple[str, str]] = ()) -> list[str]:
    """Raises PorterError for what no graph can be made of; returns notes on what was or will be repaired.

    Refused: opsets and operators nobody has defined, values without a definition or with two, cycles, tensors whose
    data does not fill their shape; `more` are operators that are known besides the standard's. A Constant node that a
    later one redefines is dropped from the message.
    """
    opsets = _opsets(where, proto.opset_import)
    local = {(function.domain, function.name) for function in proto.functions} | set(more)
    _check_texts(where, proto)
    notes = _drop_redefined(proto.graph)
    refuse_unknown(where, _scoped(proto.graph.node), opsets, local)
    for function in proto.functions:
        imports = _opsets(f"{where}: function '{function.name}'", function.opset_import) or opsets
        refuse_unknown(f"{where}: function '{function.name}'", _scoped(function.node), imports, local)
    _check_calls(where, proto)
    _check_graph(where, proto.graph, {}, notes)
    for function in proto.functions:
        _check_function(f"{where}: function '{function.name}'", function, notes)
    return notes


def counted(count: int, what: str) -> str:
    """'1 node', '2 nodes'."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def byte_size(tensor: onnx.TensorProto) -> int:
    """The bytes that the tensor's shape and type need."""
    return math.ceil(math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth / 8)


def _opsets(where: str, imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for entry in imports:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if opsets.get(domain, entry.version) != entry.version:
            raise PorterError(
                where,
                expected=f"one version of the operators '{domain or 'ai.onnx'}'",
                found=f"{opsets[domain]} and {entry.version}",
            )
        opsets[domain] = entry.version
    newest = onnx.defs.onnx_opset_version()
    if "" in opsets and not 1 <= opsets[""] <= newest:
        raise PorterError(where, expected=f"opset 1 to {newest}", found=f"opset {opsets['']}")
    return opsets


def _check_texts(where: str, proto: onnx.ModelProto) -> None:
    """Names that are no UTF-8 come out of the message as bytes; descriptions that are not are dropped."""
    graphs = [proto.graph, *(g for node in _scoped(proto.graph.node) for g in _subgraphs(node))]
    nodes = [node for owner in (proto.graph, *proto.functions) for node in _scoped(owner.node)]
    for node in nodes:
        attributes = [attribute.name for attribute in node.attribute]
        _check_text(where, node.op_type, node.domain, node.name, *node.input, *node.output, *attributes)
    for graph in graphs:
        infos = [info.name for kind in (graph.input, graph.output, graph.value_info) for info in kind]
        _check_text(where, graph.name, *infos, *(tensor.name for tensor in graph.initializer))
    for message in [proto, *graphs, *proto.functions, *nodes]:
        if isinstance(message.doc_string, bytes):
            message.ClearField("doc_string")


def _check_text(where: str, *texts: str | bytes) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise PorterError(where, expected="names in UTF-8", found=str(text))


def _scoped(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and all nodes in their subgraphs."""
    for node in nodes:
        yield node
        for graph in _subgraphs(node):
            yield from _scoped(graph.node)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def redefined_constants(graph: onnx.GraphProto) -> list[int]:
    """The Constant nodes whose output a later Constant node defines again."""
    last: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        if node.op_type == "Constant" and node.output:
            last[node.output[0]] = index
    return [
        index
        for index, node in enumerate(graph.node)
        if node.op_type == "Constant" and node.output and last[node.output[0]] != index
    ]


def _drop_redefined(graph: onnx.GraphProto) -> list[str]:
    """Keeps the last of several Constant nodes that define one value, which is what onnxruntime does."""
    dropped = redefined_constants(graph)
    if not dropped:
        return []
    first = graph.node[dropped[0]].output[0]
    for index in reversed(dropped):
        del graph.node[index]
    count = counted(len(dropped), "constant")
    return [f"{count} defined more than once, the first '{first}'; the last definition was kept"]


def _check_calls(where: str, proto: onnx.ModelProto) -> None:
    """A function that calls itself, through others or not, has no meaning."""
    calls = {(f.domain, f.name): [(node.domain, node.op_type) for node in _scoped(f.node)] for f in proto.functions}
    edges = {key: [callee for callee in callees if callee in calls] for key, callees in calls.items()}
    cycle = find_cycle(edges)
    if cycle:
        path = " -> ".join(f"{domain}.{name}" for domain, name in [*cycle, cycle[0]])
        raise PorterError(where, expected="functions that do not call themselves", found=path)


def _check_function(where: str, function: onnx.FunctionProto, notes: list[str]) -> None:
    defined = _define(where, {}, ((name, "an input") for name in function.input))
    _check_nodes(where, function.node, defined, {}, notes)
    for name in function.output:
        if name not in defined:
            raise PorterError(where, expected="an output that is computed", found=f"output '{name}', defined nowhere")


def _check_graph(where: str, graph: onnx.GraphProto, outer: Mapping[str, str], notes: list[str]) -> None:
    defined = _define(where, {}, ((value.name, "an input") for value in graph.input))
    inputs = set(defined)
    for tensor in graph.initializer:
        _check_tensor(f"{where}: tensor '{tensor.name}'", tensor)
    _define(where, defined, ((t.name, "a weight") for t in graph.initializer if t.name not in inputs))
    repeated = [name for name, count in Counter(t.name for t in graph.initializer).items() if count > 1]
    if repeated:
        raise PorterError(where, expected="one definition of each value", found=f"two weights '{repeated[0]}'")
    for sparse in graph.sparse_initializer:
        raise PorterError(
            where, expected="dense weights", found=f"the sparse weight '{sparse.values.name}'", hint="export it dense"
        )
    _check_nodes(where, graph.node, defined, outer, notes)
    for value in graph.output:
        if value.name not in defined and value.name not in outer:
            raise PorterError(
                where, expected="an output that is computed", found=f"output '{value.name}', defined nowhere"
            )


def _check_nodes(
    where: str, nodes: Sequence[onnx.NodeProto], defined: dict[str, str], outer: Mapping[str, str], notes: list[str]
) -> None:
    _define(where, defined, ((name, title(node)) for node in nodes for name in node.output if name))
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    visible = {**outer, **defined}
    edges: dict[int, list[int]] = {}
    late = 0
    for index, node in enumerate(nodes):
        reads = [name for name in node.input if name]
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise PorterError(f"{where}: {title(node)}", expected="dense constants", found="a sparse one")
            for tensor in [attribute.t] if attribute.HasField("t") else attribute.tensors:
                _check_tensor(f"{where}: {title(node)}, attribute '{attribute.name}'", tensor)
        for graph in _subgraphs(node):
            _check_graph(f"{where}: {title(node)}", graph, visible, notes)
            reads += [name for name in _free(graph) if name in visible]
        for name in reads:
            if name not in visible:
                raise PorterError(
                    f"{where}: {title(node)}",
                    expected="inputs that are computed",
                    found=f"'{name}', which neither the graph's inputs, weights nor nodes define",
                )
        edges[index] = [producer[name] for name in reads if name in producer]
        late += any(before >= index for before in edges[index])
    if late:
        cycle = find_cycle(edges)
        if cycle:
            path = " -> ".join(f"'{nodes[i].name or nodes[i].op_type}'" for i in [*reversed(cycle), cycle[-1]])
            raise PorterError(where, expected="a graph without cycles", found=f"the cycle {path}")
        notes.append(f"{counted(late, 'node')} before what they read; the nodes were put in order")


def _free(graph: onnx.GraphProto) -> Iterator[str]:
    """The names that a subgraph reads from outside."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own.update(name for node in graph.node for name in node.output)
    for node in graph.node:
        yield from (name for name in node.input if name and name not in own)
        for inner in _subgraphs(node):
            yield from (name for name in _free(inner) if name not in own)
    yield from (value.name for value in graph.output if value.name not in own)


def _define(where: str, defined: dict[str, str], names: Iterable[tuple[str, str]]) -> dict[str, str]:
    for name, by in names:
        if not name:
            raise PorterError(where, expected="a name for every input and weight", found=f"{by} without one")
        if name in defined:
            raise PorterError(
                where,
                expected="one definition of each value",
                found=f"'{name}' defined twice: {defined[name]} and {by}",
            )
        defined[name] = by
    return defined


def _check_tensor(where: str, tensor: onnx.TensorProto) -> None:
    if tensor.data_type not in set(ir.DataType) or tensor.data_type == 0:
        raise PorterError(where, expected="an ONNX element type", found=f"type number {tensor.data_type}")
    if any(dim < 0 for dim in tensor.dims):
        raise PorterError(where, expected="dims of zero or more", found=f"shape {list(tensor.dims)}")
    count = math.prod(tensor.dims)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    if tensor.data_type == onnx.TensorProto.STRING:
        need, have, unit = count, len(tensor.string_data), "strings"
    elif tensor.HasField("raw_data"):
        need, have, unit = byte_size(tensor), len(tensor.raw_data), "bytes"
    else:
        need, have, unit = _typed(tensor, count)
    if need != have:
        raise PorterError(where, expected=f"{need} {unit} of data for shape {list(tensor.dims)}", found=str(have))


def _typed(tensor: onnx.TensorProto, count: int) -> tuple[int, int, str]:
    """Needed and present entries of the typed data field."""
    bits = ir.DataType(tensor.data_type).bitwidth
    if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        field = "float_data" if tensor.data_type == onnx.TensorProto.COMPLEX64 else "double_data"
        return 2 * count, len(getattr(tensor, field)), "values"
    field = _UNPACKED.get(tensor.data_type, "int32_data")
    need = math.ceil(count * bits / 8) if bits < 8 else count
    return need, len(getattr(tensor, field)), "values"


def title(node: onnx.NodeProto) -> str:
    """How messages call a node of the file."""
    operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    name = node.name or next((f"-> {name}" for name in node.output if name), "")
    return f"node '{name}' ({operator})" if name else f"a node without a name ({operator})"


def find_cycle(edges: Mapping) -> list | None:
    """The members of one cycle, each followed by the one it points to; None where there is none."""
    state: dict = {}
    for root in edges:
        if root in state:
            continue
        path, stack = [root], [iter(edges[root])]
        state[root] = "open"
        while stack:
            following = next(stack[-1], None)
            if following is None:
                state[path.pop()] = "done"
                stack.pop()
            elif state.get(following) == "open":
                return path[path.index(following) :]
            elif following not in state:
                state[following] = "open"
                path.append(following)
                stack.append(iter(edges[following]))
    return None
