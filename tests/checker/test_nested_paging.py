# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines with nested paging: what a right MMU does on them, and what is found when it is not right.

Interpreted, in one process of its own each; expectations by hand from docs/nested.md and the manuals named in `checker.known`.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from front import check

from shadowmmu.checker import alphabet, entry_values, geometry, known, ops
from shadowmmu.checker.places import PAGE

NESTED = [name for name, machine in geometry.MACHINES.items() if machine.nested]
HERE = pathlib.Path(__file__).parent


def test_there_is_a_machine_for_each_format():
    formats = {(m.nested, m.entry_bytes, m.tdp_level, m.mmu, m.l2_paging) for m in map(geometry.MACHINES.get, NESTED)}
    assert {("npt", 8, 4, "tdp", False), ("npt", 4, 4, "tdp", False), ("npt", 8, 5, "tdp", False), ("ept", 8, 4, "tdp", False),
            ("ept", 8, 5, "tdp", False), ("npt", 8, 4, "tdp-legacy", False), ("npt", 8, 4, "tdp", True),
            ("ept", 8, 4, "tdp", True)} <= formats


@pytest.mark.parametrize("name", NESTED)
def test_l1s_tables_and_the_nested_ones_are_apart(name):
    """No row of the alphabet writes where L1's own tables lie, so that L1 goes on by its own addresses."""
    machine = geometry.MACHINES[name]
    for rows in alphabet.alphabet(machine, 1).values():
        for row in rows:
            if row[0] in (ops.STORE, ops.HOST_WRITE):
                # (beyond that only L2 has something: nested_execute.out_of_reach)
                assert 0 <= row[2] // PAGE < 16 or row[0] == ops.STORE and row[2] // PAGE in machine.pages
    (leaf, more), directory, upper = entry_values.of_nested(machine)
    assert len(leaf + more + directory[0] + directory[1] + upper) > 30


def test_every_nested_operation_can_be_written_and_read():
    codes = {ops.VMRUN, ops.EPT_ENTRY, ops.INVLPGA, ops.INVEPT, ops.INVVPID, ops.LEVELS, ops.VMFUNC, ops.VM_EXIT}
    seen = set()
    for name in NESTED:
        for rows in alphabet.alphabet(geometry.MACHINES[name], 1).values():
            for row in rows:
                assert ops.parse_line(ops.show(row)) == row
                seen.add(row[0])
    assert codes <= seen


SCRIPTS = """
import os, json, sys
os.environ["SHADOWMMU_JIT"] = "0"
from shadowmmu.checker import geometry, known, ops, search, verify
out = {}
for name in sys.argv[1:]:
    d = known.DEVIATIONS[name]
    s = ops.parse(d.script)
    machine = geometry.MACHINES[s.machine]
    everything = known.mask(known.DEVIATIONS)
    for label, aside in (("alone", 0), ("aside", everything)):
        arena = geometry.Arena(machine, "linux-6.12", s.vcpus, aside=aside)
        failure = search.replay(arena, s.rows)[0]
        out[f"{name} {label}"] = verify.FAILURES[failure][0] if failure else None
print(json.dumps(out))
"""
DEVIATIONS = {"violation-keeps": "translation", "ept-shared": "translation", "ept-table-write": "nested-exit",
              "ept-emulated-read": "nested-exit", "walk-untracked": "translation"}


