"""Recording under the Hugging Face trainer: `Trainer(..., callbacks=[SeparatrixCallback(run="runs/first")])`."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import TrainerCallback

from separatrix.record.callback import CallbackRecording


class SeparatrixCallback(TrainerCallback):  # type: ignore[misc]
    """Records a training of `transformers.Trainer` into the folder `run`.

    Further options are those of `separatrix.record`: budget, memory_budget, probes, checkpoints, resume, max_bytes and
    config.
    In a distributed training every process records itself. Under `separatrix watch` the watching recording goes on and
    this callback adds nothing. The trainer does not tell callbacks of an exception: such a run ends as crashed when the
    callback is used again; otherwise it goes on, and reads as killed once the process has ended.
    """

    def __init__(self, run: str | os.PathLike[str], **options: Any) -> None:
        self._recording = CallbackRecording(run, options)

    def on_train_begin(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        """Start to record."""
        del state, control
        model, optimizer = found["model"], found["optimizer"]
        # What accelerate wraps around an optimizer never steps itself.
        inner = getattr(optimizer, "optimizer", optimizer)
        optimizers = [inner] if isinstance(inner, torch.optim.Optimizer) else []
        self._recording.begin([model], optimizers, int(args.process_index), int(args.world_size))

    def on_train_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        """End the recording."""
        del args, state, control, found
        self._recording.end()
