# SPDX-License-Identifier: GPL-2.0-or-later
"""Event delivery through the guest's own IDT, in every mode, also when delivery itself misses."""

import struct

import pytest

from shadowmmu.engines.unicorn_svm import EngineError
from shadowmmu.engines.unicorn_svm import exits as ex
from shadowmmu.engines.unicorn_svm.hardware import CS, SS

from .test_hardware_harness import CODE, GDT, IDT, STACK_TOP, TSS, Machine, code

HANDLER = 0x2000
MODES = ["long", "la57", "pae", "unpaged32", "real"]
WORD = {"long": 8, "la57": 8, "pae": 4, "unpaged32": 4, "real": 2}


def machine_with_handler(mode, vector, **gate):
    machine = Machine(mode)
    machine.poke(HANDLER, code("f4"))
    machine.gate(vector, HANDLER, **gate)
    return machine


def frame(machine, count):
    """The words on top of the guest's stack."""
    size = WORD[machine.mode]
    top = machine.hardware.gpr[4] & 0xFFFFFFFF
    return [machine.word(top + size * index, size) for index in range(count)]


@pytest.mark.parametrize("mode", MODES)
def test_interrupt_enters_the_gate(mode):
    machine = machine_with_handler(mode, 0x30)
    hw = machine.hardware
    hw.rflags = 0x246
    hw.queue_event(0x30, "interrupt")
    machine.run(code("90 f4"))
    assert machine.exits == [ex.HLT] and hw.rip == HANDLER
    rip, cs, flags = frame(machine, 3)
    assert (rip, flags & 0x247) == (CODE, 0x246)
    assert hw.rflags & 0x200 == 0
    if mode in ("long", "la57"):
        assert frame(machine, 5)[3:] == [STACK_TOP, 0x10]


@pytest.mark.parametrize("mode", MODES[:-1])
def test_exception_pushes_its_error_code(mode):
    machine = machine_with_handler(mode, 13)
    machine.hardware.queue_event(13, "exception", 0x1234)
    machine.run(code("f4"))
    assert frame(machine, 2) == [0x1234, CODE]


@pytest.mark.parametrize("mode", MODES)
def test_software_interrupt_pushes_the_next_instruction(mode):
    machine = machine_with_handler(mode, 0x80, dpl=3)
    hw = machine.hardware

    def swint():
        assert (hw.software_vector, hw.instruction_length, hw.rip) == (0x80, 2, CODE + 1)
        hw.queue_event(hw.software_vector, "software", instruction_length=hw.instruction_length)
        return True

    machine.handlers[ex.SWINT] = swint
    machine.run(code("90 | nop\n cd 80 | int 0x80\n f4"))
    assert machine.exits == [ex.SWINT, ex.HLT] and hw.rip == HANDLER
    assert frame(machine, 1) == [CODE + 3]


def test_int3_and_into_are_software_interrupts():
    machine = machine_with_handler("pae", 3, dpl=3)
    hw = machine.hardware
    seen = []

    def swint():
        seen.append((hw.software_vector, hw.instruction_length))
        hw.skip_instruction(hw.instruction_length)
        return True

    machine.handlers[ex.SWINT] = swint
    hw.rflags = 0x802  # OF
    machine.run(code("cc | int3\n ce | into\n f4"))
    assert seen == [(3, 1), (4, 1)] and machine.exits[-1] == ex.HLT


def test_software_interrupt_checks_the_gate():
    """DPL 0 gate from CPL 3: #GP(vector * 8 + 2), delivered inside the engine."""
    machine = machine_with_handler("long", 13)
    machine.gate(0x80, HANDLER)
    machine.poke(TSS + 4, struct.pack("<Q", 0xA000))
    machine.user()
    hw = machine.hardware
    machine.handlers[ex.SWINT] = lambda: hw.queue_event(0x80, "software", instruction_length=2) or True
    machine.run(code("cd 80"))
    assert machine.exits == [ex.SWINT, ex.HLT]
    assert frame(machine, 2) == [0x80 * 8 + 2, CODE]


