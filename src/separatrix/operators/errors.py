"""Errors and warnings of the operators."""

from __future__ import annotations

from separatrix.runs.errors import SeparatrixError, UsageError


class OperatorError(SeparatrixError):
    """An operator that cannot be built, or a product that cannot be computed."""


class OperatorUsageError(OperatorError, UsageError):
    """Arguments an operator or an estimator cannot take."""


class ForwardError(OperatorUsageError, RuntimeError):
    """A model whose forward fails on the inputs; the model's own error is the cause."""


class ParameterError(OperatorUsageError):
    """A selection of parameters that is empty, frozen, unknown or of an unsupported dtype."""


class NonFiniteError(OperatorError):
    """A loss, gradient or product that is not finite."""


class NotTwiceDifferentiableError(OperatorError):
    """A part of the model or loss whose gradient cannot be differentiated again; `operations` names graph nodes."""

    operations: frozenset[str] = frozenset()


class StaleOperatorError(OperatorError):
    """An operator whose graph was released, or whose parameters have changed since it was built."""


class UnsupportedOptimizerError(OperatorUsageError):
    """An optimizer whose stability threshold is not known."""


class UnbatchedProductsWarning(UserWarning):
    """Products of several vectors fell back to one vector at a time: slower, with equal results."""
