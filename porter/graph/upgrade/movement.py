"""Changes of movement and reduction: attributes that became inputs, so that they can be computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from porter.graph.upgrade.engine import Edit, Table, changes

STEPS: Table = {}


def _ints(edit: Edit, name: str) -> Sequence[int] | None:
    """An attribute of integers, taken off the node."""
    value = edit.pop(name)
    return None if value is None else tuple(int(v) for v in value)


@changes(STEPS, 4, "Concat")
def concat_axis(edit: Edit) -> None:
    """The axis had a default."""
    edit.set("axis", int(edit.attribute("axis", 1)))


@changes(STEPS, 5, "Reshape")
def reshape_shape(edit: Edit) -> None:
    """The shape becomes an input."""
    edit.pop("consumed_inputs")
    shape = _ints(edit, "shape") or ()
    edit.set_inputs([edit.input(0), edit.constant(shape, "shape")])


@changes(STEPS, 2, "Pad")
def pad_name(edit: Edit) -> None:
    """`paddings` is called `pads`."""
    edit.set("pads", _ints(edit, "paddings") or ())


@changes(STEPS, 11, "Pad")
def pad_inputs(edit: Edit) -> None:
    """Pads and value become inputs."""
    x = edit.required(0)
    pads = edit.constant(_ints(edit, "pads") or (), "pads")
    number = float(edit.pop("value", 0.0))
    mode = edit.attribute("mode", "constant")
    edit.set_inputs([x, pads, edit.scalar_like(number, x, "value") if number and mode == "constant" else None])


@changes(STEPS, 6, "Tile")
def tile_repeats(edit: Edit) -> None:
    """One axis was repeated; now there is a number of repeats per axis."""
    tiles, axis = edit.known(1), edit.known(2)
    if tiles is None or axis is None:
        edit.refuse("constant tiles and axis", "computed ones")
    repeats = np.ones(edit.need_rank(edit.input(0)), np.int64)
    repeats[int(axis.reshape(()))] = int(tiles.reshape(()))
    edit.set_inputs([edit.input(0), edit.constant(repeats, "repeats")])


@changes(STEPS, 10, "Slice")
def slice_inputs(edit: Edit) -> None:
    """Starts, ends and axes become inputs."""
    starts, ends, axes = _ints(edit, "starts") or (), _ints(edit, "ends") or (), _ints(edit, "axes")
    where = range(len(starts)) if axes is None else axes
    named = [(starts, "starts"), (ends, "ends"), (tuple(where), "axes")]
    edit.set_inputs([edit.input(0), *(edit.constant(values, name) for values, name in named)])


@changes(STEPS, 2, "Split")
def split_sizes(edit: Edit) -> None:
    """The sizes were an input for a while, and become an attribute, and an input again in opset 13."""
    sizes = edit.known(1)
    if edit.input(1) is not None and sizes is None:
        edit.refuse("constant sizes of the parts", "computed ones")
    if sizes is not None:
        edit.set("split", tuple(int(v) for v in sizes))
    edit.set_inputs([edit.input(0)])


@changes(STEPS, 13, "Split")
def split_input(edit: Edit) -> None:
    """The sizes become an input."""
    sizes = _ints(edit, "split")
    edit.set_inputs([edit.input(0), None if not sizes else edit.constant(sizes, "split")])


@changes(STEPS, 18, "Split")
def split_count(edit: Edit) -> None:
    """Equal parts have to be counted."""
    if edit.input(1) is None:
        edit.set("num_outputs", len(edit.node.outputs))


@changes(STEPS, 13, "Squeeze", "Unsqueeze", "ReduceSum")
@changes(
    STEPS, 18, "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSumSquare",
)  # fmt: skip
def axes_input(edit: Edit) -> None:
    """The axes become an input; none means all, before and after."""
    axes = _ints(edit, "axes")
    if axes or (axes is not None and edit.node.op_type == "Unsqueeze"):
        edit.set_inputs([edit.input(0), edit.constant(axes, "axes")])


@changes(STEPS, 10, "TopK")
def topk_input(edit: Edit) -> None:
    """k becomes an input."""
    edit.set_inputs([edit.input(0), edit.constant([int(edit.pop("k", 0))], "k")])


@changes(STEPS, 11, "Scatter")
def scatter_name(edit: Edit) -> None:
    """Scatter is called ScatterElements."""
    edit.become("ScatterElements")


@changes(STEPS, 20, "DFT")
def dft_axis(edit: Edit) -> None:
    """The axis becomes an input, with another default."""
    axis = edit.constant(np.asarray(int(edit.pop("axis", 1)), np.int64), "axis")
    edit.set_inputs([edit.input(0), edit.input(1), axis])
