# SPDX-License-Identifier: GPL-2.0-or-later
"""Every kind of exit: what it reports, and that the guest continues correctly after it."""

import ctypes
import os
import signal
import struct
import threading

import numpy as np
import pytest

from shadowmmu.engines.unicorn_svm import EngineError
from shadowmmu.engines.unicorn_svm import exits as ex
from shadowmmu.engines.unicorn_svm.hardware import CS, SS, SvmHardware
from shadowmmu.state.foreign import callback, load64, store64

from .test_hardware_harness import CODE, NX, RAM, STACK_TOP, TABLES, TSS, Machine, P, U, W, code

HANDLER = 0x2000


def skipping(machine, exit_code, length, seen=None):
    def handler():
        if seen is not None:
            seen.append(machine.hardware.rip)
        machine.hardware.skip_instruction(length)
        return True
    machine.handlers[exit_code] = handler


# Page faults ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["long", "la57", "compat", "pae", "unpaged32", "real"])
def test_write_fault_is_repaired_and_retried(mode):
    machine = Machine(mode)
    machine.unmap(0x5000)
    store = {"real": "c6 06 34 50 2a", "long": "c6 04 25 34 50 00 00 2a",
             "la57": "c6 04 25 34 50 00 00 2a"}.get(mode, "c6 05 34 50 00 00 2a")
    machine.run(code(store + " | mov byte [0x5034], 42\n f4"))
    assert machine.exits == [ex.PAGE_FAULT, ex.HLT]
    assert machine.faults == [(0x5034, 2, None)]
    assert machine.peek(0x5034, 1) == b"\x2a"


def test_five_level_tables_translate_addresses_above_48_bits():
    machine = Machine("la57")
    high = 0x00AB_CD12_3456_7000
    machine.map(high, 0x6000)
    machine.hardware.gpr[3] = high
    machine.run(code("48 89 1b | mov [rbx], rbx\n f4"))
    assert machine.exits == [ex.HLT] and machine.word(0x6000) == high


def test_error_codes_of_user_write_fetch_and_reserved_bits():
    machine = Machine()
    machine.map(0x5000, 0x5000, P | U)            # read only
    machine.map(0x6000, 0x6000, P | W | U | NX)
    machine.map(0x7000, 0x7000, P | W | U | 1 << 51)
    machine.map(0x8000, 0x8000, P | W)            # supervisor
    machine.user()
    for text, fault in (("88 04 25 00 50 00 00", (0x5000, 7)), ("68 00 60 00 00 c3", (0x6000, 0x15)),
                        ("8a 04 25 00 70 00 00", (0x7000, 0xD)), ("8a 04 25 00 80 00 00", (0x8000, 5))):
        machine.hardware.gpr[4] = 0x4800
        machine.run(code(text))
        assert machine.faults[-1][:2] == fault


def test_translations_stay_until_flushed():
    machine = Machine()
    load = code("8a 04 25 00 50 00 00 | mov al, [0x5000]\n f4")
    machine.poke(0x5000, b"\x11")
    machine.poke(0x6000, b"\x22")
    machine.run(load)
    machine.map(0x5000, 0x6000)
    machine.run()  # nothing: still at HLT
    machine.hardware.rip = CODE
    machine.run()
    assert machine.hardware.gpr[0] & 0xFF == 0x11
    machine.hardware.flush_page(0x5000)
    machine.hardware.rip = CODE
    machine.run()
    assert machine.hardware.gpr[0] & 0xFF == 0x22
    machine.map(0x5000, 0x5000)
    machine.hardware.flush_tlb()
    machine.hardware.rip = CODE
    machine.run()
    assert machine.hardware.gpr[0] & 0xFF == 0x11


def test_load_root_does_not_flush():
    machine = Machine()
    machine.run(code("f4"))
    machine.hardware.load_root(TABLES + 0x80000)  # an empty root
    machine.hardware.rip = CODE
    machine.run()
    assert machine.exits == [ex.HLT, ex.HLT]
    machine.hardware.flush_tlb()
    machine.hardware.rip = CODE
    machine.run()
    assert machine.exits[-1] == ex.PAGE_FAULT


