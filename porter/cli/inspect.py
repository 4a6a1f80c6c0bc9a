"""`porter inspect MODEL`: what a model wants, holds and computes, and what targets would do with it; a bundle's parts; pictures."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from porter.cli import options
from porter.cli.output import amount, progress, seconds, stdout_for, table
from porter.errors import PorterError

if TYPE_CHECKING:
    from porter.bundle import Bundle
    from porter.graph import Model


@click.command("inspect")
@click.argument("model")
@options.dim_option
@click.option("--target", metavar="T[,T...]|all", help="Say what these devices would do with the model.")
@click.option(
    "--kernel", metavar="NAME", help="Of a bundle: print this kernel's source, tile program and compiled code."
)
@click.option("--passes", metavar="a,b{k=v}", help="Pictures after each of these passes, what is new marked.")
@click.option("--dot", metavar="F", help="Write the graph for graphviz; with steps, a folder.")
@click.option("--svg", metavar="F", help="Write the graph as a picture; with steps, a folder.")
@options.json_option
def command(
    model: str,
    dim: tuple[str, ...],
    target: str | None,
    kernel: str | None,
    passes: str | None,
    dot: str | None,
    svg: str | None,
    as_json: bool,
) -> None:
    """Show what is in a model (with its dims bound also what it computes), a bundle, or a folder of saved steps."""
    from porter.bundle.reader import is_bundle, read

    dims = options.dims(dim)
    with stdout_for(as_json) as emit, progress() as say:
        if is_bundle(model):
            bundle = read(model, verified=False)
            shown = _kernel(bundle, kernel) if kernel else _show_bundle(bundle)
            _drawn(lambda: [("program", _program(bundle))], dot, svg, steps=False)
            document = _bundle(bundle)
        else:
            if kernel:
                raise PorterError(f"--kernel {kernel}", expected="a bundle", found=f"{model}, which is none")
            steps = _steps(model)
            document = _model(steps[-1] if steps else model, dims)
            bound = not [x for x in document["dims"] if "follows" not in x and x["name"] not in dims]
            loaded = _loaded(steps[-1] if steps else model, dims) if bound else None
            if loaded is not None:
                document |= _work(loaded)
            if (target or passes) and loaded is None:
                missing = [x["name"] for x in document["dims"] if x["name"] not in dims]
                raise PorterError(
                    f"inspect {model} {'--target' if target else '--passes'}", expected="every dim bound",
                    found=f"free: {', '.join(missing)}", hint=f"--dim {missing[0]}=1",
                )  # fmt: skip
            if target and loaded is not None:
                document["targets"] = [_ported(loaded, d, say) for d in options.targets(target)]
            shown = _show(document)
            _drawn(lambda: _pictures(model, steps, loaded, passes), dot, svg, steps=bool(steps or passes))
        emit(document)
    if not as_json:
        click.echo(shown)


def _steps(model: str) -> list[Path]:
    """The models of a folder of saved steps, in order; none where it is no folder."""
    folder = Path(model)
    found = sorted(folder.glob("*.onnx")) if folder.is_dir() else []
    if folder.is_dir() and not found:
        raise PorterError(f"folder {model}", expected="a bundle, or .onnx files of saved steps", found="neither")
    return found


def _loaded(path: str | Path, dims: dict[str, int]) -> Model | None:
    """The model as porter works on it, types inferred; None where it does not load (the rest still says what it is)."""
    from porter import graph, ops

    try:
        found = graph.load(path, dims)
        ops.infer(found)
    except PorterError:
        return None
    return found


def _work(model: Model) -> dict[str, Any]:
    """Operations and bytes by operator, and the memory of values in the model's own order."""
    from porter.porting.arithmetic import arithmetic, peak

    rows: defaultdict[str, dict[str, int]] = defaultdict(lambda: {"nodes": 0, "flops": 0, "bytes": 0, "unknown": 0})
    for w in arithmetic(model):
        row = rows[w.operator]
        row["nodes"], row["flops"], row["bytes"] = (
            row["nodes"] + 1,
            row["flops"] + (w.flops or 0),
            row["bytes"] + w.bytes,
        )
        row["unknown"] += w.flops is None
    most, where = peak(model)
    return {
        "arithmetic": [{"operator": n, **r} for n, r in sorted(rows.items(), key=lambda x: (-x[1]["flops"], -x[1]["bytes"], x[0]))],
        "flops": sum(r["flops"] for r in rows.values()),
        "peak_bytes": most,
        "peak_at": where,
    }  # fmt: skip


