"""The official ONNX backend tests: what every operator means, said by somebody else."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from onnx_cases import Case, all_cases, cases

from porter import graph, ops
from porter.ops.namespace import FLOAT_CODES, INT_CODES, NotKnown, is_float
from porter.xla.hlo import on_cpu

# Cases whose recorded outputs porter does not reproduce within the case's own tolerance, and why.
EXACTER = {
    "node/test_dft_inverse": "recorded values carry float32 noise of 1.9e-7 where the transform of float64 input is 0",
    "node/test_dft_inverse_opset19": "the same recorded values",
}
ROUNDED = {
    "node/test_attention_4d_causal_fp16_expanded": "two of 192 elements are one float16 step off: the "
    "recorded values were rounded in another order",
}
TIES = {
    "node/test_dynamicquantizelinear": "0.4 / scale is a tie in float32 and lies just below it in float64",
    "node/test_dynamicquantizelinear_expanded": "the same values",
}
DATA_DEPENDENT = dict.fromkeys(
    [
        *(f"node/test_compress_{name}" for name in ("0", "1", "bfloat16", "default_axis", "negative_axis")),
        *(
            f"node/test_nonmaxsuppression_{name}"
            for name in (
                "center_point_box_format", "flipped_coordinates", "identical_boxes", "iou_threshold_boundary",
                "limit_output_size", "single_box", "suppress_by_IOU", "suppress_by_IOU_and_scores", "two_batches",
                "two_classes",
            )
        ),
        "node/test_nonzero_example",
        *(f"node/test_unique_sorted_with_{name}" for name in ("axis", "axis_3d", "negative_axis")),
    ],
    "a shape depends on data: the host runs it",
)  # fmt: skip
LIST = Path(__file__).parents[3] / "shared" / "onnx_backend_tensor_tests.txt"
SOURCE = ROUNDED  # numpy's own transform of float32 is what onnx recorded
FLOAT64 = EXACTER | TIES
JAX = EXACTER | ROUNDED | DATA_DEPENDENT


def difference(got: Any, want: np.ndarray, case: Case) -> str | None:
    """What is wrong with an output, by the rules of onnx.backend.test.runner; None if nothing is."""
    got = np.asarray(got)
    if (got.dtype, got.shape) != (want.dtype, want.shape):
        return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    rtol = case.case.rtol
    if want.dtype.name == "bfloat16":
        rtol = max(rtol, 2**-6)  # as the runner has it: two steps of bfloat16
    if want.dtype in FLOAT_CODES or want.dtype.name == "bfloat16":
        got, want = got.astype(np.float32), want.astype(np.float32)
    elif want.dtype in INT_CODES:
        got, want = got.astype(np.int32), want.astype(np.int32)
    try:
        np.testing.assert_allclose(got, want, rtol=rtol, atol=case.case.atol)
    except AssertionError as error:
        return " ".join(str(error).split())[:200]
    return None


def failures(chosen: tuple[Case, ...], run: Callable[[Any, dict[str, np.ndarray]], dict[str, Any]]) -> dict[str, str]:
    """What each failing case says."""
    found = {}
    for case in chosen:
        try:
            model = graph.read(case.model)
            for inputs, outputs in case.sets():
                feeds = dict(
                    zip((str(v.name) for v in model.graph.inputs if graph.constant(v) is None), inputs, strict=True)
                )
                results = list(run(model, feeds).values())
                assert len(results) == len(outputs)
                bad = [d for got, want in zip(results, outputs, strict=True) if (d := difference(got, want, case))]
                if bad:
                    found[case.id] = bad[0]
        except Exception as error:  # a crash is a failure of its case, and the sweep goes on
            found[case.id] = f"{type(error).__name__}: {error}"
    return found


def in_source(model: Any, feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    return ops.evaluate(model, feeds, ops.source)


def in_float64(model: Any, feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    results = ops.evaluate(model, feeds, ops.float64)
    for value in model.graph.outputs:
        declared, array = graph.dtype(value), results[value.name]
        if declared is not None and is_float(array.dtype):
            results[value.name] = array.astype(declared)
    return results


def in_jax(model: Any, feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    """Compiled with every input traced; where a shape needs their values, with small inputs known."""
    names = [v.name for v in model.graph.outputs]

    def run(free: list[str]) -> dict[str, Any]:
        def traced(*arrays: Any) -> list[Any]:
            given = feeds | dict(zip(free, arrays, strict=True))
            results = ops.evaluate(model, given, ops.jax_namespace)
            return [jax.numpy.asarray(results[name]) for name in names]

        return dict(zip(names, on_cpu(traced)(*(feeds[name] for name in free)), strict=True))

    try:
        return run(list(feeds))
    except NotKnown:
        return run([name for name, x in feeds.items() if x.ndim > 1])


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # onnx overflows on purpose when it makes the cases
        yield


def test_the_rule_keeps_1909_cases():
    kinds = Counter(case.kind for case in all_cases())
    assert kinds == {"node": 1776, "simple": 7, "pytorch-converted": 82, "pytorch-operator": 35, "real": 9}


def test_the_rule_keeps_the_cases_of_the_shared_list():
    if not LIST.exists():
        pytest.skip(f"{LIST} is not there")
    lines = LIST.read_text().splitlines()
    assert {line.split("\t")[0] for line in lines if line and line[0] != "#"} == {case.id for case in all_cases()}


def test_all_cases_in_the_source_types():
    assert failures(cases(), in_source).keys() == SOURCE.keys()


def test_a_sample_under_jax():
    sample = tuple(case for case in cases()[::20] if case.id not in JAX)
    assert failures(sample, in_jax) == {}


@pytest.mark.slow
def test_all_cases_in_float64():
    assert failures(cases(), in_float64).keys() == FLOAT64.keys()


@pytest.mark.slow
def test_all_cases_under_jax():
    assert failures(cases(), in_jax).keys() == JAX.keys()


def test_what_infer_says_is_what_evaluate_returns():
    wrong = {}
    for case in cases()[::4]:
        model = graph.read(case.model)
        for value in model.graph.outputs:
            value.shape = None  # what the case declares must not stand in for what is inferred
        ops.infer(model)
        _, outputs = next(case.sets())
        for value, want in zip(model.graph.outputs, outputs, strict=True):
            if graph.dtype(value) != want.dtype or graph.shape(value) not in (None, want.shape):
                wrong[case.id] = (value.type, value.shape)
    assert wrong == {}


@pytest.mark.parametrize(
    "name",
    [
        "shufflenet",
        "squeezenet",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "vgg19", "zfnet512")
        ),
    ],
)
def test_the_light_models(name):
    """In float64: squeezenet's thousand classes are equal, and 9.5e9 before the softmax, where BLAS' last bit decides."""
    (case,) = (case for case in all_cases() if case.id == f"real/test_{name}")
    assert failures((case,), in_float64) == {}
