"""Schemes: what `--precision fp8` stores and multiplies, and what a device makes of it.

A scheme names formats as a user asks for them; `legal` says what one device really has, with the reason for each
difference. E4M3 is four formats (448, 240 with Inf, 240 without, 30). ONNX has no type for two of them, so a graph always
holds e4m3fn, in codes that the device's own flavour shares:

    float8_e4m3 (240)         codes up to 240 are equal bit by bit, so scales map to 240 and activations are clamped there
    float8_e4m3b11fnuz (30)   the same bits mean a 16th, up to 448 / 16 = 28: nothing is lost (formats.scaling.to_b11fnuz)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from porter.device import Device
from porter.errors import PorterError
from porter.formats import of
from porter.precision.layers import Layer, in_blocks
from porter.tile.block_scales import MIXED
from porter.tile.target import target_of

OCP = "float8_e4m3fn"
#: one E4M3 for another, by what the matrix unit takes
E4M3 = (OCP, "float8_e4m3", "float8_e4m3b11fnuz")
#: words of the devices' pages for formats that numpy names otherwise
WORDS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "tf32": "tfloat32"}
#: an int8 product below this share of the bf16 rate is no product to aim for (B300, GB300, Rubin: 1/30 of fp8)
SLOW = 0.1


@dataclass(frozen=True)
class Coding:
    """How a tensor is stored: element format, scale per 'tensor', 'channel', 'token' or 'block', and the scale's own format.

    A scale per token is taken from what is seen when it is seen: the largest magnitude along the axis that is summed.

    limit   the largest code in use; the format's own if 0. scale_limit: the same of the scales.
    signed  whether -0 is a code: 0x80 is NaN in float8_e4m3b11fnuz
    """

    format: str
    per: str = "channel"
    block: int = 0
    scale: str = "float32"
    limit: float = 0.0
    scale_limit: float = 0.0
    signed: bool = True

    def __str__(self) -> str:
        block = f"[{self.block}]" if self.per == "block" else ""
        scale = "" if self.scale == "float32" else f" x {self.scale}"
        return f"{self.format} per {self.per}{block}{scale}"


@dataclass(frozen=True)
class Scheme:
    """Weights, and activations where they are narrow too; the rest of the model is bfloat16."""

    name: str
    weight: Coding
    activation: Coding | None = None

    @property
    def product(self) -> str:
        """The operand format of the matrix unit that the scheme is about; of operands with block scales the scheme's name."""
        if self.activation is None or (self.activation.per != "block" and self.activation.format != self.weight.format):
            return "bfloat16"  # operands of two formats meet where both are exact
        if self.activation.format != self.weight.format:
            return MIXED
        return self.name if self.activation.per == "block" else self.weight.format


MXFP8 = Coding(OCP, "block", 32, "float8_e8m0fnu")
MXFP4 = Coding("float4_e2m1fn", "block", 32, "float8_e8m0fnu")
NVFP4 = Coding("float4_e2m1fn", "block", 16, OCP)

SCHEMES = {
    s.name: s
    for s in (
        Scheme("int8w", Coding("int8")),
        Scheme("fp8w", Coding("float8_e4m3fn")),
        Scheme("int4w", Coding("int4", "block", 32)),
        Scheme("mxfp8w", MXFP8),
        Scheme("mxfp4w", MXFP4),
        Scheme("nvfp4w", NVFP4),
        Scheme("fp8", Coding("float8_e4m3fn"), Coding("float8_e4m3fn", per="tensor")),
        Scheme("int8", Coding("int8"), Coding("int8", per="tensor")),
        Scheme("fp8t", Coding("float8_e4m3fn"), Coding("float8_e4m3fn", per="token")),
        Scheme("int8t", Coding("int8"), Coding("int8", per="token")),
        Scheme("mxfp8", MXFP8, MXFP8),
        Scheme("mxfp4", MXFP4, MXFP4),
        Scheme("nvfp4", NVFP4, NVFP4),
        Scheme("mxfp4a8", MXFP4, Coding(OCP, per="tensor")),
        Scheme("nvfp4a8", NVFP4, Coding(OCP, per="tensor")),
    )
}


