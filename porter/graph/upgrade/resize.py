"""Changes of resampling: Upsample, Resize, GridSample and RoiAlign, whose coordinates were once fixed and unnamed."""

from __future__ import annotations

import numpy as np

from porter.graph.upgrade.engine import Edit, Table, changes

STEPS: Table = {}


@changes(STEPS, 7, "Upsample")
def upsample_scales(edit: Edit) -> None:
    """Two scales of the image become a scale per axis."""
    height, width = float(edit.pop("height_scale", 1.0)), float(edit.pop("width_scale", 1.0))
    edit.set("scales", (1.0, 1.0, height, width))


@changes(STEPS, 9, "Upsample")
def upsample_input(edit: Edit) -> None:
    """The scales become an input."""
    scales = np.asarray(edit.pop("scales", ()), np.float32)
    edit.set_inputs([edit.input(0), edit.constant(scales, "scales")])


@changes(STEPS, 10, "Upsample")
def upsample_name(edit: Edit) -> None:
    """Upsample is called Resize."""
    edit.become("Resize")


@changes(STEPS, 11, "Resize")
def resize_coordinates(edit: Edit) -> None:
    """Coordinates were output / scale, and the nearest one the floor, or, going down, the ceiling.

    The rule going down is that of onnxruntime and of the opset's own test case, the text says nothing. A Resize that
    goes up along one axis and down along another becomes two.
    """
    x, scales = edit.required(0), edit.required(1)
    mode = {"bilinear": "linear"}.get(str(edit.attribute("mode", "nearest")), str(edit.attribute("mode", "nearest")))
    fixed: dict[str, object] = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode != "nearest":
        edit.become("Resize", [x, None, scales], fixed)
        return
    known = edit.known(1)
    if known is None:
        edit.notes.append("a Resize with computed scales is taken to go up")
        edit.become("Resize", [x, None, scales], {**fixed, "nearest_mode": "floor"})
    elif np.all(known >= 1):
        edit.become("Resize", [x, None, scales], {**fixed, "nearest_mode": "floor"})
    elif np.all(known <= 1):
        edit.become("Resize", [x, None, scales], {**fixed, "nearest_mode": "ceil"})
    else:
        up = edit.constant(np.maximum(known, 1).astype(np.float32), "scales_up")
        down = edit.constant(np.minimum(known, 1).astype(np.float32), "scales_down")
        larger = edit.before("Resize", [x, None, up], {**fixed, "nearest_mode": "floor"})
        edit.become("Resize", [larger[0], None, down], {**fixed, "nearest_mode": "ceil"})


@changes(STEPS, 13, "Resize")
def resize_optional_inputs(edit: Edit) -> None:
    """What is not used is left out and no longer empty; one way to say where coordinates lie was withdrawn."""
    coordinates = edit.attribute("coordinate_transformation_mode", "half_pixel")
    if coordinates == "tf_half_pixel_for_nn":
        # floor((i + 0.5) / s) is (i + 0.5) / s - 0.5 rounded, halves upwards
        if edit.attribute("mode", "nearest") != "nearest" or edit.attribute("nearest_mode") != "floor":
            edit.refuse("tf_half_pixel_for_nn with mode nearest and nearest_mode floor", "another combination")
        edit.set("coordinate_transformation_mode", "half_pixel")
        edit.set("nearest_mode", "round_prefer_ceil")
    roi = edit.input(1) if coordinates == "tf_crop_and_resize" else None
    sizes = edit.input(3)
    scales = None if sizes is not None else edit.input(2)
    edit.set_inputs([edit.input(0), roi, scales, sizes])


@changes(STEPS, 16, "RoiAlign")
def roi_align_coordinates(edit: Edit) -> None:
    """Coordinates were not moved by half a pixel, which is no longer the default."""
    edit.set("coordinate_transformation_mode", "output_half_pixel")


@changes(STEPS, 20, "GridSample")
def grid_sample_modes(edit: Edit) -> None:
    """Modes are named by their kernel and not by a number of dims."""
    mode = str(edit.attribute("mode", "bilinear"))
    edit.set("mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))
