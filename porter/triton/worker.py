"""A process that compiles Triton modules, one after another: `python -m porter.triton.worker`, spoken to in pickles.

A compiler that crashes takes this process with it, not porter's. Each request is a dict (text, name, arch, stage); each
answer a dict of what Triton and ptxas had to say. Triton's own cache lies in a folder that goes with the process.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import sys
import tempfile
from typing import Any, BinaryIO

WARP = 32


def compile_text(text: str, name: str, arch: int, stage: str) -> dict[str, Any]:
    """Compile a module's kernel for compute capability `arch` ('cubin'), or as far as Triton's own IR ('ttir').

    Answers {'ok', 'message', 'ptx', 'ttir', 'ttgir', 'cubin', 'shared', 'registers', 'spills', 'tensor_memory'}.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from porter.triton.emit import ALIGNMENT
    from porter.triton.harness import load

    module = load(text, name)
    aligned: dict[tuple[int], list[list[Any]]] = {
        (i,): [["tt.divisibility", ALIGNMENT]] for i in range(len(module["SIGNATURE"]))
    }
    source = ASTSource(module[name], module["SIGNATURE"], {}, aligned)
    target = GPUTarget("cuda", arch, WARP)
    log = io.StringIO()
    triton.knobs.nvidia.dump_ptxas_log = True
    triton.knobs.compilation.always_compile = True  # ptxas speaks only when it runs
    try:
        if stage == "ttir":
            return {"ok": True, "message": "", "ttir": _ttir(source, target, module["OPTIONS"])}
        with contextlib.redirect_stdout(log):
            done = triton.compile(source, target=target, options=module["OPTIONS"])
    except Exception as error:  # a compiler's errors are of many kinds; each is the verdict on this kernel
        return {"ok": False, "message": _plain(error)}
    said = log.getvalue()
    found = {key: [int(x) for x in re.findall(pattern, said)] for key, pattern in (
        ("registers", r"Used (\d+) registers"), ("stores", r"(\d+) bytes spill stores"))}  # fmt: skip
    return {
        "ok": True, "message": "",
        "ttir": done.asm["ttir"], "ttgir": done.asm["ttgir"], "ptx": done.asm["ptx"], "cubin": done.asm["cubin"],
        "shared": done.metadata.shared, "tensor_memory": getattr(done.metadata, "tmem_size", None) or 0,
        "registers": max(found["registers"], default=0), "spills": max(found["stores"], default=0),
        "warps": done.metadata.num_warps,
    }  # fmt: skip


def _ttir(source: Any, target: Any, options: dict[str, Any]) -> str:
    """Triton's own IR, before any pass that knows a GPU."""
    from triton._C.libtriton import ir
    from triton.compiler.compiler import make_backend

    backend = make_backend(target)
    chosen = backend.parse_options(dict(options))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions = backend.get_codegen_implementation(chosen)
    module = source.make_ir(target, chosen, functions, backend.get_module_map(), context)
    return str(backend.make_ttir(module, {}, chosen, target.arch))


def _plain(error: BaseException) -> str:
    """The error's own words and its cause's, without the source listing."""
    words = []
    while error is not None:
        text = str(error).strip()
        words.append(text.splitlines()[-1] if text else type(error).__name__)
        error = error.__cause__  # type: ignore[assignment]
    return "; ".join(dict.fromkeys(words))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(compile_text(**request), answers)
        answers.flush()


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a compiler prints must not end up among the answers
    with tempfile.TemporaryDirectory(prefix="porter-triton-") as folder:
        os.environ.update(TRITON_CACHE_DIR=folder, TRITON_DISABLE_LINE_INFO="1", TRITON_DEFAULT_FP_FUSION="1")
        os.environ.pop("TRITON_INTERPRET", None)
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
