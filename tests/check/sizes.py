"""Numbers for the free dims of a real model, small ones first: what tests try until the model runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from porter import graph

SIZES = (8, 4, 64, 224)  # of free dims other than a first one


def bindings(path: Path, first: int = 1) -> Iterator[dict[str, int]]:
    """Dims with all but first axes of one size; then those of the inputs that were recorded beside the model."""
    free = [d for d in graph.dims(graph.read(path)) if d.follows is None]
    for size in SIZES if free else (0,):
        yield {d.name: first if all(p.endswith("[0]") for p in d.places) else size for d in free}
    recorded = path.parent / "inputs.json"
    if free and recorded.is_file():
        shapes = {name: made.get("shape", ()) for name, made in json.loads(recorded.read_text())[0].items()}
        found = {}
        for dim in free:
            for place in dim.places:
                name, _, axis = place.removesuffix("]").rpartition("[")
                if int(axis) < len(shapes.get(name, ())):
                    found[dim.name] = shapes[name][int(axis)]
        if len(found) == len(free):
            yield found
