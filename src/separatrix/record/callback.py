"""What the callbacks for trainers of other libraries share: one recording, begun and ended by the trainer."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from typing import Any

import torch

from separatrix.record import recording
from separatrix.record.options import RecordingOptions


class CallbackRecording:
    """A recording that a trainer's callback begins and ends; inside another recording that one goes on instead."""

    def __init__(self, run: str | os.PathLike[str], options: dict[str, Any]) -> None:
        self._run = run
        self._options = RecordingOptions(**options)
        self._current: recording.Recording | None = None

    def begin(
        self, models: Sequence[torch.nn.Module], optimizers: Sequence[torch.optim.Optimizer], rank: int, processes: int
    ) -> None:
        """Start to record. A training that this callback recorded before and whose end nobody told has crashed.

        Raises:
            SeparatrixError: the recording cannot be started as asked; see `separatrix.record.start`.
        """
        self.end(RuntimeError("the trainer did not say that this training ended"))
        if recording.outer_recording(self._run) is None:
            self._current = recording.start(
                self._run, self._options, rank=rank, adopt=processes > 1, models=models, optimizers=optimizers
            )

    def end(self, error: BaseException | None = None) -> None:
        """End the recording, as crashed or interrupted if `error` ended the training; ending twice is ending once."""
        current, self._current = self._current, None
        if current is None:
            return
        if isinstance(error, KeyboardInterrupt):
            current.interrupted()
        elif error is not None:
            current.crashed("".join(traceback.format_exception(error)))
        current.close()
