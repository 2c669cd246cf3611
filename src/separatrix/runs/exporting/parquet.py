"""Parquet: the same long table as CSV, typed and compressed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from separatrix.runs.errors import MissingExtraError
from separatrix.runs.exporting.rows import dimensions, replaced_when_complete, rows
from separatrix.runs.run import Run


def write(run: Run, destination: Path) -> Path:
    """Write the table: series and labels as strings (null where a series lacks them), step int64, value double.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("Parquet needs pyarrow: pip install separatrix[parquet]") from error
    dims = dimensions(run)
    word = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    columns = [
        ("series", word),
        ("step", pyarrow.int64()),
        *((dim, word) for dim in dims),
        ("value", pyarrow.float64()),
    ]
    schema = pyarrow.schema(columns)
    with replaced_when_complete(destination) as path, pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for part in rows(run):
            count = len(part.steps)
            nothing = np.full(count, None, dtype=object)
            labels = [pyarrow.array(part.labels.get(dim, nothing), type=word) for dim in dims]
            series = pyarrow.array([part.series] * count, type=word)
            arrays = [series, pyarrow.array(part.steps), *labels, pyarrow.array(part.values.astype(float))]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
    return destination
