"""Random operators: numbers that follow a distribution, the same at every run.

Only the distribution is the standard's. A node without a seed draws as if it had the seed 0, so that a model can be compared with
another and with itself. The host draws: a device's own generator would draw other numbers.
"""

from __future__ import annotations

import numpy as np

from porter.ops.registry import op
from porter.ops.types import dtype_of

_HOST = "random numbers"


def _generator(seed):
    return np.random.default_rng(int(np.float32(0.0 if seed is None else seed).view(np.uint32)))


def _like(types, dtype):
    """The type of the result: the one that is named, else the input's."""
    return types[0] if dtype is None else dtype_of(dtype)


@op("RandomNormal", host=_HOST)
def random_normal(xp, *, dtype=1, mean=0.0, scale=1.0, seed=None, shape):
    """mean + scale * a standard normal."""
    return xp.cast(mean + scale * _generator(seed).standard_normal(tuple(shape)), dtype_of(dtype))


@op("RandomUniform", host=_HOST)
def random_uniform(xp, *, dtype=1, high=1.0, low=0.0, seed=None, shape):
    """Uniform from low to high."""
    return xp.cast(_generator(seed).uniform(low, high, tuple(shape)), dtype_of(dtype))


@op("RandomNormalLike", host=_HOST)
def random_normal_like(xp, x, *, dtype=None, mean=0.0, scale=1.0, seed=None, types=()):
    """mean + scale * a standard normal, in the shape of x."""
    return xp.cast(mean + scale * _generator(seed).standard_normal(x.shape), _like(types, dtype))


@op("RandomUniformLike", host=_HOST)
def random_uniform_like(xp, x, *, dtype=None, high=1.0, low=0.0, seed=None, types=()):
    """Uniform from low to high, in the shape of x."""
    return xp.cast(_generator(seed).uniform(low, high, x.shape), _like(types, dtype))


@op("Bernoulli", since=15, host=_HOST)
def bernoulli(xp, x, *, dtype=None, seed=None, types=()):
    """1 with the probability x, else 0."""
    return xp.cast(_generator(seed).uniform(size=x.shape) < x, _like(types, dtype))


@op("Multinomial", since=7, host=_HOST)
def multinomial(xp, x, *, dtype=6, sample_size=1, seed=None):
    """sample_size classes per row, each with a probability in proportion to exp(x)."""
    chances = xp.exp(x - xp.max(x, axis=1, keepdims=True))
    bounds = xp.cumsum(chances / xp.sum(chances, axis=1, keepdims=True), 1)
    thrown = _generator(seed).uniform(size=(x.shape[0], 1, sample_size))
    # the first class whose bound lies beyond what was thrown; rounding may leave the last bound below 1
    passed = np.sum(thrown >= np.asarray(bounds)[:, :-1, None], axis=1)
    return xp.cast(passed, dtype_of(dtype))
