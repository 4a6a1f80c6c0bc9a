"""Activations and products of `com.microsoft`: the Gelu family, and matrix products with something fused in."""

from __future__ import annotations

from porter.graph.contrib.spelling import Spelling, Table, spells

SPELLINGS: Table = {}


@spells(SPELLINGS, "Gelu")
def gelu(s: Spelling) -> None:
    """x * Phi(x), by erf."""
    s.finish(s.op("Gelu", s.required(0)))


@spells(SPELLINGS, "BiasGelu")
def bias_gelu(s: Spelling) -> None:
    """Gelu of x + bias."""
    s.finish(s.op("Gelu", s.op("Add", s.required(0), s.required(1))))


@spells(SPELLINGS, "FastGelu")
def fast_gelu(s: Spelling) -> None:
    """Gelu by tanh, of x or of x + bias."""
    x, bias = s.required(0), s.input(1)
    s.finish(s.op("Gelu", x if bias is None else s.op("Add", x, bias), approximate="tanh"))


@spells(SPELLINGS, "QuickGelu")
def quick_gelu(s: Spelling) -> None:
    """x * sigmoid(alpha * x), which the standard calls Swish."""
    s.finish(s.op("Swish", s.required(0), alpha=float(s.attribute("alpha", 1.702))))


@spells(SPELLINGS, "BiasAdd")
def bias_add(s: Spelling) -> None:
    """x + bias + skip."""
    s.finish(s.op("Add", s.op("Add", s.required(0), s.required(1)), s.required(2)))


@spells(SPELLINGS, "FusedMatMul", "TransposeMatMul")
def fused_matmul(s: Spelling) -> None:
    """alpha * A' @ B'; `transBatch` brings the first axis behind the batch, `trans` then swaps the last two."""
    operands = []
    for index, side in enumerate("AB"):
        value = s.required(index)
        batch, swap = s.attribute(f"transBatch{side}", 0), s.attribute(f"trans{side}", 0)
        if batch or swap:
            axes = list(range(s.need_rank(value)))
            if batch and len(axes) > 2:
                axes = [*axes[1:-1], axes[0], axes[-1]]
            if swap and len(axes) > 1:  # a vector has nothing to swap
                axes[-2:] = axes[:-3:-1]
            value = s.transpose(value, *axes)
        operands.append(value)
    product = s.op("MatMul", *operands)
    alpha = float(s.attribute("alpha", 1.0))
    s.finish(product if alpha == 1.0 else s.op("Mul", product, s.scalar_like(alpha, s.required(0), "alpha")))


@spells(SPELLINGS, "FusedGemm")
def fused_gemm(s: Spelling) -> None:
    """Gemm, then an activation that is named by its operator."""
    numbers = {key: s.attribute(key) for key in ("alpha", "beta", "transA", "transB")}
    y = s.op("Gemm", s.required(0), s.required(1), s.input(2), **numbers)
    kind = s.attribute("activation")
    match kind:
        case None | "":
            s.finish(y)
        case "Relu" | "Sigmoid" | "Tanh" | "Softplus" | "Softsign":
            s.finish(s.op(kind, y))
        case "LeakyRelu" | "Elu" | "ThresholdedRelu":
            s.finish(s.op(kind, y, alpha=s.attribute("activation_alpha")))
        case _:
            s.refuse("an attribute 'activation' that is an operator of one input", str(kind))
