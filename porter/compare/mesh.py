"""How many chips a model takes, and what they say to each other: tensor parallelism, priced by the device's links."""

from __future__ import annotations

from dataclasses import dataclass

from porter.compare.decoder import Decoder
from porter.compare.memory import Memory
from porter.device import Device
from porter.errors import PorterError


@dataclass(frozen=True)
class Mesh:
    """`chips` that split every kernel evenly."""

    chips: int
    why: str = ""  # why the model does not fit however it is split


def needed(memory: Memory, chips: int, heads: int = 0) -> int:
    """Bytes on each chip: weights are split, and the cache by its heads (0: by any number), which more chips hold again;
    intermediates, inputs and outputs are not."""
    return -(-memory.weights // chips) - (-memory.kv // min(chips, heads or chips)) + memory.arena + memory.io


def width(memory: Memory, device: Device, asked: int | None, heads: int = 0) -> Mesh:
    """The smallest power of two that fits (asked None), or the width asked for."""
    hbm, most = int(device["memory.hbm.bytes"]), int(device.get("interconnect.chips", 1))
    chips = asked or 1
    if chips > most:
        return Mesh(chips, why=f"{chips} chips, but the link joins {most}")
    while (bytes_ := needed(memory, chips, heads)) > hbm:
        if asked or chips * 2 > most:
            return Mesh(chips, why=f"needs {bytes_:,} bytes on each of {chips} chips, has {hbm:,}")
        chips *= 2
    return Mesh(chips)


def collectives(decoder: Decoder | None, chips: int, itemsize: int, device: Device) -> float:
    """Seconds of two ring all-reduces a layer (after attention and after the feed-forward part), as Megatron splits them.

    Each moves 2 (n - 1) / n of batch x tokens x hidden values over every link direction. Start-up of a collective has no
    public figure and counts 0. Raises PorterError where a split model has no recognized width to price.
    """
    if chips == 1 or decoder is None:
        return 0.0
    if not decoder.hidden:
        raise PorterError(
            "--mesh", expected="a decoder whose hidden width is known", found="no product makes its logits"
        )
    moved = 2 * (chips - 1) / chips * decoder.batch * decoder.tokens * decoder.hidden * itemsize
    return 2 * decoder.layers * moved / link(device)


def link(device: Device) -> float:
    """Bytes per second in one direction; half of the vendor's figure where it does not say whether that is a sum."""
    one = device.get("interconnect.bytes_per_s_per_direction")
    return float(one) if one is not None else float(device["interconnect.bytes_per_s"]) / 2


def unknowns(device: Device, chips: int, priced: bool) -> list[str]:
    """What a split assumes of the device, in words; empty for one chip."""
    if chips == 1:
        return []
    said = ["each kernel splits evenly over the chips"]
    if priced:
        said.append("a collective starts at once")
    if not priced:
        said.append("what the chips say to each other takes no time (known for decoders only)")
    elif device.get("interconnect.bytes_per_s_per_direction") is None:
        said.append("interconnect: half of the vendor's figure in each direction")
    return said
