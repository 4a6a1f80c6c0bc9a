"""The other half of `text`: a parser of the same syntax, for tests, tools and people who write small models by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_ir as ir

from porter.errors import PorterError
from porter.graph.edit import remember_sources
from porter.graph.operators import HOME_OPSET, schema
from porter.graph.tokens import Words
from porter.graph.values import SOURCE

T = TypeVar("T")


@dataclass
class _Scope:
    """The values by name in a graph and those around it."""

    outer: _Scope | None = None
    values: dict[str, ir.Value] = field(default_factory=dict)

    def find(self, name: str) -> ir.Value | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        return None


def parse(text: str, tensors: Mapping[str, ir.TensorProtocol | np.ndarray] | None = None) -> ir.Model:
    """The model that a text describes; the header may be left out, and is then the home opset.

    `tensors` gives those that the text names by their hash. Raises PorterError with the line.
    """
    return _Parser(text, tensors or {}).model()


class _Parser(Words):
    def __init__(self, text: str, tensors: Mapping[str, ir.TensorProtocol | np.ndarray]) -> None:
        super().__init__(text)
        self.tensors = tensors

    # models, graphs, functions

    def model(self) -> ir.Model:
        header = self.header() if self.token.text == "<" else {}
        imports: dict[str, int] = header.get("opset_import", {"": HOME_OPSET})
        graph = self.graph(None)
        functions = []
        while self.token.kind != "end":
            functions.append(self.function(imports))
        for function in functions:
            imports.setdefault(function.domain, 1)
        least = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", imports.get("", HOME_OPSET))])
        graph.opset_imports.update(imports)
        model = ir.Model(
            graph,
            ir_version=header.get("ir_version", least),
            functions=functions,
            producer_name=header.get("producer_name"),
            producer_version=header.get("producer_version"),
            domain=header.get("domain"),
            doc_string=header.get("doc_string"),
            model_version=header.get("model_version"),
            metadata_props=header.get("metadata_props"),
        )
        remember_sources(model)
        return model

    def header(self) -> dict[str, Any]:
        self.need("<")

        def entry() -> tuple[str, Any]:
            key = self.name()
            key = key.removesuffix(":") if key.endswith(":") else self._colon(key)
            if key in ("ir_version", "model_version"):
                return key, self.integer()
            if key == "opset_import":
                self.need("[")
                return key, dict(self.listed("]", lambda: self.pair(self.integer)))
            if key == "metadata_props":
                return key, self.metadata()
            return key, self.string()

        return dict(self.listed(">", entry))

    def _colon(self, key: str) -> str:
        self.need(":")
        return key

    def metadata(self) -> dict[str, str]:
        self.need("[")
        return dict(self.listed("]", lambda: self.pair(self.string)))

    def pair(self, value: Callable[[], T]) -> tuple[str, T]:
        key = self.string()
        self.need(":")
        return key, value()

    def graph(self, outer: _Scope | None) -> ir.Graph:
        name = self.name("the name of a graph")
        scope = _Scope(outer)
        self.need("(")
        inputs = self.listed(")", self.typed_value)
        for value in inputs:
            self.define(scope, value)
        self.need("=>")
        self.need("(")
        declared = self.listed(")", self.typed_value)
        types = {value.name: value for value in declared}
        weights: list[ir.Value] = []
        if self.take("<"):
            self.listed(">", lambda: self.described(scope, weights, types))
        nodes = self.body(scope, types)
        outputs = []
        for value in declared:
            found = scope.find(value.name or "")
            if found is None:
                raise PorterError(f"graph '{name}'", expected=f"a definition of output '{value.name}'", found="none")
            if value.type is not None:
                found.type, found.shape = value.type, value.shape
            outputs.append(found)
        return ir.Graph(inputs, outputs, nodes=nodes, initializers=weights, name=name)

    def described(self, scope: _Scope, weights: list[ir.Value], types: dict[str | None, ir.Value]) -> None:
        """A weight with its data, or the type of a value that is computed."""
        value = self.typed_value()
        if not self.take("="):
            types.setdefault(value.name, value)
            return
        value.const_value = self.tensor_data(value.type, value.shape, value.name or "")
        self.define(scope, value)
        weights.append(value)

    def define(self, scope: _Scope, value: ir.Value) -> None:
        if value.name in scope.values:
            self.fail(f"one definition of '{value.name}' before this")
        scope.values[value.name or ""] = value

    def function(self, imports: dict[str, int]) -> ir.Function:
        header = self.header() if self.token.text == "<" else {}
        name = self.name("the name of a function")
        domain = header.get("domain")
        if domain is None:
            domain, name = name.rpartition(".")[::2] if "." in name else ("porter", name)
        attributes: list[ir.Attr] = []
        if self.take("<"):
            attributes = self.listed(">", lambda: self.parameter())
        scope = _Scope()
        self.need("(")
        inputs = self.listed(")", lambda: ir.Value(name=self.name()))
        for value in inputs:
            self.define(scope, value)
        self.need("=>")
        self.need("(")
        outputs = self.listed(")", self.name)
        types: dict[str | None, ir.Value] = {}
        if self.take("<"):
            for value in self.listed(">", self.typed_value):
                types[value.name] = value
        for value in inputs:
            if value.name in types:
                value.type, value.shape = types[value.name].type, types[value.name].shape
        nodes = self.body(scope, types)
        results = [scope.find(output) for output in outputs]
        if None in results:
            missing = outputs[results.index(None)]
            raise PorterError(f"function '{name}'", expected=f"a definition of output '{missing}'", found="none")
        own = header.get("opset_import", {"": imports.get("", HOME_OPSET)})
        graph = ir.Graph(inputs, [r for r in results if r is not None], nodes=nodes, opset_imports=own)
        return ir.Function(domain, name, header.get("overload", ""), graph=graph, attributes=attributes)

    def parameter(self) -> ir.Attr:
        """An attribute of a function: a name, or a name with a default."""
        name = self.name()
        if self.token.text in (",", ">"):
            return ir.Attr(name, ir.AttributeType.UNDEFINED, None)
        return self.attribute_value(name, _Scope(), None)

    def body(self, scope: _Scope, types: dict[str | None, ir.Value]) -> list[ir.Node]:
        self.need("{")
        nodes = []
        while not self.take("}"):
            nodes.append(self.node(scope, types))
        return nodes

    def node(self, scope: _Scope, types: dict[str | None, ir.Value]) -> ir.Node:
        label, metadata = self.label() if self.take("[") else (None, {})
        names = [self.name("the name of a result")]
        while self.take(","):
            names.append(self.name("the name of a result"))
        self.need("=")
        domain, op_type, overload = self.operator()
        attributes: list[ir.Attr] = []
        if self.take("<"):
            attributes = self.listed(">", lambda: self.attribute_value(self.name(), scope, op_type))
        self.need("(")
        inputs: list[ir.Value | None] = []
        while not self.take(")"):
            if self.token.text == "," and self.token.kind == "mark":
                inputs.append(None)
            else:
                inputs.append(self.use(scope))
            if self.take(",") and self.token.text == ")":
                inputs.append(None)
        outputs = []
        for name in names:
            value = ir.Value(name="" if name == "_" else name)
            if name in types:
                value.type, value.shape = types[name].type, types[name].shape
            if name != "_":
                self.define(scope, value)
            outputs.append(value)
        return ir.Node(
            domain, op_type, inputs, attributes, overload=overload, outputs=outputs, name=label, metadata_props=metadata
        )

    def label(self) -> tuple[str | None, dict[str, str]]:
        name = self.name()
        metadata = {SOURCE: name} if name != "_" else {}
        if self.take("from"):
            metadata = {SOURCE: self.string()}
        if self.take("with"):
            metadata.update(self.metadata())
        self.need("]")
        return (None if name == "_" else name), metadata

    def operator(self) -> tuple[str, str, str]:
        quoted = self.token.kind == "string"
        name = self.name("an operator")
        overload = ""
        if quoted:
            domain = ""
            if self.take("."):
                domain, name = name, self.name("an operator")
        else:
            if ":" in name:
                name, overload = name.split(":", 1)
            domain, _, name = name.rpartition(".")
        return domain, name, overload

    def use(self, scope: _Scope) -> ir.Value:
        at = self.token
        name = self.name("the name of a value")
        value = scope.find(name)
        if value is None:
            self.token = at
            self.fail("a value that is defined before")
        return value

    # types, attributes, tensors

    def typed_value(self) -> ir.Value:
        """`type name`, or a name alone, which leaves the type open."""
        first = self.name("a type or a name")
        if self.token.kind in ("mark", "arrow") and self.token.text in (",", ")", ">"):
            return ir.Value(name=first)
        kind, shape = self.type_of(first)
        return ir.Value(name=self.name("the name of a value"), type=kind, shape=shape)

    def type_of(self, name: str) -> tuple[ir.TypeProtocol | None, ir.Shape | None]:
        if name == "undefined":
            return None, None
        if name in ("seq", "optional", "sparse_tensor"):
            self.need("(")
            inner, shape = self.type_of(self.name("a type"))
            self.need(")")
            if name == "sparse_tensor":
                return ir.SparseTensorType(inner.dtype), shape  # type: ignore[union-attr]
            return (ir.SequenceType if name == "seq" else ir.OptionalType)(inner), shape  # type: ignore[arg-type]
        if name.upper() not in ir.DataType.__members__:
            self.fail(f"a type before this, not '{name}',")
        kind = ir.TensorType(ir.DataType[name.upper()])
        if not self.take("["):
            return kind, ir.Shape([])
        dims = self.listed("]", self.dim)
        return kind, ir.Shape(dims) if dims else None

    def dim(self) -> int | str | None:
        if self.take("?"):
            return None
        return self.integer() if self.token.kind == "number" else self.name("a dim")

    def attribute_value(self, name: str, scope: _Scope, op_type: str | None) -> ir.Attr:
        kind: str | None = None
        if name.endswith(":"):
            name, kind = name[:-1], self.name("the type of an attribute")
        elif self.take(":"):
            kind = self.name("the type of an attribute")
        self.need("=")
        if self.take("@"):
            return ir.RefAttr(name, self.name(), ir.AttributeType[(kind or self.kind_of(op_type, name)).upper()])
        if kind == "type_proto":
            described, shape = self.type_of(self.name("a type"))
            return ir.AttrTypeProto(name, ir.TypeAndShape(described, shape))  # type: ignore[arg-type]
        if not self.take("["):
            return self.single(name, scope, kind)
        items = self.listed("]", lambda: self.single(name, scope, None))
        if not items:
            return ir.Attr(name, ir.AttributeType[(kind or self.kind_of(op_type, name)).upper()], ())
        kinds = {item.type for item in items}
        if kinds == {ir.AttributeType.INT, ir.AttributeType.FLOAT}:
            return ir.AttrFloat32s(name, [float(item.value) for item in items])
        if len(kinds) > 1:
            self.fail("values of one type before this")
        return ir.Attr(name, ir.AttributeType[kinds.pop().name + "S"], tuple(item.value for item in items))

    def kind_of(self, op_type: str | None, name: str) -> str:
        """The type that the standard gives an attribute, for a text that does not say."""
        definition = schema(op_type, HOME_OPSET) if op_type else None
        if definition is None or name not in definition.attributes:
            self.fail(f"a type for attribute '{name}', as in '{name}: ints = []', before this")
        return str(definition.attributes[name].type).rpartition(".")[2].lower()

    def single(self, name: str, scope: _Scope, kind: str | None) -> ir.Attr:
        token = self.token
        quoted_graph = self.text[self.at :].lstrip().startswith("(")
        if token.kind == "string" and not quoted_graph:
            return ir.AttrString(name, self.string())
        if token.kind == "number":
            self.token = self.next_token()
            if re.fullmatch(r"[-+]?\d+", token.text) and kind != "float":
                return ir.AttrInt64(name, int(token.text))
            return ir.AttrFloat32(name, float(np.float32(token.text)))
        # a type starts a tensor, any other word a graph
        if token.text.upper() in ir.DataType.__members__ and not quoted_graph:
            described, shape = self.type_of(self.name())
            return ir.AttrTensor(name, self.tensor_data(described, shape, name))
        return ir.AttrGraph(name, self.graph(scope))

    def tensor_data(self, kind: ir.TypeProtocol | None, shape: ir.Shape | None, name: str) -> ir.TensorProtocol:
        if kind is None or shape is None or not all(isinstance(dim, int) for dim in shape.dims):
            self.fail(f"a full type of '{name}' before this")
        dims = shape.numpy()
        self.need("{")
        if self.token.kind == "hash":
            key = self.token.text[1:]
            if key not in self.tensors:
                self.fail(f"the tensor '{name}' among those given with the text")
            self.token = self.next_token()
            self.need("}")
            given = self.tensors[key]
            return ir.tensor(given, name=name) if isinstance(given, np.ndarray) else given
        values = self.listed("}", self.element)
        dtype = kind.dtype
        if len(values) != int(np.prod(dims, dtype=np.int64)):
            self.fail(f"{int(np.prod(dims, dtype=np.int64))} values of '{name}' before this, not {len(values)},")
        if dtype == ir.DataType.STRING:
            return ir.StringTensor([v.encode("latin-1") for v in values], shape=ir.Shape(dims), name=name)
        array = np.asarray([_value(v, dtype) for v in values], dtype=dtype.numpy()).reshape(dims)
        return ir.Tensor(array, dtype=dtype, shape=ir.Shape(dims), name=name)

    def element(self) -> str:
        if self.token.kind == "string":
            return self.string()
        if self.token.kind != "number":
            self.fail("a number")
        text = self.token.text
        self.token = self.next_token()
        if self.take(":"):
            text += ":" + self.token.text
            self.token = self.next_token()
        return text


def _value(text: str, dtype: ir.DataType) -> Any:
    """One element, read in its own precision: float32 text through float64 would round twice."""
    kind = dtype.numpy()
    if ":" in text:
        real, imaginary = text.split(":")
        return complex(float(real), float(imaginary))
    if dtype == ir.DataType.BOOL:
        return bool(int(text))
    if dtype.is_integer():
        return np.asarray(int(text)).astype(kind)
    if kind in (np.float16, np.float32, np.float64):
        return kind.type(text)
    return np.float32(text).astype(kind)