#: dB of signal to error that a format leaves of one product. Rounding a normal channel whose largest magnitude is 4 sigma to 127
#: (7) steps leaves 40.9 (15.7) dB, e4m3 31.5 dB (relative steps of 2**-4 to 2**-3), e2m1 with a scale per block 19 dB; two
#: rounded operands cost 3 dB.
PRODUCT = {
    "int8w": 40.0,
    "fp8w": 31.0,
    "int4w": 15.0,
    "mxfp8w": 31.0,
    "mxfp4w": 18.0,
    "nvfp4w": 19.0,
    "fp8": 28.0,
    "int8": 37.0,
    "fp8t": 28.0,
    "int8t": 37.0,
    "mxfp8": 28.0,
    "mxfp4": 15.0,
    "nvfp4": 16.0,
    "mxfp4a8": 17.8,
    "nvfp4a8": 18.7,
}
#: dB that a model keeps with its cache in a format, of `quantization.cache`
CACHE = {"fp8": 18.0, "mxfp8": 18.0, "mxfp4": 6.0, "nvfp4": 6.0}
BFLOAT16 = 30.0  # dB that a model keeps whose numbers are bfloat16
USUAL = 10  # layers of a model that nobody counted


def least(name: str, count: int = USUAL, cache: str = "none", measured: float | None = None) -> float:
    """The budget in dB of a precision without a user's budget, bf16's for what is no scheme: what the format leaves of one
    product, less 10 log10 of the layers, whose errors add up independently. A model below it is no port of itself. The error
    that a cache may make is added to it. Where the model's own growth of errors was measured, that is what its layers leave, and
    the error of bfloat16 elsewhere is added."""
    kept = PRODUCT[name] - 10 * math.log10(max(count, USUAL)) if name in PRODUCT else BFLOAT16
    parts = [kept] if measured is None else [measured, BFLOAT16]
    parts += [CACHE[cache]] if cache in CACHE else []
    return round(-10 * math.log10(sum(10 ** (-p / 10) for p in parts)), 2)


@dataclass(frozen=True)
class Legal:
    """A scheme as a device has it, and why it differs from what was asked."""

    scheme: Scheme
    why: tuple[str, ...] = ()


def whole_blocks(layer: Layer, coding: Coding) -> bool:
    """Whether a layer's other operand can be coded in such blocks for a unit that multiplies them."""
    return in_blocks(layer, coding.block, of(coding.format).bits)


def of_operand(layer: Layer, coding: Coding) -> Coding:
    """How a layer's other operand is coded. A convolution's sum runs over many tokens, whose scales would stay with the terms:
    it gets one per tensor."""
    return replace(coding, per="tensor") if coding.per == "token" and layer.is_convolution else coding


def scheme_of(name: str) -> Scheme:
    """The scheme of that name. Raises PorterError with what exists."""
    if name not in SCHEMES:
        raise PorterError(f"precision {name!r}", expected=", ".join(SCHEMES))
    return SCHEMES[name]


def products(device: Device) -> tuple[str, ...]:
    """Operand formats of the device's matrix unit, by numpy's names.

    A page may say 'float8_e4m3 (max 240)', or 'fp8' and the flavour elsewhere.
    """
    found: list[str] = []
    for text in device.get("formats.matmul", []):
        word = str(text).split()[0]
        flavours = device.get(f"formats.flavour.{word}")
        found += flavours if flavours else [WORDS.get(word, word)]
    return tuple(found)


def block_products(device: Device) -> tuple[str, ...]:
    """Products of operands with block scales that the unit has and porter's kernels ask for, by the schemes' names."""
    page = {str(text).split()[0] for text in device.get("formats.block_scaled", [])}
    return tuple(p for p in target_of(device.family).limits(device).block_scaled if p in page)


