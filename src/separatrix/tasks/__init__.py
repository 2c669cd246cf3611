"""Data-generating problems with exact knobs, loaders of real data, and the ensemble engine (`tasks.ensemble`)."""

from __future__ import annotations

from separatrix.runs.discovery import members
from separatrix.tasks.augmented_views import GaussianViews, ImageViews
from separatrix.tasks.digits import Digits
from separatrix.tasks.errors import EnsembleError, EnsembleWarning, TaskError
from separatrix.tasks.fashion_mnist import FashionMnist
from separatrix.tasks.gaussian_mixture import GaussianMixture
from separatrix.tasks.group_arithmetic import GroupArithmetic
from separatrix.tasks.imbalance import Imbalanced, thin
from separatrix.tasks.in_context_regression import InContextRegression
from separatrix.tasks.matrix_sensing import MatrixSensing
from separatrix.tasks.parity import Parity
from separatrix.tasks.semantic_hierarchy import HierarchyModes, SemanticHierarchy
from separatrix.tasks.single_index import SingleIndex
from separatrix.tasks.task import Batch, Dataset, Task
from separatrix.tasks.teacher_student import LinearTeacher, TwoLayerTeacher
from separatrix.tasks.text import SourceText
from separatrix.tasks.token_cooccurrence import TokenCooccurrence
from separatrix.tasks.xor_mixture import XorMixture

__all__ = [
    "Batch",
    "Dataset",
    "Digits",
    "EnsembleError",
    "EnsembleWarning",
    "FashionMnist",
    "GaussianMixture",
    "GaussianViews",
    "GroupArithmetic",
    "HierarchyModes",
    "ImageViews",
    "Imbalanced",
    "InContextRegression",
    "LinearTeacher",
    "MatrixSensing",
    "Parity",
    "SemanticHierarchy",
    "SingleIndex",
    "SourceText",
    "Task",
    "TaskError",
    "TokenCooccurrence",
    "TwoLayerTeacher",
    "XorMixture",
    "tasks",
    "thin",
]

ENTRY_POINTS = "separatrix.tasks"
"""The entry-point group under which other packages offer tasks."""


def tasks() -> dict[str, Task]:
    """Every known task with its default knobs, by name; `dataclasses.replace` turns the knobs."""
    return members(__name__, Task, ENTRY_POINTS)  # type: ignore[type-abstract]
