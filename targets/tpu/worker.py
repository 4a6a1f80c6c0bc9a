"""A process of its own that compiles for TPUs ahead of time: libtpu holds a lock and prints, and must not touch the
caller's jax.

    python -m porter.targets.tpu.worker TOPOLOGY < jobs.json > verdicts.json

A job is {"name", "pieces": [{"language", "function", "text", "inputs": [buffer...], "outputs": [buffer...]}],
"arguments": [[buffer, shape, dtype]...], "results": [buffer...]}: pieces run in order over named buffers in one
jitted function. A verdict is {"name", "ok", "message", "size", "sha256", "resources", "cost", "copies", "products",
"kernels": {function: {"instructions", "products", "vmem"}}}: what XLA made of each piece, by the scope that its
instructions name.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from typing import Any

# XLA's O1. The default took twice as long on convolutions in six passes (19 s of CPU for a small ResNet, 9 s at O1),
# and its code was larger with a higher estimate of its own.
_EFFORT: Any = {"optimization_level": 1}


def main() -> None:
    topology = sys.argv[1]
    jobs = json.load(sys.stdin)
    stdout, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no verdict
    import jax
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    # tracebacks stay: without them the scope of what an exported text computes is lost on the way
    jax.config.update("jax_hlo_source_file_canonicalization_regex", ".*")
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    sharding = SingleDeviceSharding(devices[0])
    verdicts = []
    for job in jobs:
        with jax.enable_x64(_doubles(job)):
            verdicts.append(_compile(job, sharding))
    json.dump(verdicts, stdout)


def _doubles(job: dict[str, Any]) -> bool:
    """Whether a job computes in float64: XLA makes pairs of float32 of it."""
    return any("f64" in p["text"] for p in job["pieces"] if p["language"] == "stablehlo")


def _compile(job: dict[str, Any], sharding: Any) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    from jax.experimental.layout import Format, Layout

    verdict: dict[str, Any] = {"name": job["name"], "ok": False, "message": ""}
    try:
        calls = [(_function(p), p["inputs"], p["outputs"], p["function"]) for p in job["pieces"]]
        types = [
            jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(d), sharding=sharding) for _, shape, d in job["arguments"]
        ]
        names = [a[0] for a in job["arguments"]]

        def program(*arguments: Any) -> list[Any]:
            buffers = dict(zip(names, arguments, strict=True))
            for function, inputs, outputs, name in calls:
                with jax.named_scope(name):
                    found = function(*(buffers[i] for i in inputs))
                buffers.update(zip(outputs, found if isinstance(found, tuple | list) else (found,), strict=True))
            return [buffers[r] for r in job["results"]]

        program.__name__ = re.sub(r"\W", "_", job["name"]) or "program"
        # What a Pallas kernel reads or writes lies row-major, since any other layout would be copied; for the rest XLA
        # chooses (a convolution's weights row-major would be padded fiftyfold).
        pallas = {n for p in job["pieces"] if p["language"] == "pallas" for n in (*p["inputs"], *p["outputs"])}

        def formats(buffers: list[str], shapes: list[Any]) -> list[Any]:
            return [Format(Layout(tuple(range(len(x.shape)))), sharding) if n in pallas else sharding
                    for n, x in zip(buffers, shapes, strict=True)]  # fmt: skip

        results = formats(job["results"], jax.eval_shape(program, *types))
        jitted = jax.jit(program, in_shardings=tuple(formats(names, types)), out_shardings=results, keep_unused=True)
        compiled: Any = jitted.lower(*types).compile(_EFFORT)
    except Exception as error:
        verdict["message"] = _sentence(error)
        return verdict
    text = compiled.as_text()
    code = compiled.runtime_executable().serialize()
    memory = compiled.memory_analysis()
    verdict.update(
        ok=True, size=len(code), sha256=hashlib.sha256(code).hexdigest(), cost=_cost(compiled.cost_analysis()),
        copies=_copies(text), products=_products(text),
        kernels=_kernels(text, {p["function"] for p in job["pieces"]}),
        resources={"code": memory.generated_code_size_in_bytes, "arguments": memory.argument_size_in_bytes,
                   "outputs": memory.output_size_in_bytes, "temporaries": memory.temp_size_in_bytes, "vmem":
                   _vmem(text)},
    )  # fmt: skip
    return verdict


def _function(piece: dict[str, Any]) -> Any:
    if piece["language"] == "stablehlo":
        from porter.xla.hlo import call

        return call(piece["text"], "tpu")
    space: dict[str, Any] = {"__name__": piece["function"]}
    exec(compile(piece["text"], f"<{piece['function']}>", "exec"), space)
    function = space[piece["function"]]

    def in_32_bits(*arguments: Any) -> Any:
        import jax

        with jax.enable_x64(False):  # beside pieces in float64: Mosaic has no 64-bit types
            return function(*arguments)

    return in_32_bits


def _sentence(error: Exception) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:400]}" if lines else type(error).__name__


def _cost(found: Any) -> dict[str, float]:
    """XLA's figures; one that is not above zero is dropped, since it only says that XLA does not know."""
    return {
        k: float(found[k])
        for k in ("flops", "transcendentals", "bytes accessed", "optimal_seconds")
        if found.get(k, 0) > 0
    }


def _kernels(text: str, functions: set[str]) -> dict[str, dict[str, Any]]:
    """What the program has of each function: how many instructions, operand_precision of products, VMEM."""
    lines: dict[str, list[str]] = {f: [] for f in functions}
    for line in text.splitlines():
        if (scope := re.search(r'op_name="([^"]*)"', line)) is not None:
            for function in functions & set(scope.group(1).split("/")):
                lines[function].append(line)
    return {
        f: {"instructions": len(own), "products": _products("\n".join(own)), "vmem": _vmem("\n".join(own))}
        for f, own in lines.items()
    }


def _copies(text: str) -> dict[str, int]:
    """copy, transpose and reshape instructions in the scheduled program: layouts that somebody pinned, paid for. An
    asynchronous
    copy-start between memories is prefetching, and not counted."""
    return {op: len(re.findall(rf"= \S+ {op}\(", text)) for op in ("copy", "transpose", "reshape")}


def _products(text: str) -> list[str]:
    """operand_precision of the products that XLA itself emits (a Pallas call is opaque here)."""
    return sorted(set(re.findall(r"operand_precision=\{([^}]*)\}", text)))


def _vmem(text: str) -> int:
    """The most VMEM that one instruction of the program holds (memory space 1), as the compiler reports it."""
    sizes = [0]
    for found in re.findall(r'"used_scoped_memory_configs":\[([^\]]*)\]', text):
        configs = re.findall(r'"memory_space":"1","offset":"(\d+)","size":"(\d+)"', found)
        sizes.append(max((int(o) + int(s) for o, s in configs), default=0))
    return max(sizes)


if __name__ == "__main__":
    main()