def test_compiled_code_can_flush():
    machine = Machine()
    hw = machine.hardware
    machine.run(code("8a 04 25 00 50 00 00 f4"))
    machine.tables.view(np.uint64)[machine.entry(0x5000)] = 0
    flush = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(hw.flush_page_address)
    flush(hw.cpu_address, 0x5000)
    hw.rip = CODE
    machine.run()
    assert machine.exits[-1] == ex.PAGE_FAULT


def test_accessed_and_dirty_bits_are_set_in_our_tables():
    machine = Machine()
    machine.run(code("8a 04 25 00 50 00 00 88 04 25 00 60 00 00 f4"))
    words = machine.tables.view(np.uint64)
    assert int(words[machine.entry(0x5000)]) & 0x60 == 0x20
    assert int(words[machine.entry(0x6000)]) & 0x60 == 0x60


def test_code_bytes_changed_by_the_host_need_invalidation():
    machine = Machine()
    machine.run(code("b0 01 f4"))
    machine.poke(CODE + 1, b"\x02")
    machine.hardware.invalidate_code(RAM + CODE, 3)
    machine.hardware.rip = CODE
    machine.run()
    assert machine.hardware.gpr[0] & 0xFF == 2


def test_fast_path_handles_faults_before_python():
    machine = Machine()
    hw = machine.hardware
    machine.poke(CODE, code("8a 04 25 34 50 00 00 | mov al, [0x5034]\n f4"))
    machine.unmap(0x5000)
    block = np.zeros(8, np.int64)
    words = machine.tables.view(np.int64)
    entry, leaf = machine.entry(0x5000), RAM + 0x5000 | P | W | U
    table_address = words.ctypes.data + 8 * entry


    @callback("i64", "i64")
    def repair(argument):
        store64(argument + 40, load64(argument + 40) + 1)
        if load64(argument) != 0x5034:
            return 0
        store64(table_address, leaf)
        return 1

    hw.install_fast_path(repair.address, block.ctypes.data)
    hw.rip = CODE
    machine.run()
    assert machine.exits == [ex.HLT]
    assert block[:6].tolist() == [0x5034, 0, CODE, 0, ex.PAGE_FAULT, 1]
    assert hw.exit_counts[1] == 1


def test_fast_path_during_delivery_queues_the_event_again():
    machine = Machine()
    hw = machine.hardware
    machine.poke(HANDLER, code("f4"))
    machine.gate(0x30, HANDLER)
    machine.poke(CODE, code("90 f4"))
    machine.unmap(STACK_TOP - 0x1000)
    block = np.zeros(8, np.int64)
    leaf = RAM + STACK_TOP - 0x1000 | P | W | U
    table_address = machine.tables.ctypes.data + 8 * machine.entry(STACK_TOP - 0x1000)

    @callback("i64", "i64")
    def repair(argument):
        store64(argument + 32, load64(argument + 24))
        store64(table_address, leaf)
        return 1

    hw.install_fast_path(repair.address, block.ctypes.data)
    hw.queue_event(0x30, "interrupt")
    hw.rip = CODE
    machine.run()
    assert machine.exits == [ex.HLT] and hw.rip == HANDLER
    assert block[4] == 0x80000030


