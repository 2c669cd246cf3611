"""Ridge regression, exact where it is small."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from jaxtyping import Float

_FEW = 400  # columns up to which a singular value decomposition is affordable


def ridge(
    inputs: Float[np.ndarray, "row feature"], targets: Float[np.ndarray, "row output"], penalty: float
) -> Float[np.ndarray, "feature output"]:
    """W of least |inputs W - targets|^2 / rows + penalty |W|^2 with columns in units of their root mean square.

    With few columns by singular values, so that without penalty a noise-free fit is exact to rounding and redundant
    columns do no harm (least norm); with many by the normal equations.
    """
    scale = np.sqrt(np.mean(inputs**2, axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    columns = inputs / scale
    rows = len(inputs)
    if columns.shape[1] <= _FEW:
        left, sizes, right = np.linalg.svd(columns, full_matrices=False)
        kept = sizes > sizes[0] * np.finfo(np.float64).eps * max(columns.shape)
        gains = np.where(kept, sizes, 0.0) / np.where(kept, sizes**2 + penalty * rows, 1.0)
        weights = right.T @ (gains[:, None] * (left.T @ targets))
    else:
        gram = columns.T @ columns
        gram[np.diag_indices_from(gram)] += max(penalty * rows, np.finfo(np.float64).eps * np.trace(gram))
        weights = scipy.linalg.solve(gram, columns.T @ targets, assume_a="pos")
    return np.asarray(weights / scale[:, None])
