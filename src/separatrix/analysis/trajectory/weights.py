"""The weights of a run over its checkpoints, as one array."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from separatrix.runs import Run
from separatrix.runs.errors import UsageError

_NAME = re.compile(r"step-(\d+)\.safetensors")


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Weights (checkpoints, size) after each of `steps`; `shapes` says what stands in the columns, in order."""

    steps: Int[np.ndarray, " checkpoints"]
    weights: Float[np.ndarray, " checkpoints size"]
    shapes: Mapping[str, tuple[int, ...]]

    def tensors(self, index: int) -> dict[str, Float[np.ndarray, " *shape"]]:
        """The weights of one checkpoint by name."""
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        pieces = np.split(self.weights[index], np.cumsum(sizes)[:-1])
        return {name: piece.reshape(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}


def load_trajectory(run: Run, names: Sequence[str] = ()) -> Trajectory:
    """The parameters of a run at its checkpoints, in float64; all trained ones, or those that are named.

    A run has checkpoints when it was recorded with `--checkpoints log|N`. Where the run does not list its parameters,
    all tensors of floating-point numbers are taken.

    Raises:
        UsageError: there are no checkpoints, a name is missing, or shapes changed in between.

    Memory: 8 bytes a weight and checkpoint.
    """
    files = sorted((int(found[1]), path) for path in _files(run) if (found := _NAME.fullmatch(path.name)))
    if not files:
        raise UsageError(f"the run {run.name} has no checkpoints: record it with --checkpoints log")
    chosen = list(names) or [str(entry["name"]) for entry in run.parameters if entry.get("requires_grad", True)]
    rows: list[np.ndarray] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for step, path in files:
        held = _read(path)
        wanted = chosen or list(held)
        if missing := [name for name in wanted if name not in held]:
            raise UsageError(f"checkpoint {step} of {run.name} has no {missing[0]!r}: it holds {', '.join(held)}")
        now = {name: held[name].shape for name in wanted}
        if shapes and now != shapes:
            raise UsageError(f"weights of {run.name} change shape up to checkpoint {step}: name those that do not")
        shapes = now
        rows.append(np.concatenate([held[name].reshape(-1) for name in wanted]))
    return Trajectory(np.array([step for step, _ in files]), np.stack(rows), shapes)


def _files(run: Run) -> list[Path]:
    return list((run.path / "checkpoints").glob("step-*.safetensors"))


def _read(path: Path) -> dict[str, np.ndarray]:
    """Tensors of floating-point numbers as float64; torch reads those that numpy lacks, such as bfloat16."""
    import torch
    from safetensors.torch import load_file

    held: dict[str, Any] = load_file(path)
    return {name: t.to(torch.float64).numpy() for name, t in sorted(held.items()) if t.is_floating_point()}
