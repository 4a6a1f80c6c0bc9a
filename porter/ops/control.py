"""Control flow: If, Loop and Scan. Their bodies arrive as functions from arrays to tuples of arrays."""

from __future__ import annotations

import numpy as np

from porter.ops.namespace import normal
from porter.ops.registry import op
from porter.ops.sequences import refuse_traced


@op("If", moves=True)
def if_(xp, cond, *, then_branch, else_branch):
    """The results of one branch."""

    def tensors(branch):
        results = branch()
        refuse_traced(xp, "an If", results)
        return results

    if not xp.concrete(cond):
        return tuple(xp.cond(cond, lambda: tensors(then_branch), lambda: tensors(else_branch)))
    return tuple(xp.cond(cond, then_branch, else_branch))


@op("Loop", moves=True)
def loop(xp, trip_count=None, cond=None, *v_initial, body):
    """body(i, cond, *state) -> (cond, *state, *rows) while i < trip_count and cond; rows are collected."""
    carried = len(v_initial)
    scans = body.outputs - 1 - carried

    def turn(i, flag, state):
        results = body(i, flag, *state)
        return results[0], results[1 : 1 + carried], results[1 + carried :]

    refuse_traced(xp, "a Loop", v_initial)
    limit = trip_count
    if limit is not None and xp.concrete(limit):
        limit = int(np.asarray(limit).reshape(()))
    flag = np.asarray(True) if cond is None else cond
    state, rows = xp.loop(limit, flag, tuple(v_initial), turn, scans)
    first = (np.int64(0), np.bool_(True), *v_initial)
    collected = [_stacked(xp, row, lambda i=i: body.empty(1 + carried + i, *first)) for i, row in enumerate(rows)]
    return (*state, *collected)


def _stacked(xp, rows, empty):
    if not isinstance(rows, list):
        return rows
    if not rows:
        return empty()
    return xp.concatenate([xp.reshape(row, (1, *row.shape)) for row in rows], axis=0)


@op("Scan", since=9, moves=True)
def scan(
    xp,
    *initial_state_and_scan_inputs,
    body,
    num_scan_inputs,
    scan_input_axes=None,
    scan_input_directions=None,
    scan_output_axes=None,
    scan_output_directions=None,
):
    """body(*state, *slices) -> (*state, *slices), folded over one axis of the scan inputs, forwards or backwards."""
    carried = len(initial_state_and_scan_inputs) - num_scan_inputs
    state, xs = initial_state_and_scan_inputs[:carried], []
    for i, x in enumerate(initial_state_and_scan_inputs[carried:]):
        axis = normal(scan_input_axes[i], x.ndim) if scan_input_axes else 0
        x = xp.transpose(x, (axis, *(a for a in range(x.ndim) if a != axis)))
        xs.append(xp.flip(x, 0) if scan_input_directions and scan_input_directions[i] else x)

    def step(held, rows):
        results = body(*held, *rows)
        return results[:carried], results[carried:]

    state, columns = xp.scan(step, tuple(state), tuple(xs))
    if columns is None:
        slices = [np.zeros(x.shape[1:], x.dtype) for x in xs]
        columns = [body.empty(i, *state, *slices) for i in range(carried, body.outputs)]
    out = []
    for i, y in enumerate(columns):
        y = xp.flip(y, 0) if scan_output_directions and scan_output_directions[i] else y
        axis = normal(scan_output_axes[i], y.ndim) if scan_output_axes else 0
        out.append(xp.transpose(y, (*range(1, axis + 1), 0, *range(axis + 1, y.ndim))))
    return (*state, *out)
