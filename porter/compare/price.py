"""What a chip hour costs, who says so and when; and what a result costs at that price."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from porter.device import Device
from porter.errors import PorterError

_DATES = (
    r"\b(20\d\d-\d\d-\d\d)\b",
    r"\b((?:January|February|March|April|May|June|July|August|September|October|November|December) 20\d\d)\b",
    r"\b(20\d\d) snapshot",
)


@dataclass(frozen=True)
class Price:
    """US dollars per chip hour, with its source and the date of the source."""

    usd_per_hour: float
    source: str
    date: str

    def json(self) -> dict[str, float | str]:
        return {"usd_per_hour": self.usd_per_hour, "source": self.source, "date": self.date}


def given(values: Sequence[str]) -> dict[str, float]:
    """--price DEVICE=USD, as a mapping. Raises PorterError for what is no such pair."""
    found: dict[str, float] = {}
    for text in values:
        name, _, number = text.rpartition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            found[""] = -1.0
        if not name or not 0 <= found.get(name.strip(), -1.0) < float("inf"):
            raise PorterError(f"--price {text}", expected="DEVICE=DOLLARS per chip hour", hint="--price gpu:h200=3.50")
    return found


def price(device: Device, own: Mapping[str, float]) -> Price | None:
    """The price of a device: the user's own, else its file's; None where nobody has published one."""
    for name in (device.name, device.family):
        if name in own:
            return Price(own[name], "given by --price", date.today().isoformat())
    usd = device.get("price.usd_per_hour")
    if usd is None:
        return None
    basis = str(device.get("price.basis", "")) or device.fact("price.usd_per_hour").origin()
    texts = [basis, *device.source("price.usd_per_hour")]
    return Price(float(usd), basis, dated(texts))


def dated(texts: Sequence[str]) -> str:
    """The most exact date that any of the texts names; 'not recorded' where none does."""
    for pattern in _DATES:
        for text in texts:
            if match := re.search(pattern, text):
                return match[1] if "snapshot" not in pattern else f"{match[1]}, day not recorded"
    return "not recorded"


def per_million(hourly: float | None, chips: int, per_second: float) -> float | None:
    """Dollars per million of something that `chips` chips make `per_second` of."""
    return None if hourly is None or not per_second > 0 else hourly * chips / (per_second * 3600) * 1e6


def winning(cost: float, chips: int, per_second: float) -> float:
    """The dollars per chip hour at which a million costs `cost`: the inverse of `per_million`."""
    return cost / 1e6 * per_second * 3600 / chips
