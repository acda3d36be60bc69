# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of the processor that exits provide: debug registers, traps, TSC_AUX, CR8, string I/O to MMIO, wide addresses."""

import struct

import pytest

from shadowmmu.engines.unicorn_svm import exits as ex
from shadowmmu.engines.unicorn_svm.cpuid import PLAIN_MSRS, machine_check_refuses
from shadowmmu.guests import session
from shadowmmu.guests.image import DescriptorTable, GuestImage

from . import guest_code, test_emulated_writes_32
from .guest_code import CODE, PDPT
from .test_hardware_harness import Machine

IDT, HANDLER = 0x1400, 0x9000
#: mov r8, dr6; mov r9, [rsp]; mov r10, [rsp + 16]; then the end
HANDLER_CODE = bytes.fromhex("410f21f0 4c8b0c24 4c8b542410") + guest_code.END
SINGLE_STEP = "9c 58 0d00010000 50 9d"      # pushf; pop rax; or eax, TF; push rax; popf
DR6_FIXED, BS = 0xFFFF0FF0, 1 << 14


def gate(vector, offset):
    low = offset & 0xFFFF | 0x18 << 16 | 0x8E << 40 | (offset >> 16 & 0xFFFF) << 48
    return IDT + 16 * vector, struct.pack("<QQ", low, offset >> 32)


def run(code, *, platform="golden", segments=(), **options):
    """Registers at the end; #DB goes to HANDLER_CODE: R8 is DR6, R9 and R10 RIP and RFLAGS."""
    guest = guest_code.image(bytes.fromhex(code.replace(" ", "")), idt=DescriptorTable(IDT, 0x1FF),
                             segments=(gate(1, HANDLER), (HANDLER, HANDLER_CODE), *segments))
    guest = GuestImage(guest.name, guest.memory_size, guest.segments, guest.entry, platform)
    outcome = session.run(guest, timeout=30, **options)
    assert outcome.report.reason == "exit", outcome.report.text
    return outcome


def test_rdtscp_is_one_instruction():
    """The engine reports it as RDTSC; its last byte alone is STC."""
    registers = run("b9030100c0 b877000000 31d2 0f30  f8 0f01f9 0f92c3").registers
    assert registers["rcx"] == 0x77 and registers["rbx"] & 0xFF == 0 and registers["rip"] > CODE


def test_debug_registers_keep_what_is_written():
    # dr3 = 0x1234; dr6 = 1 << 14; read dr3, dr6 (also as dr4), dr7
    registers = run("b834120000 0f23d8 b800400000 0f23f0 0f21db 0f21f1 0f21e7 0f21fe").registers
    assert (registers["rbx"], registers["rcx"], registers["rdi"], registers["rsi"]) == (
        0x1234, DR6_FIXED | BS, DR6_FIXED | BS, 0x400)


def test_execution_breakpoint():
    code = "b8{at} 0f23c0 b802040000 0f23f8 90 90 90"       # dr0 = at; dr7 = global enable of 0
    at = CODE + 5 + 3 + 5 + 3 + 2
    registers = run(code.format(at=struct.pack("<I", at).hex())).registers
    assert registers["r9"] == at and registers["r8"] == DR6_FIXED | 1


@pytest.mark.parametrize("instruction", ["90", "0fa2", "0f31", "0f20db", "0f21db", "e460", "0f013c24"],
                         ids=["nop", "cpuid", "rdtsc", "mov cr3", "mov dr3", "in", "invlpg"])
def test_single_step_over_an_instruction(instruction):
    """Whoever completes the instruction: the engine, compiled code, or Python."""
    registers = run(f"{SINGLE_STEP} {instruction} 90").registers
    length = len(bytes.fromhex(instruction))
    assert registers["r8"] == DR6_FIXED | BS
    assert registers["r9"] == CODE + 9 + length


def test_xsave_leaf_is_answered_in_compiled_code():
    """Leaf 0xd, 0: x87 and SSE, 576 bytes.  The first CPUID of another leaf goes to Python, the second does not."""
    outcome = run("b80d000000 31c9 0fa2 89c6 89df 31c0 31c9 0fa2 31c0 31c9 0fa2")
    assert (outcome.registers["rsi"], outcome.registers["rdi"]) == (3, 0x240)
    assert outcome.report.exits["CPUID"] == 1 and outcome.report.exits["CPUID, RDTSC"] == 2


def test_general_detect_comes_before_the_access():
    registers = run("b800240000 0f23f8 0f23d8").registers     # dr7.GD; mov dr3
    assert registers["r9"] == CODE + 8 and registers["r8"] == DR6_FIXED | 1 << 13


def test_icebp_pushes_the_next_address_and_leaves_dr6_alone():
    registers = run("90 f1 90").registers
    assert registers["r9"] == CODE + 2 and registers["r8"] == DR6_FIXED


#: PDPT entry 3 -> 0x15000 -> the last 32 MiB below 4 GiB as 2M pages
HIGH = ((PDPT + 24, struct.pack("<Q", 0x15000 | 7)),
        (0x15000 + 8 * 0x1F0, b"".join(struct.pack("<Q", 3 << 30 | (0x1F0 + i) << 21 | 0x87) for i in range(16))))


def test_cr8_is_the_task_priority_of_the_apic():
    # cr8 = 9; read it back; load the TPR; cr8 = 3 through the TPR
    code = "b809000000 440f22c0 440f20c3 b88000e0fe 8b08 c70030000000 440f20c6"
    registers = run(code, platform="pc", segments=HIGH).registers
    assert (registers["rbx"], registers["rcx"], registers["rsi"]) == (9, 0x90, 3)


