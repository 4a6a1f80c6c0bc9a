"""`porter inspect MODEL`: what a model wants and holds; of a bundle, its kernels, launches and memory map."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from porter.cli.options import json_option, model_file
from porter.cli.output import amount, stdout_for, table

if TYPE_CHECKING:
    from porter.bundle import Bundle


@click.command("inspect")
@click.argument("model")
@json_option
def command(model: str, as_json: bool) -> None:
    """Show inputs, outputs, free dims, operators and weights of a model; kernels and memory of a bundle."""
    from porter.bundle.reader import is_bundle, read

    with stdout_for(as_json) as emit:
        if is_bundle(model):
            bundle = read(model, verified=False)
            emit(_bundle(bundle))
            if not as_json:
                click.echo(_show_bundle(bundle))
            return
        document = _model(model)
        emit(document)
        if not as_json:
            click.echo(_show(document))


def _model(path: str) -> dict[str, Any]:
    from porter import graph

    model = graph.read(model_file(path))
    nodes = list(model.graph.all_nodes())  # those of subgraphs too; a function's body is inside its one node
    operators = Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in nodes)
    weights = {id(v): v.const_value for g in graph.every_graph(model) for v in g.initializers.values()}
    held = [w for w in weights.values() if w is not None]
    shapes, dims = graph.shapes(model), graph.dims(model)
    return {
        "model": path,
        "producer": " ".join(filter(None, (model.producer_name, model.producer_version))),
        "opset": dict(model.opset_imports),
        "inputs": [_value(v, shapes) for v in model.graph.inputs if v.name not in model.graph.initializers],
        "outputs": [_value(v, shapes) for v in model.graph.outputs],
        "dims": [
            {"name": d.name, "places": list(d.places), **({"follows": d.follows} if d.follows else {})} for d in dims
        ],
        "nodes": len(nodes),
        "operators": dict(sorted(operators.items(), key=lambda o: (-o[1], o[0]))),
        "parameters": sum(int(w.size) for w in held),
        "weight_bytes": sum(int(w.nbytes) for w in held),
    }


def _value(v: Any, shapes: dict[str, tuple[int | str | None, ...]]) -> dict[str, Any]:
    shape = [d if d is not None else "?" for d in shapes[v.name]] if v.name in shapes else None
    return {"name": v.name, "dtype": v.dtype.name.lower() if v.dtype is not None else "?", "shape": shape}


def _type(v: dict[str, Any]) -> str:
    return f"{v['dtype']}[{', '.join(map(str, v['shape']))}]" if v["shape"] is not None else f"{v['dtype']}[...]"


def _show(d: dict[str, Any]) -> str:
    opset = ", ".join(f"{k or 'ai.onnx'} {v}" for k, v in d["opset"].items())
    needed = [x for x in d["dims"] if "follows" not in x]
    free = ", ".join(f"{x['name']} ({', '.join(x['places'])})" for x in needed)
    derived = ", ".join(f"{x['name']} = {x['follows']}" for x in d["dims"] if "follows" in x)
    rows = [("model", d["model"]), ("opset", opset)]
    rows += [("producer", d["producer"])] if d["producer"] else []
    rows += [("input" if not i else "", f"{v['name']}: {_type(v)}") for i, v in enumerate(d["inputs"])]
    rows += [("output" if not i else "", f"{v['name']}: {_type(v)}") for i, v in enumerate(d["outputs"])]
    rows += [("free dims", free or "none")]
    rows += [("", f"with them {derived}")] if derived else []
    rows += [("weights", f"{d['parameters']:,} numbers, {amount(d['weight_bytes'], 'B')}")]
    rows += [("nodes", str(d["nodes"]))]
    operators = table([(name, n) for name, n in d["operators"].items()], right=(1,))
    hint = " ".join(f"--dim '{x['name']}=N'" for x in needed)
    tail = f"\n\nbind its dims with  {hint}" if hint else ""
    return f"{table(rows)}\n\n{operators}{tail}"


def _bundle(bundle: Bundle) -> dict[str, Any]:
    m = bundle.manifest
    space = Counter(dict.fromkeys(("input", "output", "weight", "arena"), 0))
    for b in m.buffers:
        space[b.space] += b.bytes
    used = Counter(launch.kernel for launch in m.launches)
    return {
        "bundle": str(bundle.path),
        "target": m.target,
        "model": {"name": m.model.name, "sha256": m.model.sha256, "opset": m.model.opset, "dims": dict(m.model.dims)},
        "precision": m.precision,
        "inputs": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in m.inputs],
        "outputs": [
            {"name": t.name, "dtype": t.dtype, "shape": None if t.shape is None else list(t.shape)} for t in m.outputs
        ],
        "launches": len(m.launches),
        "kernels": [
            {
                "name": k.name,
                "language": k.language,
                "launches": used[k.name],
                "grid": k.grid,
                "memory": dict(k.memory),
                "why": k.why,
            }
            for k in m.kernels
        ],
        "languages": dict(Counter(k.language for k in m.kernels)),
        "arena_bytes": m.arena_bytes,
        "bytes": dict(space),
        "buffers": [
            {
                "name": b.name,
                "dtype": b.dtype,
                "shape": None if b.shape is None else list(b.shape),
                "space": b.space,
                "offset": b.offset,
            }
            for b in m.buffers
        ],
        "versions": dict(m.versions),
        "files": len(m.files),
    }


def _show_bundle(bundle: Bundle) -> str:
    d = _bundle(bundle)
    rows = [
        ("bundle", d["bundle"]),
        ("target", d["target"]),
        ("model", f"{d['model']['name']}, sha256 {d['model']['sha256'][:16]}..."),
        ("dims", ", ".join(f"{k}={v}" for k, v in d["model"]["dims"].items()) or "none bound"),
        ("precision", d["precision"]),
        *(("input" if not i else "", f"{v['name']}: {_type(v)}") for i, v in enumerate(d["inputs"])),
        *(("output" if not i else "", f"{v['name']}: {_type(v)}") for i, v in enumerate(d["outputs"])),
        ("program", f"{d['launches']} launches of {len(d['kernels'])} kernels"),
        ("languages", ", ".join(f"{k} {v}" for k, v in d["languages"].items())),
        ("weights", amount(d["bytes"]["weight"], "B")),
        ("arena", f"{amount(d['arena_bytes'], 'B')} for {amount(d['bytes']['arena'], 'B')} of intermediates"),
    ]
    kernels = [
        (
            k["name"],
            k["language"],
            k["launches"],
            k["grid"],
            ", ".join(f"{n} {amount(b, 'B')}" for n, b in k["memory"].items()),
            k["why"],
        )
        for k in d["kernels"]
    ]
    arena = [
        (b.offset, (b.offset or 0) + b.bytes, b.name, f"{b.dtype}{list(b.shape)}")
        for b in sorted(bundle.manifest.buffers, key=lambda b: (b.offset or 0, b.name))
        if b.space == "arena"
    ]
    head = ("kernel", "language", "launches", "grid", "on chip", "")
    parts = [table(rows), table(kernels, head, right=(2, 3))]
    if arena:
        parts.append(table(arena, ("from", "to", "arena buffer", ""), right=(0, 1)))
    return "\n\n".join(parts)