# Instructions ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, expected", [
    ("0f 20 c0", 0x00), ("0f 20 d8", 0x03), ("0f 20 e0", 0x04), ("44 0f 20 c0", 0x08),
    ("0f 22 c0", 0x10), ("0f 22 d8", 0x13), ("0f 22 e0", 0x14), ("44 0f 22 c0", 0x18),
    ("0f 06", 0x10), ("0f 01 f0", 0x10), ("0f 01 e0", 0x00),
    ("0f 21 f8", 0x27), ("0f 23 c0", 0x30),
    ("0f 01 38", ex.INVLPG), ("0f a2", ex.CPUID), ("f4", ex.HLT),
    ("0f 32", ex.MSR), ("0f 30", ex.MSR), ("0f 33", ex.RDPMC), ("0f 01 d9", ex.VMMCALL),
    ("0f 01 d8", ex.VMRUN), ("0f 01 c8", ex.MONITOR), ("cd 21", ex.SWINT),
])
def test_intercepted_instruction_exits_at_its_address(text, expected):
    machine = Machine()
    machine.hardware.gpr[1] = 0x1B if expected == ex.MSR else 0
    machine.run(code("90" + text))
    hw = machine.hardware
    assert machine.exits == [expected] and hw.rip == CODE + 1
    assert hw.instruction_bytes.startswith(code(text))


def test_instruction_bytes_stop_at_an_absent_page():
    machine = Machine()
    machine.unmap(0x3000, lazily=False)
    machine.poke(0x2FFE, code("0f a2"))
    machine.hardware.rip = 0x2FFE
    machine.run()
    assert machine.exits == [ex.CPUID] and machine.hardware.instruction_bytes == b"\x0f\xa2"


def test_translating_ahead_into_an_absent_page_is_invisible():
    """Data faults of the instructions before the page end come first, as on a CPU."""
    machine = Machine()
    machine.unmap(0x3000)
    machine.unmap(0x5000)
    machine.poke(0x2FF8, code("88 04 25 00 50 00 00 | mov [0x5000], al\n 90 | nop\n f4"))
    machine.hardware.rip = 0x2FF8
    machine.run()
    assert [fault[0] for fault in machine.faults] == [0x5000, 0x3000]
    assert machine.hardware.rip == 0x3000 and machine.exits[-1] == ex.HLT


def test_instruction_crossing_into_an_absent_page_faults():
    machine = Machine()
    machine.unmap(0x3000)
    machine.poke(0x2FFE, code("90 b8 78 56 34 12 | nop; mov eax\n f4"))
    machine.hardware.rip = 0x2FFE
    machine.run()
    assert machine.faults == [(0x3000, 0x10, None)]
    assert machine.hardware.gpr[0] == 0x12345678


def test_instruction_bytes_cross_a_page():
    machine = Machine()
    machine.poke(0x2FFF, code("0f a2 11 22"))
    machine.hardware.rip = 0x2FFF
    machine.run()
    assert machine.hardware.instruction_bytes[:4] == code("0f a2 11 22")


def test_msr_exits_and_direct_msrs():
    machine = Machine()
    hw = machine.hardware
    directions = []
    machine.handlers[ex.MSR] = lambda: directions.append(hw.error_code) or hw.skip_instruction(2) or True
    machine.run(code("""b9 80 00 00 c0 0f 32 | rdmsr EFER
                        0f 30                | wrmsr EFER
                        b9 82 00 00 c0       | LSTAR
                        b8 78 56 34 12 ba 00 00 00 80 0f 30
                        b9 01 01 00 c0 0f 30 | GS_BASE
                        f4"""))
    assert directions == [0, 1] and machine.exits == [ex.MSR, ex.MSR, ex.HLT]
    assert hw.read_msr(0xC0000082) == hw.read_msr(0xC0000101) == 0x80000000_12345678
    assert hw.segment(5).base == 0x80000000_12345678
    with pytest.raises(EngineError):
        hw.read_msr(0xC0000080)


def test_native_cpuid_knows_the_vendor():
    _, b, c, d = SvmHardware().native_cpuid(0)
    assert struct.pack("<III", b, d, c) == b"AuthenticAMD"


def test_syscall_and_sysret():
    machine = Machine()
    hw = machine.hardware
    machine.poke(HANDLER, code("4d 89 d8 | mov r8, r11\n 48 0f 07 | sysretq"))
    hw.write_msr(0xC0000081, 0x10 << 48 | 8 << 32)
    hw.write_msr(0xC0000082, HANDLER)
    hw.write_msr(0xC0000084, 0x300)
    machine.user()
    hw.rflags = 0xA07  # OF DF? no: CF PF IF OF
    machine.run(code("90 0f 05 | syscall\n cd 21 | int 0x21"))
    assert machine.exits == [ex.SWINT]
    assert hw.gpr[8] == 0xA07 and hw.gpr[1] == CODE + 3
    assert hw.rflags == 0xA07 and hw.cpl == 3 and hw.rip == CODE + 3
    assert hw.segment(CS).selector == 0x23 and hw.segment(SS).selector == 0x1B


