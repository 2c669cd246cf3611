"""What a probe is: a named measurement that looks at one moment of a step and yields readings of its series."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from separatrix.runs.types import SeriesSpec

if TYPE_CHECKING:
    import torch


class Moment(enum.Enum):
    """When a probe looks. The recorder offers a view of the matching class at sampled steps."""

    INPUT = "input"
    """The outermost forward of a step is about to run: InputView."""
    MODULE = "module"
    """A leaf module has run in a training forward: ModuleView."""
    LOSS = "loss"
    """A loss function was computed from outputs and targets: LossView."""
    EXAMPLE = "example"
    """As LOSS, at every training step, where it is known which examples the rows are of: LossView, a row an example.
    Readings over the dimension `example` have a value a row, in the order of the rows."""
    CARRYOVER = "carryover"
    """The first backward since the last step is about to run: ParameterView of what `.grad` holds."""
    GRADIENT = "gradient"
    """Gradients are complete and the optimizer is about to use them: ParameterView."""
    UPDATE = "update"
    """The optimizer has stepped: UpdateView with the parameters before and after."""
    STEP = "step"
    """A step has ended: StepView."""
    SNAPSHOT = "snapshot"
    """A step has ended and is held as a replay in which anything may be computed: separatrix.record.Snapshot."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """Values of one series at the current step.

    `values` is a number or a tensor of at most one dimension, left on its device: the recorder moves all readings of a
    step at once. `positions` says which labels of the view the values belong to; None means all of them. Of a snapshot,
    `labels` names the values instead ("0", "1", ... if left out), or `positions` are those along the dimension; `at`
    fixes the label of a further dimension, such as the module whose heads the values belong to.
    """

    series: str
    values: torch.Tensor | float
    positions: Sequence[int] | None = None
    weight: float = 1.0
    labels: Sequence[str] | None = None
    at: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class InputView:
    """Arguments of the outermost forward: its tensors in order, nested containers flattened."""

    tensors: Sequence[torch.Tensor]
    training: bool


@dataclasses.dataclass(frozen=True)
class ModuleView:
    """One call of a leaf module: its name in the model, the module, its first tensor input and output."""

    name: str
    module: torch.nn.Module
    input: torch.Tensor | None
    output: torch.Tensor


@dataclasses.dataclass(frozen=True)
class LossView:
    """One call of a loss function: its kind (torch's functional name), outputs, targets and keyword options."""

    kind: str
    outputs: torch.Tensor
    targets: torch.Tensor
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class ParameterView:
    """Some parameters and their gradients (None where absent), already divided by a loss scale's factor `scale`."""

    parameters: Sequence[torch.Tensor]
    gradients: Sequence[torch.Tensor | None]
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class UpdateView:
    """Some parameters after a step and copies of them from before it, with the optimizer's state for each.

    `before` may be overwritten by the last probe that reads it.
    """

    parameters: Sequence[torch.Tensor]
    before: Sequence[torch.Tensor]
    states: Sequence[Mapping[str, Any]]
    groups: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class StepView:
    """A step that has ended."""

    step: int
    device: torch.device


NEEDS = ("outputs", "classes", "examples")


@dataclasses.dataclass(frozen=True)
class Probe:
    """A measurement: `measure(view, state)` yields readings; one family a file, found by walking `separatrix.probes`.

    `state` is a dict kept for the probe over one recording, for windows and references. `priority` orders the probes of
    a moment, low first; of a snapshot's, the one that ran longest ago comes first, and the cheaper of two that never
    ran. `default` probes run unless others are named. A measure must draw no random numbers of the
    training's generators and change nothing it is shown.

    `cost` is for probes of snapshots: how many gradients of the snapshot's batch a measurement is worth, as a guess
    before the first one is timed. `needs` names what the snapshot must have: "outputs" (what the loss function was
    given, so that the loss can be differentiated by outputs), "classes" (a classification loss with class targets),
    "examples" (that single examples are followed, so that it is known which ones the batch holds).
    """

    name: str
    moment: Moment
    series: tuple[SeriesSpec, ...]
    measure: Callable[[Any, dict[str, Any]], Iterable[Reading]]
    description: str
    priority: int = 50
    default: bool = True
    source: str = ""
    cost: float = 1.0
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.series:
            raise ValueError(f"probe {self.name!r} declares no series")
        if unknown := set(self.needs) - set(NEEDS):
            raise ValueError(f"probe {self.name!r} needs {', '.join(unknown)}; allowed: {', '.join(NEEDS)}")
