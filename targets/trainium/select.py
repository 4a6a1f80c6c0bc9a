"""Selection: elementwise operations as instructions of the engines, neighbours fused where one does both.

    func(x * scale + bias)             activation, scale and bias numbers or one value per partition; its sum for free
    (x op a) op b                      tensor_scalar, a and b numbers or one value per partition
    (x op a) op y                      scalar_tensor_tensor, y a tile
    x op y                             tensor_tensor

A step that only the next operation reads waits (`Pending`) and becomes part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from porter.targets.trainium import integers
from porter.targets.trainium.bufferize import Buffer
from porter.targets.trainium.instructions import ALU, COMMUTES, DTYPES, GPSIMD_ONLY, LANGUAGE, TABLE, held
from porter.targets.trainium.layout import Layout
from porter.targets.trainium.steps import ARITHMETIC, Argument, Pending, Step
from porter.targets.trainium.writer import Groups, Place, View, Writer, literal
from porter.tile.program import Scalar
from porter.tile.target import CannotEmit


@dataclass
class Selector:
    """Emits one operation at a time. `generation` is the NeuronCore's: version 2 wants biases as tiles."""

    w: Writer
    generation: int
    totals: dict[str, Place] = field(default_factory=dict)  # where an activation leaves the sum of its results, by name
    negatives: dict[tuple[Buffer, str], Place] = field(default_factory=dict)  # made in the blocks around us

    def emit(self, op: str, name: str, layout: Layout, dtype: str, args: Sequence[Argument]) -> Place:
        """The result of an operation in a fresh tile."""
        match op:
            case "select":
                return self._select(name, layout, dtype, *args)
            case "not":
                return self.scalar(name, layout, dtype, args[0], Step("xor", 1 if dtype == "bool" else -1))
            case _ if (made := integers.emit(self, op, name, layout, dtype, args)) is not None:
                return made
            case "neg":
                return self.scalar(name, layout, dtype, args[0], Step("mul", -1.0))
            case "sqrt":
                return self.scalar(name, layout, dtype, args[0], Step("pow", 0.5))
            case "rsqrt":
                return self._rsqrt(name, layout, dtype, args[0])
            case "isfinite":
                return self._isfinite(name, layout, dtype, args[0])
            case "div":
                return self._divide(name, layout, dtype, *args)
            case "rem":
                return self._remainder(name, layout, dtype, *args)
            case _ if op in LANGUAGE:
                return self._language(LANGUAGE[op], name, layout, dtype, args[0])
            case _ if op in TABLE:
                return self.activation(TABLE[op], name, layout, dtype, args[0])
            case _ if op in ALU:
                return self._binary(op, name, layout, dtype, *args)
            case _:
                raise CannotEmit(f"no engine of a NeuronCore computes '{op}'")

    # the three shapes of arithmetic

    def _binary(self, op: str, name: str, layout: Layout, dtype: str, a: Argument, b: Argument) -> Place:
        flip = False
        tile = isinstance(b, Pending) or (isinstance(b, Place) and not _vector(b))
        if not isinstance(a, Place | Pending) or (_vector(a) and tile):
            a, b, flip = b, a, True
        if not isinstance(a, Place | Pending):
            raise CannotEmit(f"'{op}' of two numbers: the tile program should have folded it")
        if isinstance(b, Pending):
            if isinstance(a, Pending):
                a = self.settle(a, layout, name)
            a, b, flip = b, a, not flip
        along = bool(layout.free) and not (isinstance(a, Place) and _vector(a))
        if not isinstance(b, Place) or (along and _vector(b) and b.dtype == "float32"):
            assert not isinstance(b, Pending)
            return self.scalar(name, layout, dtype, a, Step(op, b, flip and op not in COMMUTES))
        return self._tensors(op, name, layout, dtype, a, b, flip and op not in COMMUTES)

    def scalar(self, name: str, layout: Layout, dtype: str, data: Argument, step: Step) -> Place:
        """tensor_scalar, the waiting step first."""
        assert isinstance(data, Place | Pending)
        if step.op in GPSIMD_ONLY or step.op == "pow":
            data = self._in_sbuf(data)
        pending = data if isinstance(data, Pending) else Pending(data)
        if len(pending.steps) > 1:
            pending = Pending(self.settle(pending, layout, name))
        out = self.w.buffer(name, layout, dtype)
        groups = self.w.groups(layout.free, [pending.data])
        arguments: dict[str, object] = dict(dst=self.w.view(out, groups), data=self.w.view(pending.data, groups))
        for i, s in enumerate((*pending.steps, step)):
            arguments |= {f"op{i}": f"nl.{ALU[s.op]}", f"operand{i}": _operand(s.operand)}
            if s.flip:
                arguments[f"reverse{i}"] = True
        self.w.call("tensor_scalar", **arguments)
        return out

    def _tensors(
        self, op: str, name: str, layout: Layout, dtype: str, a: Place | Pending, b: Place, flip: bool
    ) -> Place:
        pending = a if isinstance(a, Pending) else Pending(a)
        data = pending.data
        if (data.psum and b.psum) or op == "pow":
            b = self.w.evicted(b)
        if op == "pow":
            data = self.w.evicted(data)
        if len(pending.steps) > 1 or (pending.steps and op not in ARITHMETIC):
            data, pending = self.settle(pending, layout, name), Pending(data)
            pending = Pending(data)
        out = self.w.buffer(name, layout, dtype)
        groups = self.w.groups(layout.free, [data, b])
        dst, x, y = (self.w.view(t, groups) for t in (out, data, b))
        if pending.steps:
            s = pending.steps[0]
            arguments: dict[str, object] = dict(
                dst=dst, data=x, op0=f"nl.{ALU[s.op]}", operand0=_operand(s.operand), op1=f"nl.{ALU[op]}", operand1=y
            )
            arguments |= {"reverse0": True} if s.flip else {}
            arguments |= {"reverse1": True} if flip else {}
            self.w.call("scalar_tensor_tensor", **arguments)
        else:
            first, second = (y, x) if flip else (x, y)
            self.w.call("tensor_tensor", dst=dst, data1=first, data2=second, op=f"nl.{ALU[op]}")
        return out

    def activation(self, function: str, name: str, layout: Layout, dtype: str, data: Argument) -> Place:
        """func(x * scale + bias), and its sum along the partition where it is wanted."""
        assert isinstance(data, Place | Pending)
        pending = data if isinstance(data, Pending) else Pending(data)
        scale, bias = self._scale_and_bias(pending, name)
        out = self.w.buffer(name, layout, dtype)
        groups = self.w.groups(layout.free, [pending.data])
        arguments: dict[str, object] = dict(
            dst=self.w.view(out, groups), op=f"nl.{function}", data=self.w.view(pending.data, groups)
        )
        if bias is not None:
            arguments["bias"] = _operand(bias)
        if scale is not None:
            arguments["scale"] = _operand(scale)
        if name in self.totals:
            arguments |= {"reduce_op": "nl.add", "reduce_res": self.totals[name].view}
            arguments["reduce_cmd"] = "nisa.reduce_cmd.reset_reduce"
        self.w.call("activation", **arguments)
        return out

    def _scale_and_bias(self, pending: Pending, name: str) -> tuple[Place | Scalar | None, Place | Scalar | None]:
        scale: Place | Scalar | None = None
        bias: Place | Scalar | None = None
        for s in pending.steps:
            if s.op == "mul":
                scale = s.operand
            elif s.op == "add":
                bias = s.operand
            elif s.flip:  # operand - x
                scale, bias = -1.0, s.operand
            else:
                bias = self._negative(s.operand, name)
        if bias is not None and not isinstance(bias, Place) and self.generation < 3:
            bias = self.constant(float(bias), pending.data.layout.part, f"{name}_bias")
        return scale, bias

    def _negative(self, x: Place | Scalar, name: str) -> Place | Scalar:
        if not isinstance(x, Place):
            return -x
        if (x.buffer, x.dtype) not in self.negatives:
            out = self.w.buffer(f"minus_{x.buffer.name}", x.layout, "float32")
            self.w.call("tensor_scalar", dst=out.view, data=x.view, op0="nl.multiply", operand0=-1.0)
            self.negatives[x.buffer, x.dtype] = out
        return self.negatives[x.buffer, x.dtype]

    def constant(self, value: Scalar, part: tuple[str, ...], name: str, dtype: str = "float32") -> Place:
        out = self.w.buffer(name, Layout(part, ()), dtype)
        self.w.call("memset", dst=out.view, value=value)
        return out

    def settle(self, pending: Pending, layout: Layout, name: str) -> Place:
        """Emit what waits."""
        *first, last = pending.steps
        layout = Layout(pending.data.layout.part, pending.data.layout.free)
        return self.scalar(f"{name}_arg", layout, "float32", Pending(pending.data, tuple(first)), last)

    def takes(self, op: str, pending: Pending, step: Step, others: Sequence[Argument]) -> bool:
        """Whether the operation `op`, whose other arguments these are, can take data with these steps along."""
        chain = (*pending.steps, step)
        if any(s.op not in ARITHMETIC for s in chain):
            return False
        if op in TABLE:
            kinds = [s.op for s in chain]
            return kinds in (["mul"], ["add"], ["sub"], ["mul", "add"]) or (
                kinds == ["mul", "sub"] and not chain[1].flip
            )
        return len(chain) == 1 and op in ARITHMETIC

    # what takes several instructions

    def _in_sbuf(self, x: Place | Pending) -> Place | Pending:
        return Pending(self.w.evicted(x.data), x.steps) if isinstance(x, Pending) else self.w.evicted(x)

    def _rsqrt(self, name: str, layout: Layout, dtype: str, x: Argument) -> Place:
        """On the GpSimd engine, which is exact to the ends of the range and reads no PSUM."""
        assert isinstance(x, Place | Pending)
        x = self._in_sbuf(x)
        pending = x if isinstance(x, Pending) else Pending(x)
        out = self.w.buffer(name, layout, dtype)
        groups = self.w.groups(layout.free, [pending.data])
        arguments: dict[str, object] = dict(dst=self.w.view(out, groups), data=self.w.view(pending.data, groups))
        for i, s in enumerate(pending.steps):
            arguments |= {f"op{i}": f"nl.{ALU[s.op]}", f"operand{i}": _operand(s.operand)}
        arguments |= {f"op{len(pending.steps)}": "nl.rsqrt", f"operand{len(pending.steps)}": 0.0}
        self.w.call("tensor_scalar", **arguments)
        return out

    def _isfinite(self, name: str, layout: Layout, dtype: str, x: Argument) -> Place:
        x = self.settle(x, layout, name) if isinstance(x, Pending) else x
        assert isinstance(x, Place)
        out = self.w.buffer(name, layout, dtype)
        groups = self.w.groups(layout.free, [x])
        self.w.call(
            "tensor_scalar",
            dst=self.w.view(out, groups),
            data=self.w.view(x, groups),
            op0="nl.abs_max",
            operand0=0.0,
            op1="nl.less",
            operand1=math.inf,
        )
        return out

    def _divide(self, name: str, layout: Layout, dtype: str, a: Argument, b: Argument) -> Place:
        """The engines have no division: a times the reciprocal, which the Vector engine computes in float32."""
        if not isinstance(b, Place | Pending):
            return self.scalar(name, layout, dtype, a, Step("mul", float(np.float32(1) / np.float32(b))))
        b = self.settle(b, layout, f"{name}_divisor") if isinstance(b, Pending) else b
        whole = not isinstance(a, Place | Pending) and float(a) == 1.0
        inverse = self.w.buffer(name if whole else f"{name}_inverse", b.layout, dtype if whole else "float32")
        self.w.call("reciprocal", dst=inverse.view, data=b.view)
        return inverse if whole else self._binary("mul", name, layout, dtype, a, inverse)

    def _remainder(self, name: str, layout: Layout, dtype: str, a: Argument, b: Argument) -> Place:
        model = next(x for x in (a, b) if isinstance(x, Place))
        full = [
            x if isinstance(x, Place) and x.layout.free == layout.free else self._spread(x, layout, model, name)
            for x in (a, b)
        ]
        return self._language("fmod", name, layout, dtype, *full)

    def _spread(self, x: Argument, layout: Layout, model: Place, name: str) -> Place:
        assert not isinstance(x, Pending)
        out = self.w.buffer(f"{name}_spread", layout, model.dtype)
        if isinstance(x, Place):
            groups = self.w.groups(layout.free, [x])
            self.w.call("tensor_copy", dst=self.w.view(out, groups), src=self.w.view(x, groups))
        else:
            self.w.call("memset", dst=out.view, value=x)
        return out

    def _language(self, function: str, name: str, layout: Layout, dtype: str, *args: Argument) -> Place:
        """A function of nki.language: it makes its own result."""
        settled = [self.settle(a, layout, name) if isinstance(a, Pending) else a for a in args]
        places = [a for a in settled if isinstance(a, Place)]
        if places[0].layout.free != layout.free:
            places[0] = self.w.ordered(places[0], layout.free)
        out = self.w.buffer(name, layout, dtype)
        self.w.lines.pop()  # the function allocates
        self.w.line(f"{out.buffer.name} = nl.{function}({', '.join(a.text for a in places)})")
        self.w.trace.use(out.buffer, *(a.buffer for a in places))
        return out

    def _select(self, name: str, layout: Layout, dtype: str, condition: Argument, yes: Argument, no: Argument) -> Place:
        """The false values, then the true ones where the predicate holds."""
        if not isinstance(condition, Place):
            assert not isinstance(condition, Pending)
            return self.copy(name, layout, dtype, yes if condition else no)
        assert not isinstance(yes, Pending)
        out = self.copy(name, layout, dtype, no)
        tiles = [t for t in (condition, yes) if isinstance(t, Place)]
        if isinstance(yes, Place) and DTYPES[yes.dtype] != DTYPES[dtype]:
            yes = self.copy(f"{name}_cast", Layout(layout.part, yes.layout.free), dtype, yes)
        if all(t.psum for t in tiles) and len(tiles) > 1:
            yes = self.w.evicted(tiles[1])
        groups = self.w.groups(layout.free, [out, *(t for t in (condition, yes) if isinstance(t, Place))])
        source = self.w.view(yes, groups) if isinstance(yes, Place) else _operand(yes)
        self.w.call(
            "tensor_copy_predicated", dst=self.w.view(out, groups), src=source, predicate=self.w.view(condition, groups)
        )
        return out

    def copy(self, name: str, layout: Layout, dtype: str, x: Argument) -> Place:
        """A fresh tile with this value, converted on the way."""
        assert not isinstance(x, Pending)
        out = self.w.buffer(name, layout, dtype)
        self.fill(out, x)
        return out

    def fill(self, out: Place, x: Place | Scalar) -> None:
        """out = x."""
        if not isinstance(x, Place):
            self.w.call("memset", dst=out.view, value=held(x, out.dtype))
            return
        groups = self.w.groups(out.layout.free, [out, x])
        self.w.call("tensor_copy", dst=self.w.view(out, groups), src=self.w.view(x, groups))


def _vector(x: Argument) -> bool:
    """One value per partition."""
    return isinstance(x, Place) and not x.layout.free


def _operand(x: Place | Scalar) -> object:
    return x.view if isinstance(x, Place) else _plain(x)


def _plain(x: Scalar) -> float | int:
    return int(x) if isinstance(x, bool | int) else float(x)


__all__ = ["Argument", "Groups", "Pending", "Selector", "Step", "View", "literal"]