def test_syscall_masks_flags_and_loads_kernel_segments():
    machine = Machine()
    hw = machine.hardware
    machine.poke(HANDLER, code("f4"))
    hw.write_msr(0xC0000081, 8 << 32)
    hw.write_msr(0xC0000082, HANDLER)
    hw.write_msr(0xC0000084, 0x201)
    machine.user()
    hw.rflags = 0x247
    machine.run(code("0f 05"))
    assert hw.rip == HANDLER and hw.cpl == 0 and hw.rflags == 0x46
    assert hw.segment(CS).selector == 8 and hw.segment(SS).selector == 0x10


def test_syscall_without_sce_is_an_undefined_opcode():
    machine = Machine()
    hw = machine.hardware
    hw.exception_intercepts = 1 << 6
    hw.set_mode(0x80010011, 0x620, 0xD00)
    machine.run(code("90 0f 05"))
    assert machine.exits == [ex.EXCEPTION + 6] and hw.rip == CODE + 1


def test_sysenter_and_sysexit_in_32_bit_code():
    machine = Machine("pae")
    hw = machine.hardware
    machine.poke(HANDLER, code("9c 5b | pushf; pop ebx\n ba 06 10 00 00 | mov edx, CODE+6\n b9 00 88 00 00 0f 35"))
    for index, value in ((0x174, 8), (0x175, 0x8000), (0x176, HANDLER)):
        hw.write_msr(index, value)
    machine.user()
    hw.rflags = 0x202
    machine.run(code("31 c0 | xor eax, eax (ZF)\n 0f 34 | sysenter\n 90 90 cd 21"))
    assert machine.exits == [ex.SWINT]
    assert hw.gpr[3] & 0x247 == 0x46 and hw.cpl == 3 and hw.rip == CODE + 6 and hw.gpr[4] == 0x8800


def test_in_and_out_of_every_size():
    machine = Machine()
    hw = machine.hardware
    seen = []

    def io():
        access = hw.io
        seen.append((access.port, access.size, access.is_in, access.value, hw.rip - CODE))
        if access.is_in:
            access.value = 0xAABBCCDD
        return True

    machine.handlers[ex.IOIO] = io
    hw.gpr[0] = 0x1111_2222_3333_4444
    hw.gpr[2] = 0x3F8
    machine.run(code("""e4 60 | in al, 0x60
                        66 ed | in ax, dx
                        ee | out dx, al
                        ed | in eax, dx
                        66 e7 70 | out 0x70, ax
                        f4"""))
    assert seen == [(0x60, 1, True, 0, 0), (0x3F8, 2, True, 0, 2), (0x3F8, 1, False, 0xDD, 4),
                    (0x3F8, 4, True, 0, 5), (0x70, 2, False, 0xCCDD, 6)]
    assert hw.gpr[0] == 0xAABBCCDD and machine.exits[-1] == ex.HLT


def test_string_io():
    machine = Machine()
    hw = machine.hardware
    machine.poke(0x5000, b"hello")
    out = bytearray()

    def io():
        access = hw.io
        assert access.string and access.rep
        if access.is_in:
            access.value = 0x41 + hw.gpr[1]
        else:
            out.append(access.value)
        return True

    machine.handlers[ex.IOIO] = io
    machine.run(code("""be 00 50 00 00 b9 05 00 00 00 ba f8 03 00 00 f3 6e | rep outsb
                        bf 00 60 00 00 b9 03 00 00 00 f3 6c f4             | rep insb"""))
    assert bytes(out) == b"hello" and machine.peek(0x6000, 4) == b"DCB\0"
    assert hw.gpr[1] == 0 and machine.exits[-1] == ex.HLT


