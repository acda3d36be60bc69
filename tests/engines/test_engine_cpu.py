# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine's CPU does otherwise than a CPU: the proofs behind the failing sub-tests in docs/guests.md.

A plain `unicorn.Uc`, nothing of ours: 64-bit code at CPL 0, identity-mapped by four 2M pages.  Each test states what the
engine does; when one fails after an update of the engine, a failing sub-test has become ours to look at.
"""

import struct

import pytest

unicorn = pytest.importorskip("unicorn")
x86 = unicorn.x86_const

PML4, PDPT, PD, GDT, CODE, USER, DATA, STACK = 0x1000, 0x2000, 0x3000, 0x4000, 0x10000, 0x11000, 0x20000, 0x30000
HLT = b"\xf4"
UD, SS, GP = 6, 12, 13
NON_CANONICAL = 0xAAAAAAAAAAAAAAAA
KERNEL_CODE, KERNEL_DATA, USER_DATA, USER_CODE = 0x08, 0x10, 0x18, 0x20


class Plain:
    """Run `code`; `exceptions` are (vector, RIP)."""

    def __init__(self, code, user=b"", **registers):
        self.uc = uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        uc.mem_map(0, 8 << 20)
        flags = 7 | 1 << 7
        uc.mem_write(PML4, struct.pack("<Q", PDPT | 7))
        uc.mem_write(PDPT, struct.pack("<Q", PD | 7))
        uc.mem_write(PD, struct.pack("<4Q", *(i << 21 | flags for i in range(4))))
        uc.mem_write(GDT, struct.pack("<5Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF))
        uc.mem_write(CODE, code + HLT)
        uc.mem_write(USER, user + HLT)
        uc.reg_write(x86.UC_X86_REG_CR3, PML4)
        uc.reg_write(x86.UC_X86_REG_CR4, 0x620)
        uc.reg_write(x86.UC_X86_REG_CR0, 0x80000011)
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, GDT, 0x27, 0))
        uc.reg_write(x86.UC_X86_REG_SS, KERNEL_DATA)
        uc.reg_write(x86.UC_X86_REG_RSP, STACK)
        for name, value in registers.items():
            uc.reg_write(getattr(x86, f"UC_X86_REG_{name.upper()}"), value)
        self.exceptions = []
        uc.hook_add(unicorn.UC_HOOK_INTR, self._exception)
        try:
            uc.emu_start(CODE, 0, count=64)
        except unicorn.UcError as error:
            self.exceptions.append((str(error), self["rip"]))

    def _exception(self, uc, number, _data):
        self.exceptions.append((number, self["rip"]))
        uc.emu_stop()

    def __getitem__(self, name):
        return self.uc.reg_read(getattr(x86, f"UC_X86_REG_{name.upper()}"))


def test_paging_is_on_and_faults_arrive():
    plain = Plain(bytes.fromhex("488b00"), rax=0x40000000)     # mov rax, [rax]
    assert plain.exceptions == [(14, CODE)]


def test_aligned_sse_moves_do_not_check():
    """Real: #GP(0).  `emulator`: unaligned movaps exception."""
    plain = Plain(bytes.fromhex("0f2900 b02a"), rax=DATA + 8)      # movaps [rax], xmm0; mov al, 42
    assert plain.exceptions == [] and plain["rax"] & 0xFF == 42


def test_movbe_between_registers_is_executed():
    """Real: #UD.  `emulator`: MOVBE with /reg."""
    plain = Plain(bytes.fromhex("0f38f0c1"), rcx=1)     # movbe eax, ecx
    assert plain.exceptions == []


@pytest.mark.parametrize("code", ["488b0424", "488b4500", "58"], ids=["[rsp]", "[rbp]", "pop"])
def test_stack_accesses_to_non_canonical_addresses_raise_gp(code):
    """Real: #SS(0).  `emulator`, `realmode`."""
    plain = Plain(bytes.fromhex(code), rsp=NON_CANONICAL, rbp=NON_CANONICAL)
    assert plain.exceptions == [(GP, CODE)]


def test_jumps_to_non_canonical_addresses_fault_at_their_target():
    """Real: #GP(0) at the jump, with RIP unchanged.  `emulator` ends here."""
    plain = Plain(bytes.fromhex("ffe0"), rax=NON_CANONICAL)
    assert plain.exceptions == [(GP, NON_CANONICAL)]


def test_null_ss_with_another_rpl_is_accepted():
    """Real: #GP(0), SDM volume 2, MOV: RPL is not CPL.  `emulator`: mov null and, as SS is then 3, mov non-null."""
    plain = Plain(bytes.fromhex("b803000000 8ed0 8cd1"))     # mov eax, 3; mov ss, eax; mov ecx, ss
    assert plain.exceptions == [] and plain["rcx"] == 3


def test_segments_nulled_on_the_way_to_user_mode_lose_their_base():
    """AMD: only the selector is nulled.  `emulator`: ret/iret with a nullified segment; `debug` loses its APIC."""
    frame = "".join(f"68{struct.pack('<I', value).hex()}" for value in (USER_DATA | 3, STACK, 2, USER_CODE | 3, USER))
    # mov eax, 16; mov gs, eax; mov ecx, GS_BASE; mov eax, DATA; xor edx, edx; wrmsr; push ...; iretq
    kernel = bytes.fromhex(f"b810000000 8ee8 b9010100c0 b8{struct.pack('<I', DATA).hex()} 31d2 0f30 {frame} 48cf")
    plain = Plain(kernel, user=bytes.fromhex("65488b0c2500000000 cc"))     # mov rcx, gs:[0]; int3
    plain.uc.mem_write(DATA, b"\x55")
    assert plain.exceptions[-1][0] == 3 and plain["cs"] == USER_CODE | 3
    assert plain["gs"] == 0 and plain.uc.msr_read(0xC0000101) == 0


def test_data_breakpoints_do_not_exist():
    """Real: #DB after the store.  `debug`: hw watchpoint."""
    # dr0 = DATA; dr7: G0, write, 4 bytes; mov [DATA], eax; dr7 of an execution breakpoint would work
    at = struct.pack("<I", DATA).hex()
    plain = Plain(bytes.fromhex(f"b8{at} 0f23c0 b802040d00 0f23f8 890425{at} 90"))
    assert plain.exceptions == [] and plain["dr7"] == 0xD0402


def test_pushf_shows_rf():
    """Real: PUSHF stores RF as 0 (SDM volume 2).  `realmode`: rflags.rf."""
    frame = "".join(f"68{struct.pack('<I', value).hex()}" for value in (KERNEL_DATA, STACK, 1 << 16 | 2, KERNEL_CODE, USER))
    plain = Plain(bytes.fromhex(f"{frame} 48cf"), user=bytes.fromhex("9c 58"))     # pushfq; pop rax
    assert plain["rax"] >> 16 & 1 == 1
