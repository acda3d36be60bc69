# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces as tables for other programs: JSON lines and Parquet.

    {"line": 16, "time": 23503593000, "cpu": 0, "pid": 590, "task": "vmm", "event": "kvm_entry", "vcpu": 0, ...}

Both are written in pieces.  Parquet has one column per field name of any event; numbers beyond 63 bits keep their
value as unsigned.
"""

import json
from pathlib import Path

#: Rows of one Parquet file part in memory at a time.
ROWS = 100000


def write_json_lines(records, out):
    """One JSON object per record on the text stream `out`.  Returns how many."""
    count = 0
    for record in records:
        out.write(json.dumps(record.to_dict(), ensure_ascii=False) + "\n")
        count += 1
    return count


def write_parquet(records, path, rows=ROWS):
    """Write records to a Parquet file, or to a folder of part files when there are more than `rows` of them.

    Returns (number of records, list of paths).  A folder is read back with
    `polars.scan_parquet(folder / "*.parquet", ...)` or by any other reader.
    """
    path = Path(path)
    paths, buffer, count = [], [], 0
    for record in records:
        if len(buffer) >= rows:
            paths.append(_write_part(buffer, path, len(paths)))
            buffer = []
        buffer.append(record.to_dict())
        count += 1
    if paths:
        paths.append(_write_part(buffer, path, len(paths)))
    else:
        frame(buffer).write_parquet(path)
        paths.append(path)
    return count, paths


def _write_part(rows, path, number):
    path.mkdir(parents=True, exist_ok=True)
    part = path / f"part-{number:05}.parquet"
    frame(rows).write_parquet(part)
    return part


#: Columns that are text in some event and a number in another are text everywhere.
_TEXT = frozenset(("task", "event", "access", "error_code", "reason", "type", "flags", "direction", "sptep", "letters",
                   "bytes", "mode", "vector", "text", "match", "place"))
_BOOL = frozenset(("exception", "failed", "reinjected"))
_SIGNED = frozenset(("errno", "time"))


def frame(rows):
    """polars DataFrame of dicts from `Record.to_dict`."""
    import polars

    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if name in _TEXT:
            kind, values = polars.String, [None if v is None else str(v) for v in values]
        elif name in _BOOL:
            kind, values = polars.Boolean, [None if v is None else bool(v) for v in values]
        elif name in _SIGNED or any(v is not None and v < 0 for v in values):
            kind = polars.Int64
        else:
            kind = polars.UInt64
        columns[name] = polars.Series(name, values, dtype=kind, strict=False)
    return polars.DataFrame(columns)