def _ported(model: Model, device: Any, say: Any) -> dict[str, Any]:
    """What a device would do with the model; nothing is run or checked."""
    from porter.compare.trial import Bench

    t = Bench(model, quick=True, progress=say).trial(device)
    spent = t.spent()
    return {
        "target": device.name, "runs": t.runs, "why": t.why, "kernels": len(t.kernels), "launches": len(t.rows),
        "languages": dict(Counter(k.language for k in t.kernels)), "host": t.host, "product": t.realized,
        "weight_bytes": t.memory.weights, "arena_bytes": t.memory.arena, "latency_s": t.latency() if t.runs else None,
        "bound": max(spent, key=lambda b: spent[b]) if t.runs else None, "origin": "model",
    }  # fmt: skip


def _pictures(model: str, steps: list[Path], loaded: Model | None, passes: str | None) -> list[tuple[str, Any]]:
    """Named pictures: the model, after each pass, or of each saved step; each against the one before."""
    from porter import graph, pipeline
    from porter.report.picture import of_model

    if not passes and not steps:
        return [("model", of_model(loaded if loaded is not None else graph.read(model), Path(model).name))]
    models: list[tuple[str, Any]] = [(p.stem, graph.read(p)) for p in steps]
    if passes and loaded is not None:
        models = [("00-model", loaded)]

        class Keep(pipeline.Instrument):
            def passed(self, stage: Any, before: Any, after: Any, rewrites: list[Any]) -> None:
                if rewrites:
                    models.append((f"{len(models):02d}-{stage.name}", graph.clone(after)))

        pipeline.run(loaded, passes, checks=False, instruments=[Keep()])
    found: list[tuple[str, Any]] = []
    for name, made in models:
        found.append((name, of_model(made, name, before=found[-1][1] if found else None)))
    return found


def _program(bundle: Bundle) -> Any:
    from porter.report.picture import of_program

    return of_program(bundle.manifest)


def _drawn(pictures: Any, dot: str | None, svg: str | None, *, steps: bool) -> None:
    """Writes the pictures: one into a file, steps into a folder."""
    if not dot and not svg:
        return
    from porter.report import picture

    made = pictures()
    for path, ending, draw in ((dot, "dot", picture.dot), (svg, "svg", picture.svg)):
        for name, one in made if path else ():
            options.write_text(str(Path(str(path)) / f"{name}.{ending}") if steps else str(path), draw(one))


