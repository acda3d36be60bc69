# SPDX-License-Identifier: GPL-2.0-or-later
"""The throughput rows of the benchmark."""

from shadowmmu.lab import readers
from shadowmmu.lab.options import Options


def test_every_reader_has_a_row():
    rows = readers.measure(Options(seconds=0.01, rounds=1))
    assert [row.name for row in rows] == ["tracefs text, records", "trace.dat, columns", "trace.dat, records"]
    assert all(row.events > 1000 and row.octets > row.events for row in rows)


def test_no_recordings_no_rows(monkeypatch, tmp_path):
    monkeypatch.setattr(readers, "DATA", tmp_path)
    assert readers.measure(Options()) == []
