"""The public signatures of every NKI call that porter emits; emitted text and the simulator are held against them.

As of NKI 0.6.0 (Neuron 2.32), for NeuronCore-v2 to v4. No call has keyword-only parameters. Sources, all of
aws-neuron/aws-neuron-sdk at commit 81ce03ae (2026-08-21): nki/api/nki/isa/__init__.py (`nisa`), and for `nl` and the
methods of NkiTensor (here `tensor`) nki/api/nki/language/__init__.py. Before NKI 0.3 (April 2026) instructions returned
their result instead of taking `dst`; that form is not emitted.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from porter.errors import CheckFailed

# name: parameters in order; one that may be left out ends in "=".
SIGNATURES: dict[str, str] = {
    "nisa.dma_copy": "dst src priority= oob_mode= dge_mode= engine= name=",
    "nisa.tensor_copy": "dst src engine= name=",
    "nisa.memset": "dst value engine= name=",
    "nisa.tensor_copy_predicated": "dst src predicate reverse_pred= name=",
    "nisa.nc_matmul": "dst stationary moving is_stationary_onezero= is_moving_onezero= is_transpose= "
    "accumulate= tile_position= tile_size= perf_mode= name=",
    "nisa.nc_matmul_mx": "dst stationary moving stationary_scale moving_scale tile_position= tile_size= accumulate= name=",
    "nisa.nc_transpose": "dst data engine= name=",
    "nisa.tensor_tensor": "dst data1 data2 op engine= name=",
    "nisa.tensor_scalar": "dst data op0 operand0 reverse0= op1= operand1= reverse1= engine= name=",
    "nisa.scalar_tensor_tensor": "dst data op0 operand0 op1 operand1 reverse0= reverse1= name=",
    "nisa.tensor_reduce": "dst op data axis negate= keepdims= name=",
    "nisa.activation": "dst op data bias= scale= reduce_op= reduce_res= reduce_cmd= name=",
    "nisa.iota": "dst pattern offset= channel_multiplier= name=",
    "nisa.affine_select": "dst pattern channel_multiplier on_true_tile on_false_value cmp_op= offset= name=",
    "nisa.reciprocal": "dst data name=",
    "nl.ndarray": "shape dtype buffer= name= address=",
    "nl.floor": "x dtype=",
    "nl.ceil": "x dtype=",
    "nl.trunc": "x dtype=",
    "nl.fmod": "x y dtype=",
    "tensor.permute": "dims",
    "tensor.broadcast": "dim size",
    "tensor.expand_dim": "dim",
    "tensor.reshape_dim": "dim shape",
    "tensor.reshape": "shape",
    "tensor.view": "dtype",
    "tensor.ap": "pattern offset= scalar_offset= vector_offset= indirect_dim= dtype=",
}

# nl.floor, nl.ceil, nl.trunc and nl.fmod stand on the vendor's page with the warning that they may still change.
EXPERIMENTAL = frozenset({"nl.floor", "nl.ceil", "nl.trunc", "nl.fmod"})


def problem(call: str, positional: int, keywords: Iterable[str]) -> str | None:
    """What is wrong with a call of that many positional arguments and these keywords, None if nothing."""
    if call not in SIGNATURES:
        return f"{call} is no public NKI call that porter knows"
    parameters = [p.rstrip("=") for p in SIGNATURES[call].split()]
    required = [p for p in SIGNATURES[call].split() if not p.endswith("=")]
    given = parameters[:positional]
    if positional > len(parameters):
        return f"{call} takes {len(parameters)} arguments, {positional} are given"
    for word in keywords:
        if word not in parameters:
            return f"{call} has no parameter '{word}'; it has {', '.join(parameters)}"
        if word in given:
            return f"{call} is given '{word}' twice"
        given.append(word)
    missing = [p for p in required if p not in given]
    return f"{call} is not given {', '.join(missing)}" if missing else None


def check(text: str, where: str) -> None:
    """Hold every nisa, nl and tensor call of a module's text against the table. Raises CheckFailed with the line."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        space = owner.id if isinstance(owner, ast.Name) and owner.id in ("nisa", "nl") else "tensor"
        wrong = problem(f"{space}.{node.func.attr}", len(node.args), [k.arg for k in node.keywords if k.arg])
        if wrong:
            raise CheckFailed(f"{where}, line {node.lineno} of the NKI text", expected="a public NKI call", found=wrong)
