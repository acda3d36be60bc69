# SPDX-License-Identifier: GPL-2.0-or-later
"""Every recorded guest hypervisor on every recorded kernel and mode: events, states, values, memory, registers, counters.

tests/data/golden-nested holds what the comparison needs of the recordings; the folder name is <kernel>-<mode>:
npt0 shadow paging under L1, npt1 the TDP MMU, npt1-legacy the direct MMU of kvm.tdp_mmu=N.
"""

from collections import Counter
from pathlib import Path

import pytest

from shadowmmu.cli import compare_run

LOGS = Path(__file__).parent.parent / "data" / "golden-nested" / "logs"
RUNS = sorted(path for path in LOGS.glob("*/n*") if path.is_dir())

#: Recordings by mode.
EXPECTED_RUNS = {"npt0": 6, "npt1": 12, "npt1-legacy": 12}
#: Events and states of some recordings, counted in the files (zcat norm.txt.gz | wc -l; ls spn).
TOTALS = {("6.1-npt0", "n1"): (5816, 15), ("6.12-npt0", "n2"): (6725, 21), ("7.2-npt0", "n1"): (5815, 15),
          ("6.1-npt1", "n4"): (4793, 12), ("6.12-npt1", "n3"): (14432, 21), ("7.2-npt1-legacy", "n2"): (4103, 21)}


def test_all_recordings_are_here():
    assert Counter(path.parent.name.partition("-")[2] for path in RUNS) == EXPECTED_RUNS


@pytest.mark.parametrize("run_dir", RUNS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_equal_to_the_recording(run_dir):
    report = compare_run.run(run_dir, timeout=60)
    assert report.differences == {}
    assert report.events_equal == report.events_total > 3000
    assert report.states_equal == report.states_total >= 11
    assert report.values_equal and report.memory_equal and report.registers_equal and report.counters_equal
    key = run_dir.parent.name, run_dir.name
    if key in TOTALS:
        assert (report.events_total, report.states_total) == TOTALS[key]