@pytest.mark.parametrize("mode", ["pae", "unpaged32"])
def test_stack_switch_through_a_32_bit_tss(mode):
    machine = machine_with_handler(mode, 0x30)
    machine.poke(TSS + 4, struct.pack("<II", 0xA000, 0x10))
    machine.user()
    machine.hardware.queue_event(0x30, "interrupt")
    machine.run(code("f4"))
    assert machine.hardware.gpr[4] == 0xA000 - 20 and machine.hardware.cpl == 0
    assert frame(machine, 5) == [CODE, 0x23, 2, STACK_TOP, 0x1B]


def test_ist_stack_in_64_bit_mode():
    machine = machine_with_handler("long", 2, ist=3)
    machine.poke(TSS + 0x24 + 16, struct.pack("<Q", 0xB008))
    machine.hardware.queue_event(2, "nmi")
    machine.run(code("f4"))
    assert machine.hardware.gpr[4] == 0xB000 - 40
    assert frame(machine, 5) == [CODE, 8, 2, STACK_TOP, 0x10]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("missing", ["stack", "idt", "gdt", "handler", "all"])
@pytest.mark.parametrize("kind, vector, error", [("interrupt", 0x30, None), ("exception", 14, 7),
                                                 ("software", 0x80, None)])
def test_delivery_survives_missing_pages(mode, missing, kind, vector, error):
    """Each page the delivery touches may be absent from the tables: an exit each, then the right frame."""
    machine = machine_with_handler(mode, vector, dpl=3)
    hw = machine.hardware
    if mode == "real":
        error = None
    pages = {"stack": [STACK_TOP - 0x1000], "idt": [IDT], "handler": [HANDLER],
             "gdt": [GDT] if mode != "real" else []}
    pages["all"] = [page for group in pages.values() for page in group]
    machine.poke(CODE, code("90 f4"))
    hw.rip = CODE
    for page in pages[missing]:
        machine.unmap(page)
    hw.queue_event(vector, kind, error, 2 if kind == "software" else 0)
    machine.run()
    assert machine.exits == [ex.PAGE_FAULT] * len(pages[missing]) + [ex.HLT]
    for gva, _, event in machine.faults:
        if gva & ~0xFFF == HANDLER:
            assert event is None  # the event was delivered; this is a plain fetch
        else:
            assert (event.vector, event.kind, event.error_code) == (vector, kind, error)
    expected = [CODE + 2 if kind == "software" else CODE]
    assert frame(machine, 1 + (error is not None))[-1:] == expected
    assert hw.rip == HANDLER


def test_missed_delivery_changes_no_register():
    machine = machine_with_handler("long", 0x30)
    machine.poke(TSS + 4, struct.pack("<Q", 0xA000))
    machine.user()
    hw = machine.hardware
    hw.rflags = 0x202
    machine.unmap(0x9000, lazily=False)
    machine.unmap(0xA000 - 0x1000, lazily=False)
    machine.poke(CODE, code("f4"))
    hw.rip = CODE
    before = hw.rip, hw.rflags, list(hw.gpr), hw.segment(CS), hw.segment(SS), hw.cpl
    hw.queue_event(0x30, "interrupt")
    machine.run()
    assert machine.exits == [ex.PAGE_FAULT] and not hw.event_queued
    assert (hw.rip, hw.rflags, list(hw.gpr), hw.segment(CS), hw.segment(SS), hw.cpl) == before
    assert hw.exit_int_info == 0x80000030


def test_exceptions_nobody_intercepts_go_to_the_guest():
    machine = machine_with_handler("long", 6)
    machine.run(code("0f 0b | ud2"))
    assert machine.exits == [ex.HLT]
    assert frame(machine, 1) == [CODE]


def test_intercepted_exception_exits_with_its_error_code():
    machine = machine_with_handler("long", 13)
    machine.hardware.exception_intercepts = 1 << 13
    machine.run(code("b8 50 00 00 00 | mov eax, 0x50\n 8e d8 | mov ds, eax"))
    assert machine.exits == [ex.EXCEPTION + 13]
    assert machine.hardware.error_code == 0x50
    assert machine.hardware.rip == CODE + 5


def test_native_exception_with_missing_stack_is_redelivered():
    machine = machine_with_handler("long", 0)
    machine.poke(CODE, code("31 d2 | xor edx, edx\n 31 c9 | xor ecx, ecx\n f7 f1 | div ecx"))
    machine.hardware.rip = CODE
    machine.unmap(STACK_TOP - 0x1000)
    machine.run()
    assert machine.exits == [ex.PAGE_FAULT, ex.HLT]
    assert machine.faults[0][2].vector == 0
    assert frame(machine, 1) == [CODE + 4]


