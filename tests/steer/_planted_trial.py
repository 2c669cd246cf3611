"""Writes a run of losses that fall towards (x - 0.3)^2, or do what `kind` says: FOLDER STEPS PAUSE NAME=VALUE..."""

from __future__ import annotations

import sys
import time

from separatrix.runs import RunWriter, SeriesSpec, Status

folder, steps, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
values = dict(argument.split("=", 1) for argument in sys.argv[4:])
kind, x = values.get("kind", "falls"), float(values.get("x", 0.3))
if kind == "crashes":
    sys.exit("planted: no such option")
writer = RunWriter(folder)
if kind == "skips":
    writer.close()
    sys.exit()
loss, eval_loss = writer.series(SeriesSpec("loss")), writer.series(SeriesSpec("eval_loss"))
try:
    for step in range(1, steps + 1):
        value = (x - 0.3) ** 2 + 1 / step
        if kind in ("rises", "polite", "unevaluated"):
            value = min(1.1**step, 1e30)
        if kind == "nan" and step > 3:
            value = float("nan")
        writer.scalar(loss, step, value)
        if step % 5 == 0 and kind != "unevaluated":
            writer.scalar(eval_loss, step, value)
        if step % 5 == 0:
            writer.flush()
        time.sleep(pause)
except KeyboardInterrupt:
    writer.close(Status.INTERRUPTED)
    if kind in ("polite", "unevaluated"):
        sys.exit(0)
    raise
writer.close()
