# SPDX-License-Identifier: GPL-2.0-or-later
"""Hardware task switches of 32-bit guests: kvm_task_switch, for task gates in the IDT and the IRET back.

    event --> IDT gate of type 5 --> exit TASK_SWITCH (hooks.deliver_event) --> switch(GATE) --> NT set, IRET exits
    IRET with NT ------------------> exit IRET -----------------------------> switch(IRET) --> the task before

    TSS:  0 back link | 28 CR3 | 32 EIP EFLAGS EAX ECX EDX EBX ESP EBP ESI EDI | 72 ES CS SS DS FS GS | 96 LDT

The order is the kernel's (emulator_do_task_switch, SDM vol. 3 7.3).  A far JMP or CALL to a TSS makes no exit in this engine:
it ends the run (code_pages).  Nor are there 16-bit TSSs and switches into virtual-8086 mode.
"""

import struct

from . import exits as svm
from .guest_memory import OperandFault

GATE, IRET = "gate", "iret"
TS, NP, SS_FAULT, GP = 10, 11, 12, 13
NT, VM, FIXED_FLAG = 1 << 14, 1 << 17, 2
CR0_TS = 1 << 3
TSS_SIZE, TSS_LIMIT, CR3_AT, STATE_AT = 104, 0x67, 28, 32
TYPE_32, TYPE_BUSY = 8, 2
#: General registers and segments in the order of a TSS, as the hardware numbers them.
GPRS, SEGMENTS = (0, 1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 3, 4, 5)
ES, CS, SS = 0, 1, 2
DR7_LOCAL = 0x155
#: EXITINFO2: why, and whether there is an error code.
REASON_IRET, HAS_ERROR = 1 << 36, 1 << 44


class Refused(Exception):
    """The switch raises an exception in the guest: (vector, error code)."""


class Descriptor:
    """Eight bytes of a descriptor table."""

    def __init__(self, data):
        self.low, self.high = struct.unpack("<II", data)
        self.base = self.low >> 16 | (self.high & 0xFF) << 16 | self.high & 0xFF000000
        self.limit = self.low & 0xFFFF | self.high & 0xF0000
        if self.high >> 23 & 1:
            self.limit = self.limit << 12 | 0xFFF
        self.type, self.dpl = self.high >> 8 & 0xF, self.high >> 13 & 3
        self.present, self.is_segment = bool(self.high >> 15 & 1), bool(self.high >> 12 & 1)
        self.flags = self.high & 0xF0FF00


