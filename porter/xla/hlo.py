"""StableHLO and HLO of jax functions, as text or bytes that hold no source paths; and text run on XLA's CPU.

text = stablehlo(function, types, "tpu")      # what the bundle ships; the same function gives the same text
outputs = run_text(text, inputs)              # on the CPU
bytes = hlo_proto(function, types)            # an HloModuleProto, what neuronx-cc reads
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

import jax
import ml_dtypes  # noqa: F401  (numpy learns the codes)
import numpy as np
from jax import export
from jax.interpreters import mlir

from porter.errors import PorterError
from porter.xla.products import by_passes

# A YNN fusion of XLA's CPU compiler gave infinities in a quarter of the executables of one text (docs/findings.md).
STEADY = {"xla_cpu_experimental_ynn_fusion_type": ""}
# What runs once is not optimized: products are library calls either way, and compiling is most of the time.
QUICK = {"xla_backend_optimization_level": 0}


@contextmanager
def no_paths() -> Iterator[None]:
    """jax without source files and tracebacks in what it lowers, so that equal programs have equal bytes."""
    wanted = {"jax_hlo_source_file_canonicalization_regex": ".*", "jax_include_full_tracebacks_in_locations": False}
    before = {k: getattr(jax.config, k) for k in wanted}
    try:
        for k, v in wanted.items():
            jax.config.update(k, v)
        yield
    finally:
        for k, v in before.items():
            jax.config.update(k, v)


def stablehlo(function: Callable[..., Any], types: Sequence[Any], platform: str, name: str = "main") -> str:
    """The function as StableHLO text for a platform ('cpu', 'tpu'), without locations."""
    return text_of(exported(function, types, (platform,), name))


def exported(function: Callable[..., Any], types: Sequence[Any], platforms: Sequence[str], name: str = "main") -> Any:
    """jax.export of the function for platforms, with its module named."""

    def named(*arguments: Any) -> Any:
        return function(*arguments)

    named.__name__ = named.__qualname__ = name
    with no_paths():
        return export.export(jax.jit(named, keep_unused=True), platforms=list(platforms))(*types)


def text_of(e: Any) -> str:
    """An exported function's module, printed without locations."""
    from jax.extend.mlir.dialects import stablehlo as dialect

    with mlir.make_ir_context() as context:
        module = dialect.deserialize_portable_artifact(context, e.mlir_module_serialized)
        return str(module.operation.get_asm(enable_debug_info=False))


def hlo_proto(function: Callable[..., Any], types: Sequence[Any], name: str = "main") -> bytes:
    """The function as a serialized xla.HloModuleProto, before XLA's optimizations; equal functions give equal bytes."""
    from jax._src.lib import _jax  # no public name leads from StableHLO to HLO

    text = stablehlo(function, types, "cpu", name)
    computation = _jax.mlir.mlir_module_to_xla_computation(text, use_tuple_args=False, return_tuple=False)
    return _without(computation.as_serialized_hlo_module_proto(), _MODULE_ID)


def run_proto(data: bytes, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a serialized HloModuleProto on XLA's CPU."""
    from jax._src.lib import _jax, xla_client
    from jax.extend.backend import get_backend

    text = _jax.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(data))
    client = get_backend("cpu")
    devices = _jax.DeviceList(tuple(client.local_devices()[:1]))
    program = client.compile_and_load(str(text).encode(), devices, xla_client.CompileOptions())
    with jax.enable_x64(True):
        return [np.asarray(x) for x in program.execute([jax.device_put(x, client.local_devices()[0]) for x in inputs])]


_MODULE_ID = 5  # HloModuleProto.id counts the modules of the process that made it (xla/service/hlo.proto)


