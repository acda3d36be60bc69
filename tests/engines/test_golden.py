# SPDX-License-Identifier: GPL-2.0-or-later
"""Every recorded guest on every recorded kernel: events, states, values, memory, registers and counters.

The recordings (tests/data/golden) are logs of real Linux kernels; what may differ is named in trace.normalise.RULES.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shadowmmu.cli import compare_run

LOGS = Path(__file__).parent.parent / "data" / "golden" / "logs"
RUNS = sorted(path for path in LOGS.glob("*/g*") if path.is_dir())

#: Events and states of each recording, counted in the files (zcat norm.txt.gz | wc -l; ls spn): a reader that loses
#: lines must not pass.
TOTALS = {("6.1", "g1"): (4654, 24), ("6.12", "g8s1"): (23578, 11), ("7.2", "g9b1"): (23237, 11),
          ("6.12", "g10"): (1759, 6), ("7.2", "g6"): (1264, 10)}


def test_all_recordings_are_here():
    assert len(RUNS) == 36


@pytest.mark.parametrize("run_dir", RUNS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_equal_to_the_recording(run_dir):
    report = compare_run.run(run_dir, timeout=60)
    assert report.differences == {}
    assert report.events_equal == report.events_total > 1000
    assert report.states_equal == report.states_total >= 6
    assert report.values_equal and report.memory_equal and report.registers_equal and report.counters_equal
    key = run_dir.parent.name, run_dir.name
    if key in TOTALS:
        assert (report.events_total, report.states_total) == TOTALS[key]


def test_equal_when_interpreted():
    """The same source without the compiler, on guests that reach 32-bit, PAE and 64-bit paging and host operations."""
    code = ("from shadowmmu.cli import compare_run; import sys\n"
            "for run_dir in sys.argv[1:]:\n"
            "    report = compare_run.run(run_dir, timeout=300)\n"
            "    assert report.differences == {}, (run_dir, report.differences)\n"
            "    assert report.events_total > 1000\n")
    names = ("6.12/g3", "6.12/g4", "6.12/g5", "6.12/g10", "6.1/g1", "7.2/g1", "7.2/g6")
    subprocess.run([sys.executable, "-c", code, *(str(LOGS / name) for name in names)], check=True,
                   env={**os.environ, "SHADOWMMU_JIT": "0"}, timeout=600)


def test_a_difference_is_found(tmp_path):
    """The comparison can fail: one changed line of the log, one changed word of memory, one changed state."""
    import gzip
    import shutil
    root = tmp_path / "golden"
    shutil.copytree(LOGS / "6.12" / "g2a", root / "logs" / "6.12" / "g2a")
    shutil.copytree(LOGS.parent / "guests", root / "guests")
    run = root / "logs" / "6.12" / "g2a"
    norm = gzip.decompress((run / "norm.txt.gz").read_bytes()).decode().split("\n")
    at = next(i for i, line in enumerate(norm) if line.startswith("kvm_mmu_set_spte"))
    norm[at] = norm[at].replace("level 1", "level 2")
    (run / "norm.txt.gz").write_bytes(gzip.compress("\n".join(norm).encode()))
    memory = bytearray(gzip.decompress((run / "mem.bin.gz").read_bytes()))
    memory[0x200000] ^= 1
    (run / "mem.bin.gz").write_bytes(gzip.compress(bytes(memory)))
    dump = sorted((run / "spn").iterdir())[3]
    text = gzip.decompress(dump.read_bytes()).decode().replace("root_count 1", "root_count 2", 1)
    dump.write_bytes(gzip.compress(text.encode()))
    report = compare_run.run(run)
    assert set(report.differences) == {"events", "memory", "states"}
    assert report.events_equal == report.events_total - 1
    assert report.states_equal == report.states_total - 1
