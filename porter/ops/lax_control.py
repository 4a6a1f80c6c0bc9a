"""Control flow of the jax namespaces: branches, loops and scans, unrolled where few turns are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from porter.errors import PorterError
from porter.ops.namespace import NotKnown
from porter.ops.operands import aligned, arrays

# Loops of at most this many turns unroll: each turn then knows its number.
_UNROLLED = 32


def _shapes_kept(build: Callable[[], Any]) -> Any:
    """What `build` makes; every branch and every turn must return the same shapes, and be valid whichever is taken."""
    try:
        return build()
    except NotKnown:
        raise
    except (TypeError, PorterError) as error:
        raise NotKnown("control flow", expected="the same shapes on every way", found=str(error)) from error


class Control:
    """What runs bodies."""

    concrete: Callable[[Any], bool]
    reshape: Callable[..., Any]

    def cond(self, flag: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        if self.concrete(flag):
            return then() if bool(np.asarray(flag).reshape(-1)[0]) else otherwise()
        chosen = self.reshape(flag, ())
        return _shapes_kept(lambda: lax.cond(chosen, lambda: arrays(then()), lambda: arrays(otherwise())))

    def loop(
        self, trip_count: Any, flag: Any, state: tuple[Any, ...], body: Callable[..., Any], scans: int
    ) -> tuple[tuple[Any, ...], list[Any]]:
        """As in numpy: a few turns unroll, many are a scan, an unknown number is a while_loop that collects no rows."""
        known = self.concrete(trip_count) and trip_count is not None
        if self.concrete(flag) and known and trip_count <= _UNROLLED:
            rows: list[list[Any]] = [[] for _ in range(scans)]
            turns = trip_count if bool(np.all(flag)) else 0
            held = state
            for i in range(turns):
                flag, held, new = body(np.int64(i), flag, held)
                for row, value in zip(rows, new, strict=True):
                    row.append(value)
                if not self.concrete(flag):
                    break
                if not bool(np.all(flag)):
                    return held, rows
            else:
                return held, rows
        if not scans:
            return self._while(trip_count, flag, state, body), []
        if not known or not self.concrete(flag) or not bool(np.all(flag)):
            raise NotKnown("Loop", expected="a number of turns that is known", found="a computed one")

        def step(carry: Any, i: Any) -> Any:
            held, values, new = body(i, np.asarray(True), carry)
            if not self.concrete(held) or not bool(np.all(held)):
                raise NotKnown("Loop", expected="a number of turns that is known", found="a computed condition")
            return arrays(values), arrays(new)

        final, columns = _shapes_kept(lambda: lax.scan(step, arrays(state), lax.iota(np.int64, trip_count)))
        return final, list(columns)

    def _while(self, trip_count: Any, flag: Any, state: tuple[Any, ...], body: Callable[..., Any]) -> tuple[Any, ...]:
        limit = np.int64(np.iinfo(np.int64).max) if trip_count is None else trip_count

        def turn(carry: Any) -> Any:
            n, held, values = carry
            held, values, _ = body(n, held, values)
            return n + 1, self.reshape(jax.numpy.asarray(held), ()), arrays(values)

        start = (jax.numpy.asarray(np.int64(0)), self.reshape(jax.numpy.asarray(flag), ()), arrays(state))
        more = lambda c: lax.bitwise_and(c[1], lax.lt(*aligned(c[0], limit)))
        return _shapes_kept(lambda: lax.while_loop(more, turn, start))[2]

    def scan(
        self, body: Callable[..., Any], state: tuple[Any, ...], xs: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
        if xs[0].shape[0] == 0:
            return state, None
        if xs[0].shape[0] == 1:  # one turn is no loop
            held, new = body(state, tuple(self.reshape(x, x.shape[1:]) for x in xs))
            return held, tuple(self.reshape(y, (1, *y.shape)) for y in new)

        def step(carry: Any, rows: Any) -> Any:
            held, new = body(carry, rows)
            return arrays(held), arrays(new)

        return _shapes_kept(lambda: lax.scan(step, arrays(state), arrays(xs)))
