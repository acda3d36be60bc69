# SPDX-License-Identifier: GPL-2.0-or-later
"""C reproducers: places of the real geometry, operations as statements, and what gets no program."""

import re

import pytest

from shadowmmu.checker import known, ops, reproducer, verify
from shadowmmu.checker.causes import cause
from shadowmmu.checker.finding import Finding


def finding(script, failure=verify.TRANSLATION, place=(0, 0x180, 9, 0xFF, 0x6D), **more):
    parsed = ops.parse(script)
    fields = dict(machine=parsed.machine, rules=parsed.rules, vcpus=parsed.vcpus, script=script, operations=len(parsed.rows),
                  rule=verify.FAILURES[failure][0], meaning="", details={"frame": "0x9 (gfn 9)"}, permitted=[], held=[],
                  change=[], tables=[], cause=cause(failure, parsed.rows[-1][0]), shape="", failure=failure, place=place,
                  rows=parsed.rows)
    return Finding(**(fields | more))


@pytest.mark.parametrize("scaled, real", [
    # entry i of every level is entry i + 8: 8 << 39 | 8 << 30 | 8 << 21 | 8 << 12, and 64 bytes into the page
    (0x000, 0x40201008040), (0x020, 0x40201009040), (0x080, 0x40201208040), (0x108, 0x40201408048), (0x1FF, 0x4020160B05F)])
def test_addresses(scaled, real):
    assert reproducer.real_gva(scaled) == real


@pytest.mark.parametrize("line, statement", [
    ("v0 store 0x20 = pte(gfn=8, P|W|U|A|D)", "store64(va(0x40201009040), entry(8ull, PT_PRESENT_MASK | PT_WRITABLE_MASK | "
     "PT_USER_MASK | PT_ACCESSED_MASK | PT_DIRTY_MASK), SUPERVISOR);"),
    ("v0 store 0x22 = 0 size=2", "store16(va(0x40201009042), 0x0, SUPERVISOR);"),
    ("v0 load 0x80 user", "access_as(va(0x40201208000), READ, USER);"),
    ("v0 mov cr3 = root(gfn=6, pcid=2, noflush)", "write_cr3(gpa(6) | 0x2ull | CR3_NOFLUSH);"),
    ("v0 invlpg 0x80", "invlpg(va(0x40201208040));"),
    ("v0 invpcid 1 pcid=2 0x80", "do_invpcid(1, 2, va(0x40201208040));"),
    ("v0 mov cr4 = PAE|PGE|SMEP", "set_cr4(X86_CR4_PGE | X86_CR4_SMEP);"),
    ("v0 mov cr0 = PE|ET|PG", "set_cr0(0);"),
])
def test_statements(line, statement):
    assert reproducer.statement(ops.parse_line(line)) == statement


def test_a_program_asks_for_what_the_hardware_permits_and_the_oracle_does_not():
    text = reproducer.program(finding("machine 4-level\nv0 fetch 0x1e0\n"))
    assert "access_as(va(0x40201608000), WRITE, SUPERVISOR)" in text           # 0xff & ~0x6d: writes; the supervisor's first
    assert "outcome.vector == PF_VECTOR && outcome.error == 0x3" in text
    assert "*entry_at(5, 0) = entry(9ull" in text and not re.search(r"@\w+@", text)
    assert all(name in text for name in ("report(permitted", "report_summary()", "write_cr3(gpa(1))", "setup_vm"))


def test_an_act_of_the_host_is_left_out_and_named():
    text = reproducer.program(finding("machine 4-level\nv0 load 0x80\nhost unmap hva=9 pages=1\nv0 load 0x180\n"))
    assert "host unmap hva=9 pages=1: not a guest's to do" in text and "are not a guest's to do and are left out" in text


@pytest.mark.parametrize("script, options, message", [
    ("v0 load 0x80", dict(failure=verify.HOST), "a guest could hurt its host"),
    ("v0 load 0x80", dict(failure=verify.WARNING), "a guest could hurt its host"),
    ("v0 load 0x80", dict(failure=verify.READONLY), "a guest could hurt its host"),
    ("v0 load 0x80", dict(failure=verify.LIVELOCK), "cannot see this kind"),
    ("v0 load 0x80", dict(withheld=True, deviation="mmio-writable"), "mmio-writable is withheld"),
    ("machine 32-bit\nv0 load 0x80", {}, "only machines with 4 levels"),
    ("machine pae\nv0 load 0x80", {}, "only machines with 4 levels"),
    ("v0 mov cr0 = PE|ET\nv0 load 0x80", {}, "turns paging off"),
    ("v0 mov cr3 = root(gfn=14)\nv0 load 0x80", {}, "where the test's own code is not mapped"),
    ("v0 mov cr4 = PAE|SMEP\nv0 load 0x80 user", {}, "SMEP or SMAP"),
])
def test_what_gets_no_program(script, options, message):
    with pytest.raises(reproducer.NotForGuests, match=message):
        reproducer.program(finding(script, **options))


def test_the_private_kinds_include_every_invariant():
    """A state that is not in order may be used to hurt the host: no program."""
    for failure in verify.FAILURES:
        if failure not in (verify.TRANSLATION, verify.ACCESS, verify.FAULT):
            with pytest.raises(reproducer.NotForGuests):
                reproducer.program(finding("v0 load 0x80", failure=failure))
    assert [name for name, d in known.DEVIATIONS.items() if d.script is None]
