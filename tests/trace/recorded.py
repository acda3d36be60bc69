# SPDX-License-Identifier: GPL-2.0-or-later
"""The recorded traces that these tests use: a small part of what real kernels left (see the issue's golden logs).

report-*.txt.gz and v7-*.dat* were made from the same recordings by trace-cmd 3.1.6 (`report`, `report -N`,
`convert --file-version 7`).
"""

import gzip
from pathlib import Path

DATA = Path(__file__).parent / "data"
RUNS = sorted(path.parent for path in DATA.glob("logs/*/*/trace.txt.gz"))
GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "logs"


def unpacked(path):
    """Contents of a gzipped or plain file."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def run_id(path):
    return f"{path.parent.name}/{path.name}"
