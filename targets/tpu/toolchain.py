"""libtpu's verdict on kernels and whole programs, ahead of time and without a TPU, from a process of its own.

A program here is what the worker takes: pieces of Pallas and StableHLO text that run in order over named buffers,
weights as arguments. Verdicts are kept by content: texts, types, device, and the versions of jax and libtpu.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porter.pipeline.cache import Cache
from porter.targets.tpu import instructions, xla
from porter.tile.target import Compiled, Emitted
from porter.xla import hlo
from porter.xla.products import SCHEME

if TYPE_CHECKING:
    from porter.device import Device

WORKERS = 2
SHARE = 12  # jobs that are worth a second process: starting one takes as long as compiling about ten kernels
TIMEOUT = 1800.0  # seconds for one batch; a kernel takes 0.05 to 3


@dataclass(frozen=True)
class Piece:
    """One launch: a kernel on buffers, in the order of its parameters."""

    emitted: Emitted
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What libtpu says of a program. cost: XLA's own figures, those above zero; trusted: whether they may be called
    'vendor compiler' (no Pallas call, no 64-bit type, no float32 product in several passes, all of which XLA does not
    count)."""

    name: str
    ok: bool
    message: str = ""
    size: int = 0
    sha256: str = ""
    resources: Mapping[str, int] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    copies: Mapping[str, int] = field(default_factory=dict)
    products: tuple[str, ...] = ()
    kernels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # what of it is each kernel's, by function
    trusted: bool = False


def libtpu_version() -> str | None:
    try:
        return version("libtpu")
    except PackageNotFoundError:
        return None


def compile(emitted: Sequence[Emitted], device: Device, *, no_cache: bool = False) -> list[Compiled]:
    """Each kernel by itself; one verdict each, in order."""
    verdicts = verdict([_alone(e) for e in emitted], device, no_cache=no_cache)
    return [_held(e, v, device) for e, v in zip(emitted, verdicts, strict=True)]


def expected(emitted: Sequence[Emitted], device: Device) -> dict[str, float]:
    """XLA's optimal_seconds by kernel, of those whose work it counts whole; the others are not compiled for it."""
    jobs = [j for j in map(_alone, emitted) if all(map(_counted, j["pieces"]))]
    return {
        v.name: v.cost["optimal_seconds"] for v in verdict(jobs, device) if v.trusted and "optimal_seconds" in v.cost
    }


def _alone(e: Emitted) -> dict[str, Any]:
    """One kernel as a program."""
    p = e.kernel.program
    piece = Piece(e, tuple(q.name for q in p.inputs), tuple(q.name for q in p.outputs))
    arguments = [(q.name, q.shape, q.dtype) for q in p.inputs]
    return job(e.kernel.name, [piece], arguments, [q.name for q in p.outputs])


def compile_program(
    name: str, pieces: Sequence[Piece], arguments: Sequence[tuple[str, tuple[int, ...], str]], results: Sequence[str],
    device: Device, *, no_cache: bool = False,
) -> Verdict:  # fmt: skip
    """The whole program as one executable. arguments: (buffer, shape, dtype) of the model's inputs and weights."""
    return verdict([job(name, pieces, arguments, results)], device, no_cache=no_cache)[0]


def job(
    name: str, pieces: Sequence[Piece], arguments: Sequence[tuple[str, tuple[int, ...], str]], results: Sequence[str]
) -> dict[str, Any]:  # fmt: skip
    """A program as the worker reads it. 64-bit integers are 32-bit ones on the device."""
    return {
        "name": name,
        "results": list(results),
        "arguments": [[n, list(shape), instructions.NARROW.get(dtype, dtype)] for n, shape, dtype in arguments],
        "pieces": [
            {
                "language": p.emitted.language,
                "function": xla.identifier(p.emitted.kernel.name),
                "text": p.emitted.text,
                "inputs": list(p.inputs),
                "outputs": list(p.outputs),
            }
            for p in pieces
        ],
    }


def verdict(jobs: Sequence[dict[str, Any]], device: Device, *, no_cache: bool = False) -> list[Verdict]:
    """The worker's verdicts on jobs, in order; known ones come from the cache."""
    kept = Cache.open("tpu", no_cache=no_cache)
    topology = str(device["toolchain.topology"])
    keys = [_key(j, topology) for j in jobs]
    found: dict[str, Any] = {k: d for k in set(keys) if (d := kept.get(k)) is not None}
    waiting = list({k: j for k, j in zip(keys, jobs, strict=True) if k not in found}.items())
    if waiting:
        count = WORKERS if len(waiting) > SHARE else 1
        shares = [waiting[i::count] for i in range(count)]
        with ThreadPoolExecutor(count) as pool:
            batches = list(pool.map(lambda share: _work([j for _, j in share], topology), shares))
        for share, batch in zip(shares, batches, strict=True):
            for (k, _), document in zip(share, batch, strict=True):
                found[k] = document
                if not document.get("lost"):  # a compiler that died or was too slow may do better next time
                    kept.put(k, document)
        kept.trim()
    return [_verdict(found[k], j) for k, j in zip(keys, jobs, strict=True)]


