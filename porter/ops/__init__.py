"""Operators, each defined once over an array namespace; and what runs, types and traces graphs made of them.

    from porter import ops
    ops.reference(model, {"x": x})          # float64 inside
    ops.evaluate(graph, {"x": x}, ops.source)   # the source model's own rounding
    ops.infer(model)                        # dtype and shape of every value
    ops.trace(function, model, types)       # a kernel's meaning, as a jaxpr

Importing this package loads neither numpy nor jax; the words below are imported when first used.
"""

from __future__ import annotations

from porter.words import words

_WORDS = {
    "op": "registry",
    "lookup": "registry",
    "find": "registry",
    "families": "registry",
    "Definition": "registry",
    "float64": "arrays",
    "source": "arrays",
    "jax_namespace": "lax",
    "kernel_namespace": "lax",
    "evaluate": "evaluation",
    "Evaluator": "evaluation",
    "reference": "evaluation",
    "infer": "inference",
    "trace": "tracing",
    "ShapeDtype": "tracing",
}

__all__ = list(_WORDS)

__getattr__ = words(__name__, _WORDS)
