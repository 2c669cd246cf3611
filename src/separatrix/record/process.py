"""What this process uses."""

from __future__ import annotations

import os

import torch

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the platform does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return None


def used_bytes(device: torch.device) -> int | None:
    """Memory in use where tensors of a device live: what torch has reserved of a GPU, else this process's own."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else resident_bytes()
