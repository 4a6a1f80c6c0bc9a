"""Each rule of the hardware that the simulator knows, broken once, and the sentence it answers with."""

from __future__ import annotations

import numpy as np
import pytest
from trainium_support import device, snippet

from porter.errors import CheckFailed, PorterError
from porter.targets.trainium.limits import chip
from porter.targets.trainium.simulator import Machine

RULES = {
    "no more than 128 partitions": (
        "nl.ndarray((129, 4), dtype=nl.float32, buffer=nl.sbuf, name='a')",
        "a: sbuf float32[129, 4]\n  expected at most 128 partitions\n  found 129"),
    "a tile fits a partition of sbuf": (
        "nl.ndarray((1, 57345), dtype=nl.float32, buffer=nl.sbuf, name='a')",
        "a: sbuf float32[1, 57345]\n  expected at most 229376 bytes of a partition of sbuf on trn2\n  found 229380"),
    "a tile fits the banks of psum": (
        "nl.ndarray((1, 4097), dtype=nl.float32, buffer=nl.psum, name='a')",
        "a: psum float32[1, 4097]\n  expected at most 16384 bytes of a partition of psum on trn2\n  found 16388"),
    "a tile has a free dimension": (
        "nl.ndarray((4,), dtype=nl.float32, buffer=nl.sbuf, name='a')",
        "a: sbuf float32[4]\n  expected partitions and at least one free dimension\n  found 1 dimension"),
    "what lives at once fits sbuf": (
        """
        a = nl.ndarray((128, 30000), dtype=nl.float32, buffer=nl.sbuf, name='a')
        b = nl.ndarray((128, 30000), dtype=nl.float32, buffer=nl.sbuf, name='b')
        nisa.memset(dst=a, value=0.0)
        nisa.memset(dst=b, value=0.0)
        nisa.tensor_tensor(dst=b, data1=a, data2=b, op=nl.add)
        """,
        "kernel on trn2\n  expected at most 229376 bytes of a partition of sbuf\n"
        "  found 240000 at once, a 120000, b 120000 among them"),
    "eight banks of psum": (
        """
        a = nl.ndarray((8, 8), dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.memset(dst=a, value=0.0)
        tiles = [nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.psum, name='t') for i in range(9)]
        for t in tiles:
            nisa.nc_matmul(dst=t, stationary=a, moving=a, accumulate=False)
        for t in tiles:
            nisa.tensor_scalar(dst=a, data=t, op0=nl.add, operand0=0.0)
        """,
        "kernel on trn2\n  expected at most 16384 bytes of a partition of psum\n"
        "  found 18432 at once, t 2048, t 2048, t 2048, t 2048 among them"),
    "an access pattern stays inside its tensor": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=a, src=p0.ap(pattern=[[16, 8], [1, 8]], offset=9))
        """,
        "access pattern on p0\n  expected elements 0 to 127\n  found 9 to 128"),
    "an access pattern begins inside its tensor": (
        "p0.ap(pattern=[[16, 2], [-1, 3]], offset=1)",
        "access pattern on p0\n  expected elements 0 to 127\n  found -1 to 17"),
    "a pattern on chip steps from partition to partition": (
        "nl.ndarray((16, 32), dtype=nl.float32, buffer=nl.sbuf, name='a').ap(pattern=[[64, 8], [1, 32]], offset=0)",
        "ap of a: sbuf float32[16, 32]\n  expected the step 32 between partitions\n  found 64"),
    "a pattern has five dimensions at most": (
        "p0.ap(pattern=[[1, 1]] * 6, offset=0)",
        "ap of p0: hbm float32[8, 16]\n  expected at most 5 dimensions\n  found 6"),
    "a gathered row has the step of a row": (
        """
        i = nl.ndarray((4, 1), dtype=nl.int32, buffer=nl.sbuf)
        p0.ap(pattern=[[8, 4], [1, 8]], offset=0, vector_offset=i)
        """,
        "ap of p0: hbm float32[8, 16]\n  expected the step 16 of a row on the gathered dimension\n  found 8"),
    "indices are 32 bits wide": (
        """
        i = nl.ndarray((4, 1), dtype=nl.int16, buffer=nl.sbuf)
        p0.ap(pattern=[[16, 4], [1, 16]], offset=0, vector_offset=i)
        """,
        "ap of p0: hbm float32[8, 16]\n  expected indices of 32-bit integers\n  found int16"),
    "a gathered row exists": (
        """
        i = nl.ndarray((4, 1), dtype=nl.int32, buffer=nl.sbuf)
        nisa.memset(dst=i, value=8)
        a = nl.ndarray((4, 16), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=a, src=p0.ap(pattern=[[16, 4], [1, 16]], offset=0, vector_offset=i, indirect_dim=0))
        """,
        "dma_copy from p0\n  expected row indices 0 to 7\n  found 8"),
    "a dma moves as many elements as there are places": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf, name='a')
        nisa.dma_copy(dst=a, src=p0)
        """,
        "dma_copy\n  expected 64 elements, as many as a: sbuf float32[8, 8] has\n  found p0: hbm float32[8, 16]"),
    "a dma does not reach psum": (
        """
        a = nl.ndarray((8, 16), dtype=nl.float32, buffer=nl.psum, name='a')
        nisa.dma_copy(dst=a, src=p0)
        """,
        "dma_copy\n  expected dst in hbm or sbuf\n  found a: psum float32[8, 16]"),
    "engines do not reach hbm": (
        "nisa.tensor_copy(dst=p0, src=p0)",
        "tensor_copy\n  expected dst in sbuf or psum\n  found p0: hbm float32[8, 16]"),
    "partitions are not split": (
        "nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf, name='a').reshape_dim(0, (2, 4))",
        "reshape_dim of a: sbuf float32[8, 8]\n  expected a free dimension\n  found dimension 0, the partitions"),
    "partitions are not permuted": (
        "nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf, name='a').permute((1, 0))",
        "permute of a: sbuf float32[8, 8]\n  expected a permutation that keeps the partitions first\n  found (1, 0)"),
    "neighbouring partitions": (
        "nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf, name='a')[0:8:2, :]",
        "slice of a: sbuf float32[8, 8]\n  expected neighbouring partitions\n  found every 2th partition"),
    "33 to 64 partitions start at 0 or 64": (
        """
        a = nl.ndarray((128, 8), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=a[32:72, :], value=0.0)
        """,
        "memset\n  expected 40 partitions of dst start at 0 or 64\n  found partition 32"),
    "up to 32 partitions start at a quarter": (
        """
        a = nl.ndarray((128, 8), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=a[5:9, :], value=0.0)
        """,
        "memset\n  expected 4 partitions of dst start at 0 or 32 or 64 or 96\n  found partition 5"),
    "a product is written to psum": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf, name='a')
        nisa.nc_matmul(dst=a, stationary=a, moving=a)
        """,
        "nc_matmul\n  expected dst in psum\n  found a: sbuf float32[8, 8]"),
    "a product reads sbuf": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.psum, name='a')
        nisa.nc_matmul(dst=a, stationary=a, moving=a)
        """,
        "nc_matmul\n  expected stationary in sbuf\n  found a: psum float32[8, 8]"),
    "a product sums over equal partitions": (
        """
        a = nl.ndarray((8, 4), dtype=nl.float32, buffer=nl.sbuf)
        b = nl.ndarray((7, 4), dtype=nl.float32, buffer=nl.sbuf)
        nisa.nc_matmul(dst=nl.ndarray((4, 4), dtype=nl.float32, buffer=nl.psum), stationary=a, moving=b)
        """,
        "nc_matmul\n  expected as many partitions of moving as of stationary\n  found 7 and 8"),
    "the stationary side has 128 columns": (
        """
        a = nl.ndarray((8, 129), dtype=nl.float32, buffer=nl.sbuf)
        nisa.nc_matmul(dst=nl.ndarray((1, 1), dtype=nl.float32, buffer=nl.psum), stationary=a, moving=a)
        """,
        "nc_matmul\n  expected at most 128 free elements of stationary\n  found 129"),
    "the moving side has 512 columns": (
        """
        a = nl.ndarray((8, 128), dtype=nl.float32, buffer=nl.sbuf)
        b = nl.ndarray((8, 513), dtype=nl.float32, buffer=nl.sbuf)
        nisa.nc_matmul(dst=nl.ndarray((128, 513), dtype=nl.float32, buffer=nl.psum), stationary=a, moving=b)
        """,
        "nc_matmul\n  expected at most 512 free elements of moving on trn2\n  found 513"),
    "a product lies in one bank": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf)
        b = nl.ndarray((8, 512), dtype=nl.float32, buffer=nl.sbuf)
        c = nl.ndarray((8, 1024), dtype=nl.float32, buffer=nl.psum, name='c')
        nisa.nc_matmul(dst=c[:, 256:768], stationary=a, moving=b)
        """,
        "nc_matmul\n  expected dst within one psum bank of 2048 bytes a partition\n"
        "  found bytes 1024 to 3071 of c: psum float32[8, 512]"),
    "float32 on both sides of a product": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf)
        b = nl.ndarray((8, 8), dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.nc_matmul(dst=nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.psum), stationary=a, moving=b)
        """,
        "nc_matmul\n  expected float32 on both sides or on neither\n  found float32 and bfloat16"),
    "no product of integers": (
        """
        a = nl.ndarray((8, 8), dtype=nl.int8, buffer=nl.sbuf)
        nisa.nc_matmul(dst=nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.psum), stationary=a, moving=a)
        """,
        "nc_matmul\n  expected stationary of float32, bfloat16, float16, float8_e4m3, float8_e5m2 on trn2\n"
        "  found int8"),
    "a product is float32 in psum": (
        """
        a = nl.ndarray((8, 8), dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.nc_matmul(dst=nl.ndarray((8, 8), dtype=nl.bfloat16, buffer=nl.psum), stationary=a, moving=a)
        """,
        "nc_matmul\n  expected dst of float32 on trn2\n  found bfloat16"),
    "no accumulation onto what memset wrote": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf)
        c = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.psum)
        nisa.memset(dst=c, value=0.0)
        nisa.nc_matmul(dst=c, stationary=a, moving=a, accumulate=True)
        """,
        "nc_matmul\n  expected accumulation onto what a matmul wrote\n"
        "  found a value that another instruction wrote: undefined on trn2"),
    "no accumulation onto fresh memory": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf)
        c = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(dst=c, stationary=a, moving=a, accumulate=True)
        """,
        "nc_matmul\n  expected accumulation onto what a matmul wrote\n  found memory that nobody has written"),
    "a transpose is of 128 columns": (
        """
        a = nl.ndarray((8, 129), dtype=nl.float32, buffer=nl.sbuf)
        nisa.nc_transpose(dst=nl.ndarray((128, 8), dtype=nl.float32, buffer=nl.psum), data=a)
        """,
        "nc_transpose\n  expected at most 128 free elements of data\n  found 129"),
    "a transpose keeps the type": (
        """
        a = nl.ndarray((8, 8), dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.nc_transpose(dst=nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.psum), data=a)
        """,
        "nc_transpose\n  expected dst of bfloat16, as data\n  found float32"),
    "two operands are not both in psum": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.psum, name='a')
        nisa.tensor_tensor(dst=nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf), data1=a, data2=a, op=nl.add)
        """,
        "tensor_tensor\n  expected at most one of two tensor operands in psum\n"
        "  found a: psum float32[8, 8] and a: psum float32[8, 8]"),
    "gpsimd does not reach psum": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.psum, name='a')
        b = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=b, data1=b, data2=a, op=nl.power)
        """,
        "tensor_tensor\n  expected data2 in sbuf\n  found a: psum float32[8, 8]"),
    "iota writes sbuf": (
        "nisa.iota(dst=nl.ndarray((8, 8), dtype=nl.int32, buffer=nl.psum, name='a'), pattern=[[1, 8]])",
        "iota\n  expected dst in sbuf\n  found a: psum int32[8, 8]"),
    "a pattern fills its tile": (
        "nisa.iota(dst=nl.ndarray((8, 8), dtype=nl.int32, buffer=nl.sbuf), pattern=[[1, 7]])",
        "iota\n  expected a pattern of 8 elements a partition\n  found [[1, 7]]"),
    "tiles of an instruction are alike": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf, name='a')
        b = nl.ndarray((8, 4), dtype=nl.float32, buffer=nl.sbuf, name='b')
        nisa.tensor_tensor(dst=a, data1=a, data2=b, op=nl.add)
        """,
        "tensor_tensor\n  expected the partitions and elements of a: sbuf float32[8, 8]\n"
        "  found b: sbuf float32[8, 4]"),
    "a vector operand has one element a partition": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf, name='a')
        nisa.tensor_scalar(dst=a, data=a, op0=nl.add, operand0=a)
        """,
        "tensor_scalar\n  expected operand of shape [8, 1]\n  found a: sbuf float32[8, 8]"),
    "a vector operand is float32": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf)
        v = nl.ndarray((8, 1), dtype=nl.bfloat16, buffer=nl.sbuf, name='v')
        nisa.tensor_scalar(dst=a, data=a, op0=nl.add, operand0=v)
        """,
        "tensor_scalar\n  expected tile operands of float32\n  found v: sbuf bfloat16[8, 1]"),
    "bits and numbers do not mix": (
        """
        a = nl.ndarray((8, 8), dtype=nl.int32, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=a, data=a, op0=nl.bitwise_and, operand0=1, op1=nl.add, operand1=1.0)
        """,
        "tensor_scalar\n  expected two bitvec operators or two arithmetic ones\n  found bitwise_and and add"),
    "bit operators take integers": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf, name='a')
        nisa.tensor_tensor(dst=a, data1=a, data2=a, op=nl.bitwise_or)
        """,
        "tensor_tensor\n  expected integers: bitwise_or works on bits\n  found a: sbuf float32[8, 8]"),
    "predicates are unsigned": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy_predicated(dst=a, src=0.0, predicate=a)
        """,
        "tensor_copy_predicated\n  expected a predicate of uint8, uint16, uint32\n  found float32"),
    "a predicated copy does not convert": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf)
        b = nl.ndarray((8, 8), dtype=nl.bfloat16, buffer=nl.sbuf)
        p = nl.ndarray((8, 8), dtype=nl.uint8, buffer=nl.sbuf)
        nisa.tensor_copy_predicated(dst=a, src=b, predicate=p)
        """,
        "tensor_copy_predicated\n  expected src of float32, as dst\n  found bfloat16"),
    "a reduction is over the last dimensions": (
        """
        a = nl.ndarray((8, 4, 4), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=a, op=nl.add, data=a, axis=1)
        """,
        "tensor_reduce\n  expected the last free dimensions of 3\n  found axis (1,)"),
    "a reduction is not over the partitions": (
        """
        a = nl.ndarray((8, 4), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=a, op=nl.add, data=a, axis=(0, 1))
        """,
        "tensor_reduce\n  expected the last free dimensions of 2\n  found axis (0, 1)"),
    "not every operator reduces": (
        """
        a = nl.ndarray((8, 4), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=a[:, 0:1], op=nl.power, data=a, axis=1)
        """,
        "tensor_reduce\n  expected an operator that reduces\n  found power"),
    "a table function has a range": (
        """
        a = nl.ndarray((1, 1), dtype=nl.float32, buffer=nl.sbuf, name='a')
        nisa.memset(dst=a, value=4.0)
        nisa.activation(dst=a, op=nl.sin, data=a)
        """,
        "activation sin to a: sbuf float32[1, 1]\n  expected inputs from -3.14159 to 3.14159\n  found 4"),
    "an activation sums, and into one element a partition": (
        """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf, name='a')
        nisa.memset(dst=a, value=0.0)
        again = nisa.reduce_cmd.reset_reduce
        nisa.activation(dst=a, op=nl.exp, data=a, reduce_op=nl.add, reduce_res=a, reduce_cmd=again)
        """,
        "activation\n  expected reduce_res of shape [8, 1]\n  found a: sbuf float32[8, 8]"),
    "an unknown call": ("nisa.nc_gather(dst=p0)", "'Isa' object has no attribute 'nc_gather'"),
    "a call with the wrong words": (
        "nisa.memset(tile=p0, value=0.0)",
        "nisa.memset\n  expected a public call\n"
        "  found nisa.memset has no parameter 'tile'; it has dst, value, engine, name"),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_is_a_sentence(rule: str) -> None:
    body, sentence = RULES[rule]
    with pytest.raises((CheckFailed, AttributeError)) as caught:
        snippet(body, np.zeros((8, 16), np.float32))
    assert str(caught.value) == sentence