def test_leaving_and_queueing_from_string_io_act_after_the_instruction():
    machine = Machine()
    hw = machine.hardware
    machine.poke(HANDLER, code("f4"))
    machine.gate(0x30, HANDLER)
    machine.handlers[ex.IOIO] = lambda: False
    assert machine.run(code("be 00 50 00 00 6e | outsb\n eb 00 90 f4")) == "handler"
    assert machine.exits == [ex.IOIO] and hw.gpr[6] == 0x5001
    machine.handlers[ex.IOIO] = lambda: hw.queue_event(0x30, "interrupt") or True
    hw.rip = CODE
    machine.run()
    assert hw.rip == HANDLER


def test_user_io_obeys_iopl_and_the_tss_bitmap():
    machine = Machine()
    hw = machine.hardware
    hw.exception_intercepts = 1 << 13
    machine.handlers[ex.IOIO] = lambda: False
    machine.user()
    machine.poke(TSS + 0x66, struct.pack("<H", 0x68))  # beyond the limit
    machine.run(code("e6 60"))
    assert machine.exits == [ex.EXCEPTION + 13]
    hw.tr = 0x28, TSS, 0x200, 0x8B00
    machine.poke(TSS + 0x68, bytes([0xFF] * 12 + [0xFE] + [0xFF] * 100))
    machine.run(code("e6 60"))
    machine.run(code("e6 61"))
    machine.run(code("66 e7 60"))
    hw.rflags = 0x3002
    machine.run(code("e6 61"))
    assert machine.exits[1:] == [ex.IOIO, ex.EXCEPTION + 13, ex.EXCEPTION + 13, ex.IOIO]


def test_mmio():
    machine = Machine()
    hw = machine.hardware
    log = []
    hw.map_mmio(0x2000000, 0x1000, lambda offset, size: log.append((offset, size)) or 0x12345678,
                lambda offset, size, value: log.append((offset, size, value)))
    machine.tables.view(np.uint64)[machine.entry(0x50000)] = 0x2000000 | P | W
    machine.run(code("8b 04 25 20 00 05 00 | mov eax, [0x50020]\n 89 04 25 30 00 05 00 f4"))
    assert log == [(0x20, 4), (0x30, 4, 0x12345678)] and hw.gpr[0] == 0x12345678


def test_exceptions_in_callbacks_come_out_of_run():
    machine = Machine()

    def broken(*_):
        raise ZeroDivisionError("from the callback")

    machine.handlers[ex.CPUID] = broken
    with pytest.raises(ZeroDivisionError):
        machine.run(code("0f a2 f4"))
    machine.hardware.map_mmio(0x2000000, 0x1000, broken, broken)
    machine.tables.view(np.uint64)[machine.entry(0x50000)] = 0x2000000 | P | W
    with pytest.raises(ZeroDivisionError):
        machine.run(code("8b 04 25 20 00 05 00 f4"))
    machine.run(code("f4"))
    assert machine.exits[-1] == ex.HLT


def test_unmapped_physical_memory_is_a_clear_error():
    machine = Machine()
    machine.tables.view(np.uint64)[machine.entry(0x50000)] = 0x7000000 | P | W
    with pytest.raises(EngineError, match="0x1000"):
        machine.run(code("8b 04 25 20 00 05 00 f4"))


# Stopping and counting ------------------------------------------------------------------------------------

LOOP = code("48 ff c0 | inc rax\n 48 01 c3 | add rbx, rax\n eb f8 | jmp")


@pytest.mark.parametrize("budget", [1, 2, 3, 100, 1001])
def test_exact_budget(budget):
    machine = Machine(counting="exact")
    assert machine.run(LOOP, max_instructions=budget) == "budget"
    assert machine.hardware.instruction_count == budget
    assert machine.hardware.gpr[0] == (budget + 2) // 3
    assert machine.hardware.rip == CODE + (0, 3, 6)[budget % 3]
    assert machine.run(max_instructions=7) == "budget"
    assert machine.hardware.instruction_count == budget + 7


