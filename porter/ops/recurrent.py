"""Recurrent layers: RNN, GRU and LSTM, one scan over time per direction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from porter.errors import PorterError
from porter.ops import activation
from porter.ops.movement import reverse_sequence
from porter.ops.registry import op

# Activations, with the attributes each takes and ONNX's defaults for them.
_ACTIVATIONS: dict[str, tuple[Callable[..., Any], dict[str, float]]] = {
    "relu": (lambda xp, x: xp.maximum(x, 0), {}),
    "tanh": (lambda xp, x: xp.tanh(x), {}),
    "sigmoid": (activation.sigmoid, {}),
    "affine": (lambda xp, x, alpha, beta: alpha * x + beta, {"alpha": 1.0, "beta": 0.0}),
    "leakyrelu": (activation.leaky_relu, {"alpha": 0.01}),
    "thresholdedrelu": (activation.thresholded_relu, {"alpha": 1.0}),
    "scaledtanh": (lambda xp, x, alpha, beta: alpha * xp.tanh(beta * x), {"alpha": 1.0, "beta": 1.0}),
    "hardsigmoid": (activation.hard_sigmoid, {"alpha": 0.2, "beta": 0.5}),
    "elu": (activation.elu, {"alpha": 1.0}),
    "softsign": (activation.softsign, {}),
    "softplus": (activation.softplus, {}),
}


def _functions(
    xp: Any, names: Sequence[str], alphas: Sequence[float] | None, betas: Sequence[float] | None, clip: float | None
) -> list[Callable[[Any], Any]]:
    """The activations in order; alphas and betas are handed out to those that take one. The clip goes before each."""
    supply: dict[str, Iterator[float]] = {"alpha": iter(alphas or ()), "beta": iter(betas or ())}
    found = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise PorterError("a recurrent activation", expected=", ".join(sorted(_ACTIVATIONS)), found=name)
        function, defaults = _ACTIVATIONS[name.lower()]
        chosen = partial(function, xp, **{k: next(supply[k], v) for k, v in defaults.items()})
        found.append(_clipped(xp, chosen, clip) if clip else chosen)
    return found


def _clipped(xp: Any, function: Callable[[Any], Any], clip: float) -> Callable[[Any], Any]:
    return lambda x: function(xp.minimum(xp.maximum(x, -clip), clip))


def _part(xp: Any, x: Any, index: int) -> Any:
    """x[index], the part of one direction."""
    return xp.reshape(xp.slice(x, (index,) + (0,) * (x.ndim - 1), (index + 1, *x.shape[1:])), x.shape[1:])


def _cut(xp: Any, x: Any, count: int) -> list[Any]:
    """x in `count` equal pieces along its last axis."""
    size = x.shape[-1] // count
    low, high = (0,) * (x.ndim - 1), x.shape[:-1]
    return [xp.slice(x, (*low, i * size), (*high, (i + 1) * size)) for i in range(count)]


def _layer(
    xp: Any,
    x: Any,
    lengths: Any,
    states: Sequence[Any],
    direction: str,
    layout: int,
    cell: Callable[[int], tuple[Callable[[Any], Any], Callable[..., Any]]],
    outputs: int,
) -> tuple[Any, ...]:
    """Run `cell(d) -> (project, step)` for each direction: project(x) once for all steps, step(states, row) per step.

    Padding steps keep the states and give 0; the backward direction starts at each sequence's own end. Returns
    Y (time, directions, batch, hidden), then one final state (directions, batch, hidden) each; batch first in layout 1.
    """
    if layout:
        x = xp.transpose(x, (1, 0, 2))
        states = [xp.transpose(s, (1, 0, 2)) for s in states]
    steps, batch = x.shape[:2]
    ways = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    everything, finals = [], []
    for d, backward in enumerate(ways):
        line = x
        if backward:
            line = xp.flip(x, 0) if lengths is None else reverse_sequence(xp, x, lengths, time_axis=0, batch_axis=1)
        project, step = cell(d)
        rows = (project(line), xp.reshape(xp.arange(steps), (steps, 1, 1)))

        def turn(held: Any, row: Any, step: Any = step) -> Any:
            new = step(held, row[0])
            if lengths is None:
                return new, (new[0],)
            alive = xp.less(row[1], xp.cast(xp.reshape(lengths, (batch, 1)), row[1].dtype))
            zero = xp.full((), 0, new[0].dtype)
            return tuple(xp.where(alive, n, h) for n, h in zip(new, held, strict=True)), (
                xp.where(alive, new[0], zero),
            )

        final, columns = xp.scan(turn, tuple(_part(xp, s, d) for s in states), rows)
        y = columns[0] if columns is not None else xp.full((0, batch, states[0].shape[-1]), 0, x.dtype)
        if backward:
            y = xp.flip(y, 0) if lengths is None else reverse_sequence(xp, y, lengths, time_axis=0, batch_axis=1)
        everything.append(xp.reshape(y, (steps, 1, batch, states[0].shape[-1])))
        finals.append([xp.reshape(f, (1, *f.shape)) for f in final])
    y = xp.concatenate(everything, axis=1)
    last = [xp.concatenate(list(f), axis=0) for f in zip(*finals, strict=True)]
    if layout:
        y, last = xp.transpose(y, (2, 0, 1, 3)), [xp.transpose(f, (1, 0, 2)) for f in last]
    return (y, *last)[:outputs]


def _start(xp: Any, given: Any, x: Any, directions: int, hidden: int, layout: int) -> Any:
    batch = x.shape[0] if layout else x.shape[1]
    shape = (batch, directions, hidden) if layout else (directions, batch, hidden)
    return xp.full(shape, 0, x.dtype) if given is None else given


def _bias(xp: Any, b: Any, d: int, gates: int, like: Any) -> list[Any]:
    """The 2 * gates bias vectors of one direction, zeros where there are none."""
    hidden = like.shape[-1]
    if b is None:
        return [xp.full((hidden,), 0, like.dtype)] * (2 * gates)
    return _cut(xp, _part(xp, b, d), 2 * gates)


@op("RNN", since=7)
def rnn(
    xp,
    x,
    w,
    r,
    b=None,
    sequence_lens=None,
    initial_h=None,
    *,
    activation_alpha=None,
    activation_beta=None,
    activations=("Tanh", "Tanh"),
    clip=None,
    direction="forward",
    hidden_size=None,
    layout=0,
    outputs=1,
):
    """h' = f(x W + h R + bias)."""
    h = _start(xp, initial_h, x, w.shape[0], r.shape[-1], layout)
    functions = _functions(xp, activations, activation_alpha, activation_beta, clip)

    def cell(d):
        weights, recurrence = xp.transpose(_part(xp, w, d)), xp.transpose(_part(xp, r, d))
        wb, rb = _bias(xp, b, d, 1, r)
        return (lambda line: xp.matmul(line, weights) + (wb + rb)), (
            lambda held, row: (functions[d](row + xp.matmul(held[0], recurrence)),)
        )

    return _layer(xp, x, sequence_lens, [h], direction, layout, cell, outputs)


