"""Which modules compute something else in training than in evaluation."""

from __future__ import annotations

from torch import nn


def mode_effect(module: nn.Module) -> str:
    """What differs between the modes: "dropout", "batch statistics", or nothing (empty).

    Dropout of probability 0 and normalisation without running statistics are the same in both. Classes of other
    packages are recognised by name (`DropPath`, `DropBlock`).
    """
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return "dropout" if module.p > 0 else ""
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return "batch statistics" if module.track_running_stats else ""
    if isinstance(module, nn.RNNBase):
        return "dropout" if module.dropout > 0 and module.num_layers > 1 else ""
    if isinstance(module, nn.MultiheadAttention):
        return "dropout" if module.dropout > 0 else ""
    name = type(module).__name__.lower()
    if "droppath" in name or "dropblock" in name or "stochasticdepth" in name:
        rate = next((getattr(module, key) for key in ("p", "drop_prob") if hasattr(module, key)), 1.0)
        return "dropout" if isinstance(rate, int | float) and rate > 0 else ""
    return ""
