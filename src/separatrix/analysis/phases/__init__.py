"""Phases of a training: named ones where the evidence allows, change points of series, latent states over many runs."""

from separatrix.analysis.phases.changes import change_points
from separatrix.analysis.phases.detours import (
    Detour,
    Detours,
    bigram_shares,
    detours,
    explained_held_out,
    state_shares,
)
from separatrix.analysis.phases.grid import Grid, common_grid
from separatrix.analysis.phases.latent import LatentStates, Transition, latent_states, run_states
from separatrix.analysis.phases.phase import Phase, PhaseRule, phase_rules, phases

__all__ = [
    "Detour",
    "Detours",
    "Grid",
    "LatentStates",
    "Phase",
    "PhaseRule",
    "Transition",
    "bigram_shares",
    "change_points",
    "common_grid",
    "detours",
    "explained_held_out",
    "latent_states",
    "phase_rules",
    "phases",
    "run_states",
    "state_shares",
]
