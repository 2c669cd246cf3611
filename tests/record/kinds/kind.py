"""What a kind of training is: a small ordinary training, and what of it can be recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from tests.record.kinds.truth import Truth

Train = Callable[[Truth], None]

APPLIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "loss": ("every training", ()),
    "loss_terms": ("several backward passes a step", ("terms",)),
    "learning_rate": ("an optimizer of torch", ("optimizer",)),
    "momentum": ("an optimizer with that option", ("momentum",)),
    "weight_decay": ("an optimizer with that option", ("weight decay",)),
    "beta1": ("an optimizer with that option", ("adam",)),
    "beta2": ("an optimizer with that option", ("adam",)),
    "epsilon": ("an optimizer with that option", ("adam",)),
    "step_seconds": ("every training", ()),
    "gradient_norm": ("every training", ()),
    "clip_coefficient": ("clipping of the gradients' norm", ("clipping",)),
    "skipped_steps": ("a GradScaler that skips a step", ("skips",)),
    "loss_scale": ("a GradScaler", ("scaler",)),
    "closure_calls": ("a step with a closure", ("closure",)),
    "batch_size": ("a model called on tensors", ()),
    "training_mode": ("a model called on tensors", ()),
    "input_mean": ("inputs that are no indices", ("numeric inputs",)),
    "input_std": ("inputs that are no indices", ("numeric inputs",)),
    "input_feature_std_ratio": ("inputs of shape (examples, features)", ("numeric inputs", "feature inputs")),
    "gradient_rms": ("every training", ()),
    "nonfinite_share": ("every training", ()),
    "gradient_absent": ("every training", ()),
    "gradient_carryover": ("every training", ()),
    "weight_rms": ("every training", ()),
    "update_rms": ("every training", ()),
    "update_ratio": ("every training", ()),
    "repeated_row_share": ("weights of two or more rows", ()),
    "adam_second_moment_rms": ("optimizers like Adam", ("adam",)),
    "epsilon_share": ("optimizers like Adam", ("adam",)),
    "activation_rms": ("every model", ()),
    "activation_mean": ("every model", ()),
    "activation_nonfinite_share": ("every model", ()),
    "zero_share": ("every model", ()),
    "dead_unit_share": ("rectifiers", ("rectifier",)),
    "saturation_share": ("bounded activations", ("bounded",)),
    "accuracy": ("a loss of classes", ("classes",)),
    "output_entropy": ("a loss of classes", ("classes",)),
    "label_share": ("a loss of classes", ("classes",)),
    "prediction_share": ("a loss of classes", ("classes",)),
    "distribution_share": ("cross-entropy of classes", ("classes",)),
    "log_probability_error": ("a loss of log-probabilities", ("log-probabilities",)),
    "unit_interval_share": ("a loss that is not of classes", ("numbers wanted",)),
    "output_min": ("a loss function of torch", ()),
    "output_max": ("a loss function of torch", ()),
    "target_mean": ("targets that are no classes", ("numbers wanted",)),
    "target_std": ("targets that are no classes", ("numbers wanted",)),
    "prediction_spread": ("a loss function of torch", ()),
    "prediction_variance_share": ("targets that are no classes", ("numbers wanted",)),
    "batch_variance_share": ("batches of several examples", ()),
    "eval_loss": ("an evaluation", ("evaluation",)),
    "eval_mode": ("an evaluation", ("evaluation",)),
    "eval_accuracy": ("an evaluation of classes", ("evaluation", "classes")),
    "memory_bytes": ("every training", ()),
}
"""For each series of the default set but `overhead`, which short trainings do not show: what it makes sense for, in
words, and the features that a kind must have."""

OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "": (),
    "SGD": ("optimizer", "momentum", "weight decay"),
    "Adam": ("optimizer", "weight decay", "adam"),
    "LBFGS": ("optimizer", "closure"),
    "SparseAdam": ("optimizer", "adam"),
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of training. `impossible` maps a reason to the series that it hides, as the run's events are to say.

    `no_snapshot` is why no snapshot can be taken, in words that the run's event holds; empty where one can.
    """

    name: str
    train: Train
    features: frozenset[str]
    impossible: Mapping[str, tuple[str, ...]]
    only: tuple[str, ...]
    without: tuple[str, ...]
    no_snapshot: str

    def applicable(self) -> set[str]:
        """Series that make sense for this kind."""
        return {
            series
            for series, (_, needed) in APPLIES.items()
            if self.features.issuperset(needed) and series not in self.without
        } | set(self.only)

    def hidden(self) -> dict[str, str]:
        """Series that cannot be seen, and because of what."""
        return {series: because for because, names in self.impossible.items() for series in names}


KINDS: dict[str, Kind] = {}


def kind(
    name: str,
    optimizer: str = "SGD",
    *features: str,
    impossible: Mapping[str, tuple[str, ...]] | None = None,
    only: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    no_snapshot: str = "",
) -> Callable[[Train], Train]:
    """Register a training; `only` and `without` correct what the features say."""

    def register(train: Train) -> Train:
        assert name not in KINDS
        own = frozenset((*features, *OPTIMIZERS[optimizer]))
        KINDS[name] = Kind(name, train, own, impossible or {}, only, without, no_snapshot)
        return train

    return register
