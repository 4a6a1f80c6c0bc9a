"""A sample of the official cases ported to the toy target and one step of each family's limits; all of them: make onnx-tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_port import Outcome, cases, operators, outcome
from operators import document

SAMPLE = (
    "test_add_bcast", "test_batchnorm_example", "test_conv_with_strides_padding", "test_convtranspose_pads",
    "test_cumsum_2d_axis_0", "test_gather_elements_1", "test_if", "test_loop11", "test_lstm_with_peepholes",
    "test_gru_reverse", "test_scan9_multi_state",
    "test_resize_upsample_sizes_cubic",
    "test_scatter_elements_with_duplicate_indices", "test_scatternd_max",
    "test_tensorscatter", "test_top_k_smallest", "test_dft", "test_onehot_with_negative_axis",
    "test_attention_3d_with_past_and_present_qk_matmul_softmax",
)  # fmt: skip
BY_NAME = {c.name: c for c in cases()}


@pytest.mark.parametrize("name", SAMPLE)
def test_a_case_runs_on_the_toy_device(name: str) -> None:
    made = outcome(BY_NAME[name], "toy", text=False)
    assert (made.status, made.host, made.message) == ("device", {}, "")


def test_what_depends_on_data_goes_to_the_host_by_name() -> None:
    made = outcome(BY_NAME["test_nonzero_example"], "toy", text=False)
    assert (made.status, made.host) == ("host", {"NonZero": "data-dependent shape"})


def test_a_wrong_result_is_seen() -> None:
    case = BY_NAME["test_add"]
    wrong = [[o + 1 for o in outputs] for _, outputs in case.sets()]
    real = list(case.sets())

    class Wrong(type(case)):  # type: ignore[misc]
        def sets(self):  # type: ignore[no-untyped-def]
            return iter([(real[0][0], wrong[0])])

    assert outcome(Wrong(case.kind, case.name, case.case), "toy", text=False).status == "failed"


def test_the_table_says_where_an_operator_runs(tmp_path: Path) -> None:
    found = [
        Outcome("node/test_add", "gpu", "device", ["Add"]),
        Outcome("node/test_nonzero", "gpu", "host", ["NonZero"], {"NonZero": "a shape depends on data"}),
        Outcome("node/test_add_x", "gpu", "failed", ["Add"], message="1 | 2"),
    ]
    import json
    from dataclasses import asdict

    (tmp_path / "gpu.json").write_text(json.dumps([asdict(o) for o in found]))
    page = document(tmp_path)
    assert "| Add | device 1, not 1 (1 / 2) |" in page
    assert "| NonZero | host 1 (a shape depends on data) |" in page


def test_operators_of_a_case() -> None:
    assert operators(BY_NAME["test_add"].model) == ["Add"]
