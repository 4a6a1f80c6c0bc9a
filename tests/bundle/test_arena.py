"""The arena: buffers that are alive at once never share a byte, and the plan wastes little."""

from hypothesis import given
from hypothesis import strategies as st

from porter.bundle import Buffer, Launch, Life, lives, plan


def overlaps(a: Life, b: Life, offsets: dict[str, int]) -> bool:
    return offsets[a.name] < offsets[b.name] + b.bytes and offsets[b.name] < offsets[a.name] + a.bytes


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 8)), max_size=40))
def test_no_two_buffers_alive_at_once_share_bytes(drawn):
    all_lives = [Life(f"b{i}", size, first, first + more) for i, (size, first, more) in enumerate(drawn)]
    planned = plan(all_lives)
    for i, a in enumerate(all_lives):
        assert planned.offsets[a.name] % 256 == 0
        assert planned.offsets[a.name] + a.bytes <= planned.bytes
        for b in all_lives[:i]:
            assert not (a.meets(b) and a.bytes and b.bytes and overlaps(a, b, planned.offsets)), (a, b)


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 30), st.integers(0, 8)), min_size=1, max_size=40))
def test_the_arena_is_no_larger_than_without_sharing_and_no_smaller_than_what_is_alive(drawn):
    all_lives = [Life(f"b{i}", size, first, first + more) for i, (size, first, more) in enumerate(drawn)]
    rounded = [-(-b.bytes // 256) * 256 for b in all_lives]
    peak = max(sum(r for r, b in zip(rounded, all_lives, strict=True) if b.first <= t <= b.last) for t in range(40))
    assert peak <= plan(all_lives).bytes <= sum(rounded)


def test_a_chain_needs_two_buffers():
    chain = [Life(f"t{i}", 1000, i, i + 1) for i in range(20)]
    assert plan(chain).bytes == 2 * 1024


def test_the_tightest_gap_is_taken():
    # Two buffers die at step 1 and leave gaps of 4096 and 512 bytes; the 512 byte newcomer takes the small one.
    before = [Life("big", 4096, 0, 1), Life("wall", 8192, 0, 9), Life("small", 512, 0, 1), Life("end", 256, 0, 9)]
    offsets = plan([*before, Life("new", 512, 2, 3), Life("large", 4096, 2, 3)]).offsets
    assert (offsets["new"], offsets["large"]) == (offsets["small"], offsets["big"])


def test_lives_follow_the_launch_list():
    buffers = [Buffer(n, "float32", (4,), "arena") for n in ("a", "b", "c")] + [Buffer("x", "float32", (4,), "input")]
    launches = [Launch("k", ("x",), ("a",)), Launch("k", ("a",), ("b",)), Launch("k2", ("a", "b"), ("c",))]
    assert lives(launches, buffers, keep=["c"]) == [Life("a", 16, 0, 2), Life("b", 16, 1, 2), Life("c", 16, 2, 3)]