def test_deviations_of_nested_ept_are_found_and_can_be_set_aside():
    environment = os.environ | {"PYTHONPATH": str(HERE.parent.parent / "src"), "SHADOWMMU_JIT": "0"}
    done = subprocess.run([sys.executable, "-c", SCRIPTS, *DEVIATIONS], capture_output=True, text=True, env=environment,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, kind in DEVIATIONS.items():
        assert found[f"{name} alone"] == kind, name
        assert found[f"{name} aside"] is None, name


#: Changes of what nested paging needs, none of them in the museum: (patch, machine, vCPUs, operations that are enough, what
#: fails).
BROKEN = {
    "the VMRUN forgets to sync": ('''
@replaces("vm.nested_guest.transition_tlb_flush")
def transition_tlb_flush(vcpu):
    vcpu.requests |= flush.REQ_TLB_FLUSH_CURRENT
''', '''machine npt
v0 vmrun ncr3=root(gfn=1) asid=1 flush=0
v0 load 0x80
v0 store 0x20 = pte(gfn=8, P|W|U|A|D)
v0 vm exit
v0 vmrun ncr3=root(gfn=1) asid=1 flush=3
''', "translation"),
    "the transition forgets the flush": ('''
@replaces("vm.nested_guest.transition_tlb_flush")
def transition_tlb_flush(vcpu):
    vcpu.requests |= flush.REQ_MMU_SYNC
''', '''machine npt
v0 load 0x100
v0 vmrun ncr3=root(gfn=1) asid=1 flush=0
v0 load 0x80
v0 vm exit
v0 vmrun ncr3=root(gfn=1) asid=1 flush=0
v0 vm exit
v0 load 0x80
v0 vmrun ncr3=root(gfn=1) asid=1 flush=0
''', "translation"),
    "INVEPT of one context keeps its roots": ('''
@replaces("mmu.ept.matching_roots")
def matching_roots(ctx, eptp):
    return 0
''', '''machine ept
v0 vm entry eptp(gfn=1, levels=4, ad) vpid=1
v0 load 0x80
v0 vmfunc eptp(gfn=6, levels=4, ad)
v0 vm exit
v0 store 0xa0 = pte(gfn=8, P|W|U|PCD|A|G|0x200)
v0 invept 1 eptp(gfn=1, levels=4, ad)
v0 vm entry eptp(gfn=1, levels=4, ad) vpid=1
''', "translation"),
    "a nested entry's write right is not looked at": ('''
@replaces("mmu.ept.gpte_access")
def gpte_access(gpte):
    return roles.ACC_EXEC | roles.ACC_USER | roles.ACC_WRITE
''', '''machine ept
v0 vm entry eptp(gfn=6, levels=4, ad) vpid=1
v0 load 0x80
''', "translation"),
    "the fault of L1's tables loses its address": ('''
@replaces("mmu.nested.take_fault")
def take_fault(vm, vcpu, w):
    inner = walk.walker_of(vm, vcpu, walk.NESTED_WALKER)
    w.fault_error = inner.fault_error
    w.fault_address = 0
    w.fault_nested = inner.fault_nested
''', '''machine npt
v0 vmrun ncr3=root(gfn=6) asid=1 flush=0
v0 store 0xa0 = pte(gfn=8, P|W|U|A|D) emulated
''', "nested-exit"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_mmu_is_found(name, tmp_path):
    patch, script, kind = BROKEN[name]
    (tmp_path / "p.py").write_text(patch)
    (tmp_path / "s.txt").write_text(script)
    clean = check(tmp_path, "--replay", tmp_path / "s.txt", "--aside", "all")
    assert "nothing found" in clean.stdout
    broken = check(tmp_path, "--replay", tmp_path / "s.txt", "--aside", "all", "--patch", tmp_path / "p.py", code=1)
    assert broken.stdout.startswith(f"FINDING  {kind}")


def test_a_short_search_of_every_nested_machine_is_silent(tmp_path):
    """(The long ones: docs/checker-bounds.md.)"""
    options = [part for name in NESTED for part in ("--machine", name)]
    done = check(tmp_path, *options, "--vcpus", 1, "--operations", 3000, "--seconds", 60)
    assert "nothing found" in done.stdout


# ---- --judge

def test_the_judge_says_when_a_flush_is_owed(tmp_path):
    """docs/scripts/nested.txt: stale is permitted until the VMRUN that flushes the ASID (APM vol. 2 15.16.1)."""
    script = HERE.parent.parent / "docs" / "scripts" / "nested.txt"
    steps = {s["line"]: s for s in json.loads(check(tmp_path, "--judge", script, "--json").stdout)["steps"]}
    assert {o["what"] for o in steps[5]["permitted"]} == {"gfn 8", "gfn 9"}
    assert {o["what"] for o in steps[9]["permitted"]} == {"gfn 8"} and steps[9]["taken_before"]
    assert steps[8]["removals"][0]["event"] == "VMRUN, TLB_CONTROL 3"


def test_the_judge_knows_exits_to_l1(tmp_path):
    """A store where EPT permits reads and fetches only: bit 1, and 101 in bits 5:3 (SDM vol. 3 table 28-7); L1 runs then."""
    script = tmp_path / "s.txt"
    script.write_text("machine ept\nv0 vm entry eptp(gfn=6, levels=4, ad) vpid=1\nv0 store 0x80 = 0\nv0 load 0x80\n")
    steps = json.loads(check(tmp_path, "--judge", script, "--json").stdout)["steps"]
    assert [o["what"] for o in steps[1]["permitted"]] == ["exit to L1: exit qualification 0x2a"]
    assert steps[1]["removals"][0]["event"] == "EPT violation" and steps[2]["note"].startswith("L1")


def test_the_judge_reads_nested_tables_with_l1s_levels(tmp_path):
    """After `levels 5` the page at nCR3 is a PML5 (APM vol. 2 5.3, 15.25.3): one more step."""
    script = tmp_path / "s.txt"
    for levels in (4, 5):
        script.write_text(f"machine npt-5\nv0 levels {levels}\nv0 vmrun ncr3=root(gfn=1) asid=1 flush=0\nv0 may load 0x80\n")
        steps = json.loads(check(tmp_path, "--judge", script, "--json").stdout)["steps"]
        text = steps[-1]["permitted"][0]
        assert ("PML5E" in json.dumps(text)) == (levels == 5)
        assert "L1's nested tables" in steps[0]["note"]


def test_what_judge_and_reproducer_cannot_do_is_told(tmp_path):
    script = tmp_path / "s.txt"
    script.write_text("machine npt-l2\nv0 load 0x80\n")
    done = check(tmp_path, "--judge", script, code=2)
    assert done.stderr.startswith("shadowmmu: machine npt-l2: L2 pages itself") and len(done.stderr.splitlines()) == 1
    script.write_text(known.DEVIATIONS["violation-keeps"].script)
    done = check(tmp_path, "--replay", script, "--reproducer", tmp_path / "r.c", code=1)
    assert "it takes a guest hypervisor" in done.stderr and not (tmp_path / "r.c").exists()
