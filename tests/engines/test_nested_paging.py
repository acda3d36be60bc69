# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested paging on the engine: our walker in the engine's place, and the things a run can see of it."""

import struct
from dataclasses import replace

import pytest

from shadowmmu.engines.unicorn_svm import offsets, walk_counter
from shadowmmu.engines.unicorn_svm.errors import EngineError
from shadowmmu.engines.unicorn_svm.hardware import SvmHardware
from shadowmmu.guests import session
from shadowmmu.mmu import events
from shadowmmu.state import JIT

from . import guest_code

BOTH = pytest.mark.parametrize("mmu", ["tdp", "tdp-legacy"])
NPF = 0x400
FINAL, TABLE = 1 << 32, 1 << 33


def run(code, mmu, **options):
    """(session, event rows) of a small guest."""
    rows = []
    outcome = session.run(guest_code.image(bytes.fromhex(code.replace(" ", "")), **options), mmu=mmu, on_rows=rows.extend,
                          timeout=60)
    assert outcome.report.reason == "exit" and outcome.vm.warning is None, outcome.report.text
    return outcome, rows


def faults(rows):
    """(EXITINFO1, EXITINFO2) of the NPF exits."""
    return [(row[4], row[5]) for row in rows if row[0] == events.EXIT and row[2] == NPF]


def test_an_unknown_layout_is_refused():
    """The walker's address stands there twice; anything else is an error, not a wild store."""
    state = SvmHardware().state
    assert offsets.find_page_walker(state) > state.cpu
    wrong = replace(state, functions={**state.functions, "x86_cpu_tlb_fill": 0x1122334455667788})
    with pytest.raises(EngineError, match="page walker of the CPU class"):
        offsets.find_page_walker(wrong)


@BOTH
def test_order_and_codes_of_cold_faults(mmu):
    """APM vol. 2 15.25.6: each guest table, then the final address; tables are written, all 64 bits of EXITINFO1 arrive."""
    _, rows = run("90", mmu)
    seen = faults(rows)
    assert seen[0] == (TABLE | 6, guest_code.PML4)
    assert (FINAL | 0x14, guest_code.CODE) in seen
    if mmu == "tdp":
        pt_entry = guest_code.PT0 + 8 * (guest_code.CODE >> 12)
        assert seen[:4] == [(TABLE | 6, guest_code.PML4), (TABLE | 6, guest_code.PDPT), (TABLE | 6, guest_code.PD),
                            (TABLE | 6, pt_entry)]


@BOTH
def test_looking_at_an_instruction_leaves_no_trace(mmu):
    """An exit near the end of a page decodes up to 15 bytes; the next page, which the guest never reaches, gets neither a
    fault nor an A bit."""
    at = 0x9FFF - 8
    # jmp to the end of the page: CPUID exits there, then jump back to the end of the program
    jump = b"\xe9" + struct.pack("<i", at - (guest_code.CODE + 5))
    back = b"\xe9" + struct.pack("<i", guest_code.CODE + 5 - (at + 7))
    outcome, rows = run(jump.hex(), mmu, segments=((at, b"\x0f\xa2" + back),))
    assert outcome.report.exits["CPUID"] == 1
    assert all(address >> 12 != 0xA for _, address in faults(rows))
    entry = outcome.vm.read_gpa(guest_code.PT0 + 8 * 0xA, 8)
    assert not int.from_bytes(entry, "little") & 0x20
    assert int.from_bytes(outcome.vm.read_gpa(guest_code.PT0 + 8 * 9, 8), "little") & 0x20


@BOTH
def test_the_guest_owns_its_tables(mmu):
    """MOV CR3, INVLPG and writes to page tables: no exit, and they work.  The guest maps VA 0x200000 to another page
    (mov qword [0x14000], 0x300007; invlpg; mov al, [0x200000]) and leaves with what it reads there."""
    outcome, _ = run("488b042500002000 48c7042500400100 07003000 0f013c2500002000 48c7042500003000 37000000"
                     "0f20d8 0f22d8 8a0c2500002000 880c2500600000", mmu)
    assert outcome.vm.read_gpa(0x6000, 1) == b"\x37"
    exits = outcome.report.exits
    assert set(exits) - {name for name, n in exits.items() if not n} <= {"NPF", "IO"}


@pytest.mark.skipif(not JIT, reason="counts in compiled code")
def test_walks_of_shadow_tables_are_counted():
    from shadowmmu.state import interpreted
    counted = []
    original = session.KvmRun.run

    def counting(machine):
        walk_counter.install(machine)
        counted.append(machine)
        return original(machine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.KvmRun, "run", counting)
        outcome, _ = run("488b042500002000", "shadow")
    h = interpreted.hw_walk(outcome.vm.view)
    assert counted and h.most_refs == 4 and h.walks >= outcome.report.exits["#PF"] and h.guest_refs == 0