def test_contributory_exceptions_make_a_double_fault():
    """#DE whose gate is not present (#NP) becomes #DF."""
    machine = machine_with_handler("long", 8)
    machine.run(code("31 c9 f7 f1"))
    assert machine.exits == [ex.HLT]
    assert frame(machine, 2) == [0, CODE + 2]


@pytest.mark.parametrize("mode", ["long", "pae"])
def test_triple_fault_is_shutdown(mode):
    machine = Machine(mode)
    machine.run(code("0f 0b"))
    # the empty IDT makes #UD -> #GP/#NP -> #DF -> shutdown
    assert machine.exits == [ex.SHUTDOWN]


def test_interrupt_window_opens_after_the_shadow():
    machine = machine_with_handler("long", 0x30)
    hw = machine.hardware
    hw.request_interrupt_window()

    def window():
        assert hw.rip == CODE + 3 and not hw.in_interrupt_shadow
        hw.queue_event(0x30, "interrupt")
        return True

    machine.handlers[ex.VINTR] = window
    machine.run(code("90 | nop\n fb | sti\n 90 | nop\n 90 | nop\n f4"))
    assert machine.exits == [ex.VINTR, ex.HLT]
    assert frame(machine, 1) == [CODE + 3]


def test_window_waits_while_interrupts_are_off():
    machine = Machine()
    machine.hardware.request_interrupt_window()
    machine.run(code("90 f4"))
    assert machine.exits == [ex.HLT]
    machine.hardware.cancel_interrupt_window()
    machine.run(code("fb 90 f4"))
    assert machine.exits == [ex.HLT, ex.HLT]


def test_hlt_right_after_sti_reports_the_shadow():
    machine = Machine()
    machine.run(code("fb f4"))
    assert machine.exits == [ex.HLT] and machine.hardware.in_interrupt_shadow
    machine.hardware.skip_instruction(1)
    assert not machine.hardware.in_interrupt_shadow


def test_iret_returns_to_the_interrupted_code():
    machine = Machine()
    hw = machine.hardware
    machine.poke(HANDLER, code("ff c3 | inc ebx\n 48 cf | iretq"))
    machine.gate(0x30, HANDLER)
    hw.rflags = 0x202
    hw.queue_event(0x30, "interrupt")
    machine.run(code("90 f4"))
    assert (machine.exits, hw.gpr[3], hw.rip, hw.rflags) == ([ex.HLT], 1, CODE + 1, 0x202)


def test_second_event_is_refused():
    machine = Machine()
    machine.hardware.queue_event(0x30, "interrupt")
    with pytest.raises(EngineError, match="queued already"):
        machine.hardware.queue_event(0x31, "interrupt")


def test_event_left_pending_is_delivered_by_the_next_run():
    machine = machine_with_handler("long", 0x30)
    hw = machine.hardware
    machine.handlers[ex.CPUID] = lambda: hw.skip_instruction(2) or hw.queue_event(0x30, "interrupt")
    assert machine.run(code("0f a2 f4")) == "handler"
    assert hw.event_queued and hw.rip == CODE + 2
    machine.run()
    assert machine.exits == [ex.CPUID, ex.HLT] and hw.rip == HANDLER


def test_many_deliveries_with_misses():
    """A long run: 3000 INT3, half of them with an absent stack page."""
    machine = Machine()
    hw = machine.hardware
    machine.poke(HANDLER, code("48 cf"))
    machine.gate(3, HANDLER)

    def breakpoint_():
        if hw.gpr[1] & 1:
            machine.unmap(STACK_TOP - 0x1000)
        hw.queue_event(3, "software", instruction_length=1)
        return True

    machine.handlers[ex.SWINT] = breakpoint_
    machine.run(code("b9 b8 0b 00 00 | mov ecx, 3000\n cc | int3\n ff c9 | dec ecx\n 75 fb | jnz int3\n f4"))
    assert machine.exits[-1] == ex.HLT and hw.gpr[1] == 0
    assert machine.exits.count(ex.SWINT) == 3000 and machine.exits.count(ex.PAGE_FAULT) == 1500
    assert hw.gpr[4] == STACK_TOP