@op("GRU", since=7)
def gru(
    xp,
    x,
    w,
    r,
    b=None,
    sequence_lens=None,
    initial_h=None,
    *,
    activation_alpha=None,
    activation_beta=None,
    activations=None,
    clip=None,
    direction="forward",
    hidden_size=None,
    layout=0,
    linear_before_reset=0,
    outputs=1,
):
    """z, r = f(x W + h R + bias); n = g(x W + (r * h) R + bias); h' = (1 - z) * n + z * h."""
    h = _start(xp, initial_h, x, w.shape[0], r.shape[-1], layout)
    names = activations or ("Sigmoid", "Tanh") * w.shape[0]
    functions = _functions(xp, names, activation_alpha, activation_beta, clip)

    def cell(d):
        f, g = functions[2 * d : 2 * d + 2]
        weights = xp.transpose(_part(xp, w, d))
        rz, rr, rh = _cut(xp, xp.transpose(_part(xp, r, d)), 3)
        wbz, wbr, wbh, rbz, rbr, rbh = _bias(xp, b, d, 3, r)
        # the recurrent bias of the candidate stays inside the reset when that comes after the product
        bias = xp.concatenate([wbz + rbz, wbr + rbr, wbh if linear_before_reset else wbh + rbh], axis=0)

        def step(held, row):
            (h,) = held
            xz, xr, xh = _cut(xp, row, 3)
            z = f(xz + xp.matmul(h, rz))
            reset = f(xr + xp.matmul(h, rr))
            inner = reset * (xp.matmul(h, rh) + rbh) if linear_before_reset else xp.matmul(reset * h, rh)
            return ((1.0 - z) * g(xh + inner) + z * h,)

        return (lambda line: xp.matmul(line, weights) + bias), step

    return _layer(xp, x, sequence_lens, [h], direction, layout, cell, outputs)


@op("LSTM", since=7)
def lstm(
    xp,
    x,
    w,
    r,
    b=None,
    sequence_lens=None,
    initial_h=None,
    initial_c=None,
    p=None,
    *,
    activation_alpha=None,
    activation_beta=None,
    activations=None,
    clip=None,
    direction="forward",
    hidden_size=None,
    input_forget=0,
    layout=0,
    outputs=1,
):
    """i, o, f = sigmoid(x W + h R + p * c + bias); c' = f * c + i * tanh(...); h' = o * tanh(c')."""
    h = _start(xp, initial_h, x, w.shape[0], r.shape[-1], layout)
    c = _start(xp, initial_c, x, w.shape[0], r.shape[-1], layout)
    names = activations or ("Sigmoid", "Tanh", "Tanh") * w.shape[0]
    functions = _functions(xp, names, activation_alpha, activation_beta, clip)

    def cell(d):
        f, g, k = functions[3 * d : 3 * d + 3]
        weights, recurrence = xp.transpose(_part(xp, w, d)), xp.transpose(_part(xp, r, d))
        parts = _bias(xp, b, d, 4, r)
        bias = xp.concatenate([a + z for a, z in zip(parts[:4], parts[4:], strict=True)], axis=0)
        peep = _cut(xp, _part(xp, p, d), 3) if p is not None else None

        def step(held, row):
            h, c = held
            xi, xo, xf, xc = _cut(xp, row + xp.matmul(h, recurrence), 4)
            i = f(xi if peep is None else xi + peep[0] * c)
            forget = (1.0 - i) if input_forget else f(xf if peep is None else xf + peep[2] * c)
            new = forget * c + i * g(xc)
            return f(xo if peep is None else xo + peep[1] * new) * k(new), new

        return (lambda line: xp.matmul(line, weights) + bias), step

    return _layer(xp, x, sequence_lens, [h, c], direction, layout, cell, outputs)
