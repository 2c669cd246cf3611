"""Systems in words: for the terminal and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from separatrix.systems import Facts, Spectrum, System


def described(system: System) -> dict[str, Any]:
    """A system as plain data."""
    return {
        "name": system.name,
        "kind": system.kind,
        "family": system.family,
        "description": system.description,
        "variables": list(system.variables),
        "definitions": dict(system.definitions),
        "equations": dict(zip(system.variables, system.equations, strict=True)),
        "parameters": dict(system.parameters),
        "initial": list(system.initial),
        "phase": system.phase,
        "delay": system.delay,
        "conservative": system.conservative,
        "stiff": system.stiff,
        "measured": _facts(system.measured),
        "published": _facts(system.published),
        "source": system.source,
    }


def _facts(facts: Facts) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(facts).items()}


def lines(system: System) -> list[str]:
    """A system for the terminal."""
    left = {"flow": "d{}/dt", "delay": "d{}/dt", "map": "{}'"}[system.kind]
    marks = [f"driven, {system.phase} counts time"] if system.phase else []
    marks += [f"delayed by {system.delay}"] if system.delay else []
    marks += ["conservative"] if system.conservative else []
    marks += ["stiff"] if system.stiff else []
    found = [f"{system.name}: {system.description}", f"  {', '.join([system.kind, *marks])}", ""]
    found += [f"  {name} = {text}" for name, text in system.definitions.items()]
    found += [f"  {left.format(name)} = {text}" for name, text in zip(system.variables, system.equations, strict=True)]
    found.append("")
    if system.parameters:
        found.append("  parameters  " + ", ".join(f"{name} = {value:g}" for name, value in system.parameters.items()))
    found.append("  initial     " + ", ".join(f"{value:.6g}" for value in system.initial))
    for title, facts in (("measured", system.measured), ("published", system.published)):
        found += [f"  {title:<12}{text}" for text in _fact_lines(facts)]
    return [*found, f"  source      {system.source}"]


def _fact_lines(facts: Facts) -> list[str]:
    found = []
    if facts.period is not None:
        found.append(f"dominant period {facts.period:.5g}")
    if facts.exponents:
        errors = facts.errors or (None,) * len(facts.exponents)
        each = (
            f"{x:.4g}" if e is None else f"{x:.4g} +- {e:.1g}" for x, e in zip(facts.exponents, errors, strict=True)
        )
        found.append(f"Lyapunov exponents {', '.join(each)}")
    dimensions = {"Kaplan-Yorke": facts.kaplan_yorke, "correlation": facts.correlation}
    if any(value is not None for value in dimensions.values()):
        known = (f"{name} {value:.4g}" for name, value in dimensions.items() if value is not None)
        found.append(f"dimensions: {', '.join(known)}")
    return found


def spectrum_as_dict(spectrum: Spectrum) -> dict[str, Any]:
    """A spectrum as plain data."""
    dimension = spectrum.kaplan_yorke
    return {
        "system": spectrum.system.name,
        "exponents": spectrum.exponents.tolist(),
        "errors": spectrum.errors.tolist(),
        "kaplan_yorke": dimension if np.isfinite(dimension) else None,
        "entropy": spectrum.entropy,
        "time": spectrum.time,
        "copies": spectrum.copies,
        "published": list(spectrum.system.published.exponents),
    }


def spectrum_lines(spectrum: Spectrum) -> list[str]:
    """A spectrum for the terminal."""
    unit = "iteration" if spectrum.system.kind == "map" else "time unit"
    stated = f"{spectrum.copies} copies over {spectrum.time:.6g} {unit}s each"
    found = [f"{spectrum.system.name}: Lyapunov exponents per {unit}, {stated}"]
    found += [
        f"  {i + 1}  {value: .5f} +- {error:.5f}"
        for i, (value, error) in enumerate(zip(spectrum.exponents, spectrum.errors, strict=True))
    ]
    found.append(
        f"  Kaplan-Yorke dimension {spectrum.kaplan_yorke:.4f}, sum of positive exponents {spectrum.entropy:.4f}"
    )
    return found
