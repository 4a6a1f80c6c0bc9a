"""Small faults planted by program: every attribute, edge and constant of some models, changed by as little as means
something, must be told from the original; the few that change nothing are listed with the reason."""

import numpy as np
import onnx
import pytest

from porter import check, graph
from porter.errors import PorterError

RNG = np.random.default_rng(21)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


CONVOLUTION = """g (float[2,3,9,9] x) => (float[2,5] y) {
  c = Conv <pads = [1, 1, 1, 1], strides = [2, 2], dilations = [1, 1], group = 1> (x, w, b)
  n = BatchNormalization <epsilon = 1e-3> (c, gamma, beta, mean, variance)
  r = LeakyRelu <alpha = 0.1> (n)
  p = MaxPool <kernel_shape = [2, 2], strides = [1, 1], pads = [0, 0, 1, 1]> (r)
  a = AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 0, 0], count_include_pad = 0> (p)
  f = Flatten <axis = 1> (a)
  y = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (f, m, d)
}"""
CONVOLUTION_WEIGHTS = {
    "w": f32(4, 3, 3, 3), "b": f32(4), "gamma": np.abs(f32(4)) + np.float32(0.5), "beta": f32(4), "mean": f32(4),
    "variance": np.abs(f32(4)) + np.float32(0.5), "m": f32(5, 16), "d": f32(5),
}  # fmt: skip

ENCODER = """g (int64[2,6] ids, int64[2,6] attention_mask) => (float[2,6,8] y) {
  h = Gather <axis = 0> (table, ids)
  z = LayerNormalization <axis = -1, epsilon = 1e-5> (h, gamma, beta)
  q = MatMul (z, wq)
  k = MatMul (z, wk)
  v = MatMul (z, wv)
  kt = Transpose <perm = [0, 2, 1]> (k)
  s = MatMul (q, kt)
  scale = Constant <value_float = 2.8> ()
  ss = Div (s, scale)
  m = Cast <to = 1> (attention_mask)
  one = Constant <value_float = 1.0> ()
  off = Sub (one, m)
  low = Constant <value_float = -10000.0> ()
  bias = Mul (off, low)
  axes = Constant <value_ints = [1]> ()
  row = Unsqueeze (bias, axes)
  masked = Add (ss, row)
  p = Softmax <axis = -1> (masked)
  o = MatMul (p, v)
  res = Add (h, o)
  g = Gelu <approximate = "none"> (res)
  c1, c2 = Split <axis = -1, num_outputs = 2> (g)
  y = Concat <axis = -1> (c2, c1)
}"""
ENCODER_WEIGHTS = {
    "table": f32(10, 8), "gamma": f32(8), "beta": f32(8), "wq": f32(8, 8), "wk": f32(8, 8), "wv": f32(8, 8)
}  # fmt: skip
MODELS = {"convolution": (CONVOLUTION, CONVOLUTION_WEIGHTS), "encoder": (ENCODER, ENCODER_WEIGHTS)}

# mutation -> why the function stays what it is
HARMLESS = {
    "convolution c.pads = [1, 1, 1, 2]": "with a stride of 2 the last window does not reach the new column",
    "convolution c.pads = [1, 1, 2, 1]": "with a stride of 2 the last window does not reach the new row",
    "convolution y.transB = 2": "anything but 0 transposes",
    "encoder masked inputs swapped": "addition is commutative",
    "encoder res inputs swapped": "addition is commutative",
    "encoder bias inputs swapped": "multiplication is commutative",
    "encoder constant one": "moves the scores of a row all alike, which softmax does not see",
    "encoder constant low": "exp of -10000 is 0, and of 0.1% less too",
    "encoder z.epsilon": "moves values by 5e-9 of themselves, which float32 does not hold",
}


def proto_of(name):
    text, weights = MODELS[name]
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>\n' + text)
    for key, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
    return proto


def mutations(name):
    """(what was changed, the mutated model) for every attribute, pair of inputs and constant."""
    for i, node in enumerate(proto_of(name).graph.node):
        here = f"{name} {node.output[0]}"
        for j, attribute in enumerate(node.attribute):
            for value in changed(attribute):
                proto = proto_of(name)
                target = proto.graph.node[i].attribute[j]
                target.CopyFrom(onnx.helper.make_attribute(attribute.name, value))
                what = f"{name} constant {node.output[0]}" if node.op_type == "Constant" else f"{here}.{attribute.name}"
                yield f"{what} = {value}", proto
        if len(node.input) >= 2:
            proto = proto_of(name)
            first, second, *_ = proto.graph.node[i].input
            proto.graph.node[i].input[0], proto.graph.node[i].input[1] = second, first
            yield f"{here} inputs swapped", proto
    for i, tensor in enumerate(proto_of(name).graph.initializer):
        proto = proto_of(name)
        array = onnx.numpy_helper.to_array(tensor).copy()
        place = np.unravel_index(int(np.argmax(np.abs(array))), array.shape)
        array[place] *= np.float32(1 + 1e-4)
        proto.graph.initializer[i].CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        yield f"{name} weight {tensor.name}", proto


def changed(attribute):
    """The smallest meaningful changes of an attribute."""
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "to":
        return [10]  # float16 for float32
    if attribute.name == "num_outputs":
        return []  # the node's outputs say the same
    if attribute.name == "approximate":
        return ["tanh"]
    if isinstance(value, float):
        return [value * 1.001]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if attribute.name == "perm":
        return [[value[0], value[2], value[1]], value[::-1]]
    return [[v + (k == j) for k, v in enumerate(value)] for j in range(len(value))]


def outcome(original, proto):
    """'different', 'equivalent', or 'invalid' where the mutant is no model any more."""
    try:
        mutant = graph.load(proto)
        return check(original, mutant).verdict
    except PorterError as error:
        return f"invalid: {type(error).__name__}"


@pytest.mark.parametrize("name", MODELS)
def test_every_planted_fault_that_changes_the_function_is_found(name):
    original = graph.load(proto_of(name))
    assert check(original, graph.load(proto_of(name))).verdict == "equivalent"
    seen = {what: outcome(original, proto) for what, proto in mutations(name)}
    missed = {w for w, verdict in seen.items() if verdict == "equivalent"}
    allowed = {w for w in missed if any(w.startswith(known) for known in HARMLESS)}
    assert missed == allowed, f"not told from the original: {sorted(missed - allowed)}"
    assert sum(v == "different" for v in seen.values()) >= 20, seen
