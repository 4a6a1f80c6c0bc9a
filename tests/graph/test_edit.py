"""Edits keep a graph valid, its outputs named as before, and every node's source known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from porter import graph
from porter.errors import PorterError

LAYER = """
main (float[2,4] x) => (float[2,4] y)
<float[4] w = {1, 2, 3, 4}>
{
  [norm] a = Mul (x, w)
  [gate] g = Sigmoid (a)
  [side] s = Abs (x)
  [mix] m = Mul (a, g)
  [last] y = Add (m, s)
}
"""

X = np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)


def named(model: graph.Model, name: str) -> graph.Node:
    return next(node for node in model.graph if node.name == name)


@pytest.fixture
def layer() -> graph.Model:
    model = graph.parse(LAYER)
    graph.infer_types(model)
    return model


@pytest.fixture
def result(witness: Callable) -> Callable[[graph.Model], np.ndarray]:
    def compute(model: graph.Model) -> np.ndarray:
        graph.validate(model)
        onnx.checker.check_model(graph.to_proto(model), full_check=True)
        return witness(graph.to_proto(model), {"x": X})[0]

    return compute


def test_attributes_and_constants_are_plain_values() -> None:
    model = graph.parse("""
    main (float[1,1,4,4] x) => (float[] y)
    {
      w = Constant <value = float[1,1,2,2] {1, 2, 3, 4}> ()
      k = Constant <value_ints = [1, 2]> ()
      y = Conv <strides = [2, 2], auto_pad = "VALID", group = 1> (x, w)
    }
    """)
    w, k, conv = list(model.graph)
    assert graph.attributes(conv) == {"strides": (2, 2), "auto_pad": "VALID", "group": 1}
    assert graph.constant(w.outputs[0]).tolist() == [[[[1, 2], [3, 4]]]]  # type: ignore[union-attr]
    assert graph.constant(k.outputs[0]).dtype == np.int64  # type: ignore[union-attr]
    assert graph.constant(conv.outputs[0]) is None
    assert graph.dtype(model.graph.inputs[0]) == np.float32 and graph.shape(model.graph.inputs[0]) == (1, 1, 4, 4)
    assert graph.shape(conv.outputs[0]) is None


def test_narrow_formats_are_ml_dtypes() -> None:
    model = graph.parse("""
    main () => (bfloat16[2] y, int4[3] z)
    <bfloat16[2] y0 = {1.5, nan}, int4[3] z0 = {-8, 7, 0}>
    { y = Identity (y0) z = Identity (z0) }
    """)
    y, z = (graph.constant(model.graph.initializers[name]) for name in ("y0", "z0"))
    assert y is not None and y.dtype.name == "bfloat16" and float(y[0]) == 1.5
    assert z is not None and z.dtype.name == "int4" and z.astype(int).tolist() == [-8, 7, 0]


def test_a_function_attribute_is_a_reference_until_it_is_bound() -> None:
    model = graph.parse("""
    main (float[2] x) => (float[2] y) { y = porter.Leak <slope = 0.5> (x) }
    <domain: "porter", opset_import: ["" : 24]>
    Leak <slope: float = 0.25, other> (a) => (b) { b = LeakyRelu <alpha: float = @slope> (a) }
    """)
    call, body = model.graph[0], graph.called(model, model.graph[0])
    assert body is not None
    assert graph.attributes(body[0]) == {"alpha": graph.Reference("slope")}
    assert graph.parameters(body, call) == {"slope": 0.5}
    assert graph.attributes(body[0], graph.parameters(body, call)) == {"alpha": 0.5}
    assert graph.attributes(body[0], {}) == {}


def test_replacing_an_output_keeps_its_name(layer: graph.Model, result: Callable) -> None:
    relu = graph.new_node("Relu", [named(layer, "mix").outputs[0]], name="relu")
    graph.insert_before(named(layer, "last"), [relu])
    graph.replace_uses(named(layer, "last").outputs[0], relu.outputs[0])
    graph.remove([named(layer, "last"), named(layer, "side")])
    assert [value.name for value in layer.graph.outputs] == ["y"]
    a = X * [1, 2, 3, 4]
    np.testing.assert_allclose(result(layer), np.maximum(a / (1 + np.exp(-a)), 0), rtol=1e-6)


@pytest.mark.parametrize("target", ["x", "w", "a"])
def test_an_output_replaced_by_an_input_a_weight_or_another_value(
    target: str, layer: graph.Model, result: Callable
) -> None:
    by_name = {"x": layer.graph.inputs[0], "w": layer.graph.initializers["w"], "a": named(layer, "norm").outputs[0]}
    old = named(layer, "last").outputs[0]
    graph.replace_uses(old, by_name[target])
    graph.remove([named(layer, "last")])
    expected = {"x": X, "w": np.float32([1, 2, 3, 4]), "a": X * np.float32([1, 2, 3, 4])}[target]
    layer.graph.outputs[0].shape = graph.Shape(expected.shape)
    assert layer.graph.outputs[0].name == "y"
    assert (result(layer) == expected).all()


def test_one_value_that_becomes_two_outputs(witness: Callable) -> None:
    model = graph.parse("main (float[2] x) => (float[2] y, float[2] z) { y = Abs (x) z = Relu (x) }")
    graph.replace_uses(model.graph.outputs[1], model.graph.outputs[0])
    graph.remove([node for node in model.graph if node.op_type == "Relu"])
    graph.validate(model)
    y, z = witness(graph.to_proto(model), {"x": np.float32([-1, 2])})
    assert [v.name for v in model.graph.outputs] == ["y", "z"] and y.tolist() == z.tolist() == [1, 2]


def test_a_node_whose_result_is_read_is_not_removed(layer: graph.Model) -> None:
    with pytest.raises(PorterError) as error:
        graph.remove([named(layer, "gate")])
    assert str(error.value) == (
        "node 'gate' (Sigmoid) cannot be removed\n  expected results that nothing reads\n  found 'g' read by node 'mix'"
    )
    assert len(layer.graph) == 5


def test_new_weights_get_free_names(layer: graph.Model) -> None:
    first, second = (graph.add_initializer(layer, name, np.ones(2)) for name in ("w", "g"))
    assert (first.name, second.name) == ("w_1", "g_1")


def test_new_nodes_inherit_their_sources(layer: graph.Model) -> None:
    node = graph.new_node("Relu", [layer.graph.inputs[0]])
    graph.inherit([node], [named(layer, "gate"), named(layer, "mix"), named(layer, "gate")])
    assert graph.source_name(node) == "gate+mix"


def test_outlining_moves_what_lies_between(layer: graph.Model, result: Callable) -> None:
    before = result(layer)
    call = graph.outline(layer, [named(layer, n) for n in ("norm", "gate", "mix")], "porter", "Gated")
    assert [node.op_type for node in layer.graph] == ["Abs", "Gated", "Add"]
    assert [v.name for v in call.inputs if v] == ["x", "w"] and [v.name for v in call.outputs] == ["m"]
    assert graph.source_name(call) == "norm+gate+mix"
    assert (result(layer) == before).all()
    assert graph.text(layer, bare=True) == (
        "main (float[2,4] x) => (float[2,4] y)\n<float[4] w = {1.0, 2.0, 3.0, 4.0}>\n{\n  s = Abs (x)\n"
        "  m = porter.Gated (x, w)\n  y = Add (m, s)\n}\n"
        '<domain: "porter", opset_import: ["" : 24]>\nGated (x, w) => (m)\n{\n  a = Mul (x, w)\n  g = Sigmoid (a)\n'
        "  m = Mul (a, g)\n}\n"
    )


def test_inlining_is_the_inverse(layer: graph.Model, result: Callable) -> None:
    before = result(layer)
    call = graph.outline(layer, [named(layer, n) for n in ("gate", "mix", "last")], "porter", "Tail")
    nodes = graph.inline(layer, call)
    assert [node.op_type for node in nodes] == ["Sigmoid", "Mul", "Add"]
    assert [graph.source_name(node) for node in nodes] == ["gate", "mix", "last"]
    assert not layer.functions and "porter" not in layer.opset_imports
    assert (result(layer) == before).all()


def test_several_functions_of_one_name(layer: graph.Model) -> None:
    calls = [graph.outline(layer, [named(layer, n)], "porter", "One") for n in ("norm", "gate")]
    assert [call.op_type for call in calls] == ["One", "One_1"]


def test_a_set_that_is_not_convex_is_refused(layer: graph.Model) -> None:
    text = graph.text(layer)
    with pytest.raises(PorterError) as error:
        graph.outline(layer, [named(layer, "norm"), named(layer, "mix")], "porter", "Bad")
    assert str(error.value) == (
        "outlining porter.Bad\n  expected a convex set of nodes\n"
        "  found a path through node 'gate', which is not among them"
    )
    assert graph.text(layer) == text


def test_given_inputs_set_the_order_of_arguments(layer: graph.Model, result: Callable) -> None:
    before = result(layer)
    w, x = layer.graph.initializers["w"], layer.graph.inputs[0]
    call = graph.outline(layer, [named(layer, "norm")], "porter", "Scale", inputs=[w, x])
    assert list(call.inputs) == [w, x] and (result(layer) == before).all()


def test_inlining_binds_attributes_into_subgraphs(witness: Callable, model: Callable) -> None:
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["a"], ["r"], name=op)],
            op,
            [],
            [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
        )
        for op in ("LeakyRelu", "Elu")
    ]
    for branch in branches:
        branch.node[0].attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    body = [helper.make_node("If", ["c"], ["b"], name="if", then_branch=branches[0], else_branch=branches[1])]
    function = helper.make_function("local", "F", ["a", "c"], ["b"], body, [helper.make_opsetid("", 24)], ["slope"])
    calls = [
        helper.make_node("F", ["x", "c"], ["m"], domain="local", name="one", slope=0.5),
        helper.make_node("F", ["m", "c"], ["y"], domain="local", name="two", slope=0.25),
    ]
    proto = model(calls, {"x": [2], "c": []}, {"y": [2]}, types={"c": TensorProto.BOOL}, functions=[function])
    loaded = graph.load(proto)
    for call in list(loaded.graph):
        graph.inline(loaded, call)
    graph.validate(loaded)
    feeds = {"x": np.float32([-8, 2]), "c": np.asarray(True)}
    assert witness(graph.to_proto(loaded), feeds)[0].tolist() == [-1, 2] and not loaded.functions


def test_a_function_that_returns_its_input(witness: Callable) -> None:
    model = graph.parse("""
    main (float[2] x) => (float[2] y, float[2] z) { y, z = porter.Pass (x) }
    <domain: "porter", opset_import: ["" : 24]>
    Pass (a) => (a, b) { b = Neg (a) }
    """)
    graph.inline(model, model.graph[0])
    graph.validate(model)
    y, z = witness(graph.to_proto(model), {"x": np.float32([1, 2])})
    assert y.tolist() == [1, 2] and z.tolist() == [-1, -2]


def test_a_clone_is_edited_apart_and_shares_its_weights(layer: graph.Model) -> None:
    text, copy = graph.text(layer), graph.clone(layer)
    graph.outline(copy, [named(copy, "gate")], "porter", "G")
    assert graph.text(layer) == text
    assert copy.graph.initializers["w"].const_value is layer.graph.initializers["w"].const_value


@pytest.mark.parametrize(
    "break_it, text",
    [
        (lambda m: m.graph.insert_before(m.graph[0], _taken(m, "last")), "found 'm', which comes after it"),
        (lambda m: setattr(named(m, "gate").outputs[0], "name", "a"), "found another 'a'"),
        (lambda m: setattr(named(m, "gate"), "op_type", "Sigmiod"), "found neither"),
        (lambda m: setattr(named(m, "gate"), "domain", "porter"), "found none of 'porter'"),
        (lambda m: setattr(named(m, "gate"), "name", "norm"), "found another 'norm'"),
    ],
)
def test_validate_names_what_an_edit_broke(break_it: Callable, text: str, layer: graph.Model) -> None:
    break_it(layer)
    with pytest.raises(PorterError) as error:
        graph.validate(layer)
    assert text in str(error.value) and "node '" in str(error.value)


def _taken(model: graph.Model, name: str) -> graph.Node:
    node = named(model, name)
    model.graph.remove(node)
    return node
