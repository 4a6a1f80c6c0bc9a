"""Experts stacked in one weight: each has scales of its own, and one that was skipped is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from porter import graph, ops, pipeline
from porter.device import load_device
from porter.errors import CheckFailed
from porter.graph import Model, constant
from porter.graph.edit import remember_sources
from porter.porting.port import port
from porter.precision import audit
from porter.precision.contract import Formats
from porter.precision.ledger import ledger

EXPERTS, WIDTH, OUT, TOKENS = 4, 64, 96, 8
LOUD = np.array([1.0, 30.0, 0.01, 3.0], np.float32)  # how much larger one expert's weights are than another's
MODELS = {
    "routed": f"""
    g (float[{TOKENS},{WIDTH}] x, float[{TOKENS},{EXPERTS}] gate) => (float[{TOKENS},{OUT}] y) {{
      first = Constant <value_ints = [0]> ()
      last = Constant <value_ints = [-1]> ()
      all_tokens = Unsqueeze (x, first)
      each = MatMul (all_tokens, w)
      share = Softmax <axis = -1> (gate)
      turned = Transpose <perm = [1, 0]> (share)
      wide = Unsqueeze (turned, last)
      weighted = Mul (each, wide)
      y = ReduceSum <keepdims = 0> (weighted, first)
    }}""",
    "gathered": f"""
    g (float[{TOKENS},1,{WIDTH}] x, int64[{TOKENS}] expert) => (float[{TOKENS},1,{OUT}] y) {{
      chosen = Gather <axis = 0> (w, expert)
      y = MatMul (x, chosen)
    }}""",
    "batched": f"""
    g (float[{EXPERTS},{TOKENS},{WIDTH}] x) => (float[{EXPERTS},{TOKENS},{OUT}] y) {{ y = MatMul (x, w) }}""",
}


def model(kind: str) -> Model:
    made = graph.parse(
        f'<ir_version: 10, opset_import: ["": 24]>{MODELS[kind]}'.replace(
            "g (", f"g (float[{EXPERTS},{WIDTH},{OUT}] w, "
        )
    )
    value = made.graph.inputs[0]
    held = graph.add_initializer(made, "w", weights())
    value.replace_all_uses_with(held)
    made.graph.inputs.remove(value)
    held.name = "w"
    remember_sources(made)
    ops.infer(made)
    return made


def weights() -> np.ndarray:
    drawn = np.random.default_rng(0).standard_normal((EXPERTS, WIDTH, OUT)).astype(np.float32)
    return drawn * LOUD.reshape(-1, 1, 1)


def inputs(kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    if kind == "batched":
        return {"x": rng.standard_normal((EXPERTS, TOKENS, WIDTH)).astype(np.float32)}
    if kind == "gathered":
        x = rng.standard_normal((TOKENS, 1, WIDTH)).astype(np.float32)
        return {"x": x, "expert": np.arange(TOKENS, dtype=np.int64) % EXPERTS}
    return {n: rng.standard_normal((TOKENS, c)).astype(np.float32) for n, c in (("x", WIDTH), ("gate", EXPERTS))}


@pytest.mark.parametrize("device, precision, kind", [
    ("gpu:h200", "fp8", "routed"), ("tpu:v6e", "int8", "batched"), ("trainium:trn2", "fp8", "routed"),
    ("maia:200", "mxfp4w", "routed"), ("gpu:h200", "int8w", "gathered"), ("trainium:trn2", "nvfp4w", "batched"),
])  # fmt: skip
def test_stacked_experts_are_ported_each_with_its_own_scales(
    device: str, precision: str, kind: str, tmp_path: Path
) -> None:
    """Experts that differ 3000 times in size: under one scale the small one would be zeros."""
    graph.save(model(kind), tmp_path / "model.onnx")
    done = port(
        tmp_path / "model.onnx", targets=[load_device(device)], out=tmp_path / "out", precision=precision,
        inputs=inputs(kind), calibrate=[inputs(kind)],
    )  # fmt: skip
    (target,) = done.to_json()["targets"]
    assert target["status"] == "ok", target["message"]
    told = next(s["metric"] for s in target["steps"] if s["name"] == "format_errors")
    assert told["layers"] == EXPERTS and told["unexplained"] == 0


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("fault", ["skipped", "scales of another"])
def test_an_expert_of_a_stack_that_is_wrong_is_caught_by_name(kind: str, fault: str) -> None:
    """The smallest of all experts, whose error is nothing beside what the others err."""
    device, before = load_device("gpu:h200"), model(kind)
    after = pipeline.run(before, "quantization.narrow{scheme=int8w}", device, checks=False).model
    formats, sample = Formats("int8w"), inputs(kind)
    right = ledger(before, after, formats, device, sample)
    right.settle(device.name)
    assert [e.weight for e in right.entries] == [f"w[{i}]" for i in range(EXPERTS)]
    word = "w/int8" if fault == "skipped" else "scale"
    held = next(v for n, v in after.graph.initializers.items() if word in str(n))
    changed = np.array(constant(held))
    changed[2] = 0 if fault == "skipped" else changed[1]
    held.const_value = graph.make_tensor(changed, name=str(held.name))
    with pytest.raises(CheckFailed, match=r"1 of 4 layers unexplained\n.*\n.*, matrix w\[2\]"):
        ledger(before, after, formats, device, sample).settle(device.name)


def test_a_stack_that_is_gathered_from_and_left_wide_is_caught_by_name() -> None:
    device, before = load_device("gpu:h200"), model("gathered")
    found = audit.audit(before, before, Formats("int8w"), device, {}, {})
    with pytest.raises(CheckFailed, match="table 'w' asked as int8, stored as float32"):
        found.settle(device)
