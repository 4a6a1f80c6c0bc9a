"""porter takes an ONNX model to accelerators, and shows at every step that it still means what it meant.

    import porter
    model = porter.load("model.onnx", dims={"batch": 1})
    outputs = porter.reference(model, {"x": x})

Importing this package loads nothing else; each word below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# The public words, and the module each comes from.
_WORDS = {
    "load": "porter.graph",
    "reference": "porter.ops",
    "port": "porter.porting.port",
    "run": "porter.bundle",
}

__all__ = ["check", "compare", "load", "port", "reference", "run"]


def __getattr__(name: str) -> Any:
    if name in _WORDS:
        return getattr(import_module(_WORDS[name]), name)
    if name in ("check", "compare"):  # packages of these names, which are themselves callable
        return import_module(f"porter.{name}")
    raise AttributeError(f"module 'porter' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