def _verdict(document: Mapping[str, Any], job: Mapping[str, Any]) -> Verdict:
    trusted = document["ok"] and all(map(_counted, job["pieces"]))
    known = {k: document[k] for k in ("size", "sha256", "resources", "cost", "copies", "kernels") if k in document}
    products = tuple(document.get("products", ()))
    return Verdict(job["name"], document["ok"], document["message"], **known, products=products, trusted=trusted)


def _counted(piece: Mapping[str, Any]) -> bool:
    """Whether XLA's cost analysis counts all that a piece does."""
    if piece["language"] != "stablehlo" or hlo.element_types(piece["text"]) & {"i64", "ui64", "f64"}:
        return False
    return not {"bf16x3", "bf16x6"} & set(xla.realized(piece["text"]))


def _work(jobs: list[dict[str, Any]], topology: str) -> list[Any]:
    environment = dict(os.environ, JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    command = [sys.executable, "-m", "porter.targets.tpu.worker", topology]
    try:
        done = subprocess.run(
            command, input=json.dumps(jobs), text=True, capture_output=True, env=environment, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        message = f"the compiler did not end within {TIMEOUT:g} s"
    else:
        if done.returncode == 0:
            return list(json.loads(done.stdout))
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no output"]
        message = f"the compiler ended with code {done.returncode}: {last[0][:300]}"
    if len(jobs) > 1:  # one of them is at fault: each by itself then
        return [_work([j], topology)[0] for j in jobs]
    return [{"name": jobs[0]["name"], "ok": False, "message": message, "lost": True}]


def _key(job: Mapping[str, Any], topology: str) -> str:
    versions = [version("jax"), version("jaxlib"), libtpu_version() or ""]
    code = hashlib.sha256(Path(__file__).with_name("worker.py").read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps([job, topology, versions, code], sort_keys=True).encode()).hexdigest()


def _held(e: Emitted, v: Verdict, device: Device) -> Compiled:
    """A verdict held against the device's memory and against the products that the kernel asked for."""
    message = v.message
    if v.ok:
        message = exceeds(e.kernel.name, v, device) or _other_products(e, v)
    resources = {**v.resources, **{f"hlo {op}": n for op, n in v.copies.items()}}
    said = f"kernel {e.kernel.name}: {message}" if message else ""
    return Compiled(e.kernel.name, v.ok and not message, said, v.size, resources, v.products or e.products)


def kernels_of(pieces: Sequence[Piece], v: Verdict, device: Device) -> dict[str, Compiled]:
    """The verdict on each kernel within a compiled program: its products and its VMEM, as XLA has them there."""
    found = {}
    for e in {p.emitted.kernel.name: p.emitted for p in pieces}.values() if v.ok else ():
        own = v.kernels[xla.identifier(e.kernel.name)]
        resources = {"vmem": own["vmem"], "instructions": own["instructions"]}
        found[e.kernel.name] = _held(
            e, Verdict(e.kernel.name, True, resources=resources, products=tuple(own["products"])), device
        )
    return found


def verdict_of(v: Verdict, device: Device) -> Compiled:
    """A whole program's verdict, held against the device's memory."""
    message = v.message if not v.ok else exceeds(f"program {v.name}", v, device)
    resources = {**v.resources, **{f"hlo {op}": n for op, n in v.copies.items()}}
    return Compiled(v.name, not message, message, v.size, resources, v.products)


def exceeds(name: str, v: Verdict, device: Device) -> str:
    """A sentence about memory that the compiled program asks beyond the device's; '' when it fits."""
    vmem, hbm = int(device["memory.vmem.bytes"]), int(device["memory.hbm.bytes"])
    if v.resources.get("vmem", 0) > vmem:
        return f"vmem of {device.name} holds {vmem} bytes; {name} asks {v.resources['vmem']}"
    needs = sum(v.resources.get(k, 0) for k in ("arguments", "outputs", "temporaries", "code"))
    return f"hbm of {device.name} holds {hbm} bytes; {name} asks {needs}" if needs > hbm else ""


def _other_products(e: Emitted, v: Verdict) -> str:
    """A sentence where the compiled HLO, or the text, multiplies float32 otherwise than the tile program asks."""
    asked = set(xla.asked(e.kernel.program))
    found = {p for p in (xla.realized(e.text) if e.language == "stablehlo" else e.products) if p in SCHEME.values()}
    found |= {
        SCHEME[word.upper()]
        for p in v.products
        for word in p.split(",")
        if "bf16x6" in asked and word.upper() in SCHEME
    }
    return (
        f"multiplies float32 as {', '.join(sorted(found - asked))}, asked {', '.join(sorted(asked))}"
        if found - asked
        else ""
    )
