"""Recognizes a language model's graphs: which inputs are its cache, and what to bind its dims to.

By structure, not by names: a cache is a float input of rank 3 or more for which there is an output that differs from it
in one axis only, which grew; a prompt graph makes such outputs from token ids and has no cache yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from porter import graph
from porter.graph import Model, Value


@dataclass(frozen=True)
class Cache:
    """One tensor of the cache: the input that has it before (None in a prompt graph), the output after, its bytes a token."""

    past: str | None
    present: str
    bytes_per_token: int


@dataclass(frozen=True)
class Decoder:
    """A decoder at bound dims. `hidden`: width of the last layer's input to the vocabulary, 0 where it was not found."""

    phase: str  # 'prefill' or 'decode'
    batch: int
    tokens: int  # new tokens of each sequence in one run
    context: int  # tokens in the cache before the run
    caches: tuple[Cache, ...]
    hidden: int = 0
    heads: int = 0  # of keys and values: what tensor parallelism divides

    @property
    def layers(self) -> int:
        """A layer keeps a key and a value, in one tensor of rank 5 or in two."""
        return max(1, len(self.caches) // 2) if self.caches else 0

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one more token adds to the cache, over the whole batch."""
        return sum(c.bytes_per_token for c in self.caches)


def recognize(model: Model) -> Decoder | None:
    """The decoder that a model with bound dims is, or None."""
    ids = _ids(model)
    if ids is None:
        return None
    shape = graph.shape(ids)
    logits = next(
        (
            v
            for v in model.graph.outputs
            if _float(v) and len(s := graph.shape(v) or ()) in (2, 3) and shape and s[0] == shape[0]
        ),
        None,
    )
    if shape is None or logits is None:
        return None
    batch, tokens = shape
    inputs = [v for v in model.graph.inputs if not v.is_initializer() and _float(v)]
    outputs = [v for v in model.graph.outputs if _float(v) and v is not logits]
    pairs, free = [], list(outputs)
    for v in inputs:
        for o in free:
            if (axis := _grown(v, o)) is not None:
                pairs.append((v, o, axis))
                free.remove(o)
                break
    if pairs:
        caches = tuple(_cache(v, o, axis) for v, o, axis in pairs)
        past = graph.shape(pairs[0][0])
        assert past is not None
        heads = past[pairs[0][2] - 1]
        return Decoder("decode", batch, tokens, past[pairs[0][2]], caches, _hidden(model, logits), heads)
    made = [o for o in outputs if len(s := graph.shape(o) or ()) >= 4 and tokens in s[-3:] and batch in s]
    if not made:
        return None
    first = graph.shape(made[0]) or ()
    axis = max(i for i in range(len(first) - 1) if first[i] == tokens)
    caches = tuple(_cache(None, o, axis) for o in made)
    return Decoder("prefill", batch, tokens, 0, caches, _hidden(model, logits), first[axis - 1])


def _ids(model: Model) -> Value | None:
    """The token ids: the first integer input of rank 2."""
    for v in model.graph.inputs:
        dtype = graph.dtype(v)
        if (
            not v.is_initializer()
            and dtype is not None
            and dtype.kind in "iu"
            and v.shape is not None
            and len(v.shape) == 2
        ):
            return v
    return None


def _float(value: Value) -> bool:
    dtype = graph.dtype(value)
    return dtype is not None and (dtype.kind == "f" or dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"))


def _grown(before: Value, after: Value) -> int | None:
    """The only axis in which `after` is larger than `before`; None where they differ otherwise."""
    b, a = graph.shape(before), graph.shape(after)
    if b is None or a is None or len(b) != len(a) or len(b) < 3 or graph.dtype(before) != graph.dtype(after):
        return None
    differ = [i for i, (x, y) in enumerate(zip(b, a, strict=True)) if x != y]
    return differ[0] if len(differ) == 1 and a[differ[0]] > b[differ[0]] else None


def _cache(past: Value | None, present: Value, axis: int) -> Cache:
    shape, dtype = graph.shape(present), graph.dtype(present)
    assert shape is not None and dtype is not None
    size = dtype.itemsize
    for i, n in enumerate(shape):
        size *= n if i != axis else 1
    return Cache(None if past is None else str(past.name), str(present.name), size)


def _hidden(model: Model, logits: Value) -> int:
    """The length of the sums that make the logits: what the last product contracts over."""
    value: Value | None = logits
    for _ in range(16):
        node = value.producer() if value is not None else None
        if node is None:
            return 0
        if node.op_type in ("MatMul", "Gemm") and node.inputs[0] is not None:
            shape = graph.shape(node.inputs[0])
            return shape[-1] if shape else 0
        value = node.inputs[0] if node.inputs else None
    return 0


def takes_cache(model: Model) -> bool:
    """Whether an input is a float tensor of rank 3 or more beside token ids: the step graph of a decoder, dims unbound."""
    inputs = (v for v in model.graph.inputs if not v.is_initializer())
    return _ids(model) is not None and any(_float(v) and v.shape is not None and len(v.shape) >= 3 for v in inputs)


def makes_cache(model: Model) -> bool:
    """Whether token ids come in and tensors of rank 4 or more go out that are as long: a prompt graph, dims unbound."""
    ids = _ids(model)
    if ids is None or ids.shape is None:
        return False
    tokens = str(ids.shape[1])
    outputs = (v for v in model.graph.outputs if _float(v) and v.shape is not None and len(v.shape) >= 4)
    return any(tokens in map(str, v.shape or ()) for v in outputs)


def free(model: Model, dims: Mapping[str, int]) -> list[str]:
    """The free dims that nobody has bound and that follow from no other."""
    return [d.name for d in graph.dims(model) if d.follows is None and not {d.name, *d.places} & dims.keys()]


def takes_prompts(model: Model) -> bool:
    """Whether a graph that takes a cache also takes any number of new tokens: it serves the prompt too."""
    ids = _ids(model)
    return ids is not None and ids.shape is not None and takes_cache(model) and not isinstance(ids.shape[1], int)


def proposed(model: Model, batch: int, context: int, tokens: int | None = None) -> dict[str, int]:
    """What to bind a decoder's free dims to: the batch, the tokens of a run, the tokens in the cache.

    tokens: 1 of a graph that takes a cache, else `context`, where not given.

    The model is as read, dims unbound. A dim that is at axis 0 of every input it stands in is the batch; one of a float
    input is the cache's length; one of an integer input is the tokens of a run where the ids have it, else tokens and
    cache together (an attention mask).
    """
    ids = _ids(model)
    floats = {str(v.name) for v in model.graph.inputs if not v.is_initializer() and _float(v)}
    has_past = takes_cache(model)
    tokens = tokens or (1 if has_past else context)
    found: dict[str, int] = {}
    free = graph.dims(model)
    of_ids = {str(d.name): p for d in free for p in d.places if ids is not None and p.startswith(f"{ids.name}[")}
    heads = {n for n, p in of_ids.items() if p.endswith("[0]")}
    for dim in free:
        if dim.follows is not None:
            continue
        if dim.name in heads or all(p.endswith("[0]") for p in dim.places):
            found[dim.name] = batch
        elif dim.name in of_ids:
            found[dim.name] = tokens
        elif any(p.rpartition("[")[0] in floats for p in dim.places):
            found[dim.name] = context
        else:
            found[dim.name] = context + tokens if has_past else tokens
    return found
