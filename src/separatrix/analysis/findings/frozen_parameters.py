"""Parameters that are meant to train and do not.

Meant to train: `requires_grad` is true. Every comparison is with other parameters of the same run, so that a training
in which nothing moves (learning rate 0 in warm-up) says nothing here. Four ways not to train:

- *no optimizer*: no optimizer holds the parameter, while others are held, and it gets gradients, or nobody looked
  whether it does. Seen to have none (a backbone under `no_grad`, a target network), it is left alone on purpose.
- *no gradient*: an optimizer holds it, but `.grad` was None at every measurement (at least two) while others had one.
  If its module ran, the graph is cut (`detach`, `no_grad`, `.data`): a warning; if it never ran, it is an unused
  part: info.
- *zero gradient*: the gradient was exactly zero at every measurement (at least three, because layers behind a zero
  initialisation get none at first). A bias whose layer's weights do get one is left out: a loss of differences, as
  in siamese training, cancels it.
- *no movement*: there is a gradient, yet no measured update (at least three, at steps where others of its optimizer
  moved) changed it. A bias whose gradient is below 1e-5 of the largest is left out: normalisation and softmax cancel
  some biases exactly, and what remains is rounding. So are 16-bit parameters, whose small updates are rounded away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from separatrix.analysis.profiles import Table, kinds, medians, module_of, table
from separatrix.analysis.trends import listed
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_FEWEST_ABSENT = 2
_FEWEST_ZERO = 3
_CANCELLED = 1e-5
_COARSE = ("float16", "bfloat16")

_WAYS: dict[str, tuple[str, str]] = {
    "no optimizer": (
        "were forgotten (they are in no optimizer)",
        "Pass {names} to the optimizer (as in model.parameters()), or set requires_grad = False if they shall stay.",
    ),
    "no gradient": (
        "are in an optimizer but never get a gradient",
        "Look for detach(), .data or no_grad() between {names} and the loss; if intended, set requires_grad = False.",
    ),
    "unused": (
        "are in an optimizer but take no part in the loss",
        "Call {names} in forward, or remove them; set requires_grad = False if they shall stay.",
    ),
    "zero gradient": (
        "get a gradient of exactly zero at every measured step",
        "See what multiplies the output of {names} by zero or clamps it: dead units, a mask, initial zeros.",
    ),
    "no movement": (
        "get gradients but do not move while others do",
        "Check the learning rate of the group that holds {names}, and that nothing restores them after each step.",
    ),
}


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for all parameters that should train and do not."""
    trainable = [p for p in run.parameters if p.get("requires_grad", True)]
    if not run.parameters:
        return NotAssessed(rule.code, ("parameters",))
    if not any(p.get("optimizer") for p in trainable):
        return NotAssessed(rule.code, ("parameters of a torch optimizer",)) if trainable else []
    frozen = {str(p["name"]): way for p in trainable if (way := _way(run, p, trainable)) is not None}
    if not frozen:
        return []
    sizes = {str(p["name"]): int(p.get("numel", 0)) for p in trainable}
    share = sum(sizes[name] for name in frozen) / max(sum(sizes.values()), 1)
    main = max(dict.fromkeys(frozen.values()), key=lambda way: sum(sizes[n] for n, w in frozen.items() if w == way))
    names = [name for name, way in frozen.items() if way == main]
    others = f"; {len(frozen) - len(names)} more do not train for other reasons" if len(names) < len(frozen) else ""
    said, remedy = _WAYS[main]
    has = [name for name in ("gradient_absent", "gradient_rms", "update_rms") if name in run]
    return [
        Finding(
            code=rule.code,
            severity="info" if set(frozen.values()) == {"unused"} else "warning",
            confidence=0.75 if main in ("unused", "no movement") else 0.9,
            step=None,
            summary=f"{len(names)} parameters that should train {said}: {listed(names)} ({share:.1%} of all){others}.",
            remedy=remedy.format(names=listed(names)),
            evidence={"series": has, "labels": list(frozen), "ways": frozen, "share_of_parameters": share},
            source=rule.source,
        )
    ]


