# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested SVM: a guest that is a hypervisor (kvm_amd's nested.c on this engine).

    L1: VMRUN ─> checks ─> L1's registers kept ─> L2's loaded ─> vm/nested_guest: MMU ─> entry with L2's roots
                                                                                           │
    L1: behind VMRUN <─ VMCB filled <─ MMU back <─ L1's registers <─ does L1 want it? <── exit in L2
                                                                         └─ no: handled as any guest's exit

FS, GS, TR, LDTR and the SYSCALL and SYSENTER registers are not switched: VMLOAD and VMSAVE move them.
"""

from dataclasses import dataclass

from ...mmu import counters, events, inject
from ...state import interpreted
from ...vm import calls
from ...vm.machine import signed
from ...x86.bits import CR0_PG, EFER_SVME
from . import exits as svm
from . import nested_checks
from .cpuid import SVM_ADDRESS_CHECK, SVM_CLEAN_BITS, SVM_FLUSHBYASID, SVM_NPT
from .errors import EngineError
from .hardware import DIRECT_MSRS
from .vmcb import NP_ENABLE, V_IRQ, Vmcb, VmcbSegment, attributes

U64 = (1 << 64) - 1
UD, GP, PF = 6, 13, 14
SVM_EXIT_ERR = 0xFFFFFFFF
CR0_SEL_WRITE = 0x65
NPF = 0x400
HSAVE_PA, VM_CR = 0xC0010117, 0xC0010114
VM_CR_LOCK, VM_CR_SVMDIS, VM_CR_VALID = 1 << 3, 1 << 4, 0x1F
DR6_ACTIVE_LOW = 0xFFFF0FF0
EVENT_KINDS = {0: "interrupt", 2: "nmi", 3: "exception", 4: "software"}
#: Segments that VMRUN and #VMEXIT switch, with the engine's numbers.
SWITCHED = (("es", 0), ("cs", 1), ("ss", 2), ("ds", 3))

@dataclass
class SavedState:
    """L1 while L2 runs: what VMRUN would keep in the host save area."""

    segments: dict
    gdtr: tuple
    idtr: tuple
    rflags: int
    rip: int
    rsp: int
    rax: int
    cr0: int
    cr3: int
    cr4: int
    efer: int


class NestedSvm:
    """Nested state of one vCPU of `run` (a `KvmRun`).

    gif: global interrupt flag.  active: L2 runs.  run_pending: VMRUN was executed, L2 has not run yet.
    """

    def __init__(self, run):
        self.run = run
        self.hsave = self.vm_cr = 0
        self.gif, self.active, self.run_pending = True, False, False
        self._vmcb12 = self._control = self._l1 = None
        self._armed, self._armed_msrs = [], []

    # -- instructions of L1

    @property
    def _hw(self):
        return self.run.hardware

    def _emit(self, kind, *arguments):
        self.run.vm.emit(kind, *arguments)

    def _permitted(self):
        """nested_svm_check_permissions; queues the exception if not."""
        vcpu = self.run.vcpu
        if not vcpu.efer & EFER_SVME or not vcpu.cr0 & CR0_PG:
            return not self.run.queue_exception(UD)
        if self._hw.cpl:
            return not self.run.queue_exception(GP, 0)
        return True

    def _operand(self):
        """The VMCB address in rAX."""
        rax = self._hw.gpr[0]
        return rax if self.run.emulator.code_bits() == 64 else rax & 0xFFFFFFFF

    def _map(self, gpa):
        """kvm_vcpu_map: the page as a Vmcb, or None where there is no memory."""
        run = self.run
        if gpa >> 52:
            return None
        offset = calls.ram_offset(run.vm.handle, run.vcpu.index, gpa & ~0xFFF)
        return None if offset < 0 else Vmcb(run.vm.store.ram(), offset)

    def _unmap(self, gpa):
        """kvm_vcpu_unmap(dirty)."""
        calls.mark_page_dirty(self.run.vm.handle, self.run.vcpu.index, gpa & ~0xFFF)

    def _read(self, gpa, size):
        """kvm_vcpu_read_guest; None where there is no memory."""
        run = self.run
        out = b""
        while size:
            n = min(size, 4096 - gpa % 4096)
            at = calls.ram_offset(run.vm.handle, run.vcpu.index, signed(gpa)) if gpa >> 52 == 0 else -1
            if at < 0:
                return None
            out += bytes(run.vm.store.ram()[at:at + n])
            gpa, size = gpa + n, size - n
        return out

    def vmrun(self):
        """nested_svm_vmrun."""
        run, hw = self.run, self._hw
        if not self._permitted():
            return True
        if not self.hsave:
            return run.queue_exception(GP, 0)
        gpa = self._operand()
        page = self._map(gpa)
        if page is None:
            return run.queue_exception(GP, 0)
        run.skip(3)
        control = page.snapshot()
        failed = nested_checks.failed_check(control, run.vcpu.record, run.npt or interpreted.rules(run.vm.view).np_enable_ignored)
        if failed is not None:
            self._emit(events.NESTED_VMENTER_FAILED, failed)
            page.exit_code, page.exit_info1, page.exit_info2 = U64, 0, 0
            self._unmap(gpa)
            return True
        vcpu = run.vcpu
        self._l1 = SavedState({name: hw.segment(number) for name, number in SWITCHED}, hw.gdtr, hw.idtr, hw.rflags,
                              hw.rip, hw.gpr[4], hw.gpr[0], vcpu.cr0, vcpu.cr3, vcpu.cr4, vcpu.efer)
        self.run_pending = True
        if control.int_ctl & V_IRQ:
            return run.give_up("VMRUN with a virtual interrupt pending (V_IRQ) is not supported")
        failed = self._enter(gpa & ~0xFFF, control)
        # nested_svm_vmrun_msrpm
        permissions = None if failed else self._read(control.msrpm, nested_checks.MSRPM_BYTES)
        if permissions is not None:
            self._arm_msrs(control, permissions)
        else:
            if failed:
                self._emit(events.NESTED_VMENTER_FAILED, failed)
            self.run_pending = False
            self._vmexit(SVM_EXIT_ERR, 0, 0)
        self._unmap(gpa)
        return True

    def _enter(self, gpa, v):
        """enter_svm_guest_mode: a check's number when CR3 or the PDPTEs are refused, else None."""
        run, hw = self.run, self._hw
        r = run.vcpu.record
        npt = bool(v.nested_ctl & NP_ENABLE) and run.npt
        self._emit(events.NESTED_VMENTER, hw.rip, gpa, v.rip, v.int_ctl, v.event_inj, npt,
                   v.nested_cr3 if npt else v.cr3)
        self._emit(events.NESTED_INTERCEPTS, v.cr_read, v.cr_write, v.exceptions, v.intercept1, v.intercept2,
                   v.intercept3)
        self._vmcb12, self._control, self.active = gpa, v, True
        r.nested_exceptions = v.exceptions
        r.nested_shutdown = v.intercepts >> svm.SHUTDOWN & 1
        refused = calls.enter_nested_svm(run.vm.handle, run.vcpu.index, signed(v.cr0), signed(v.cr3), signed(v.cr4),
                                         signed(v.efer), npt, signed(v.nested_cr3))
        hw.rflags = v.rflags
        for name, number in SWITCHED:
            segment = v.segment(name)
            hw.set_segment(number, segment.selector, segment.base, segment.limit, segment.flags)
        for name in ("gdtr", "idtr"):
            table = v.segment(name)
            setattr(hw, name, (table.base, table.limit))
        hw.cpl = v.cpl & 3
        hw.rip, hw.gpr[4], hw.gpr[0], hw.cr2 = v.rip, v.rsp, v.rax, v.cr2
        hw.dr[6], hw.dr[7] = v.dr6 | DR6_ACTIVE_LOW, v.dr7 | 0x400
        r.cr2 = signed(v.cr2)
        r.cs_l = int(run.emulator.code_bits() == 64)
        if refused:
            return nested_checks.CHECK_LOAD_CR3 if v.cr3 >> r.maxphyaddr else nested_checks.CHECK_LOAD_PDPTRS
        self.gif = True
        self._arm(v)
        event = v.event_inj
        if event & svm.EVENT_VALID:
            hw.queue_event(event & 0xFF, EVENT_KINDS.get(event >> 8 & 7, "exception"),
                           v.event_inj_error if event & svm.EVENT_ERROR_VALID else None)
        return None

    def _arm(self, v):
        """recalc_intercepts: what L1 intercepts besides the host."""
        hw = self._hw
        wanted = v.intercepts
        hw.exception_intercepts = self.run.exception_intercepts | v.exceptions
        self.run.arm_control_registers()
        self._armed = [code for code in range(0x60, 0xA0) if wanted >> code & 1 and not hw.intercepted(code)]
        for code in self._armed:
            hw.intercept(code)

    def _arm_msrs(self, v, permissions):
        """The MSRs that a guest otherwise uses without an exit."""
        if not v.intercepts >> svm.MSR & 1 or not any(permissions):
            return
        for index in DIRECT_MSRS:
            at, shift = nested_checks.msr_place(index)
            read, write = (bool(permissions[at] >> shift + i & 1) for i in (0, 1))
            if read or write:
                self._hw.intercept_msr(index, read, write)
                self._armed_msrs.append(index)

    def _disarm(self):
        hw = self._hw
        hw.exception_intercepts = self.run.exception_intercepts
        for code in self._armed:
            hw.intercept(code, False)
        self._armed = []
        self.run.arm_control_registers()
        for index in self._armed_msrs:
            hw.intercept_msr(index, False, False)
        self._armed_msrs = []

    def vmload(self):
        """VMLOAD: the registers that VMRUN leaves alone."""
        return self._load_save(True)

    def vmsave(self):
        """VMSAVE."""
        return self._load_save(False)

    def _load_save(self, load):
        run, hw = self.run, self._hw
        if not self._permitted():
            return True
        gpa = self._operand()
        page = self._map(gpa)
        if page is None:
            return run.queue_exception(GP, 0)
        run.skip(3)
        msrs = (("star", 0xC0000081), ("lstar", 0xC0000082), ("cstar", 0xC0000083), ("sfmask", 0xC0000084),
                ("kernel_gs_base", 0xC0000102), ("sysenter_cs", 0x174), ("sysenter_esp", 0x175), ("sysenter_eip", 0x176))
        if load:
            for name, number in (("fs", 4), ("gs", 5)):
                segment = page.segment(name)
                hw.set_segment(number, segment.selector, segment.base, segment.limit, segment.flags)
            for name in ("ldtr", "tr"):
                segment = page.segment(name)
                setattr(hw, name, (segment.selector, segment.base, segment.limit, segment.flags))
            for name, index in msrs:
                hw.write_msr(index, getattr(page, name))
        else:
            for name, segment in (("fs", hw.segment(4)), ("gs", hw.segment(5)), ("ldtr", hw.ldtr), ("tr", hw.tr)):
                page.set_segment(name, _to_vmcb(segment))
            for name, index in msrs:
                setattr(page, name, hw.read_msr(index))
        self._unmap(gpa)
        return True

    def set_gif(self, value):
        """STGI, CLGI."""
        if self._permitted():
            self.run.skip(3)
            self.gif = value
        return True

    def invlpga(self):
        """INVLPGA, which KVM treats as INVLPG."""
        run, hw = self.run, self._hw
        address = hw.gpr[0] if run.vcpu.efer & 0x400 else hw.gpr[0] & 0xFFFFFFFF
        self._emit(events.INVLPGA, hw.rip, hw.gpr[1] & 0xFFFFFFFF, address)
        calls.invlpg(run.vm.handle, run.vcpu.index, signed(address))
        return run.skip(3)

    # -- MSRs of the host side of SVM

    def write_msr(self, index, value):
        """MSR_VM_HSAVE_PA, MSR_VM_CR: True for #GP."""
        if index == HSAVE_PA:
            if value & 0xFFF or value >> self.run.vcpu.record.maxphyaddr:
                return True
            self.hsave = value
            return False
        if value & ~VM_CR_VALID:
            return True
        changeable = VM_CR_VALID if not self.vm_cr & VM_CR_LOCK else VM_CR_VALID & ~(VM_CR_LOCK | VM_CR_SVMDIS)
        self.vm_cr = self.vm_cr & ~changeable | value & changeable
        # SVM cannot be disabled while it is in use
        return bool(self.vm_cr & VM_CR_SVMDIS and self.run.vcpu.efer & EFER_SVME)

    def read_msr(self, index):
        return self.hsave if index == HSAVE_PA else self.vm_cr

    def features(self):
        """EDX of CPUID leaf 8000000A."""
        rules = interpreted.rules(self.run.vm.view)
        return (SVM_CLEAN_BITS | SVM_ADDRESS_CHECK | (SVM_NPT if self.run.npt else 0)
                | (SVM_FLUSHBYASID if rules.svm_flushbyasid else 0))

    # -- exits of L2

    def intercepted(self, code):
        """vmcb12_is_intercept."""
        return bool(self._control.intercepts >> code & 1)

    def wants(self, code, info1):
        """nested_svm_exit_special, nested_svm_exit_handled: is this exit L1's?"""
        if code == NPF or code == svm.INTR or code == svm.NMI:
            return False
        if svm.EXCEPTION <= code < svm.EXCEPTION + 32:
            # what the host intercepts itself becomes L1's when it is queued
            return not self.run.exception_intercepts >> (code - svm.EXCEPTION) & 1
        if code == svm.MSR:
            return self.intercepted(code) and self._msr_intercepted(self._hw.gpr[1] & 0xFFFFFFFF, info1 & 1)
        if code == svm.IOIO:
            return self.intercepted(code) and self._io_intercepted(info1)
        return self.intercepted(code)

    def _msr_intercepted(self, index, write):
        """nested_svm_exit_handled_msr: an MSR outside the map always exits."""
        place = nested_checks.msr_place(index)
        if place is None:
            return True
        data = self._read(self._control.msrpm + place[0], 1)
        return data is None or bool(data[0] >> place[1] + write & 1)

    def _io_intercepted(self, info1):
        """nested_svm_intercept_ioio."""
        port, size = info1 >> 16 & 0xFFFF, info1 >> 4 & 7
        start = port % 8
        data = self._read(self._control.iopm + port // 8, 2 if start + size > 8 else 1)
        return data is None or bool(int.from_bytes(data, "little") & (0xF >> (4 - size)) << start)

    def reflect(self, code, info1, info2):
        """The exit goes to L1."""
        hw = self._hw
        if code == svm.IOIO:
            if hw.io.string:
                raise EngineError(f"string I/O of L2 that L1 intercepts, at RIP {hw.rip:#x}, is not supported")
            hw.abandon_io()
        self._vmexit(code, info1, info2)

    def leave_pending(self):
        """The #VMEXIT that `vcpu.vmexit_pending` stands for."""
        r = self.run.vcpu.record
        why = r.vmexit_pending
        error, payload = r.vmexit_error & U64, r.vmexit_payload & U64
        if why == inject.TABLE_FAULT_VMEXIT:
            return self._table_fault(error, payload)
        if why == inject.SHUTDOWN_VMEXIT:
            return self._vmexit(svm.SHUTDOWN, 0, 0)
        # nested_svm_inject_exception_vmexit
        info1 = error if r.vmexit_has_error else self.run.exit_info[0]
        info2 = self.run.exit_info[1]
        if r.vmexit_vector == PF:
            info2 = payload if r.vmexit_has_payload else self._hw.cr2
        return self._vmexit(svm.EXCEPTION + r.vmexit_vector, info1, info2)

    def _table_fault(self, error, gpa):
        """nested_svm_inject_npf_exit: the high half of EXITINFO1 is the hardware's when the exit was a #NPF."""
        code = self.run.exit_code
        info1, info2 = self.run.exit_info
        if code != NPF:
            info1, info2 = 1 << 32, gpa
        self._vmexit(NPF, info1 & ~0xFFFFFFFF | error & 0xFFFFFFFF, info2)

    def interrupt(self):
        """A host interrupt for L1 while L2 runs: True if it makes L2 exit."""
        if not self.intercepted(svm.INTR) or self.run_pending:
            return False
        self._emit(events.NESTED_INTR_VMEXIT, self._hw.rip)
        self._vmexit(svm.INTR, 0, 0)
        return True

    def leave_for_disabled_svm(self):
        """svm_leave_nested, when EFER.SVME is cleared: GIF is set."""
        self.gif = True

    def _vmexit(self, code, info1, info2):
        """nested_svm_vmexit: L2's state to the VMCB, L1's back, the MMU with it."""
        run, hw = self.run, self._hw
        vcpu, r = run.vcpu, run.vcpu.record
        page = self._map(self._vmcb12)
        for name, number in SWITCHED:
            page.set_segment(name, _to_vmcb(hw.segment(number)))
        for name in ("gdtr", "idtr"):
            base, limit = getattr(hw, name)
            page.set_segment(name, VmcbSegment(page.segment(name).selector, page.segment(name).attributes, limit, base))
        page.efer, page.cr0, page.cr3, page.cr4 = vcpu.efer, vcpu.cr0, vcpu.cr3, vcpu.cr4
        page.cr2, page.rflags, page.rip = hw.cr2, hw.rflags, hw.rip
        page.rsp, page.rax = hw.gpr[4], hw.gpr[0]
        page.dr7, page.dr6, page.cpl = hw.dr[7], hw.dr[6], hw.cpl
        page.int_state = int(hw.in_interrupt_shadow)
        page.exit_code = U64 if code == SVM_EXIT_ERR else code
        page.exit_info1, page.exit_info2 = info1, info2
        int_info = int_error = 0
        if code != SVM_EXIT_ERR:
            int_info, int_error = self._interrupted_event(page)
        page.event_inj = self._control.event_inj & ~svm.EVENT_VALID
        self._emit(events.NESTED_VMEXIT_INJECT, code, info1, info2, int_info, int_error)
        vmcb12, l1 = self._vmcb12, self._l1
        self.active = self.run_pending = self.gif = False
        self._disarm()
        self._vmcb12 = self._control = self._l1 = None
        self._unmap(vmcb12)
        hw.drop_event()
        for name, number in SWITCHED:
            segment = l1.segments[name]
            hw.set_segment(number, segment.selector, segment.base, segment.limit, segment.flags)
        hw.gdtr, hw.idtr = l1.gdtr, l1.idtr
        hw.cpl = 0
        hw.rflags, hw.rip = l1.rflags, l1.rip
        hw.gpr[4], hw.gpr[0] = l1.rsp, l1.rax
        hw.dr[7] = 0x400
        hw.in_interrupt_shadow = False
        r.nmi_injected = r.exception_pending = r.exception_injected = r.interrupt_injected = 0
        refused = calls.leave_nested_svm(run.vm.handle, vcpu.index, signed(l1.cr0), signed(l1.cr3), signed(l1.cr4),
                                         signed(l1.efer))
        if refused:
            run.give_up("L1's page directory pointers became invalid while L2 ran")
        r.cs_l = int(run.emulator.code_bits() == 64)
        run.forget_soft_event()

    def _interrupted_event(self, page):
        """nested_save_pending_event_to_vmcb12."""
        r = self.run.vcpu.record
        info, error = 0, page.exit_int_error
        if r.exception_injected:
            info = r.exception_vector | svm.EVENT_EXCEPTION << 8 | svm.EVENT_VALID
            if r.exception_has_error:
                info |= svm.EVENT_ERROR_VALID
                error = r.exception_error
        elif r.nmi_injected:
            info = 2 | svm.EVENT_NMI << 8 | svm.EVENT_VALID
        elif r.interrupt_injected:
            kind = svm.EVENT_SOFTWARE if r.interrupt_soft else svm.EVENT_INTERRUPT
            info = r.interrupt_nr | kind << 8 | svm.EVENT_VALID
        page.exit_int_info, page.exit_int_error = info, error
        return info, error

    def count_run(self):
        """A VMRUN that made it past the checks (stat nested_run)."""
        if self.run_pending:
            self.run.vcpu.record.stat[counters.NESTED_RUN] += 1
            self.run_pending = False


def _to_vmcb(segment):
    return VmcbSegment(segment.selector, attributes(segment.flags), segment.limit, segment.base)
