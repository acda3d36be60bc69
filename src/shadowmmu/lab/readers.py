# SPDX-License-Identifier: GPL-2.0-or-later
"""Throughput of the trace readers, on recordings of the repository (`tests/trace/data`); without them there are no rows.

    text       a tracefs log, repeated to SIZE bytes, read into records (their fields are decoded when asked for)
    columns    a trace.dat read into arrays;  records: the same file into such records

Bytes are those of the unpacked file.  A small file is read again and again, header included, for the given time.
"""

import gzip
import io
import pathlib
import time
from dataclasses import dataclass

from ..trace.reader import make_reader

DATA = pathlib.Path(__file__).resolve().parents[3] / "tests" / "trace" / "data"
SIZE = 16 << 20


@dataclass
class Throughput:
    """Best of the rounds: events and bytes per second."""

    name: str
    events: float
    octets: float


def _records(reader):
    return sum(1 for _ in reader)


def _columns(reader):
    return sum(len(part.time) for part in reader.columns())


def _measure(name, data, read, options):
    best = 0.0
    events = 0
    for _ in range(min(options.rounds, 3)):
        done, started = 0, time.perf_counter()
        while not done or time.perf_counter() - started < options.seconds:
            events = read(make_reader(io.BytesIO(data), name))
            done += 1
        best = max(best, done / (time.perf_counter() - started))
    return Throughput(name, events * best, len(data) * best)


def measure(options):
    """A list of `Throughput`; empty where the recordings are not at hand."""
    text = next(iter(sorted(DATA.glob("logs/6.12/*/trace.txt.gz"))), None)
    binary = DATA / "v7-none-6.12-g3.dat.gz"
    rows = []
    if text:
        log = gzip.decompress(text.read_bytes())
        rows.append(_measure("tracefs text, records", log * max(SIZE // len(log), 1), _records, options))
    if binary.exists():
        data = gzip.decompress(binary.read_bytes())
        rows.append(_measure("trace.dat, columns", data, _columns, options))
        rows.append(_measure("trace.dat, records", data, _records, options))
    return rows
