"""Ways to write a model anew without changing what it means: by other people's optimizers, and by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx

NOISE = 1e-3  # of the largest value: far above float32's rounding in these models, far below any fault


class NotApplicable(Exception):
    """The way does not apply to this model, or its tool is not installed."""


def _tool(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise NotApplicable(f"{module} is not installed") from error


def _write(proto: onnx.ModelProto, folder: Path) -> Path:
    at = folder / "made.onnx"
    onnx.save(proto, at)
    return at


def _defined_once(proto: onnx.ModelProto) -> None:
    names = [name for node in proto.graph.node for name in node.output if name]
    if len(set(names)) < len(names):
        raise NotApplicable("a value is defined twice, so that the order of nodes means something")


def onnxruntime_basic(path: Path, folder: Path) -> Path:
    """onnxruntime's optimizer at its basic level, which stays within ONNX."""
    ort = _tool("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "made.onnx")
    ort.InferenceSession(onnx.load(path).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return folder / "made.onnx"


def onnxslim(path: Path, folder: Path) -> Path:
    return _write(_tool("onnxslim").slim(onnx.load(path)), folder)


def onnxsim(path: Path, folder: Path) -> Path:
    return _write(_tool("onnxsim").simplify(onnx.load(path))[0], folder)


def onnxscript(path: Path, folder: Path) -> Path:
    return _write(_tool("onnxscript.optimizer").optimize(onnx.load(path)), folder)


def opset(path: Path, folder: Path) -> Path:
    """onnx's own converter, to the newest opset that the file can be brought to."""
    proto = onnx.load(path)
    now = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    for target in (22, 18, 15, 13, 11):
        if target > now:
            try:
                return _write(onnx.version_converter.convert_version(proto, target), folder)
            except Exception as error:  # no adapter: a nearer opset may have one
                last = error
    if now >= 22:
        raise NotApplicable(f"opset {now} is new")
    raise NotApplicable(f"no converter: {str(last)[:60]}")


def rename(path: Path, folder: Path) -> Path:
    """Every computed value and node of the graph under another name; those of subgraphs stay."""
    proto = onnx.load(path)
    if any(a.HasField("g") for n in proto.graph.node for a in n.attribute):
        raise NotApplicable("subgraphs refer to values by name")
    _defined_once(proto)
    keep = {v.name for v in (*proto.graph.input, *proto.graph.output)} | {""}
    new: dict[str, str] = {}
    for tensor in proto.graph.initializer:
        tensor.name = tensor.name if tensor.name in keep else new.setdefault(tensor.name, f"w{len(new)}")
    for index, node in enumerate(proto.graph.node):
        node.name = f"node_{index}"
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name not in keep:
                    names[i] = new.setdefault(name, f"v{len(new)}")
    del proto.graph.value_info[:]
    return _write(proto, folder)


def reorder(path: Path, folder: Path) -> Path:
    """The nodes in another order that is as good."""
    proto = onnx.load(path)
    if any(a.HasField("g") for n in proto.graph.node for a in n.attribute):
        raise NotApplicable("subgraphs read values that the node does not list")
    _defined_once(proto)
    made = {v.name for v in proto.graph.input} | {t.name for t in proto.graph.initializer} | {""}
    made |= {t.values.name for t in proto.graph.sparse_initializer}
    waiting, ordered, rng = list(proto.graph.node), [], random.Random(7)
    while waiting:
        ready = [n for n in waiting if all(i in made for i in n.input)]
        node = rng.choice(ready)
        waiting.remove(node)
        made.update(node.output)
        ordered.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(ordered)
    return _write(proto, folder)


def external(path: Path, folder: Path) -> Path:
    """The weights in a file beside the model."""
    at = folder / "made.onnx"
    onnx.save_model(
        onnx.load(path), str(at), save_as_external_data=True, location="weights.bin",
        convert_attribute=False,
    )  # fmt: skip
    return at


def float32(path: Path, folder: Path) -> Path:
    """Weights through decimal text and back, as typed fields: float32 has nine digits, no more is lost."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor)
            texts = [f"{v:.9g}" for v in array.reshape(-1).tolist()]
            values = np.array(texts, np.float32).tolist()
            tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, tensor.data_type, array.shape, values))
    return _write(proto, folder)


KINDS: dict[str, Callable[[Path, Path], Path]] = {
    "onnxruntime": onnxruntime_basic,
    "onnxslim": onnxslim,
    "onnxsim": onnxsim,
    "onnxscript": onnxscript,
    "opset": opset,
    "rename": rename,
    "reorder": reorder,
    "external": external,
    "float32": float32,
}


def changed_for_onnxruntime(before: onnx.ModelProto, after: Path, inputs: dict[str, np.ndarray]) -> bool:
    """Whether onnxruntime, which optimizes nothing here, gets other results from the second, or cannot run it."""
    ort = _tool("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    results = []
    for model in (before.SerializeToString(), str(after)):
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            results.append(session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()}))
        except Exception:  # onnxruntime has a class of its own for every status
            return isinstance(model, str)  # without the first there is no witness
    for a, b in zip(*results, strict=False):
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if x.shape != y.shape:
            return True
        top = np.max(np.abs(x[np.isfinite(x)]), initial=1e-30)
        if not np.allclose(x / top, y / top, rtol=0, atol=NOISE, equal_nan=True):
            return True
    return False