def test_rep_insb_to_mmio():
    """The latch of the test device, eight times, into its memory."""
    code = "b05a 66bae000 ee bf100000ff b908000000 fc f36c b8100000ff 488b18"
    registers = run(code, platform="pc", segments=HIGH).registers
    assert registers["rbx"] == 0x5A5A5A5A5A5A5A5A and registers["rcx"] == 0 and registers["rdi"] == 0xFF000018


@pytest.mark.parametrize(("bits", "made", "faults"), [(40, 1, 1), (51, 1, 1), (52, 0, 3)])
def test_mmio_entries_need_a_reserved_bit(bits, made, faults):
    """On a host with 52 bits of physical address each MMIO access is an ordinary fault that is emulated at once."""
    outcome = run("b8100000ff c70011000000 8b18 8b08", platform="pc", segments=HIGH, maxphyaddr=bits)
    assert outcome.registers["rbx"] == outcome.registers["rcx"] == 0x11
    stat = outcome.vm.vcpus[0].stat
    assert stat["pf_mmio_spte_created"] == made
    assert outcome.report.emulated == 3
    assert stat["pf_emulate"] == faults      # the others are answered by the MMIO cache


@pytest.mark.parametrize("table", [0x123000, 0x11000])
def test_hardware_task_switch_ends_the_run(table):
    """The engine would do it, and load the guest's CR3 under our feet."""
    new = bytearray(104)
    struct.pack_into("<I", new, 28, table)
    struct.pack_into("<II", new, 32, CODE, 2)
    code = bytes.fromhex("ea 00000000 2000")                       # ljmp 0x20:0
    base = test_emulated_writes_32.image(code, {}, True)
    gdt = struct.pack("<5Q", 0, 0, 0x00CF93000000FFFF, 0x00CF9B000000FFFF, 0x67 | 0x6000 << 16 | 0x89 << 40)
    segments = (*base.segments, (0x1000, gdt), (0x6000, bytes(new)))
    outcome = session.run(GuestImage("task", base.memory_size, segments, base.entry, "golden"), timeout=10)
    assert outcome.report.reason == "internal error" and "task switch" in outcome.report.text, outcome.report.text


def test_features_that_cannot_be_had_are_hidden():
    machine = Machine()
    assert not machine.hardware.native_cpuid(1)[2] & 1 << 30
    assert machine.hardware.native_cpuid(0xD)[0] == 3
    machine.hardware.exception_intercepts = 1 << 6
    machine.run(bytes.fromhex("0fc7f0 f4"))                        # rdrand eax
    assert machine.exits == [ex.EXCEPTION + 6]


def test_machine_check_banks():
    ones, hwcr = (1 << 64) - 1, 0
    banks = range(PLAIN_MSRS[0x179])
    assert len(banks) == 32 and all(0x400 + 4 * i + j in PLAIN_MSRS for i in banks for j in range(4))
    assert [machine_check_refuses(0x404, value, hwcr) for value in (0, ones, ones - (1 << 10), ones - 1, 5)] == [
        False, False, False, False, True]
    assert machine_check_refuses(0x405, 1, hwcr) and not machine_check_refuses(0x405, 0, hwcr)
    assert not machine_check_refuses(0x405, 1, 1 << 18)
    assert not machine_check_refuses(0x406, 7, hwcr)


@pytest.mark.parametrize("mmu", ["shadow", "none", "tdp"])
def test_page_fault_through_a_task_gate(mmu):
    """The handler is a task of its own: it finds the error code on its stack, moves the other task's EIP and returns by IRET."""
    main, fault = 0x6000, 0x7000
    code = bytes.fromhex("b820000000 0f00d8 bb11000000 a100004000 8b0d28700000 0f20d6 0f00cf")
    handler = bytes.fromhex("58 8305 20600000 05 cf f4")
    base = test_emulated_writes_32.image(code, {}, True)
    tss = bytearray(104)
    struct.pack_into("<I", tss, 28, test_emulated_writes_32.PDPT)
    struct.pack_into("<II", tss, 32, HANDLER, 2)
    struct.pack_into("<I", tss, 56, 0x4F00)
    struct.pack_into("<6I", tss, 72, 0x10, 0x18, 0x10, 0x10, 0x10, 0x10)
    back = bytearray(104)
    struct.pack_into("<I", back, 28, test_emulated_writes_32.PDPT)
    tasks = (0x67 | at << 16 | 0x89 << 40 for at in (main, fault))
    gdt = struct.pack("<6Q", 0, 0, 0x00CF93000000FFFF, 0x00CF9B000000FFFF, *tasks)
    segments = (*base.segments, (0x1000, gdt), (main, bytes(back)), (fault, bytes(tss)), (HANDLER, handler),
                (IDT + 8 * 14, struct.pack("<II", 0x28 << 16, 0x8500)))
    outcome = session.run(GuestImage("task", base.memory_size, segments, base.entry, "golden"), timeout=10, mmu=mmu)
    assert outcome.report.reason == "exit", outcome.report.text
    registers = outcome.registers
    assert [registers[name] for name in ("rbx", "rcx", "rsi", "rdi")] == [0x11, 0, 0x400000, 0x20]
    assert registers["cr0"] & 8
    assert outcome.report.exits["task switch"] == outcome.report.exits["IRET"] == 1