DEEP = {
    "double_row takes float8": ("trn2", "bfloat16", "(8, 2, 4)", "(8, 2, 4)",
        "nc_matmul\n  expected float8_e4m3, float8_e4m3fn, float8_e5m2 in double_row mode\n  found bfloat16"),
    "double_row takes two rows": ("trn2", "float8_e5m2", "(8, 4, 2)", "(8, 2, 4)",
        "nc_matmul\n  expected operands of [partitions, 2, free] in double_row mode\n"
        "  found tensor 1: sbuf float8_e5m2[8, 4, 2]"),
    "double_row is of version 3": ("trn1", "float8_e5m2", "(8, 2, 4)", "(8, 2, 4)",
        "nc_matmul\n  expected double_row mode on NeuronCore-v3 or newer\n  found trn1"),
}  # fmt: skip


@pytest.mark.parametrize("rule", DEEP)
def test_a_broken_rule_of_double_row_mode_is_a_sentence(rule: str) -> None:
    on, kind, still, moving, sentence = DEEP[rule]
    body = f"""
        y = nl.ndarray((4, 4), dtype=nl.float32, buffer=nl.psum)
        a = nl.ndarray({still}, dtype=nl.{kind}, buffer=nl.sbuf)
        b = nl.ndarray({moving}, dtype=nl.{kind}, buffer=nl.sbuf)
        nisa.nc_matmul(dst=y, stationary=a, moving=b, perf_mode=nisa.matmul_perf_mode.double_row)
        """
    with pytest.raises(CheckFailed) as caught:
        snippet(body, on=on)
    assert str(caught.value) == sentence