def _way(run: Run, parameter: Mapping[str, Any], trainable: Sequence[Mapping[str, Any]]) -> str | None:
    names = [str(parameter["name"]), *map(str, parameter.get("tied") or ())]
    absent, gradients, updates = (table(run, name) for name in ("gradient_absent", "gradient_rms", "update_rms"))
    missing, levels, moves = (_measured(of, names) for of in (absent, gradients, updates))
    got = bool((levels > 0).any()) or bool((missing == 0).any())
    held = [p for p in trainable if p.get("optimizer")]
    if not parameter.get("optimizer"):
        tied = any({str(p["name"]), *map(str, p.get("tied") or ())} & set(names) for p in held)
        seen = parameter.get("unused_gradient") if absent.labels else None
        got = got or seen is True
        unknown = seen is None and not missing.size and not levels.size
        return "no optimizer" if (got or unknown) and not tied else None
    if not got and len(missing) >= _FEWEST_ABSENT and (missing == 1).all():
        others = any((_measured(absent, [str(p["name"])]) == 0).any() for p in held)
        return _without_gradient(run, parameter) if others else None
    if len(levels) >= _FEWEST_ZERO and (levels == 0).all() and not _is_cancelled(run, parameter):
        return "zero gradient" if (np.nan_to_num(gradients.values) > 0).any() else None
    siblings = [str(p["name"]) for p in held if p["optimizer"] == parameter["optimizer"] and p is not parameter]
    if _stands_still(updates, names, siblings) and moves.size and not _negligible(run, parameter, levels):
        return "no movement"
    return None


def _is_cancelled(run: Run, parameter: Mapping[str, Any]) -> bool:
    """Whether a bias gets no gradient while the weights beside it do: a difference of outputs cancels it."""
    levels = medians(table(run, "gradient_rms"))
    beside = [p for p in run.parameters if module_of(p) == module_of(parameter) and len(p["shape"]) >= 2]
    return len(parameter["shape"]) <= 1 and any(levels.get(str(p["name"]), 0.0) > 0.0 for p in beside)


def _measured(of: Table, names: Iterable[str]) -> np.ndarray:
    """Values of the first of the names (a parameter may be known by its tied names) that was measured."""
    for name in names:
        values = of.column(name)[1]
        if values.size:
            return values
    return np.empty(0)


def _without_gradient(run: Run, parameter: Mapping[str, Any]) -> str:
    ran = table(run, "activation_rms").labels
    known = module_of(parameter) in kinds(run)
    return "unused" if known and ran and module_of(parameter) not in ran else "no gradient"


def _stands_still(updates: Table, names: Sequence[str], siblings: Sequence[str]) -> bool:
    name = next((n for n in names if n in updates.labels), None)
    if name is None:
        return False
    columns = [updates.labels.index(s) for s in siblings if s in updates.labels]
    if not columns:
        return False
    others_move = (np.nan_to_num(updates.values[:, columns]) > 0).any(axis=1)
    own = updates.values[:, updates.labels.index(name)]
    compared = own[others_move & ~np.isnan(own)]
    return len(compared) >= _FEWEST_ZERO and bool((compared == 0).all())


def _negligible(run: Run, parameter: Mapping[str, Any], levels: np.ndarray) -> bool:
    if any(kind == str(parameter.get("dtype", "")).removeprefix("torch.") for kind in _COARSE):
        return True
    largest = max(medians(table(run, "gradient_rms")).values(), default=0.0)
    return len(parameter["shape"]) <= 1 and levels.size > 0 and float(np.nanmedian(levels)) < _CANCELLED * largest


rule = FindingRule(
    code="frozen-parameters",
    title="Parameters that should train but do not",
    needs=(),
    source="torch.optim documentation: an optimizer changes the parameters it was given, by the gradients they hold",
    assess=assess,
    caused_by=("dead-units", "nonfinite", "vanishing-gradient"),
)
