"""The bundle: what a port hands over. A folder with the launch list, the kernels, the weights, and how all was checked.

write(dest, manifest, files, weights)        whole or not at all, byte for byte reproducible
bundle = read(path)                          verifies every hash first: a bundle is code
outputs, how = run(bundle, inputs)           through the emitted kernels' own text
offsets = plan(lives)                        where each intermediate lies in the arena
"""

from __future__ import annotations

from porter.words import words

_WORDS = {
    "Manifest": "manifest",
    "Model": "manifest",
    "Buffer": "manifest",
    "Kernel": "manifest",
    "Launch": "manifest",
    "Tensor": "manifest",
    "Life": "arena",
    "Plan": "arena",
    "lives": "arena",
    "plan": "arena",
    "staging": "folder",
    "available": "folder",
    "Lazy": "weights",
    "write": "writer",
    "Bundle": "reader",
    "read": "reader",
    "verify": "reader",
    "read_inputs": "inputs",
    "check_inputs": "inputs",
    "run": "execute",
}

__all__ = sorted(_WORDS)

__getattr__ = words(__name__, _WORDS)