def _without(message: bytes, field: int) -> bytes:
    """A protobuf message without one of its own fields."""

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (message[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if message[at - 1] < 0x80:
                return value, at

    kept, at = bytearray(), 0
    while at < len(message):
        tag, after = varint(at)
        match tag & 7:
            case 0:
                end = varint(after)[1]
            case 2:
                size, start = varint(after)
                end = start + size
            case kind:
                end = after + {1: 8, 5: 4}[kind]
        if tag >> 3 != field:
            kept += message[at:end]
        at = end
    return bytes(kept)


def element_types(text: str) -> set[str]:
    """The element types of tensors in StableHLO text ('f32', 'i64'), those of attributes aside (windows are i64)."""
    bare = re.sub(r"dense<[^>]*> : tensor<[^>]*>", "", text)
    return {shape.rpartition("x")[2] for shape in re.findall(r"tensor<([^>]*)>", bare)}


def call(text: str, platform: str = "cpu") -> Callable[..., list[Any]]:
    """A jax function that runs StableHLO text, inlined where it is traced. Raises PorterError where it is no module."""
    from jax.extend.mlir.dialects import stablehlo as dialect

    with mlir.make_ir_context():
        from jax.extend.mlir import ir

        try:
            module = ir.Module.parse(text)
        except ir.MLIRError as error:
            found = str(error).splitlines()[0]
            raise PorterError("StableHLO text", expected="a module that parses", found=found) from None
        main = next(op for op in module.body.operations if str(op.attributes["sym_name"]) == '"main"')
        kind: Any = ir.TypeAttr(main.attributes["function_type"]).value
        ins = [_aval(t) for t in kind.inputs]
        outs = [_aval(t) for t in kind.results]
        code = dialect.serialize_portable_artifact(module, dialect.get_current_version())
    tree_in = jax.tree.structure((tuple(ins), {}))
    tree_out = jax.tree.structure(list(outs))
    e = export.Exported(
        fun_name="main", in_tree=tree_in, in_avals=tuple(ins), out_tree=tree_out, out_avals=tuple(outs),
        _has_named_shardings=True, _in_named_shardings=(None,) * len(ins), _out_named_shardings=(None,) * len(outs),
        in_shardings_hlo=(None,) * len(ins), out_shardings_hlo=(None,) * len(outs), nr_devices=1, platforms=(platform,),
        ordered_effects=(), unordered_effects=(), disabled_safety_checks=(), mlir_module_serialized=code,
        calling_convention_version=export.maximum_supported_calling_convention_version,
        module_kept_var_idx=tuple(range(len(ins))), uses_global_constants=False, _get_vjp=None,
    )  # fmt: skip
    return e.call


def run_text(text: str, inputs: Sequence[np.ndarray], *, passes: bool = False) -> list[np.ndarray]:
    """The outputs of StableHLO text on XLA's CPU, which multiplies float32 exactly whatever precision is asked.

    passes: multiply as a matrix unit of bf16 passes does at that precision (porter.xla.products.by_passes).
    """
    return [np.asarray(x) for x in _runner(by_passes(text) if passes else text)(*inputs)]


@lru_cache(maxsize=64)  # a program launches equal kernels many times
def _runner(text: str) -> Callable[..., list[Any]]:
    function = call(text)
    return on_cpu(lambda *a: function(*a), QUICK)


def on_cpu(function: Callable[..., Any], options: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """The function compiled for the host's CPU, without the fusions that cannot be relied on."""
    return jax.jit(function, compiler_options={**_steady(), **(options or {})})


@cache
def _steady() -> Mapping[str, Any]:
    """STEADY, or nothing where this jaxlib has no such fusions."""
    try:
        jax.jit(lambda x: x, compiler_options=STEADY)(0)
    except jax.errors.JaxRuntimeError:
        return {}
    return STEADY


def _aval(t: Any) -> Any:
    from jax.extend.mlir import ir

    kind = ir.RankedTensorType(t)
    return jax.core.ShapedArray(tuple(kind.shape), _DTYPES[str(kind.element_type)])


_DTYPES = {
    **{f"f{n}": np.dtype(f"float{n}") for n in (16, 32, 64)}, "bf16": jax.numpy.bfloat16.dtype, "i1": np.dtype(bool),
    **{f"i{n}": np.dtype(f"int{n}") for n in (8, 16, 32, 64)}, **{f"ui{n}": np.dtype(f"uint{n}") for n in (8, 16, 32, 64)},
    **{f"{short}{n}": np.dtype(f"{long}{n}") for short, long in (("i", "int"), ("ui", "uint")) for n in (2, 4)},
    **{f"f8{word.upper()}": np.dtype(f"float8_{word}")
       for word in ("e4m3", "e4m3fn", "e4m3fnuz", "e4m3b11fnuz", "e5m2", "e5m2fnuz", "e3m4", "e8m0fnu")},
    "f4E2M1FN": np.dtype("float4_e2m1fn"),
}  # fmt: skip
