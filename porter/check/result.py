"""`porter check A B`: equivalent, different or unknown, with the evidence.

    result = check("a.onnx", "b.onnx", dims={"batch": 1})
    result.verdict, result.message, result.first_divergence

Two models are *equivalent* when they are the same expressions of the same inputs, when the field proves that they are
the same function and nothing in their own arithmetic contradicts it, or, where the field cannot say, when on every draw
the second is as near to float64 as the formats of the first allow. They are *different* when some input shows it; that
input is named. Method 'field' alone leaves what it cannot prove *unknown*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from porter import graph
from porter.check import gate, hidden
from porter.check.contract import Budget, Contract, Kind, algebraic, budgets, rounding
from porter.check.execution import SOURCE, Subject
from porter.check.field import ALONE, Agreement, agree
from porter.check.inputs import Inputs, draw, edges, extremes
from porter.check.ledger import Taken, ledger
from porter.check.local import Local
from porter.check.measure import distance, is_float
from porter.check.numeric import compare, finding, matched_outputs, renamed
from porter.check.tables import pointed
from porter.check.verdict import Finding, Verdict, message
from porter.errors import PorterError, Undecided
from porter.graph import Model
from porter.ops.residue_values import Renews

Method = Literal["auto", "numeric", "field"]
Word = Literal["equivalent", "different", "unknown"]
DRAWS = 3
WIDER = (100, 1000, 10, 0.01)  # scales of further draws where the field tells the two apart: what was silent may speak
IDENTICAL = Agreement(True, 0.0, 0, "structure")


@dataclass(frozen=True)
class Result:
    """What `porter check` found.

    method     'structure', 'field', 'numeric' or 'field+numeric': what the verdict rests on
    cause      for 'different': 'function' (they differ in float64 too), 'hidden' (in float64, and by less than the first
               model's own rounding), 'rounding', 'budget' or 'interface'
    chance     of an error of the field method, where it decided
    message    lines for people
    explained  with explain=True: why inputs are what they are, and the numbers of the gates
    """

    verdict: Word
    method: str
    models: tuple[str, str]
    outputs: tuple[Finding, ...] = ()
    first_divergence: Finding | None = None
    cause: str = ""
    chance: float | None = None
    message: str = ""
    draws: tuple[str, ...] = ()
    explained: tuple[str, ...] = field(default=())

    @property
    def exit_code(self) -> int:
        """0 equivalent, 1 different, 3 unknown."""
        return {"equivalent": 0, "different": 1, "unknown": 3}[self.verdict]

    def json(self) -> dict[str, Any]:
        """The document of `porter check --json`."""
        first = self.first_divergence
        return {
            "verdict": self.verdict,
            "method": self.method,
            "outputs": [f.json() for f in self.outputs],
            "first_divergence": None if first is None else first.json(),
            "models": list(self.models),
            "cause": self.cause or None,
            "chance_of_error": self.chance,
            "draws": list(self.draws),
            "message": self.message,
            **({"explained": list(self.explained)} if self.explained else {}),
        }


def check(
    a: Any,
    b: Any,
    *,
    dims: Mapping[str, int] | None = None,
    method: Method = "auto",
    inputs: Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]] | str | Path | None = None,
    budgets: Mapping[str, float] | Iterable[str | Budget] | None = None,
    explain: bool = False,
    locate: bool = True,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Result:
    """Compare two models, given as paths, ModelProtos or loaded models; the first may be a `Subject`, whose results are
    kept for the next second model on the same inputs.

    `inputs` are samples, or an .npz of one, in place of draws. With `budgets` ('sqnr_db=40', {'cosine': 0.999}) the
    second may be of a cheaper format: it is equivalent when it keeps them against float64. With `locate` the first place
    where they part is looked for. Bad models, dims, inputs or
    budgets raise PorterError.
    """
    if method not in ("auto", "numeric", "field"):
        raise PorterError(f"method {method!r}", expected="auto, numeric or field")
    names = _name(a, "A"), _name(b, "B")
    known = a if isinstance(a, Subject) else Subject(_load(a, dims))
    before, after = known.model, _load(b, dims, known.model)
    try:
        matched_outputs(before, after)
        _same_inputs(before, after)
    except PorterError as error:
        return Result("different", "interface", names, cause="interface", message=str(error))
    limits = _contract(budgets)
    if limits is not None and method == "field":
        raise PorterError("a budget with the field method", expected="method auto or numeric", found="field")
    samples = _samples(known, inputs, seed)
    if inputs is None and (rows := pointed(before, after, samples[0], dict(_paired_inputs(before, after)))) is not None:
        samples = [rows, *samples]  # first, so that the field's integers are these too
    asked = method != "numeric" and limits is None
    pair, contract = (known, Subject(after)), limits or rounding
    agreement = Agreement(None, reason="not asked")
    local = Local(before, after, samples, {b: a for a, b in _paired_inputs(before, after)}) if asked else None
    if local is not None and local.identical():
        agreement, samples = IDENTICAL, samples[: 1 if inputs is None else None]  # one run, for the figures
    if method == "field":
        samples = samples[:1]  # a witness, against laws that hold in the field alone
    # one draw first: most faults show at once, and the field is the dearer method
    total = len(samples) + asked
    progress("on the first inputs", 0, total)
    held = [compare(*pair, contract, samples[0], seed, locate=locate)]
    if local is not None and not agreement.equal and (held[0].ok or method == "field"):
        progress("in a prime field", 1, total)
        agreement = local.decide(seed)
        if local.rounded and not agreement.equal:  # what a region cannot, no larger one can
            agreement = Agreement(None, reason=f"constant '{local.rounded}' is rounded otherwise in the second")
        elif not agreement.equal:
            if method == "field" or not local.exhausted:
                agreement = agree(before, after, seed=seed, renews=ALONE if local.exhausted else tuple(Renews))
        elif inputs is None and local.settled(seed):
            samples = samples[:1]
    if method == "field" and not agreement.equal:
        return Result("unknown", "field", names, message=str(agreement))
    for sample in samples[1:]:
        if not held[-1].ok:
            break
        progress(f"on {getattr(sample, 'label', 'more inputs')}", len(held) + asked, total)
        held.append(compare(*pair, contract, sample, seed, locate=locate))
    told = local is not None and not agreement.equal and not local.rounded
    if told and held[-1].ok and inputs is None:
        for sample in _wider(known, seed):
            progress(f"on {sample.label}", len(held) + asked, total + len(WIDER))
            samples, held = [*samples, sample], [*held, compare(*pair, contract, sample, seed, locate=locate)]
            if not held[-1].ok:
                break
    if limits is None and held[-1].ok:
        for i, (sample, verdict) in enumerate(zip(samples, held, strict=False)):
            held[i] = specials(*pair, sample, verdict)
            if not held[i].ok:
                held = held[: i + 1]
                break
    if told and limits is None and held[-1].ok:
        for i, sample in enumerate(samples[: len(held)]):
            if hidden.apart(*pair, sample, seed):
                held = [*held[:i], compare(*pair, algebraic, sample, seed, locate=locate)]
                break
    if inputs is None and limits is None and held[-1].ok and len(samples) > 1:
        ends = extremes(before)
        survived = survives(*pair, ends)
        samples, held = [*samples, ends], [*held, *([] if survived is None else [survived])]
    return _judged(pair, contract, samples, held, agreement, names, method, explain)


def _judged(
    pair: tuple[Subject, Subject],
    contract: Contract,
    samples: list[Mapping[str, np.ndarray]],
    held: list[Verdict],
    agreement: Agreement,
    names: tuple[str, str],
    method: Method,
    explain: bool,
) -> Result:
    """The numeric evidence of the samples that were tried, next to what the field says."""
    labels = tuple(str(getattr(s, "label", f"sample {i}")) for i, s in enumerate(samples[: len(held)]))
    worst = next((v for v in held if not v.ok), None)
    outputs = _worst_outputs(held)
    explained = tuple(_explain(pair, samples, outputs, agreement, contract)) if explain else ()
    how = "field+numeric" if agreement.equal and method == "auto" else "field" if agreement.equal else "numeric"
    how = "structure" if agreement is IDENTICAL else how
    if worst is not None:
        cause = "budget" if contract.kind is Kind.PRECISION else _cause(*pair, samples[len(held) - 1])
        cause = "hidden" if worst.contract == str(algebraic) else cause
        notes = {
            "rounding": "both are the same function; the second rounds more than the formats of the first do",
            "hidden": "the rounding of the first hides it: in float64 the two are apart by more than constants are rounded",
        }
        lines = worst.message + (f"\n  {notes[cause]}" if cause in notes else "")
        return Result(
            "different", "numeric", names, outputs, worst.first_divergence, cause, None, lines, labels, explained
        )
    words = "the same expressions of the same inputs" if agreement is IDENTICAL else str(agreement)
    words = words if agreement.equal else f"as near to float64 as the first on {len(held)} inputs"
    if contract.kind is Kind.PRECISION:
        words = f"within {', '.join(str(b) for b in contract.budgets)} on {len(held)} inputs"
    chance = agreement.chance if agreement.equal else None
    return Result("equivalent", how, names, outputs, None, "", chance, words, labels, explained)


def specials(before: Subject, after: Subject, sample: Mapping[str, np.ndarray], verdict: Verdict) -> Verdict:
    """The verdict, or one that fails: infinities and NaN of the first model's own arithmetic are values like others,
    also where float64 has room for more (what overflows in float16 in the first must do so in the second)."""
    old = before.outputs(SOURCE, sample)
    new = after.outputs(SOURCE, renamed(before.model, after.model, sample))
    findings = list(verdict.outputs)
    for (a, b), (i, held) in zip(matched_outputs(before.model, after.model), enumerate(verdict.outputs), strict=True):
        x, y = np.asarray(old[a.name or ""]), np.asarray(new[b.name or ""])
        if not is_float(x.dtype) or x.shape != y.shape:
            continue
        apart = np.isfinite(x.astype(np.float64)) != np.isfinite(y.astype(np.float64))
        if apart.any():
            limit = "what is not finite in the first is in the second, or the other way round"
            findings[i] = replace(held, ok=False, distance=distance(x.astype(np.float64), y), limit=limit)
    if all(f.ok for f in findings):
        return verdict
    return replace(verdict, ok=False, outputs=tuple(findings), message=message(tuple(findings), None, ""))


def survives(before: Subject, after: Subject, sample: Mapping[str, np.ndarray]) -> Verdict | None:
    """A verdict that fails where the second model overflows and the first does not, at the ends of the formats; else
    None. What the first loses there is nobody's loss."""
    old = before.outputs(SOURCE, sample)
    new = after.outputs(SOURCE, renamed(before.model, after.model, sample))
    findings = []
    for a, b in matched_outputs(before.model, after.model):
        x, y = (np.asarray(v) for v in (old[a.name or ""], new[b.name or ""]))
        alike = is_float(x.dtype) and x.shape == y.shape
        lost = np.isfinite(x.astype(np.float64)) & ~np.isfinite(y.astype(np.float64)) if alike else np.zeros(1, bool)
        limit = f"{int(lost.sum())} finite elements of the first are not in it"
        judged = (
            gate.Judged(False, distance(x.astype(np.float64), y), limit)
            if lost.any()
            else gate.Judged(True, distance(x, x))
        )
        findings.append(finding(a, judged, "extremes"))
    if all(f.ok for f in findings):
        return None
    return Verdict(False, "rounding", tuple(findings), None, message(tuple(findings), None, ""))


def _cause(before: Subject, after: Subject, sample: Mapping[str, np.ndarray]) -> str:
    """'function' where the two differ in float64 by more than the rounding of stored constants, else 'rounding'."""
    try:
        verdict = compare(before, after, algebraic, sample, locate=False)
    except Undecided:
        return "function"
    ratios = [f.distance.sqnr_db for f in verdict.outputs if f.distance is not None]
    # constants stored in float32 move a result by 2**-24 of itself or so: 140 dB, less what their number adds
    return "rounding" if verdict.ok or min(ratios, default=0.0) > 120 else "function"


def _worst_outputs(verdicts: list[Verdict]) -> tuple[Finding, ...]:
    """Per output the finding of the draw that was worst for it."""
    rows = zip(*(v.outputs for v in verdicts), strict=True)
    return tuple(min(row, key=lambda f: (f.ok, f.distance.sqnr_db if f.distance else 0.0)) for row in rows)


def _explain(
    pair: tuple[Subject, Subject],
    samples: list[Mapping[str, np.ndarray]],
    outputs: tuple[Finding, ...],
    agreement: Agreement,
    contract: Contract,
) -> Iterable[str]:
    for name, words in getattr(samples[0], "why", {}).items():
        yield f"input '{name}': {words}"
    yield f"field: {agreement}"
    for f in outputs:
        if "error_base" in f.values:
            yield from gate.derived(f.tensor, f.values)
    step = Taken("the second model", pair[1].model, contract.kind is Kind.PRECISION)
    yield from ledger(pair[0].model, [step], samples[0]).text().splitlines()


def _samples(subject: Subject, inputs: Any, seed: int) -> list[Mapping[str, np.ndarray]]:
    if inputs is None:
        if seed not in subject.drawn:
            model = subject.model
            subject.drawn[seed] = [*(draw(model, seed + i) for i in range(DRAWS)), *edges(model)]
        return list(subject.drawn[seed])
    if isinstance(inputs, str | Path):
        try:
            with np.load(inputs, allow_pickle=False) as stored:
                made = Inputs(str(inputs))
                made.update({name: stored[name] for name in stored.files})
                return [made]
        except (OSError, ValueError) as error:
            raise PorterError(f"inputs '{inputs}'", expected="an .npz of arrays", found=str(error)) from error
    return [inputs] if isinstance(inputs, Mapping) else list(inputs)


def _wider(subject: Subject, seed: int) -> list[Inputs]:
    key = ("wider", seed)
    if key not in subject.drawn:
        scales = WIDER if any(is_float(np.dtype(graph.dtype(v) or object)) for v in subject.model.graph.inputs) else ()
        subject.drawn[key] = [draw(subject.model, seed + 200 + i, scale) for i, scale in enumerate(scales)]
    return list(subject.drawn[key])


def _contract(limits: Any) -> Contract | None:
    made = budgets(limits) if limits else ()
    return Contract(Kind.PRECISION, made) if made else None


def _load(source: Any, dims: Mapping[str, int] | None, like: Model | None = None) -> Model:
    if isinstance(source, Model):
        return source
    return loaded(source, dims, like)


def loaded(source: Any, dims: Mapping[str, int] | None, like: Model | None = None) -> Model:
    """A model with those of the given dims that it has: two models need not have the same. The others are those of the
    inputs of that name of another model, `like`.
    """
    model = graph.read(source)
    if not dims and like is None:
        return graph.ready(model)
    shapes = {v.name: graph.shape(v) or () for v in like.graph.inputs} if like is not None else {}
    found = {}
    for dim in graph.dims(model):
        places = [place.removesuffix("]").rpartition("[") for place in dim.places]
        theirs = [shapes[n][int(axis)] for n, _, axis in places if n in shapes and int(axis) < len(shapes[n])]
        if dim.name in (dims or {}):
            found[dim.name] = (dims or {})[dim.name]
        elif theirs and dim.follows is None:
            found[dim.name] = theirs[0]
    return graph.ready(model, found)


def _name(source: Any, default: str) -> str:
    return str(source) if isinstance(source, str | Path) else default


def _same_inputs(before: Model, after: Model) -> None:
    for a, b in _paired_inputs(before, after):
        x, y = (next(v for v in m.graph.inputs if v.name == n) for m, n in ((before, a), (after, b)))
        one, two = (graph.dtype(x), graph.shape(x)), (graph.dtype(y), graph.shape(y))
        if one != two:
            raise PorterError(
                f"input '{x.name}'", expected=f"{one[0]}{list(one[1] or ())}", found=f"{two[0]}{list(two[1] or ())}"
            )


def _paired_inputs(before: Model, after: Model) -> list[tuple[str, str]]:
    """Names of inputs of both models, matched by name, else by position; PorterError where their numbers differ."""
    old, new = ([v.name or "" for v in m.graph.inputs if not v.is_initializer()] for m in (before, after))
    if len(old) != len(new):
        raise PorterError("inputs of the two models", expected=f"{len(old)}", found=f"{len(new)}")
    return [(n, n) for n in old] if set(old) == set(new) else list(zip(old, new, strict=True))
