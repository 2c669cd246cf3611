"""The scripts: `scripts/<code>/<name>.py` plants the fault of that code, `scripts/healthy/<name>.py` plants none."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent / "scripts"
HEALTHY = "healthy"
PARTS = ("setting", "measuring")
CAUSES = {
    "dead-units/large_lr_then_small": "lr-too-high",
    "dead-units/sparse_bias_fashion": "bad-init",
    "dead-units/step_decay_digits": "lr-too-high",
    "diverging/momentum_regression": "lr-too-high",
    "diverging/poly_diabetes": "lr-too-high",
    "diverging/wave_mlp_gamma": "scheduler-misuse",
    "exploding-gradient/relu_rnn_sum": "bad-init",
    "exploding-gradient/residual_digits": "bad-init",
    "loss-spike/ae_resume": "scheduler-misuse",
    "loss-spike/rate_typo": "scheduler-misuse",
    "plateau/deep_linear": "bad-init",
    "saturated-units/tanh_digits_normal": "bad-init",
    "vanishing-gradient/deep_tanh_small_init": "bad-init",
}
"""What a script does wrong by another code of the vocabulary, of which the planted one is the consequence."""


@dataclasses.dataclass(frozen=True, order=True)
class Script:
    """One training script; `code` is the finding's code that it plants, or "healthy"."""

    code: str
    name: str
    path: Path

    @property
    def part(self) -> str:
        """The part of the benchmark that the script belongs to."""
        return part_of(self.code, self.name)


def right_codes(code: str, name: str) -> tuple[str, ...]:
    """The planted code, and what causes it in this script where that has a code of its own."""
    cause = CAUSES.get(f"{code}/{name}")
    return (code,) if cause is None else (code, cause)


def part_of(code: str, name: str) -> str:
    """Thresholds may be looked at against "setting"; "measuring" is run once they stand.

    The parity of a hash decides, so that nobody can choose after seeing a result.
    """
    return PARTS[int(hashlib.sha256(f"{code}/{name}".encode()).hexdigest(), 16) % 2]


def scripts(part: str | None = None, codes: list[str] | None = None, folder: Path = FOLDER) -> list[Script]:
    """All scripts of a part and of some codes (None: of every one), in alphabetical order.

    Raises:
        ValueError: a code has no scripts.
    """
    found = [Script(path.parent.name, path.stem, path) for path in sorted(folder.glob("*/*.py"))]
    unknown = sorted(set(codes or ()) - {script.code for script in found})
    if unknown:
        raise ValueError(f"no scripts for {', '.join(unknown)} in {folder}")
    return [s for s in found if (codes is None or s.code in codes) and (part is None or s.part == part)]
