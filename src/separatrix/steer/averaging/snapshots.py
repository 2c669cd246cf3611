"""Power averages of a module's weights that are kept on disk from time to time, and any other length made of them."""

from __future__ import annotations

import copy
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from separatrix.steer.averaging.errors import AveragingError
from separatrix.steer.averaging.power import coefficients, narrow, power_average

WIDTHS = (0.05, 0.10)
"""Relative widths that span those of use, as in the paper."""

_NAME = re.compile(r"average-(?P<width>[0-9.e-]+)-(?P<step>\d+)\.safetensors")


class AverageSnapshots:
    """Keeps power averages of a module while it trains and writes them into a folder.

        averages = AverageSnapshots(model, "averages")
        ...
            optimizer.step()
            averages.update()
            if averages.step % 500 == 0:
                averages.store()
        model.load_state_dict(reconstruct("averages", width=0.07))

    Averages are of parameters and floating-point buffers, on the devices of the module's own and in their types, but in
    float32 for types of fewer bits; other buffers are copied. A further copy of the module is held for each width.
    `step` counts updates.

    Raises:
        AveragingError: a width is out of range or given twice, or the folder holds averages already.
    """

    def __init__(self, module: nn.Module, folder: str | os.PathLike[str], *, widths: Sequence[float] = WIDTHS) -> None:
        if not widths or len(set(widths)) < len(widths):
            raise AveragingError(f"widths {tuple(widths)}: give one or more, each once")
        self.folder = Path(folder)
        if self.folder.is_dir() and _stored(self.folder):
            raise AveragingError(f"{self.folder} holds averages of another training: give another folder")
        self.module = module
        self.step = 0
        self._functions = {width: power_average(width) for width in widths}
        self._averages = {width: _widened(copy.deepcopy(module)) for width in widths}

    def update(self) -> None:
        """Take the module's present weights into every average; to be called after each step of the optimizer."""
        current = [tensor.detach() for tensor in _tensors(self.module)]
        for width, average in self._averages.items():
            averaged = [tensor.detach() for tensor in _tensors(average)]
            if self.step:
                self._functions[width](averaged, current, self.step)
            else:
                for mean, value in zip(averaged, current, strict=True):
                    mean.copy_(value)
        self.step += 1

    def state_dict(self, width: float) -> dict[str, Tensor]:
        """The present average of one of the widths that are kept, under the module's own names; shares memory.

        Raises:
            AveragingError: that width is not kept.
        """
        if width not in self._averages:
            kept = ", ".join(map(str, self._averages))
            raise AveragingError(f"width {width} is not kept, only {kept}: store, and reconstruct it")
        return dict(self._averages[width].state_dict())

    def store(self) -> None:
        """Write every average as it is now, one safetensors file a width.

        Raises:
            AveragingError: nothing was averaged yet.
        """
        from safetensors.torch import save_file

        if not self.step:
            raise AveragingError("nothing was averaged yet: call update after each step of the optimizer")
        self.folder.mkdir(parents=True, exist_ok=True)
        for width in self._averages:
            tensors = {name: value.detach().clone().contiguous() for name, value in self.state_dict(width).items()}
            path = self.folder / f"average-{width!r}-{self.step}.safetensors"
            partial = path.with_suffix(".partial")
            save_file(tensors, partial, metadata={"width": repr(width), "step": str(self.step)})
            partial.replace(path)


def reconstruct(
    folder: str | os.PathLike[str], *, width: float, step: int | None = None, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The average of relative width `width` at `step`, made of those stored up to then, as a state dict.

    Sums are formed in float64 and given in the stored types (of floating-point ones float32 at least, as averages are
    kept), or `dtype` for floating-point ones. `step` is the last stored one by default. Tensors that are no
    floating-point numbers are those of the last stored step.

    Raises:
        AveragingError: the folder holds no averages of that step, they do not belong together, or the width is out
            of range.
    """
    stored = _stored(Path(folder))
    known = sorted({at for at, _ in stored})
    if not known:
        raise AveragingError(f"{folder} holds no averages: give the folder that AverageSnapshots wrote")
    end = known[-1] if step is None else step
    used = {key: path for key, path in stored.items() if key[0] <= end}
    if end not in known:
        near = [*[at for at in known if at < end][-1:], *[at for at in known if at > end][:1]]
        raise AveragingError(
            f"{folder} holds averages of steps {known[0]} to {known[-1]}, none of step {end}:"
            f" choose {' or '.join(map(str, near))}"
        )
    factors = coefficients([at for at, _ in used], [each for _, each in used], end, width)
    return _combined(list(used.values()), factors.tolist(), dtype)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


def _widened(module: nn.Module) -> nn.Module:
    """The module with its floating-point tensors in float32 at least."""
    for tensor in _tensors(module):
        if narrow(tensor.dtype):
            tensor.data = tensor.data.float()
    return module


def _combined(paths: Sequence[Path], factors: Sequence[float], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The sum of stored tensors times their factors; the paths are in order of step."""
    from safetensors.torch import load_file

    sums: dict[str, Tensor] = {}
    kinds: Mapping[str, tuple[torch.dtype, torch.Size]] = {}
    for path, factor in zip(paths, factors, strict=True):
        tensors = load_file(path)
        found = {name: (value.dtype, value.shape) for name, value in tensors.items()}
        kinds = kinds or found
        if found != kinds:
            raise AveragingError(f"{path} holds other tensors than {paths[0].name}: keep each training's in a folder")
        for name, value in tensors.items():
            if not value.is_floating_point():
                sums[name] = value
            elif name in sums:
                sums[name].add_(value.double(), alpha=factor)
            else:
                sums[name] = value.double() * factor
    return {
        name: value.to(dtype or kinds[name][0]) if value.is_floating_point() else value for name, value in sums.items()
    }


def _stored(folder: Path) -> dict[tuple[int, float], Path]:
    """Files by (step, width), in that order."""
    found = {}
    for path in folder.glob("*.safetensors"):
        if match := _NAME.fullmatch(path.name):
            found[int(match["step"]), float(match["width"])] = path
    return dict(sorted(found.items()))
