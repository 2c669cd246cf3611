"""The series that the recorder itself writes, without a probe."""

from __future__ import annotations

from separatrix.runs.types import SeriesSpec

_LOSS = "sum of the tensors backwarded since the optimizer's last step"

RECORDER_SERIES: dict[str, SeriesSpec] = {
    spec.name: spec
    for spec in (
        SeriesSpec("loss", dtype="float64", units="loss", description=_LOSS),
        SeriesSpec("loss_terms", ("term",), units="loss", description="those tensors, in order of their backward"),
        SeriesSpec("closure_calls", description="evaluations of the closure in one step"),
        SeriesSpec("learning_rate", dtype="float64", description="learning rate of the optimizer's groups"),
        SeriesSpec("momentum", dtype="float64", description="momentum of the optimizer's groups"),
        SeriesSpec("weight_decay", dtype="float64", description="weight decay of the optimizer's groups"),
        SeriesSpec("epsilon", dtype="float64", description="epsilon of the optimizer's groups"),
        SeriesSpec("beta1", dtype="float64", description="first beta of the optimizer's groups"),
        SeriesSpec("beta2", dtype="float64", description="second beta of the optimizer's groups"),
        SeriesSpec("step_seconds", units="s", description="time from one step's end to the next, overhead left out"),
        SeriesSpec("gradient_norm", description="norm of all gradients together, before clipping"),
        SeriesSpec("clip_coefficient", description="factor that clipping applied to the gradients; 1 is none"),
        SeriesSpec("skipped_steps", description="steps skipped so far because scaled gradients were not finite"),
        SeriesSpec("loss_scale", description="factor that the loss scaler applies"),
        SeriesSpec("eval_loss", dtype="float64", units="loss", description="mean loss an example in an evaluation"),
        SeriesSpec("eval_accuracy", description="share of right answers in an evaluation"),
        SeriesSpec("eval_mode", description="1 where the model was in evaluation mode during the evaluation"),
        SeriesSpec("overhead", description="time in Separatrix over time outside it, so far"),
    )
}

EPOCH = SeriesSpec("epoch", description="passes through the data begun, where single examples are followed")
"""At the first step of each pass."""