def test_exact_count_leaves_faulting_instructions_out():
    machine = Machine(counting="exact")
    machine.unmap(0x5000)
    machine.run(code("90 88 04 25 00 50 00 00 90 f4"))
    assert machine.exits == [ex.PAGE_FAULT, ex.HLT] and machine.hardware.instruction_count == 3


def test_block_budget_ends_at_a_block_boundary():
    machine = Machine(counting="blocks")
    assert machine.run(LOOP, max_instructions=1000) == "budget"
    assert machine.hardware.instruction_count == 1002
    assert machine.hardware.rip == CODE and machine.hardware.gpr[0] == 334


def test_block_count_after_a_fault_is_exact_for_even_code():
    machine = Machine(counting="blocks")
    machine.unmap(0x5000)
    machine.run(code("90 90 90 90 88 04 25 00 50 00 00 90 f4"))
    assert abs(machine.hardware.instruction_count - 6) <= 3


def test_budget_without_counting_is_refused():
    with pytest.raises(EngineError, match="counting"):
        Machine(counting=None).run(LOOP, max_instructions=5)


def test_stop_and_kick_from_another_thread_are_precise():
    """The loop's two counters must never differ: a stop in mid-instruction would replay the store."""
    machine = Machine()
    hw = machine.hardware
    machine.handlers[ex.INTR] = lambda: True
    machine.poke(CODE, code("48 ff 04 25 00 50 00 00 | inc qword [0x5000]\n 48 ff c0 | inc rax\n eb f3"))
    hw.rip = CODE
    for _ in range(20):
        timer = threading.Timer(0.005, hw.stop)
        timer.start()
        assert machine.run() == "stop"
        timer.join()
        if hw.rip == CODE:
            assert machine.word(0x5000) == hw.gpr[0]
    threading.Timer(0.005, hw.kick).start()
    machine.handlers[ex.INTR] = lambda: False
    assert machine.run() == "handler" and machine.exits[-1] == ex.INTR


@pytest.mark.parametrize("program", [LOOP, code("0f a2 eb fc | cpuid; jmp")], ids=["no exits", "only exits"])
def test_ctrl_c_ends_the_run(program):
    # a shell that starts this in the background has it ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    machine = Machine()
    skipping(machine, ex.CPUID, 2)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        machine.run(program)
    timer.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_signals_do_not_end_the_run():
    machine = Machine()
    arrived = []
    before = signal.signal(signal.SIGALRM, lambda *_: arrived.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    threading.Timer(0.1, machine.hardware.stop).start()
    assert machine.run(LOOP) == "stop"
    signal.signal(signal.SIGALRM, before)
    assert arrived == [1]


def test_context_round_trip():
    machine = Machine()
    hw = machine.hardware
    machine.run(code("f9 | stc\n b8 07 00 00 00 66 0f 6e c0 | movd xmm0, eax\n d9 e8 | fld1\n 0f a2"))
    saved = hw.save_context()
    before = list(hw.gpr), hw.rflags, hw.rip
    machine.run(code("31 c0 66 0f ef c0 dd d8 | wreck rax, xmm0, st0\n f4"))
    hw.restore_context(saved)
    assert (list(hw.gpr), hw.rflags, hw.rip) == before
    machine.run(code("66 0f 7e c3 | movd ebx, xmm0\n dd 1c 25 00 50 00 00 | fstp qword [0x5000]\n f4"))
    assert hw.gpr[3] == 7 and struct.unpack("<d", machine.peek(0x5000, 8)) == (1.0,)


def test_wrong_unicorn_version_is_refused(monkeypatch):
    import unicorn
    monkeypatch.setattr(unicorn, "__version__", "2.2.0")
    with pytest.raises(EngineError, match="2.2.0"):
        SvmHardware()


def test_tr_must_be_a_tss():
    with pytest.raises(EngineError, match="TSS"):
        SvmHardware().tr = 0, 0, 0, 0
