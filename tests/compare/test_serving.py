"""A decoder as it is served: recognized by structure, priced by the request, split over chips."""

from __future__ import annotations

from pathlib import Path

import pytest

from porter import graph
from porter.compare.comparing import compare
from porter.compare.decoder import Decoder, proposed, takes_cache
from porter.compare.memory import Memory
from porter.compare.mesh import collectives, needed, width
from porter.compare.serving import Request
from porter.device import load_device
from porter.errors import PorterError

H200 = load_device("gpu:h200")


def test_graphs_are_told_apart_by_their_cache(prefill: Path, decode: Path) -> None:
    assert not takes_cache(graph.read(prefill)) and takes_cache(graph.read(decode))


def test_dims_are_proposed_from_where_they_stand(prefill: Path, decode: Path) -> None:
    assert proposed(graph.read(prefill), 3, 7) == {"batch": 3, "seq": 7}
    assert proposed(graph.read(decode), 3, 7) == {"batch": 3, "past": 7}


def test_a_request_adds_up_its_phases(prefill: Path, decode: Path) -> None:
    document = compare([decode, prefill], targets=[H200], request=Request("both", 2, 6, 4), quick=True).to_json()
    (t,) = document["targets"]
    served = t["serving"]
    assert document["dims"] == {"batch": 2, "seq": 6, "past": 8}, "a step is taken in the middle of the answer"
    assert t["latency_s"] == pytest.approx(served["ttft_s"] + 4 * served["tpot_s"])
    assert t["tokens_per_s"] == pytest.approx(2 * 4 / t["latency_s"])
    assert t["usd_per_million_tokens"] == pytest.approx(7.912 / 3600 / t["tokens_per_s"] * 1e6)
    # a key and a value of 2 heads of 8 numbers of 4 bytes for both sequences: 2 x 2 x 8 x 4 x 2 = 256 bytes a token
    assert served["kv_bytes_per_token"] == 256
    assert served["kv_growth"] == [[6, 1536], [10, 2560], [20, 5120]]
    assert t["memory"]["kv_bytes"] == 2560


def test_one_graph_with_a_cache_and_any_number_of_tokens_serves_both(
    general: Path, prefill: Path, decode: Path
) -> None:
    request = Request("both", 2, 6, 4)
    document = compare(general, targets=[H200], request=request, quick=True).to_json()
    (t,) = document["targets"]
    (two,) = compare([prefill, decode], targets=[H200], request=request, quick=True).to_json()["targets"]
    assert document["phase"] == "both" and document["model"] == str(general)
    assert document["dims"] == {"batch": 2, "prefill:seq": 6, "prefill:past": 1, "decode:seq": 1, "decode:past": 8}
    assert t["serving"]["kv_growth"] == two["serving"]["kv_growth"]
    assert t["serving"]["tpot_s"] == pytest.approx(two["serving"]["tpot_s"], rel=1e-3)
    assert t["serving"]["ttft_s"] == pytest.approx(two["serving"]["ttft_s"], rel=0.3), (
        "a token in the cache, and its concatenation"
    )
    lone = compare(general, targets=[H200], quick=True).to_json()
    assert lone["phase"] == "both" and lone["request"]["context"] == 512 and "seq" in str(lone["proposed"])


def test_dims_of_a_lone_decoder_are_proposed_where_nobody_bound_them(decode: Path, prefill: Path) -> None:
    document = compare(decode, targets=[H200], dims={"batch": 3}, quick=True).to_json()
    assert document["dims"] == {"batch": 3, "past": 576} and document["proposed"] == ["past"]
    assert compare(prefill, targets=[H200], quick=True).to_json()["dims"] == {"batch": 1, "seq": 512}


def test_a_lone_step_graph_is_a_decode_phase(decode: Path) -> None:
    document = compare(decode, targets=[H200], dims={"batch": 2, "past": 5}, quick=True).to_json()
    (t,) = document["targets"]
    assert document["phase"] == "decode" and t["serving"]["ttft_s"] is None
    assert t["tokens_per_s"] == pytest.approx(2 / t["latency_s"])