def flavour(device: Device) -> str | None:
    """The E4M3 that the matrix unit takes, None where it has none. OCP's wherever there is a choice: parts after Trn3
    reject the older one, and the two cannot meet in one product."""
    return next((f for f in E4M3 if f in products(device)), None)


def legal(scheme: Scheme, device: Device | None) -> Legal:
    """The scheme with the device's own formats. Raises PorterError where the device has no such product.

    int8 products: on a unit without them, or with a rate below a tenth of bf16's, storage stays int8 and the product is
    bfloat16, which holds every int8 exactly (Neuron would silently multiply in float32, wrong above 2**24).
    """
    if device is None:
        return Legal(scheme)
    e4m3 = flavour(device)
    if scheme.activation is None:
        if OCP in (scheme.weight.format, scheme.weight.scale):
            return _flavoured(scheme, e4m3, device)
        return Legal(scheme)
    units = block_products(device)
    if scheme.weight == MXFP4 and scheme.product not in units and MIXED in units:
        why = f"{device.name}: MXFP4 weights meet activations of E4M3 in blocks of 32, which it multiplies them with"
        return Legal(replace(scheme, activation=MXFP8), (why,))
    if scheme.activation.per == "block":
        if scheme.product in units:
            return Legal(scheme)
        why = f"{device.name}: no {scheme.name} product; stored as {scheme.weight}, decoded and multiplied as bfloat16"
        stored = replace(scheme, activation=None)
        made = _flavoured(stored, e4m3, device) if OCP in (scheme.weight.format, scheme.weight.scale) else Legal(stored)
        return Legal(made.scheme, (why, *made.why))
    if scheme.weight.format == "int8":
        rate, usual = device.get("peak.int8"), device.get("peak.bf16")
        if "int8" in products(device) and not (rate and usual and rate < SLOW * usual):
            return Legal(scheme)
        why = (
            "no int8 product" if "int8" not in products(device) else f"int8 runs at {rate / usual:.2g} of the bf16 rate"
        )
        return Legal(
            scheme, (f"{device.name}: {why}; stored as int8, multiplied as bfloat16, where every int8 is exact",)
        )
    if e4m3 is None:
        raise PorterError(
            f"--precision {scheme.name} on {device.name}",
            expected="a matrix unit that takes float8_e4m3 of some flavour",
            found=", ".join(products(device)) or "no formats on the device's page",
            hint=f"--precision {scheme.name.removesuffix('a8')}w stores its weights",
        )
    return _flavoured(scheme, e4m3, device)


def multiplies(scheme: Scheme, device: Device | None) -> str:
    """The operand format of a legal scheme's products on the device."""
    kept = legal(scheme, device)
    if scheme.activation is not None and scheme.weight.format == "int8" and kept.why:
        return "bfloat16"
    return kept.scheme.product


def _flavoured(scheme: Scheme, e4m3: str | None, device: Device) -> Legal:
    """The scheme in codes that the device's E4M3 shares with OCP's."""
    if e4m3 in (None, "float8_e4m3fn"):
        return Legal(scheme)
    if e4m3 == "float8_e4m3b11fnuz":
        made = replace(scheme, weight=replace(scheme.weight, signed=False))
        why = f"{device.name}: E4M3 is float8_e4m3b11fnuz; the same codes mean a 16th, which the scales take up"
        return Legal(made, (why,))
    limit = of(e4m3).max
    activation = None if scheme.activation is None else replace(scheme.activation, limit=limit)
    weight = scheme.weight
    if weight.format == OCP:
        weight = replace(weight, limit=limit)
    if weight.scale == OCP:
        weight = replace(weight, scale_limit=limit)
    made = replace(scheme, weight=weight, activation=activation)
    return Legal(made, (f"{device.name}: E4M3 is {e4m3}; scaled to {limit:g} instead of 448, and clamped there",))
