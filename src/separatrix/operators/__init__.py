"""Matrix-free linear algebra on torch modules: curvature, its eigenvalues, spectral density and traces.

Operators multiply vectors; estimators take any `LinearOperator`, or a dense symmetric matrix. Nothing here changes a
model, its buffers and gradients, or the global random state.
"""

from separatrix.operators._examples import CoupledExamplesError, JacobianFallbackWarning, StructureError
from separatrix.operators.curvature import fisher, ggn, gradient_second_moment, hessian
from separatrix.operators.density import LanczosQuadrature, SpectralDensity, lanczos_quadrature, spectral_density
from separatrix.operators.errors import (
    ForwardError,
    NonFiniteError,
    NotTwiceDifferentiableError,
    OperatorError,
    OperatorUsageError,
    ParameterError,
    StaleOperatorError,
    UnbatchedProductsWarning,
    UnsupportedOptimizerError,
)
from separatrix.operators.estimate import TraceEstimate
from separatrix.operators.infinite_width import InfiniteWidthKernels, infinite_width_kernels
from separatrix.operators.lanczos import Eigenpairs, top_eigenpairs
from separatrix.operators.linear import DenseOperator, LinearOperator
from separatrix.operators.per_example import (
    group_mean_gradients,
    group_mean_gradients_of,
    per_example_gradient_norms,
    per_example_gradient_norms_of,
    per_example_inner_products,
    per_example_inner_products_of,
    per_example_losses,
)
from separatrix.operators.preconditioned import ScaledOperator, precondition, preconditioned_hessian
from separatrix.operators.products import CurvatureOperator, ggn_of, hessian_of, second_moment_of
from separatrix.operators.stability import (
    StabilityThreshold,
    effective_preconditioner,
    group_threshold,
    stability_ratio,
    stability_threshold,
    supported_optimizers,
)
from separatrix.operators.tangent import tangent_kernel, tangent_kernel_of
from separatrix.operators.traces import frobenius_norm, log_determinant, trace

__all__ = [
    "CoupledExamplesError",
    "CurvatureOperator",
    "DenseOperator",
    "Eigenpairs",
    "ForwardError",
    "InfiniteWidthKernels",
    "JacobianFallbackWarning",
    "LanczosQuadrature",
    "LinearOperator",
    "NonFiniteError",
    "NotTwiceDifferentiableError",
    "OperatorError",
    "OperatorUsageError",
    "ParameterError",
    "ScaledOperator",
    "SpectralDensity",
    "StabilityThreshold",
    "StaleOperatorError",
    "StructureError",
    "TraceEstimate",
    "UnbatchedProductsWarning",
    "UnsupportedOptimizerError",
    "effective_preconditioner",
    "fisher",
    "frobenius_norm",
    "ggn",
    "ggn_of",
    "gradient_second_moment",
    "group_mean_gradients",
    "group_mean_gradients_of",
    "group_threshold",
    "hessian",
    "hessian_of",
    "infinite_width_kernels",
    "lanczos_quadrature",
    "log_determinant",
    "per_example_gradient_norms",
    "per_example_gradient_norms_of",
    "per_example_inner_products",
    "per_example_inner_products_of",
    "per_example_losses",
    "precondition",
    "preconditioned_hessian",
    "second_moment_of",
    "spectral_density",
    "stability_ratio",
    "stability_threshold",
    "supported_optimizers",
    "tangent_kernel",
    "tangent_kernel_of",
    "top_eigenpairs",
    "trace",
]
