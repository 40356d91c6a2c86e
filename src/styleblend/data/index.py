"""The index of a raw source: one row a file, with its hash, origin, licence and, where known, person and landmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from styleblend.errors import StyleBlendError
from styleblend.system.files import whole_file

INDEX = pa.schema(
    [(name, pa.string()) for name in ("source", "path", "sha256", "url", "licence", "terms", "person")]
    + [(name, pa.int64()) for name in ("render_seed", "render_person", "render_picture")]
    + [("landmarks", pa.list_(pa.float32())), ("author", pa.string()), ("weight", pa.float64())]
    + [("refused", pa.string()), ("is_picture", pa.bool_())]
)
"""`refused` says why a file was not copied, null for the others; it has no hash then. `is_picture` is false for what is
none by its ending, which is passed over. `path` is UTF-8; a name that cannot be so has a readable one in its place.
"""


def read_index(raw: Path) -> pd.DataFrame:
    """Rows of every source below `raw`, ordered by path.

    Raises:
        StyleBlendError: no index is there.
    """
    found = sorted(raw.glob("*/index.parquet"))
    if not found:
        raise StyleBlendError(f"{raw} holds no index.parquet: run the stage download first")
    rows = pd.concat([pd.read_parquet(path) for path in found], ignore_index=True)
    return rows.sort_values("path", ignore_index=True)


def write_rows(rows: list[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    """Write rows as parquet with exactly this schema, whole or not at all.

    Whole numbers that may be missing are read back by pandas as Int64, not as floats.
    """
    columns = {field.name: [row.get(field.name) for row in rows] for field in schema}
    frame = pd.DataFrame(columns, dtype=object)
    for field in schema:
        if pa.types.is_int64(field.type):
            frame[field.name] = frame[field.name].astype("Int64")
    with whole_file(path) as partial:
        pq.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False), partial)
