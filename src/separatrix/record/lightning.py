"""Recording under Lightning: `Trainer(..., callbacks=[SeparatrixCallback(run="runs/first")])`."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from separatrix.record.callback import CallbackRecording

if importlib.util.find_spec("lightning") is not None:
    from lightning.pytorch.callbacks import Callback
else:
    from pytorch_lightning.callbacks import Callback


class SeparatrixCallback(Callback):  # type: ignore[misc]
    """Records a training of Lightning's `Trainer` into the folder `run`.

    Further options are those of `separatrix.record`: budget, memory_budget, probes, checkpoints, resume, max_bytes and
    config.
    In a distributed training every process records itself. Under `separatrix watch` the watching recording goes on and
    this callback adds nothing.
    """

    def __init__(self, run: str | os.PathLike[str], **options: Any) -> None:
        super().__init__()
        self._recording = CallbackRecording(run, options)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Start to record; the optimizers exist by then."""
        self._recording.begin([pl_module], trainer.optimizers, int(trainer.global_rank), int(trainer.world_size))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """End the recording."""
        del trainer, pl_module
        self._recording.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End the recording as crashed or interrupted."""
        del trainer, pl_module
        self._recording.end(exception)