class TaskSwitch:
    """Task switches of one run.  `watch_iret` keeps the intercept of IRET as it has to be."""

    def __init__(self, run):
        self.run, self.hw, self.memory = run, run.hardware, run.emulator.memory
        self.used = False

    # -- exits

    def through_gate(self):
        """Exit TASK_SWITCH: the event that was on its way goes through a task gate."""
        event, r = self.hw.interrupted_event, self.run.vcpu.record
        r.nmi_injected = r.exception_injected = r.interrupt_injected = 0
        if event.kind == "software":
            self.hw.rip = self.hw.rip + event.instruction_length & 0xFFFFFFFF
        return self._attempt(self.hw.fault_address & 0xFFFF, GATE, event.error_code)

    def iret(self):
        """Exit IRET: back to the task before, or, without NT, an IRET that the CPU does by itself."""
        if not self.hw.rflags & NT:
            self.hw.intercept(svm.IRET, False)
            self.hw.limit_run(self.hw.instruction_count + 1)    # look again behind it
            return True
        link = struct.unpack("<H", self.memory.read(self.hw.tr.base, 2, True))[0]
        self.hw.skip_instruction(self.run.emulator.peek()[2].size)
        return self._attempt(link, IRET, None)

    def watch_iret(self):
        """IRET has to exit as long as it would switch tasks."""
        if self.used:
            self.hw.intercept(svm.IRET, bool(self.hw.rflags & NT))

    def _attempt(self, selector, reason, error):
        self.used = True
        try:
            problem = self._switch(selector, reason, error)
        except Refused as refused:
            return self.run.queue_exception(*refused.args)
        except OperandFault as fault:
            self.run.operand_fault(fault)
            return True
        if problem:
            return self.run.give_up(f"hardware task switch {problem}; RIP {self.hw.rip:#x}")
        self.watch_iret()
        return True

    # -- emulator_do_task_switch

    def _switch(self, selector, reason, error):
        hw = self.hw
        old = hw.tr
        at = self._descriptor_address(selector)
        new = Descriptor(self.memory.read(at, 8, True))
        if not new.present or new.limit < TSS_LIMIT or new.is_segment:
            raise Refused(TS, selector & ~3)
        if not new.type & TYPE_32:
            return "to a 16-bit TSS is not supported"
        flags = hw.rflags
        if reason == IRET:
            self._set_busy(old.selector, False)
            flags &= ~NT
        self._save(old.base, flags)
        state = self.memory.read(new.base, TSS_SIZE, True)
        if reason == GATE:
            self.memory.write(new.base, struct.pack("<I", old.selector), True)
        problem = self._load(state)
        if problem:
            return problem
        if reason == GATE:
            hw.rflags |= NT
            self._set_busy(selector, True)
        self.run.emulator.write_cr(0, self.run.vcpu.cr0 | CR0_TS)
        hw.tr = selector, new.base, new.limit, new.flags
        if error is not None:
            hw.gpr[4] = hw.gpr[4] - 4 & 0xFFFFFFFF
            self.memory.write(hw.segment(SS).base + hw.gpr[4] & 0xFFFFFFFF, struct.pack("<I", error), True)
        hw.write_dr(7, hw.dr[7] & ~DR7_LOCAL)
        return None

    def _descriptor_address(self, selector):
        table = self.hw.ldtr if selector & 4 else None
        base, limit = (table.base, table.limit) if table else self.hw.gdtr
        if not selector & ~3 or (selector | 7) > limit:
            raise Refused(GP, selector & ~3)
        return base + (selector & ~7) & 0xFFFFFFFF

    def _set_busy(self, selector, busy):
        at = self._descriptor_address(selector) + 5
        kind = self.memory.read(at, 1, True)[0]
        self.memory.write(at, bytes([kind | TYPE_BUSY if busy else kind & ~TYPE_BUSY]), True)

    def _save(self, base, flags):
        words = [self.hw.rip, flags, *(self.hw.gpr[n] for n in GPRS), *(self.hw.segment(n).selector for n in SEGMENTS)]
        self.memory.write(base + STATE_AT, struct.pack("<16I", *(word & 0xFFFFFFFF for word in words)), True)

    def _load(self, state):
        hw = self.hw
        words = struct.unpack_from("<17I", state, STATE_AT)
        rip, flags, gprs, selectors, ldt = words[0], words[1] | FIXED_FLAG, words[2:10], words[10:16], words[16]
        if flags & VM:
            return "into virtual-8086 mode is not supported"
        if self.run.emulator.write_cr(3, struct.unpack_from("<I", state, CR3_AT)[0]):
            raise Refused(GP, 0)
        hw.rip, hw.rflags = rip, flags
        for number, value in zip(GPRS, gprs, strict=True):
            hw.gpr[number] = value
        self._load_ldt(ldt & 0xFFFF)
        cpl = selectors[CS] & 3
        for number in (ES, CS, SS, 3, 4, 5):
            self._load_segment(number, selectors[number] & 0xFFFF, cpl)
        return None

    def _load_ldt(self, selector):
        if not selector & ~3:
            self.hw.ldtr = selector, 0, 0, 0
            return
        found = Descriptor(self.memory.read(self._descriptor_address(selector & ~4), 8, True))
        if selector & 4 or found.is_segment or found.type != 2 or not found.present:
            raise Refused(TS, selector & ~3)
        self.hw.ldtr = selector, found.base, found.limit, found.flags

    def _load_segment(self, number, selector, cpl):
        """__load_segment_descriptor with X86_TRANSFER_TASK_SWITCH."""
        if not selector & ~3:
            if number in (CS, SS):
                raise Refused(TS, 0)
            self.hw.set_segment(number, selector, 0, 0, 0)
            return
        at = self._descriptor_address(selector)
        found = Descriptor(self.memory.read(at, 8, True))
        code, rpl = found.type & 8, selector & 3
        wrong = not found.is_segment
        if number == CS:
            wrong = wrong or not code or (found.dpl > rpl if found.type & 4 else found.dpl != rpl)
        elif number == SS:
            wrong = wrong or found.type & 0xA != 2 or rpl != cpl or found.dpl != cpl
        else:
            wrong = wrong or found.type & 0xA == 8 or found.type & 0xC != 0xC and max(rpl, cpl) > found.dpl
        if wrong:
            raise Refused(TS, selector & ~3)
        if not found.present:
            raise Refused(SS_FAULT if number == SS else NP, selector & ~3)
        if not found.type & 1:
            self.memory.write(at + 5, bytes([found.high >> 8 & 0xFF | 1]), True)
        self.hw.set_segment(number, selector, found.base, found.limit, found.flags | 0x100)
