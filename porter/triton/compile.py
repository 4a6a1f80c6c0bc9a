"""Compiles Triton modules without a device, in parallel processes, and keeps the results by content.

    results = compile([Job("name", text, arch=90)])        in order; each a Result
    results[0].shared, .registers, .cubin, .units

The workers are started once and serve until porter ends. Equal text for an equal architecture by an equal Triton is
compiled once: results lie under $XDG_CACHE_HOME/porter/triton, size-capped.
"""

from __future__ import annotations

import atexit
import base64
import hashlib
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from porter.pipeline.cache import Cache
from porter.triton.ptx import units

WORKERS = 2
TIMEOUT = 600.0  # seconds for one kernel, a hundred times what the slowest seen took
CAP = 256 << 20  # bytes of kept results


@dataclass(frozen=True)
class Job:
    """A module to compile: for a compute capability to 'cubin', or only to Triton's own IR ('ttir')."""

    name: str
    text: str
    arch: int = 90
    stage: Literal["cubin", "ttir"] = "cubin"


@dataclass(frozen=True)
class Result:
    """What the toolchain said of one module. Bytes: shared memory per block, spilled per thread, tensor memory."""

    ok: bool
    message: str = ""
    ttir: str = ""
    ttgir: str = ""
    ptx: str = ""
    cubin: bytes = field(default=b"", repr=False)
    shared: int = 0
    registers: int = 0
    spills: int = 0
    tensor_memory: int = 0
    warps: int = 0

    @property
    def units(self) -> tuple[str, ...]:
        """The matrix instructions that the kernel uses."""
        return units(self.ptx)


def triton_version() -> str | None:
    """The installed Triton's version; None where there is none."""
    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def compile(jobs: Sequence[Job], *, no_cache: bool = False) -> list[Result]:
    """One result per job, in order; equal jobs are compiled once. Triton must be installed. Threads may call this at
    the same time: the workers are shared."""
    kept = replace(Cache.open("triton", no_cache=no_cache), cap=CAP)
    keys = [_key(job) for job in jobs]
    results: dict[str, Result] = {}
    waiting: dict[str, Job] = {}
    for key, job in zip(keys, jobs, strict=True):
        if key in results or key in waiting:
            continue
        found = _read(kept.get(key))
        if found is None:
            waiting[key] = job
        else:
            results[key] = found
    if waiting:
        with _START:
            pool, _ = _pool(), _idle()
        for key, result in zip(waiting, pool.map(_compile, waiting.values()), strict=True):
            results[key] = result
            if not result.message.startswith(CRASH):  # a crash may have had a cause outside the text
                kept.put(key, _document(result))
        kept.trim()
    return [results[key] for key in keys]


CRASH = "the compiler"
_START = threading.Lock()


def _compile(job: Job) -> Result:
    worker = _idle().get()
    try:
        return worker.compile(job)
    finally:
        _idle().put(worker)


class _Worker:
    """A compiling process, started when it is first needed and again after a crash."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def compile(self, job: Job) -> Result:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen([sys.executable, "-m", "porter.triton.worker"], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        late = threading.Timer(TIMEOUT, process.kill)
        late.start()
        try:
            pickle.dump({"text": job.text, "name": job.name, "arch": job.arch, "stage": job.stage}, process.stdin)
            process.stdin.flush()
            return Result(**pickle.load(process.stdout))
        except (EOFError, OSError, pickle.UnpicklingError):
            process.kill()
            code = process.wait()
            return Result(False, f"{CRASH} ended with code {code} on kernel {job.name}")
        finally:
            late.cancel()

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            with suppress(OSError):  # a worker that died, by the same Ctrl-C perhaps, reads no more
                self.process.stdin.close()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(WORKERS, thread_name_prefix="porter-triton")


@cache
def _idle() -> queue.Queue[_Worker]:
    workers: queue.Queue[_Worker] = queue.Queue()
    for _ in range(WORKERS):
        worker = _Worker()
        atexit.register(worker.close)
        workers.put(worker)
    return workers


@cache
def _sources() -> str:
    """What a result depends on beside its job: Triton, and the code that asks it."""
    here = Path(__file__).parent
    code = b"".join((here / f"{name}.py").read_bytes() for name in ("worker", "compile"))
    return f"{triton_version()} {hashlib.sha256(code).hexdigest()}"


def _key(job: Job) -> str:
    return hashlib.sha256("\0".join([_sources(), job.name, str(job.arch), job.stage, job.text]).encode()).hexdigest()


def _document(result: Result) -> dict[str, Any]:
    return {**asdict(result), "cubin": base64.b64encode(result.cubin).decode()}


def _read(document: Any) -> Result | None:
    """A kept result; None for what is missing or damaged."""
    if not isinstance(document, dict) or document.keys() != {f.name for f in fields(Result)}:
        return None
    return Result(**{**document, "cubin": base64.b64decode(document["cubin"])})