def test_both_phases_want_both_graphs(decode: Path, product: Path) -> None:
    with pytest.raises(PorterError, match="prefill"):
        compare(decode, targets=[H200], request=Request("both"), quick=True)
    with pytest.raises(PorterError, match="two of the prefill phase"):
        compare([product, product], targets=[H200], quick=True)
    with pytest.raises(PorterError, match="dim 'strange'"):
        compare(decode, targets=[H200], request=Request("decode"), dims={"strange": 3}, quick=True)


def test_the_largest_batch_keeps_the_budget_and_its_double_does_not(prefill: Path, decode: Path) -> None:
    def step(batch: int) -> float:
        return compare(decode, targets=[H200], request=Request("decode", batch, 64, 2), quick=True).to_json()[
            "targets"
        ][0]["serving"]["tpot_s"]

    low, high = step(64), step(128)
    assert low < high
    limit = {"tpot_ms": (low + high) / 2 * 1e3}
    (t,) = compare(decode, targets=[H200], request=Request("decode", 1, 64, 2), limits=limit, quick=True).to_json()[
        "targets"
    ]
    assert t["serving"]["largest_batch"] == 64


def test_the_smallest_width_that_fits_is_taken() -> None:
    memory = Memory(weights=300_000_000_000, kv=40_000_000_000, arena=1_000_000_000)
    assert width(memory, H200, None).chips == 4  # 340 / 2 + 1 = 171 GB does not fit 141 GB, 340 / 4 + 1 = 86 GB does
    assert needed(memory, 4) == 86_000_000_000
    assert "needs 171,000,000,000 bytes on each of 2 chips" in width(memory, H200, 2).why
    assert width(Memory(weights=2_000_000_000_000), H200, None).why, "8 chips are the most that the link joins"


def test_collectives_are_priced_by_the_link() -> None:
    # 32 layers, 2 all-reduces each, of 8 x 1 x 4096 numbers of 2 bytes; a ring of 4 moves 2 x 3 / 4 of them; 450 GB/s
    decoder = Decoder("decode", 8, 1, 100, (), 4096, 8)
    assert collectives(decoder, 4, 2, H200) == 0.0, "no cache, no layers"
    from porter.compare.decoder import Cache

    decoder = Decoder("decode", 8, 1, 100, tuple(Cache("a", "b", 1) for _ in range(64)), 4096, 8)
    assert collectives(decoder, 4, 2, H200) == pytest.approx(32 * 2 * 1.5 * 8 * 4096 * 2 / 450e9)
    assert collectives(decoder, 1, 2, H200) == 0.0


def test_a_split_decoder_pays_for_its_links(decode: Path) -> None:
    request = Request("decode", 4, 16, 2)
    one, two = (
        compare(decode, targets=[H200], request=request, chips=n, quick=True).to_json()["targets"][0] for n in (1, 2)
    )
    # one layer, hidden 16: 2 all-reduces of 2 x 1/2 x 4 x 16 x 4 bytes over 450 GB/s
    assert two["serving"]["collective_s"] == pytest.approx(2 * 256 / 450e9)
    assert one["serving"]["collective_s"] == 0.0
    assert "each kernel splits evenly over the chips" in two["assumed"]


def test_the_real_decoder_is_recognized(models: Path) -> None:
    folder = models / "llama_gqa"
    request = Request("both", 2, 16, 8)
    document = compare(
        [folder / "prefill.onnx", folder / "decode.onnx"], targets=[H200], request=request, quick=True
    ).to_json()
    served = document["targets"][0]["serving"]
    # 4 layers, a key and a value, 4 heads of 32 numbers of 4 bytes, 2 sequences
    assert served["kv_bytes_per_token"] == 4 * 2 * 4 * 32 * 4 * 2
