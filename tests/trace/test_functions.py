# SPDX-License-Identifier: GPL-2.0-or-later
"""Function traces of the kernel held against calls made here.

tests/data/functions/<guest>.fn.txt.gz are the function traces of two golden guests on Linux 6.12 (fn.txt.gz of
`<guest>.functions` in the golden logs).
"""

import gzip
import importlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from shadowmmu.trace import functions

DATA = Path(__file__).parent.parent / "data"
SYNC, LOAD, ALLOC = "mmu.roots.sync_roots", "mmu.roots.load", "mmu.roots.alloc_root"
BAR = functions.ANCHOR

TRACE = """\
print: 0xffffffff8122acdf: VMM create g1
function: kvm_mmu_load <-- vcpu_run
function: svm_get_segment <-- vcpu_run
function: mmu_alloc_root <-- kvm_mmu_load
kvm_mmu_get_page: sp gen 0 gfn 10
function: kvm_mmu_sync_roots <-- kvm_mmu_load
kvm_exit: vcpu 0 reason interrupt rip 0x8059 info1 0x0
kvm_exit: vcpu 0 reason PF excp rip 0x8059 info1 0x0
function: paging32_page_fault <-- kvm_mmu_do_page_fault
function: pte_list_remove.isra.0 <-- drop_spte
function: kvm_mmu_commit_zap_page.part.0 <-- kvm_mmu_load
"""


def test_parse():
    assert functions.parse(TRACE) == [BAR, LOAD, ALLOC, SYNC, BAR, "mmu.faults.before_lock", "mmu.pte_list.remove"]


def test_names():
    assert functions.kernel_name("paging64_gva_to_gpa") == functions.kernel_name("nonpaging_gva_to_gpa") == "FNAME(gva_to_gpa)"
    assert functions.kernel_name("__link_shadow_page.constprop.0") == "__link_shadow_page"
    assert functions.kernel_name("pte_list_add.part.0") == "pte_list_add.part.0"
    assert functions.traceable(["kvm_mmu_load [kvm]", "svm_get_segment [kvm_amd]", ""]) == {LOAD}


def test_each_name_is_mapped_once():
    assert len(functions.OURS) == sum(map(len, functions.KERNEL_NAMES.values()))
    for ours in functions.KERNEL_NAMES:
        module, _, name = ours.rpartition(".")
        assert callable(getattr(importlib.import_module(f"shadowmmu.{module}"), name))


def figures(report):
    return (report.calls_matched_in_order, report.calls_total, report.calls_ours, report.functions_with_equal_count,
            report.functions_total, report.unequal)


@pytest.mark.parametrize("theirs, ours, wanted", [
    ([LOAD, BAR, ALLOC, SYNC], [LOAD, BAR, ALLOC, SYNC], (3, 3, 3, 3, 3, {})),
    ([LOAD, ALLOC, SYNC], [LOAD, SYNC], (2, 3, 2, 2, 3, {ALLOC: (1, 0)})),
    ([LOAD, SYNC], [LOAD, SYNC, SYNC], (2, 2, 3, 1, 2, {SYNC: (1, 2)})),
    ([ALLOC, SYNC, LOAD], [SYNC, ALLOC, LOAD], (2, 3, 3, 3, 3, {})),
    # not matched across an anchor
    ([LOAD, BAR, SYNC], [LOAD, SYNC, BAR], (1, 2, 2, 2, 2, {})),
    # another number of anchors: as if there were none
    ([LOAD, BAR, SYNC], [LOAD, SYNC], (2, 2, 2, 2, 2, {})),
    # a function that they never call may be inlined
    ([LOAD], [LOAD, ALLOC], (1, 1, 1, 1, 1, {})),
    ([], [], (0, 0, 0, 0, 0, {})),
], ids=["equal", "missing", "extra", "reordered", "anchors", "other-anchors", "never-called", "empty"])
def test_compare(theirs, ours, wanted):
    assert figures(functions.compare(theirs, ours)) == wanted


def test_compare_named_functions():
    """With a list of names, a function that only one side calls counts."""
    assert functions.compare([LOAD], [LOAD, ALLOC], {LOAD, ALLOC, SYNC}).unequal == {ALLOC: (0, 1)}
    assert functions.compare([LOAD, SYNC], [LOAD], {LOAD}).calls_total == 1


def test_common_is_the_longest_common_subsequence():
    def slow(a, b):
        row = [0] * (len(b) + 1)
        for x in a:
            last = 0
            for j, y in enumerate(b):
                last, row[j + 1] = row[j + 1], last + 1 if x == y else max(row[j], row[j + 1])
        return row[-1]

    rng = random.Random(1)
    for _ in range(300):
        a, b = (rng.choices("abcd", k=rng.randrange(40)) for _side in "ab")
        assert functions.common(a, b) == slow(a, b)


#: guest -> (least calls in order, calls of the kernel, least functions with equal counts, functions); what is missing is
#: explained in docs/fidelity.md.
GUESTS = {"g4": (20280, 20504, 83, 99), "g5": (30916, 31272, 71, 84)}


@pytest.mark.parametrize("guest", GUESTS)
def test_calls_of_a_recorded_guest(guest):
    code = ("import json, sys; from pathlib import Path; from shadowmmu.cli import function_parity\n"
            "json.dump(function_parity.our_calls(Path(sys.argv[1]), '6.12'), sys.stdout)")
    config = DATA / "golden" / "guests" / f"{guest}.cfg"
    ours = json.loads(subprocess.run([sys.executable, "-c", code, config], check=True, capture_output=True, timeout=300,
                                     env={**os.environ, "SHADOWMMU_JIT": "0"}).stdout)
    theirs = functions.parse(gzip.decompress((DATA / "functions" / f"{guest}.fn.txt.gz").read_bytes()).decode())
    report = functions.compare(theirs, ours)
    in_order, total, equal, called = GUESTS[guest]
    assert theirs.count(BAR) == ours.count(BAR)
    assert (report.calls_total, report.functions_total) == (total, called)
    assert report.calls_matched_in_order >= in_order
    assert report.functions_with_equal_count >= equal


def test_a_directory_without_a_function_trace(tmp_path):
    result = subprocess.run([sys.executable, "-m", "shadowmmu", "trace", "function-parity", tmp_path],
                            capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("shadowmmu: ") and "not a recorded run" in result.stderr