def _model(path: str | Path, bound: dict[str, int]) -> dict[str, Any]:
    from porter import graph

    model = graph.read(options.model_file(str(path)))
    nodes = list(model.graph.all_nodes())  # those of subgraphs too; a function's body is inside its one node
    operators = Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in nodes)
    weights = {id(v): v.const_value for g in graph.every_graph(model) for v in g.initializers.values()}
    held = [w for w in weights.values() if w is not None]
    shapes, dims = graph.shapes(model), graph.dims(model)
    return {
        "model": str(path),
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
    parts = [table(rows)]
    if "arithmetic" in d:
        total = d["flops"] or 1
        work = [
            (w["operator"], w["nodes"], amount(w["flops"]) + ("+?" if w["unknown"] else ""),
             f"{100 * w['flops'] / total:.1f}%", amount(w["bytes"], "B"))
            for w in d["arithmetic"]
        ]  # fmt: skip
        parts.append(table(work, ("operator", "nodes", "operations", "", "bytes touched"), right=(1, 2, 3, 4)))
        parts.append(
            f"{amount(d['flops'])} operations a run; at most {amount(d['peak_bytes'], 'B')} of values alive at once, "
            f"at {d['peak_at']}"
        )
    else:
        hint = " ".join(f"--dim '{x['name']}=N'" for x in needed)
        parts += [operators, *([f"bind its dims with  {hint}"] if hint else [])]
    if "targets" in d:
        head = ("target", "kernels", "launches", "host", "product", "weights", "arena", "latency", "bound")
        lines = [
            (t["target"], t["kernels"], t["launches"], len(t["host"]), t["product"] or "-", amount(t["weight_bytes"], "B"),
             amount(t["arena_bytes"], "B"), seconds(t["latency_s"]), t["bound"] or "-")
            for t in d["targets"]
        ]  # fmt: skip
        parts.append(table(lines, head, right=(1, 2, 3, 5, 6, 7)))
        said = [f"{t['target']} does not run it: {t['why']}" for t in d["targets"] if not t["runs"]]
        said += [f"{t['target']}: {op} runs on the host: {why}" for t in d["targets"] for op, why in t["host"].items()]
        parts.append("\n".join([*said, "times are from porter's model of each device; nothing was run or checked"]))
    return "\n\n".join(parts)


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
                "source": k.file,
                "tile": k.tile,
                "compiled": sorted(
                    f for f in m.files if f.startswith(f"kernels/{k.name}.") and f not in (k.file, k.tile)
                ),
                "products": list(k.products),
                "resources": dict((k.compiled or {}).get("resources", {})),
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
        "toolchain": dict(m.toolchain) if m.toolchain else None,
        "estimate": dict(m.estimate),
        "numerics": dict(m.numerics),
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
        ("made by", ", ".join(f"{n} {v}" for n, v in sorted(d["versions"].items()))),
        *([("toolchain", ", ".join(f"{k} {v}" for k, v in d["toolchain"].items()))] if d["toolchain"] else []),
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
            " ".join(Path(f).suffix for f in (k["source"], k["tile"], *k["compiled"]) if f),
            k["why"],
        )
        for k in d["kernels"]
    ]
    arena = [
        (b.offset, (b.offset or 0) + b.bytes, b.name, f"{b.dtype}{list(b.shape)}")
        for b in sorted(bundle.manifest.buffers, key=lambda b: (b.offset or 0, b.name))
        if b.space == "arena"
    ]
    head = ("kernel", "language", "launches", "grid", "on chip", "files", "")
    parts = [table(rows), table(kernels, head, right=(2, 3))]
    if arena:
        parts.append(table(arena, ("from", "to", "arena buffer", ""), right=(0, 1)))
    parts.append(
        f"a kernel's texts  porter inspect {d['bundle']} --kernel {d['kernels'][0]['name']}" if d["kernels"] else ""
    )
    return "\n\n".join(parts)


BINARY = (".cubin", ".hsaco", ".bin")  # compiled code that is not text


def _kernel(bundle: Bundle, name: str) -> str:
    """Everything that the bundle has of one kernel, as text."""
    from difflib import get_close_matches

    k = next((k for k in _bundle(bundle)["kernels"] if k["name"] == name), None)
    if k is None:
        names = [k.name for k in bundle.manifest.kernels]
        near = get_close_matches(name, names, 1, 0.3) or names[:1]
        raise PorterError(f"kernel '{name}'", expected=", ".join(names), hint=f"--kernel {near[0]}" if near else None)
    layers = [", ".join(c.source) for c in bundle.manifest.launches if c.kernel == name]
    resources = ", ".join(f"{n} {v}" for n, v in k["resources"].items())
    rows = [("kernel", name), ("language", k["language"]), ("launches", str(k["launches"]))]
    rows += [("source layer" if not i else "", text) for i, text in enumerate(layers)]
    rows += [("products", ", ".join(k["products"]))] if k["products"] else []
    rows += [("compiled", resources)] if resources else []
    parts = [table(rows)]
    for file in filter(None, (k["source"], k["tile"], *k["compiled"])):
        path = bundle.path / file
        shown = (
            f"({path.stat().st_size} bytes)"
            if path.suffix in BINARY
            else path.read_text(encoding="utf-8", errors="replace")
        )
        parts.append(f"==== {file}\n{shown.rstrip()}")
    return "\n\n".join(parts)
