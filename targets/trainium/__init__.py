"""AWS Trainium and Inferentia2: kernels as NKI text, run by a simulator of the public NKI surface."""

from __future__ import annotations

from porter.targets.trainium.target import Trainium

target = Trainium()

__all__ = ["target"]
