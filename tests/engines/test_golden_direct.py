# SPDX-License-Identifier: GPL-2.0-or-later
"""Recorded guests with two-dimensional paging: events, states, values, memory, registers and counters of both direct MMUs.

tests/data/golden-nested holds what the comparison needs; the folder name is <kernel>-<mode>: npt1 is the TDP MMU,
npt1-legacy the direct MMU of kvm.tdp_mmu=N.
"""

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shadowmmu.cli import compare_run
from shadowmmu.trace.errors import TraceError

LOGS = Path(__file__).parent.parent / "data" / "golden-nested" / "logs"
RUNS = sorted(path for path in LOGS.glob("*-npt1*/g*") if path.is_dir())

#: Events and states of some recordings, counted in the files (zcat norm.txt.gz | wc -l; ls spn | wc -l).
TOTALS = {("6.12-npt1", "g10"): (8217, 6), ("6.1-npt1", "g10"): (8152, 6), ("7.2-npt1-legacy", "g5"): (1162, 30),
          ("6.12-npt1-legacy", "g8s1"): (2955, 11)}


def test_all_recordings_are_here():
    assert len(RUNS) == 20


@pytest.mark.parametrize("run_dir", RUNS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_equal_to_the_recording(run_dir):
    report = compare_run.run(run_dir, timeout=60)
    assert report.differences == {}
    assert report.events_equal == report.events_total > 350
    assert report.states_equal == report.states_total >= 6
    assert report.values_equal and report.memory_equal and report.registers_equal and report.counters_equal
    key = run_dir.parent.name, run_dir.name
    if key in TOTALS:
        assert (report.events_total, report.states_total) == TOTALS[key]


def test_equal_when_interpreted():
    """The walker in Python under the engine, 32-bit, PAE and 64-bit guests, host operations."""
    code = ("from shadowmmu.cli import compare_run; import sys\n"
            "for run_dir in sys.argv[1:]:\n"
            "    report = compare_run.run(run_dir, timeout=300)\n"
            "    assert report.differences == {}, (run_dir, report.differences)\n"
            "    assert report.events_total > 1000\n")
    names = ("6.12-npt1/g5", "6.12-npt1-legacy/g10", "7.2-npt1/g10")
    subprocess.run([sys.executable, "-c", code, *(str(LOGS / name) for name in names)], check=True,
                   env={**os.environ, "SHADOWMMU_JIT": "0"}, timeout=600)


def test_a_difference_in_a_tdp_table_is_found(tmp_path):
    root = tmp_path / "golden"
    shutil.copytree(LOGS / "6.12-npt1" / "g2a", root / "logs" / "6.12-npt1" / "g2a")
    shutil.copytree(LOGS.parent / "guests", root / "guests")
    run = root / "logs" / "6.12-npt1" / "g2a"
    dump = sorted((run / "spn").iterdir())[3]
    text = gzip.decompress(dump.read_bytes()).decode()
    assert " 8:G8|e67" in text
    dump.write_bytes(gzip.compress(text.replace(" 8:G8|e67", " 8:G8|e65").encode()))
    report = compare_run.run(run, timeout=60)
    assert report.events_equal == report.events_total and report.states_equal == report.states_total - 1
    assert "TDP table gfn 0 level 1" in report.differences["states"] and "entry 8" in report.differences["states"]


def test_an_unknown_mode_is_named(tmp_path):
    shutil.copytree(LOGS / "6.12-npt1" / "g2a", tmp_path / "logs" / "6.12-ept1" / "g2a")
    with pytest.raises(TraceError, match="unknown mode 'ept1'"):
        compare_run.run(tmp_path / "logs" / "6.12-ept1" / "g2a")
