"""onnxruntime as an outside witness, its optimizer off: it shares no code with porter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from porter import graph
from porter.graph import Model


def onnxruntime(model: Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """The model's outputs as onnxruntime's CPU computes them; None where it cannot run the model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(
            graph.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [o.name for o in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception:  # whatever onnxruntime cannot load or run; its exceptions have no common class
        return None
