"""Losses of classification."""

from __future__ import annotations

import math

import numpy as np

from porter.ops import activation
from porter.ops.registry import op


def _reduced(xp, loss, weight, reduction):
    if reduction == "none":
        return loss
    total = xp.sum(loss)
    if reduction == "sum":
        return total
    return total / (float(math.prod(loss.shape)) if weight is None else xp.sum(weight))


@op("NegativeLogLikelihoodLoss", since=12)
def negative_log_likelihood_loss(xp, x, target, weight=None, *, ignore_index=None, reduction="mean"):
    """-weight[t] * x[n, t, ...] at each target t; the mean divides by the weights, and an ignored target has none."""
    n, c = x.shape[:2]
    spread = (n, 1, math.prod(x.shape[2:]))
    flat = xp.cast(xp.reshape(target, spread), np.int64)
    kept = None if ignore_index is None else xp.not_equal(flat, ignore_index)
    safe = flat if kept is None else xp.where(kept, flat, xp.full((), 0, np.int64))
    loss = -xp.take_along_axis(xp.reshape(x, (n, c, -1)), safe, 1)
    share = None if weight is None else xp.take(weight, safe, 0)
    if kept is not None:
        share = xp.cast(kept, x.dtype) if share is None else xp.where(kept, share, xp.full((), 0, x.dtype))
    loss = loss if share is None else loss * share
    return _reduced(xp, xp.reshape(loss, target.shape), share, reduction)


@op("SoftmaxCrossEntropyLoss", since=12)
def softmax_cross_entropy_loss(xp, scores, labels, weights=None, *, ignore_index=None, reduction="mean", outputs=1):
    """NegativeLogLikelihoodLoss of the log-softmax over axis 1, which is the second output."""
    log_prob = activation.log_softmax(xp, scores, axis=1)
    loss = negative_log_likelihood_loss(xp, log_prob, labels, weights, ignore_index=ignore_index, reduction=reduction)
    return (loss, log_prob)[:outputs]
