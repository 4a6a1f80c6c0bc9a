"""A whole model as one XLA program: its operators' definitions traced by jax, weights as arguments.

    program = whole(model)
    text = program.stablehlo("tpu")         # ships in a bundle; no source paths, the same model gives the same text
    data = program.hlo_proto()              # HloModuleProto, for neuronx-cc
    outputs = program.run(inputs, text)     # on XLA's CPU; so does program.run_proto(inputs, data)

Values have the model's own types; float32 products ask for precision HIGHEST.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from porter import graph, ops
from porter.errors import PorterError
from porter.xla import hlo, products

if TYPE_CHECKING:
    from porter.graph import Model

# What operators may need to know (shapes, axes, repeats) stays a constant: small tensors, integers up to a page.
KNOWN = 64
KNOWN_INTEGERS = 4096


@dataclass(frozen=True)
class Whole:
    """The program of a model: arguments are its inputs, then its weights, by name and in order."""

    model: Model
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def arguments(self) -> tuple[str, ...]:
        return (*self.inputs, *self.weights)

    def __call__(self, *arguments: Any) -> list[Any]:
        """The outputs in order, from jax arrays in the order of `arguments`."""
        given = dict(zip(self.arguments, arguments, strict=True))
        found = ops.evaluate(self.model, given, ops.jax_namespace)
        return [jax.numpy.asarray(found[name]) for name in self.outputs]

    def types(self) -> list[jax.ShapeDtypeStruct]:
        """Shape and dtype of each argument. Raises PorterError where a dim is not bound."""
        values = {str(v.name): v for v in [*self.model.graph.inputs, *self.model.graph.initializers.values()]}
        return [_type(values[name]) for name in self.arguments]

    def stablehlo(self, platform: str) -> str:
        """The text for a platform, 'cpu' or 'tpu'; float32 products are held to precision HIGHEST."""
        with jax.enable_x64(True):
            text = hlo.stablehlo(self, self.types(), platform, "model")
        found = [scheme for _, kind, scheme in products.products(text) if kind == "f32"]
        products.require_products("the whole model in StableHLO", found, [products.SCHEME["HIGHEST"]])
        return text

    def hlo_proto(self) -> bytes:
        """A serialized HloModuleProto, arguments in order."""
        with jax.enable_x64(True):
            return hlo.hlo_proto(self, self.types(), "model")

    def run(self, inputs: Mapping[str, np.ndarray], text: str | None = None) -> dict[str, np.ndarray]:
        """The outputs on XLA's CPU: of the text where one is given, else of the model itself."""
        arrays = [np.asarray(inputs[n]) if n in inputs else self.weight(n) for n in self.arguments]
        source = self.stablehlo("cpu") if text is None else text
        with jax.enable_x64(True):
            return dict(zip(self.outputs, hlo.run_text(source, arrays), strict=True))

    def run_proto(self, inputs: Mapping[str, np.ndarray], data: bytes) -> dict[str, np.ndarray]:
        """The outputs of a HloModuleProto of this program on XLA's CPU."""
        arrays = [np.asarray(inputs[n]) if n in inputs else self.weight(n) for n in self.arguments]
        return dict(zip(self.outputs, hlo.run_proto(data, arrays), strict=True))

    def weight(self, name: str) -> np.ndarray:
        array = graph.constant(self.model.graph.initializers[name])
        assert array is not None
        return array


def whole(model: Model) -> Whole:
    """The model's program. Raises PorterError where a weight has no data."""
    inputs = tuple(str(v.name) for v in model.graph.inputs if v.name not in model.graph.initializers)
    weights = []
    for name, value in model.graph.initializers.items():
        array = graph.constant(value)
        if array is None:
            raise PorterError(f"weight '{name}'", expected="data", found="none")
        if array.size > (KNOWN_INTEGERS if array.dtype.name in ("int32", "int64") else KNOWN):
            weights.append(name)
    return Whole(model, inputs, tuple(weights), tuple(str(v.name) for v in model.graph.outputs))


def _type(value: Any) -> jax.ShapeDtypeStruct:
    shape, dtype = graph.shape(value), graph.dtype(value)
    if shape is None or dtype is None:
        raise PorterError(f"input '{value.name}'", expected="a static shape", found="a free dim", hint="--dim NAME=N")
    return jax.ShapeDtypeStruct(shape, dtype)
