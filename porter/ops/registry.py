"""Where operators are defined and found: `@op`, `lookup`, and what a definition promises.

    @op("Softmax", since=13)
    def softmax(xp, x, *, axis=-1):
        \"\"\"exp(x - max) / sum, along one axis.\"\"\"

Positional parameters are the inputs in ONNX's order (an absent optional one arrives as None, a variadic tail as
`*args`), keyword parameters are the attributes with ONNX's defaults. Two keyword parameters are not attributes:
`outputs` receives how many outputs the node has, `types` the declared element types of the inputs. The decorated
function stays a plain function, so families call each other.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from porter.errors import PorterError

# The modules that define operators, in the order in which a reader would learn them.
FAMILIES = (
    "elementwise",
    "activation",
    "reduction",
    "movement",
    "indexing",
    "contraction",
    "convolution",
    "normalization",
    "attention",
    "pooling",
    "casting",
    "quantized",
    "resize",
    "recurrent",
    "control",
    "sequences",
    "selection",
    "signal",
    "vision",
    "loss",
    "chance",
    "older",
)

# What a definition may ask of the evaluator beside attributes.
_ASKED = frozenset({"outputs", "types"})

REQUIRED: Any = inspect.Parameter.empty

_DEFINITIONS: dict[tuple[str, str], list[Definition]] = {}


@dataclass(frozen=True)
class Definition:
    """One operator's meaning from opset `since` on, until a later definition of the same name takes over.

    `static` names inputs that must be known when shapes are (Reshape's shape, Slice's bounds); the evaluator hands
    them over as numpy arrays in every namespace. `moves` says that elements are moved and never computed with, so
    narrow types pass as they are. `fed` names inputs that a matrix unit reads: a kernel rounds what it has computed to
    the declared narrow type before it goes there. `host` says why a device cannot run it, or is None.
    """

    name: str
    since: int
    domain: str
    fn: Callable[..., Any]
    static: frozenset[str]
    moves: bool
    fed: frozenset[str]
    host: str | None
    parameters: tuple[str, ...]
    variadic: str | None
    attributes: tuple[tuple[str, Any], ...]
    asks: frozenset[str]
    family: str

    @property
    def formula(self) -> str:
        """The docstring: what the operator computes."""
        return inspect.getdoc(self.fn) or ""

    def is_static(self, position: int) -> bool:
        """Whether the input at this position must be known before anything is computed."""
        return self._input(position) in self.static

    def is_fed(self, position: int) -> bool:
        """Whether a matrix unit reads the input at this position."""
        return self._input(position) in self.fed

    def _input(self, position: int) -> str | None:
        return self.parameters[position] if position < len(self.parameters) else self.variadic


def op(
    name: str,
    *,
    since: int = 1,
    domain: str = "",
    static: tuple[str, ...] = (),
    moves: bool = False,
    fed: tuple[str, ...] = (),
    host: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the meaning of an operator from opset `since` on."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        parameters, variadic, attributes = _signature(fn)
        definition = Definition(
            name=name,
            since=since,
            domain=domain,
            fn=fn,
            static=frozenset(static),
            moves=moves,
            fed=frozenset(fed),
            host=host,
            parameters=parameters,
            variadic=variadic,
            # ONNX stores float attributes in float32, so a default is the float32 nearest to what is written here
            attributes=tuple((k, single(v)) for k, v in attributes if k not in _ASKED),
            asks=frozenset(k for k, _ in attributes if k in _ASKED),
            family=fn.__module__.rsplit(".", 1)[-1],
        )
        known = _DEFINITIONS.setdefault((domain, name), [])
        known.append(definition)
        known.sort(key=lambda d: d.since)
        return fn

    return register


def _signature(fn: Callable[..., Any]) -> tuple[tuple[str, ...], str | None, list[tuple[str, Any]]]:
    """The inputs, the variadic tail and the keyword parameters of a definition, its namespace left out."""
    parameters, variadic, attributes = [], None, []
    for parameter in list(inspect.signature(fn).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_POSITIONAL:
            variadic = parameter.name
        elif parameter.kind is parameter.KEYWORD_ONLY:
            attributes.append((parameter.name, parameter.default))
        else:
            parameters.append(parameter.name)
    return tuple(parameters), variadic, attributes


def single(value: Any) -> Any:
    """A float as ONNX would store it in an attribute; anything else unchanged."""
    return float(np.float32(value)) if isinstance(value, float) else value


@cache
def _load_families() -> None:
    for family in FAMILIES:
        import_module(f"porter.ops.{family}")


def families() -> dict[str, tuple[Definition, ...]]:
    """Every definition, by family, in the order of FAMILIES and then by name."""
    _load_families()
    out: dict[str, list[Definition]] = {family: [] for family in FAMILIES}
    for (_, _), definitions in sorted(_DEFINITIONS.items()):
        for definition in definitions:
            out.setdefault(definition.family, []).append(definition)
    return {family: tuple(found) for family, found in out.items()}


def find(domain: str, op_type: str, opset: int) -> Definition | None:
    """The definition that holds at this opset, or None where porter has none of its own."""
    _load_families()
    domain = "" if domain == "ai.onnx" else domain
    held = [d for d in _DEFINITIONS.get((domain, op_type), ()) if d.since <= opset]
    return held[-1] if held else None


def lookup(domain: str, op_type: str, opset: int, *, node: str = "") -> Definition:
    """The definition that holds at this opset; PorterError names the operator, its domain and the node."""
    definition = find(domain, op_type, opset)
    if definition is not None:
        return definition
    where = f"operator {domain or 'ai.onnx'}.{op_type}" + (f" at node '{node}'" if node else "")
    if (domain if domain != "ai.onnx" else "", op_type) in _DEFINITIONS:
        first = _DEFINITIONS[("" if domain == "ai.onnx" else domain, op_type)][0].since
        raise PorterError(where, expected=f"opset {first} or later", found=f"opset {opset}")
    raise PorterError(
        where,
        expected="an operator of ai.onnx, or a function that the model carries",
        found=f"no definition at opset {opset}",
        hint="export the model with plain ONNX operators",
    )
