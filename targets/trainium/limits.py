"""What a NeuronCore holds, read from the device file: limits for the tiler, figures for the rules."""

from __future__ import annotations

import re

from porter.device import Device
from porter.targets.trainium.instructions import CODES, DOUBLED
from porter.targets.trainium.simulator.memory import Chip
from porter.tile.block_scales import MIXED
from porter.tile.limits import Limits


def chip(device: Device) -> Chip:
    """The figures that the emitter and the simulator hold text against."""
    generation = re.search(r"v(\d+)", str(device["arch"]))
    return Chip(
        name=device.name.partition(":")[2],
        generation=int(generation[1]) if generation else 3,
        partitions=device["memory.sbuf.partitions"],
        sbuf_bytes=device["memory.sbuf.bytes_per_partition"],
        psum_bytes=device["memory.psum.bytes_per_partition"],
        bank_bytes=device["memory.psum.bank_bytes_per_partition"],
        stationary_max=device["matrix.m_max"],
        moving_max=device["matrix.n_max"],
    )


def limits(device: Device) -> Limits:
    """One product fills the array and one PSUM bank; other tiles take 8 KiB of each partition.

    The side of a product that lies across the partitions and its summed axes have up to 128 lanes, the side along the
    bank up to 512 float32. 8 KiB, 2048 float32, is twice what a DMA wants to be efficient.
    """
    c = chip(device)
    mx = int(device.get("matrix.mx.effective_k", 0))
    bank = c.bank_bytes // 4
    free = 4 * bank
    return Limits(
        dot_m=(1, c.stationary_max),
        dot_n=(1, bank),
        dot_k=(1, device["matrix.k_max"]),
        elements=c.partitions * free,
        bytes=c.partitions * c.sbuf_bytes // 2,
        resident=4 * free,
        whole=bank,
        elementwise=free,
        partitions=c.partitions,
        float32_product="fp32",
        lacking=CODES,
        block_scaled=("mxfp8", MIXED) if mx else (),
        block_depth=(mx, mx // 2),
        float8_depth=int(device.get("matrix.double_row.effective_k", 0)),
        float8=DOUBLED,
    )
