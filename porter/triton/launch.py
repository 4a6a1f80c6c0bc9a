"""How many warps and pipeline stages a kernel is launched with, by rule, from the sizes of its tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from porter.tile.program import Dot, For, Load, Program, Statement, Store, types, walk
from porter.triton.dots import on_unit
from porter.triton.scope import Scope

WARP = 32
PER_THREAD = 8  # lanes of the largest elementwise tile that a thread should hold: two 16-byte accesses of float32
ACCUMULATORS = 32  # lanes of a product's result per thread: no spills beside the operands of bf16x6 (measured)
WARPS = 8
STAGES = 3


def options(program: Program, shared: int) -> Mapping[str, int]:
    """num_warps and num_stages. shared: bytes of shared memory that a block may have, of which half is for the pipeline
    so that two blocks fit. A product takes a warpgroup at least, 4 warps, without which there is no wgmma."""
    scope, kinds = Scope(program), types(program)
    results = [s for s in walk(program.body) if isinstance(s, Dot) and on_unit(scope, s, kinds)]
    if results:
        threads = max(scope.count(scope.lanes(s.type.axes)) for s in results) // ACCUMULATORS
        warps = min(max(threads // WARP, 4), WARPS)
    else:
        lanes = max((scope.count(scope.lanes(t.axes)) for t in kinds.values()), default=1)
        warps = min(max(lanes // (WARP * PER_THREAD), 1), WARPS)
    staged = max(_staged(program), 1)
    stages = max((n for n in range(1, STAGES + 1) if n * staged <= shared // 2), default=1)
    return {"num_warps": _power(warps), "num_stages": stages}


def _power(n: int) -> int:
    return 1 << (max(n, 1).bit_length() - 1)


def _staged(program: Program) -> int:
    """Bytes that one step of the innermost loop loads for its products: what the pipeline holds once per stage."""

    def visit(body: Sequence[Statement]) -> int:
        deeper = max((visit(s.body) for s in body if isinstance(s, For)), default=0)
        wanted = {x for s in body if isinstance(s, Dot) for x in (s.a, s.b)}
        for s in reversed(body):  # through casts and prologues, back to the loads
            if not isinstance(s, For | Store | Load) and s.name in wanted:
                wanted |= set(getattr(s, "args", ())) | ({s.arg} if hasattr(s, "arg") else set())
        here = sum(math.prod(program.axis(a).tile for a in s.type.axes) * np.dtype(s.type.dtype).itemsize
                   for s in body if isinstance(s, Load) and s.name in wanted)  # fmt: skip
        return max(here, deeper)

    return max((visit(s.body) for s in program.body if isinstance(s, For)), default=0)
