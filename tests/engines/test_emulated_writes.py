# SPDX-License-Identifier: GPL-2.0-or-later
"""Every kind of instruction that can write a page table, on a page that stays write-protected.

Each program stores into unused entries of the guest's page directory, which is shadowed by an upper-level page and so
never writable: KVM must emulate.  The same program on the engine's own MMU says what memory, registers and flags must
be.  The instructions before `END` put RFLAGS on the stack, where the comparison of memory sees them.

PUSHFQ; POPFQ (9c9d) stands before CMPXCHG8B/16B because TCG in Unicorn 2.1.4 computes their PF and AF from a stale
condition code when XOR comes directly before; the stepper, which loads RFLAGS first, does not.
"""

import struct

import pytest

from shadowmmu.guests import session

from . import guest_code

#: Where RDI points: entries 256.. of the page directory; page crossing programs use the end of the page.
TARGET = guest_code.PD + 0x800
END_OF_PAGE = guest_code.PD + 0x1000 - 4
#: RAX, RBX, RCX, RDX, RSI.  The low bits of stored values are even: entries stay not present.
REGISTERS = {"rax": 0x1122334455667788, "rbx": 0x0102030405060708, "rcx": 0x10, "rdx": 0x99AABBCCDDEEFF00,
             "rsi": 0x200000, "rdi": TARGET, "rbp": TARGET}

PROGRAMS = {
    "mov64": "488907", "mov32": "8907", "mov16": "668907", "mov8": "8807",
    "mov imm64": "48c707 78563412", "mov imm32": "c707 78563412", "mov imm8": "c60756", "mov imm16": "66c7073412",
    "mov disp8": "48894708", "mov sib": "488944cf08", "mov moffs": "48a3 0828010000000000",
    "stosq": "48ab", "stosd": "ab", "stosw": "66ab", "stosb": "aa", "rep stosq": "f348ab", "rep stosd": "f3ab",
    "std stosq": "fd48abfc", "movsq": "48a5", "movsb": "a4", "rep movsq": "f348a5", "rep movsb": "f3a4",
    "xchg64": "488707", "xchg32": "8707", "xchg8": "8607",
    "xadd": "480fc107", "lock xadd": "f0480fc107", "xadd32": "0fc107",
    "cmpxchg equal": "31c0480fb117", "cmpxchg different": "480fb117", "lock cmpxchg32": "31c0f00fb117",
    "cmpxchg8b": "31c031d29c9d0fc70f", "lock cmpxchg8b": "31c031d29c9df00fc70f", "cmpxchg16b": "31c031d29c9d480fc70f",
    "and": "482107", "or": "480907", "xor": "483107", "add": "480107", "sub": "482907", "adc": "481107", "sbb": "481907",
    "and imm": "4883270f", "or imm": "48830f40", "or imm32": "48810f78563412", "or8": "800f40", "lock or": "f0480907",
    "lock and": "f0482107", "inc": "48ff07", "dec": "48ff0f", "lock inc": "f048ff07", "neg": "48f71f", "not": "48f717",
    "bts": "480fab0f", "btr": "480fb30f", "btc": "480fbb0f", "lock bts imm": "f0480fba2f05", "btr imm": "480fba3705",
    "btc imm": "480fba3f05", "shl": "48d127", "shr imm": "48c12f03", "rol": "48d107", "shld": "480fa41704",
    "setz": "0f9407", "movnti": "480fc307", "push": "4889fc4883c40850", "push imm": "4889fc4883c4086a40",
    "push mem": "4889fc4883c408ff36", "pop mem": "8f07",
    "movaps": "660f6ec0 0f2907", "movups": "66480f6ec0 0f114701", "movdqa": "66480f6ec0 660f7f07",
    "movq xmm": "66480f6ec0 660fd607", "movd xmm": "660f6ec0 660f7e07", "movntdq": "66480f6ec0 660fe707",
    "movq mmx": "480f6ec0 0f7f07 0f77", "fstp": "d9e8dd1f", "fist": "d9e8db17", "fxsave": "480fae07",
    "sidt": "0f010f", "sgdt": "0f0107", "stmxcsr": "0fae1f", "fnstcw": "d93f",
    "unaligned mov64": "48894703",
}
CROSSING = {"mov64": "488907", "mov32": "48ffc7 8907", "lock xadd": "f0480fc107", "xchg": "488707", "or": "480907",
            "movups": "66480f6ec0 0f1107", "stosq": "48ab", "cmpxchg": "31c0480fb117", "push": "4889fc4883c40850"}
PUSHF = "48c7c4 00500000 9c"


def both(code, registers):
    results = []
    for mmu in ("shadow", "none"):
        guest = guest_code.image(bytes.fromhex((code + PUSHF).replace(" ", "")), gprs=registers)
        outcome = session.run(guest, mmu=mmu, timeout=30)
        assert outcome.report.reason == "exit", outcome.report.text
        results.append((outcome, outcome.registers, outcome.vm.read_gpa(0, guest.memory_size)))
    return results


def check(results):
    (shadow, registers, memory), (_, other_registers, other_memory) = results
    different = [hex(i) for i in range(0, len(memory), 8) if memory[i:i + 8] != other_memory[i:i + 8]]
    assert different == []
    assert registers == other_registers
    assert shadow.vm.warning is None
    return shadow


@pytest.mark.parametrize("name", PROGRAMS)
def test_one_instruction(name):
    shadow = check(both(PROGRAMS[name], REGISTERS))
    assert shadow.report.emulated or shadow.vm.stat["mmu_shadow_zapped"], "the page was not write-protected"


@pytest.mark.parametrize("name", CROSSING)
def test_across_two_pages(name):
    """The operand begins in the page directory and ends in the next page, a leaf page table."""
    check(both(CROSSING[name], REGISTERS | {"rdi": END_OF_PAGE, "rbp": END_OF_PAGE}))


def test_page_table_instructions_are_emulated_not_unprotected():
    """KVM's opcode table says which instructions look like page table writes: those keep the shadow page."""
    shadow = check(both(PROGRAMS["mov64"], REGISTERS))
    assert shadow.report.emulated == 1
    assert shadow.vm.stat["mmu_pte_write"] == 1
    assert shadow.vm.stat["mmu_shadow_zapped"] == 0


def test_other_instructions_unprotect():
    """INC is not one of them.  The page of a table no walk needs is zapped and the CPU writes by itself."""
    table = 0x15000
    program = "488b042500000040" + "48ff07"  # mov rax, [1 GiB]; inc qword [rdi]
    segments = ((guest_code.PDPT + 8, struct.pack("<Q", table | 7)), (table, struct.pack("<Q", 0x200000 | 0x87)))
    guest = guest_code.image(bytes.fromhex(program), gprs={"rdi": table + 0x800}, segments=segments)
    outcome = session.run(guest, timeout=30)
    assert outcome.vm.read_gpa(table + 0x800, 1) == b"\x01"
    assert outcome.report.emulated == 1  # decoded, like KVM's insn_emulation, and then retried
    assert outcome.vm.stat["mmu_pte_write"] == 0
    assert outcome.vm.stat["mmu_shadow_zapped"] == 1


def test_unprotecting_a_table_in_use_does_not_loop():
    """The walk to the operand shadows its own directory again: the second fault at that RIP emulates (last_retry_eip)."""
    shadow = check(both(PROGRAMS["inc"], REGISTERS))
    assert shadow.report.emulated == 2
    assert shadow.vm.stat["mmu_pte_write"] == 1
    assert shadow.vm.stat["mmu_shadow_zapped"] >= 1
