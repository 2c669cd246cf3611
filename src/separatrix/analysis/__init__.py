"""From runs to results: what is wrong with a training, why, and what to do."""

from separatrix.analysis.diagnosis import Diagnosis, assess, diagnose
from separatrix.analysis.findings import rules

__all__ = ["Diagnosis", "assess", "diagnose", "rules"]