QUADS = "stationary=a.view(nl.float8_e4m3fn_x4), moving=b.view(nl.float8_e4m3fn_x4)"
MX = {
    "nc_matmul_mx is of version 4": ("trn2", 32, 4, 4, QUADS, "nc_matmul_mx\n  expected NeuronCore-v4 or newer\n  found trn2"),
    "it takes elements of four codes": ("trn3", 32, 4, 4, "stationary=a, moving=b",
        "nc_matmul_mx\n  expected stationary of float8_e4m3fn_x4, float8_e5m2_x4, float4_e2m1fn_x4\n  found float8_e4m3fn"),
    "it takes whole quadrants": ("trn3", 24, 3, 4, QUADS,
        "nc_matmul_mx\n  expected a multiple of 32 partitions of stationary\n  found 24"),
    "what stands still has even columns": ("trn3", 32, 4, 3, QUADS,
        "nc_matmul_mx\n  expected an even number of free elements of stationary\n  found 3"),
    "scales lie in the quadrants of their codes": ("trn3", 64, 8, 4, QUADS,
        "nc_matmul_mx\n  expected 64 partitions of stationary_scale\n  found tensor 3: sbuf uint8[8, 4]"),
}  # fmt: skip


@pytest.mark.parametrize("rule", MX)
def test_a_broken_rule_of_block_scaled_products_is_a_sentence(rule: str) -> None:
    on, rows, scales, columns, operands, sentence = MX[rule]
    body = f"""
        y = nl.ndarray(({columns}, 6), dtype=nl.float32, buffer=nl.psum)
        a = nl.ndarray(({rows}, {4 * columns}), dtype=nl.float8_e4m3fn, buffer=nl.sbuf)
        b = nl.ndarray(({rows}, 24), dtype=nl.float8_e4m3fn, buffer=nl.sbuf)
        sa = nl.ndarray(({scales}, {columns}), dtype=nl.uint8, buffer=nl.sbuf)
        sb = nl.ndarray(({scales}, 6), dtype=nl.uint8, buffer=nl.sbuf)
        nisa.nc_matmul_mx(dst=y, {operands}, stationary_scale=sa, moving_scale=sb)
        """
    with pytest.raises(CheckFailed) as caught:
        snippet(body, on=on)
    assert str(caught.value) == sentence


def test_version_2_wants_a_bias_in_a_tile() -> None:
    body = """
        a = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=a, value=0.0)
        nisa.activation(dst=a, op=nl.exp, data=a, bias=1.0)
        """
    snippet(body)
    with pytest.raises(CheckFailed) as caught:
        snippet(body, on="trn1")
    assert str(caught.value) == "activation\n  expected bias a [8, 1] tile on trn1\n  found the number 1.0"


def test_a_64_bit_integer_that_32_bits_cannot_hold_is_refused() -> None:
    with pytest.raises(PorterError) as caught:
        Machine(chip(device())).tensor(np.array([2**31], np.int64), "ids")
    assert str(caught.value) == (
        "input ids on Trainium\n  expected int32, as 64-bit integers are there\n"
        "  found values from 2147483648 to 2147483648"
    )


def test_text_imports_nothing_but_nki() -> None:
    with pytest.raises(CheckFailed) as caught:
        Machine(chip(device())).load("import os\n", "k")
    assert str(caught.value) == "NKI text of k\n  expected imports of nki alone\n  found import os"
