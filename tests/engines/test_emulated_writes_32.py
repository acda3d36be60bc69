# SPDX-License-Identifier: GPL-2.0-or-later
"""Page-table stores, MOV CR3 and INVLPG of 32-bit code, PAE and two-level: the same as on the engine's own MMU, and in
compiled code.

    PAE        CR3 -> 0x11000 PDPT -> 0x12000 PD -> 0x13000, 0x14000 PT
    two-level  CR3 -> 0x12000 PD -> 0x13000 PT (4 MiB)
"""

import struct

import pytest

from shadowmmu import state
from shadowmmu.guests import session
from shadowmmu.guests.image import DescriptorTable, EntryState, GuestImage, flat_segments

MEMORY = 16 << 20
PDPT, PD, PT0, PT1, CODE, STACK = 0x11000, 0x12000, 0x13000, 0x14000, 0x8000, 0x5000
TARGET = PD + 0x800
REGISTERS = {"rax": 0x11223344, "rbx": 0x01020304, "rcx": 0x10, "rdx": 0x99AABBCC, "rsi": 0x200000, "rdi": TARGET,
             "rbp": TARGET}
END = bytes.fromhex("baf400000031c0ef")     # mov edx, 0xf4; xor eax, eax; out dx, eax
PUSHF = "bc00500000 9c"                      # flags to where the comparison of memory sees them
RELOAD = "0f20d8 0f22d8"                     # mov eax, cr3; mov cr3, eax

PROGRAMS = {
    "mov": "8907", "mov imm": "c70778563412", "mov disp8": "894704", "mov disp32": "898700010000", "mov sib": "89448f08",
    "mov absolute": "890d00290100", "mov moffs": "a300290100", "mov es": "268907", "mov ss by ebp": "894d00",
    "xchg": "8707", "cmpxchg equal": "31c00fb117", "cmpxchg different": "0fb117", "lock cmpxchg": "31c0f00fb117",
    # PUSHF; POPF (9c9d): see test_emulated_writes
    "cmpxchg8b equal": "31c031d29c9d0fc70f", "lock cmpxchg8b equal": "31c031d29c9df00fc70f",
    "cmpxchg8b different": "9c9d0fc70f", "and": "2107", "or": "0907", "or imm": "830f40", "or imm32": "810f78563412",
    "bts": "0fab0f", "btc": "0fbb0f", "lock bts imm": "f00fba2f05", "stosd": "ab", "rep stosd": "f3ab", "std stosd": "fdabfc",
    "edi wraps": "81c700000010 8d8700ffffff 8987000000f0",
}
#: Left to Python: 16-bit operand and address sizes, a segment with a base.
OTHERS = {"mov16": "668907", "mov16 address": "678905", "push": "89fc83c40450", "movsd": "a5"}


def tables(pae):
    if pae:
        entries = b"".join(struct.pack("<Q", i << 12 | 7) for i in range(1024))
        return ((PDPT, struct.pack("<Q", PD | 1)), (PD, struct.pack("<QQ", PT0 | 7, PT1 | 7)), (PT0, entries))
    return ((PD, struct.pack("<I", PT0 | 7)), (PT0, b"".join(struct.pack("<I", i << 12 | 7) for i in range(1024))))


def image(code, registers, pae):
    entry = EntryState(cr0=0x80010033, cr3=PDPT if pae else PD, cr4=0x620 if pae else 0x610, efer=0x800 if pae else 0, rip=CODE,
                       rsp=STACK, gdtr=DescriptorTable(0x1000, 0xFF), idtr=DescriptorTable(0x1400, 0x1FF), gprs=registers,
                       **flat_segments(0x18, 0x10, False))
    gdt = struct.pack("<4Q", 0, 0, 0x00CF93000000FFFF, 0x00CF9B000000FFFF)
    return GuestImage("test", MEMORY, (*tables(pae), (0x1000, gdt), (CODE, code + END)), entry, "golden")


def check(text, registers, pae):
    """The shadow side's session, after the comparison."""
    guest = image(bytes.fromhex(text.replace(" ", "")), registers, pae)
    shadow, none = (session.run(guest, mmu=mmu, timeout=30) for mmu in ("shadow", "none"))
    assert shadow.report.reason == none.report.reason == "exit", (shadow.report.text, none.report.text)
    a, b = (outcome.vm.read_gpa(0, MEMORY) for outcome in (shadow, none))
    assert [hex(i) for i in range(0, MEMORY, 4) if a[i:i + 4] != b[i:i + 4]] == []
    assert shadow.registers == none.registers
    assert shadow.vm.warning is None
    return shadow


@pytest.mark.parametrize("pae", [True, False], ids=["pae", "two-level"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_page_directory_store(name, pae):
    shadow = check(PROGRAMS[name] + PUSHF, REGISTERS, pae)
    assert shadow.report.emulated, "the page was not write-protected"
    if state.JIT:
        assert shadow.report.fast_exits == sum(shadow.report.exits.values()) - 1, "Python had more to do than the last OUT"


@pytest.mark.parametrize("pae", [True, False], ids=["pae", "two-level"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_stores(name, pae):
    shadow = check(OTHERS[name] + PUSHF, REGISTERS | {"rbx": 0, "rdi": TARGET if "address" not in name else 0x2800}, pae)
    assert shadow.report.reason == "exit"


@pytest.mark.parametrize("pae", [True, False], ids=["pae", "two-level"])
def test_invlpg_and_cr3(pae):
    """A leaf entry changes, INVLPG in three forms and a reload of CR3; loads see the new page each time."""
    entry = PT0 + 0x300 * (8 if pae else 4)
    page = "b9 00003000 8b01 89c3"             # mov ecx, 0x300000; mov eax, [ecx]; mov ebx, eax
    point = f"c705 {struct.pack('<I', entry).hex()} %s"
    code = (page + point % "07103000" + "0f0139" + "0319" + point % "07203000" + "0f013d00003000" + "0319"
            + point % "07303000" + "31d2 0f017c1100" + "0319" + point % "07403000" + RELOAD + "0319" + PUSHF)
    guest_pages = [(0x300000 + 0x1000 * i, struct.pack("<I", 0x100 << i)) for i in range(5)]
    base = image(bytes.fromhex(code.replace(" ", "")), {}, pae)
    guest = GuestImage(base.name, MEMORY, (*base.segments, *guest_pages), base.entry, base.platform)
    shadow, none = (session.run(guest, mmu=mmu, timeout=30) for mmu in ("shadow", "none"))
    assert shadow.registers == none.registers
    assert shadow.registers["rbx"] == 0x100 + 0x200 + 0x400 + 0x800 + 0x1000
    exits = shadow.report.exits
    assert (exits["INVLPG"], exits["MOV to CR3"], exits["MOV from CR3"]) == (3, 1, 1)
    if state.JIT:
        assert shadow.report.fast_exits == sum(exits.values()) - 1
