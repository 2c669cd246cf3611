"""Shapes in signatures are checked while these tests run."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from separatrix.operators import tangent_kernel
from separatrix.reconstruct import sparse
from separatrix.tasks import LinearTeacher


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="weights"):
        LinearTeacher(dimension=4).risk(torch.ones(2, 4))


def test_a_right_one_is_not() -> None:
    LinearTeacher(dimension=4).risk(torch.ones(4))
    assert tangent_kernel(torch.nn.Linear(3, 1), torch.ones(2, 3)).shape == (2, 2)


def test_functions_that_state_no_shape_are_left_as_they_are() -> None:
    assert not hasattr(sparse._runge_kutta, "__wrapped__")
    assert hasattr(sparse.sparse_ensemble, "__wrapped__")
    assert hasattr(sparse.SparseEquations.jacobian, "__wrapped__")
