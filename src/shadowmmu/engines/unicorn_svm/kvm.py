# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM on this hardware: the loop of entries and exits, and a handler for each exit (kvm_amd's, with npt=0).

    run:   enter (requests, root, event) -> hardware.run -> exit -> handler -> enter ...
                                                  |
    #PF  fast path (compiled) ........ the MMU -> resume        CR, INVLPG, MSR, CPUID  emulate or decode, skip
         verdict EMULATE ............. emulate.py               IN, OUT, MMIO, HLT      the platform ("userspace")
"""

import ctypes
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from ...mmu import counters, events
from ...state import interpreted
from ...vm import calls, entry
from ...vm.exits import EMULATE
from ...vm.machine import signed
from ...x86.bits import CR4_LA57, CR4_PKE, EFER_SVME
from . import descriptor_loads, fast_path, guest_memory, quick
from . import exits as svm
from .cpuid import (
    APIC_BASE,
    APIC_BOOT_PROCESSOR,
    EFER,
    HWCR,
    IGNORED_MSRS,
    PLAIN_MSRS,
    TSC,
    TSC_AUX,
    guest_cpuid,
    machine_check_refuses,
    topology,
)
from .emulate import FAILED, Emulator
from .hardware import CS, SvmHardware
from .nested_svm import CR0_SEL_WRITE, HSAVE_PA, VM_CR, NestedSvm
from .nmi import Nmis
from .profile import AMD
from .stepper import InstructionStepper
from .task_switch import HAS_ERROR, REASON_IRET, TaskSwitch

U64 = (1 << 64) - 1
PAUSE_TIME = 1000  # ns
IPI_TIME = 1000  # instructions until the CPU that an IPI is for has its turn
IDLE = 0.25  # seconds that a halted guest waits for input before it looks at its limits
KVM_EXIT_IO, KVM_EXIT_HLT, KVM_EXIT_SHUTDOWN, KVM_EXIT_INTERNAL_ERROR = 2, 5, 8, 17
CR0_TS_MP = 0xA
APIC_TPR = 0x80
RFLAGS_TF, RFLAGS_IF, RFLAGS_NT = 1 << 8, 1 << 9, 1 << 14
DB, BP, OF, UD, DF = 1, 3, 4, 6, 8
CR4_DE = 1 << 3
#: DR6: breakpoints 0..3, general detect, single step; what can be written (KVM's, without RTM); what reads as 1.
DR6_TRAPS, DR6_BD, DR6_BS, DR6_VOLATILE, DR6_FIXED = 0xF, 1 << 13, 1 << 14, 0xE00F, 0xFFFF0FF0
DR7_GD, DR7_VOLATILE, DR7_FIXED = 1 << 13, 0xFFFF2BFF, 0x400
#: KVM_EPERM, KVM_ENOSYS as hypercalls return them.
EPERM, ENOSYS = -1, -1000
VAPIC_POLL_IRQ = 1
#: Exceptions that KVM intercepts besides #PF: #DB, #UD, #AC, #MC.
INTERCEPTED = 1 << 1 | 1 << UD | 1 << 14 | 1 << 17 | 1 << 18
#: MSRs that hold a linear address and live in the hardware.
ADDRESS_MSRS = (0xC0000082, 0xC0000083, 0xC0000100, 0xC0000101, 0xC0000102, 0x175, 0x176)
#: Names of exits for the statistics.
NAMES = {svm.PAGE_FAULT: "#PF", svm.NPF: "NPF", svm.HLT: "HLT", svm.INVLPG: "INVLPG", svm.MSR: "MSR", svm.CPUID: "CPUID",
         svm.IOIO: "IO", svm.VINTR: "interrupt window", svm.INTR: "kick", svm.SHUTDOWN: "shutdown",
         svm.SWINT: "INT n", svm.VMMCALL: "VMMCALL", svm.VMRUN: "VMRUN", svm.VMLOAD: "VMLOAD", svm.VMSAVE: "VMSAVE",
         svm.IRET: "IRET", svm.TASK_SWITCH: "task switch", svm.PAUSE: "PAUSE", svm.GDTR_WRITE: "LGDT", svm.IDTR_WRITE: "LIDT",
         svm.LDTR_WRITE: "LLDT", svm.TR_WRITE: "LTR",
         svm.STGI: "STGI", svm.CLGI: "CLGI", svm.INVLPGA: "INVLPGA", CR0_SEL_WRITE: "MOV to CR0"}


def exit_name(code):
    """Short name of an exit code."""
    if code < 0x20:
        return f"MOV {'to' if code & 0x10 else 'from'} CR{code & 15}"
    if 0x40 <= code < 0x60 and code != svm.PAGE_FAULT:
        return f"exception {code - 0x40}"
    return NAMES.get(code, f"exit {code:#x}")


def segment_flags(segment):
    """The attribute bits of an image's segment as the engine holds them (bits 8..23 of a descriptor's upper half)."""
    return (segment.type << 8 | (not segment.system) << 12 | segment.dpl << 13 | segment.present << 15
            | segment.long << 21 | segment.default_big << 22 | segment.granularity << 23)


@dataclass
class RunReport:
    """How a run ended.  reason: "exit", "shutdown", "halted", "limit", "timeout", "interrupted", "internal error";
    text: one line for people; exit_code: what the guest reported, or None; kvm_exit, internal: the lines a VMM would log
    about a KVM exit that it cannot handle."""

    reason: str
    text: str
    exit_code: int | None = None
    exits: Counter = field(default_factory=Counter)
    emulated: int = 0
    fast_exits: int = 0
    instructions: int = 0
    seconds: float = 0.0
    kvm_exit: str | None = None
    internal: str | None = None


class KvmRun:
    """One vCPU of `vm` running on an engine.

    number: which vCPU.  beside: the run of another one, whose engine this one shares (`smp`).
    vm: the `Vm`.  platform: devices (`guests.platform`).  profile: kind of host.  max_instructions, timeout (seconds):
    limits, None for none.  drain: called with event rows whenever the ring is emptied.  la57: offer 5-level paging.
    maxphyaddr: width of guest-physical addresses that CPUID shows, None for the host's.
    on_snapshot(self): called once, between two instructions, when `snapshot_at` instructions have been executed.
    nested: the guest may use SVM itself.  counting: as in `SvmHardware`.
    """

    #: The host has nested paging.
    npt = False

    def __init__(self, vm, platform, *, profile=AMD, max_instructions=None, timeout=None, drain=None, la57=False,
                 progress=None, maxphyaddr=None, snapshot_at=None, on_snapshot=None, nested=False, counting="blocks",
                 number=0, beside=None):
        self.vm, self.platform, self.profile, self.beside = vm, platform, profile, beside
        self.vcpu = vm.vcpus[number]
        self.limit, self.timeout, self.drain, self.la57, self.progress = (max_instructions, timeout, drain, la57,
                                                                          progress)
        self.snapshot_at, self.on_snapshot = snapshot_at, on_snapshot
        self.maxphyaddr = maxphyaddr or profile.maxphyaddr
        if beside is None:
            self.hardware = SvmHardware(max_phys_bits=profile.maxphyaddr, counting=counting)
            self.stepper = InstructionStepper()
        else:
            self.hardware, self.stepper = beside.hardware, beside.stepper
        self.emulator = Emulator(vm, self.vcpu, self.hardware, self.stepper, self)
        self.tasks = TaskSwitch(self)
        self.msrs = dict(PLAIN_MSRS)
        if number:
            self.msrs[APIC_BASE] &= ~APIC_BOOT_PROCESSOR
        self.report = None
        self.exits = Counter()
        self.emulated = 0
        self._mode = None
        self._last_check = 0.0
        self.poll_input = None
        if beside is None:
            self._map_memory()
        self._install_fast_path()
        self._offers_svm = nested
        self._install_quick_exits()
        self.exception_intercepts = INTERCEPTED & ~(1 << 14) if self.npt else INTERCEPTED
        self.hardware.exception_intercepts = self.exception_intercepts
        self.exit_code, self.exit_info = 0, (0, 0)
        self.nested = NestedSvm(self) if nested else None
        self.nmis = Nmis(self)
        self.vcpu.set_svm(nested)
        self.hardware.set_faults_push_rf(profile.faults_push_rf)

    # -- set-up

    def _map_memory(self):
        store, view = self.vm.store, self.vm.view
        base = store.address
        for table, pfn in (("spt", view.shadow_pfn), ("ram", view.ram_pfn)):
            offset, length = store.tables[table]
            self.hardware.map_ram(pfn << 12, base + offset, -(-length // 4096) * 4096)
        self.hardware.watch_code(view.ram_pfn << 12, length)

    def _install_fast_path(self):
        block = (ctypes.c_int64 * fast_path.CELLS)()
        self.block = block
        block[fast_path.HANDLE] = self.vm.store.address
        block[fast_path.VCPU] = self.vcpu.index
        block[fast_path.CONTROL] = self.hardware.control_address
        block[fast_path.FLUSH_TLB] = self.hardware.flush_tlb_address
        block[fast_path.FLUSH_PAGE] = self.hardware.flush_page_address
        block[fast_path.EVENT_LIMIT] = self.vm.view.event_capacity // 2
        block[fast_path.WORLD_SWITCH] = int(self.profile.flush_on_world_switch)
        block[fast_path.RSVD_WITHOUT_PRESENT] = int(self.profile.rsvd_without_present)
        block[fast_path.VERDICT] = fast_path.UNTOUCHED
        # with DecodeAssists and NRIPS an exit says enough; without, KVM's own decoding shows in its events
        block[fast_path.PLAIN] = int(self.profile.decode_assists and self.profile.nrips)
        block[fast_path.ENGINE] = self.hardware.state.uc
        for cell, name in ((fast_path.RAM_ADDRESS, "qemu_ram_addr_from_host"), (fast_path.INVALIDATE, "tb_invalidate_phys_range"),
                           (fast_path.READ_EFLAGS, "helper_read_eflags")):
            block[cell] = self.hardware.state.functions[name]
        block[fast_path.RAM] = self.vm.store.address + self.vm.store.tables["ram"][0]
        if fast_path.AVAILABLE:
            self.hardware.install_fast_path(fast_path.handle.address, ctypes.addressof(block))

    def _install_quick_exits(self):
        """Cells and tables of module `quick`."""
        self._cpuid_table = (ctypes.c_int64 * (6 * quick.CPUID_ENTRIES))()
        self.cpuid_table_address = ctypes.addressof(self._cpuid_table)
        if self.beside is not None:
            self.quick_cells, self._serial = self.beside.quick_cells, self.beside._serial
            self._intercept_for_the_engine()
            return
        cells = self.quick_cells = (ctypes.c_int64 * quick.CELLS)()
        ports = bytearray(8192)
        for number in self.platform.claimed_ports():
            ports[number >> 3] |= 1 << (number & 7)
        self._ports = (ctypes.c_uint8 * 8192).from_buffer(ports)
        self._serial = (ctypes.c_uint8 * quick.SERIAL_ROOM)()
        cells[quick.NATIVE_CPUID] = self.hardware.state.functions["cpu_x86_cpuid"]
        cells[quick.PORTS] = ctypes.addressof(self._ports)
        cells[quick.SERIAL_BUFFER] = ctypes.addressof(self._serial)
        cells[quick.CPUID_TABLE] = self.cpuid_table_address
        cells[quick.SERIAL_BASE] = self.platform.serial_base
        cells[quick.IO_TIME] = self.platform.io_time
        # without NRIPS KVM would decode each of these, which shows in counters and walks
        cells[quick.ENABLED] = int(not self.vm.view.event_mask and self.profile.nrips)
        if self._offers_svm:
            return      # what the guest's guest does may be the guest's to see
        self.hardware.install_quick_exits(ctypes.addressof(cells))
        self._intercept_for_the_engine()

    def _intercept_for_the_engine(self):
        """What a real CPU does without an exit: it checks addresses itself, and its clock is not ours."""
        self.hardware.intercept(svm.RDTSC)
        if self.profile.nrips and not self.npt:
            for code in descriptor_loads.EXITS:
                self.hardware.intercept(code)
            for index in ADDRESS_MSRS:
                self.hardware.intercept_msr(index, read=False)

    def load(self, image):
        """Put an image (`guests.image.GuestImage`) into memory and set the entry state (KVM_SET_SREGS, KVM_SET_REGS)."""
        for gpa, data in image.segments:
            self.vm.write_gpa(gpa, data)
        e, hw = image.entry, self.hardware
        for number, segment in enumerate((e.es, e.cs, e.ss, e.ds, e.fs, e.gs)):
            hw.set_segment(number, segment.selector, segment.base, segment.limit, segment_flags(segment))
        hw.gdtr, hw.idtr = (e.gdtr.base, e.gdtr.limit), (e.idtr.base, e.idtr.limit)
        for name, value in e.gprs.items():
            hw.gpr[GPR_NAMES.index(name)] = value
        hw.gpr[4] = e.rsp
        hw.rip = e.rip
        hw.rflags = e.rflags
        self.offer(e.pcid)
        long_code = bool(hw.segment(CS).flags & 1 << 21)
        self.vcpu.set_sregs(cr0=e.cr0, cr3=e.cr3, cr4=e.cr4, efer=e.efer, cs_l=long_code)

    def offer(self, pcid):
        """KVM_SET_CPUID2."""
        self.vcpu.set_cpuid(maxphyaddr=self.maxphyaddr, pcid=pcid)
        # a guest sees no more than its host has
        self.vm.set_host_maxphyaddr(max(self.maxphyaddr, self.profile.maxphyaddr))
        # what CPUID does not show CR4 must not take; KVM never offers PKU with shadow paging
        hidden = CR4_PKE if self.la57 else CR4_PKE | CR4_LA57
        self.vcpu.record.cr4_reserved = signed(self.vcpu.record.cr4_reserved | hidden)

    def registers(self):
        """Final registers by name, as KVM_GET_REGS and KVM_GET_SREGS give them."""
        hw = self.hardware
        out = {name: hw.gpr[i] for i, name in enumerate(GPR_NAMES)}
        return out | {"rip": hw.rip, "rflags": hw.rflags, "cr0": self.vcpu.cr0, "cr2": hw.cr2, "cr3": self.vcpu.cr3,
                      "cr4": self.vcpu.cr4, "efer": self.vcpu.efer}

    # -- entry

    def _sync_mode(self):
        mode = calls.hardware_registers(self.vm.handle, self.vcpu.index)
        if mode != self._mode:
            self.quick_cells[quick.CPUID_COUNT] = 0
            cr0, cr4, efer = mode
            # PCIDs do not exist in the engine; its TLB is emptied at every change of root instead
            self.hardware.set_mode(cr0, cr4 & ~(1 << 17), efer)
            self._mode = mode

    def _flush(self):
        r, hw = self.vcpu.record, self.hardware
        root = r.hw_root & ~0xFFF
        changed = hw.root != root
        hw.load_root(root)
        if r.hw_flush or changed or self.profile.flush_on_world_switch:
            hw.flush_tlb()
        else:
            for i in range(r.hw_flush_count):
                hw.flush_page(r.hw_flush_gva[i] & U64)
        r.hw_flush = r.hw_flush_count = 0

    def _inject(self):
        """Queue what KVM decided to inject; interrupts only when nothing else is on its way."""
        r, hw = self.vcpu.record, self.hardware
        if r.exception_injected:
            vector = r.exception_vector
            if r.exception_set_rf:
                hw.rflags |= 1 << 16
                r.exception_set_rf = 0
            if self.soft_exception:
                # without NRIPS the instruction has been skipped already
                hw.queue_event(vector, "software", None, self.soft_length if self.profile.nrips else 0)
                return
            hw.cr2 = r.cr2 & U64
            hw.queue_event(vector, "exception", r.exception_error if r.exception_has_error else None)
        elif r.interrupt_injected:
            if r.interrupt_soft:
                hw.queue_event(r.interrupt_nr, "software", None, self.soft_length if self.profile.nrips else 0)
            else:
                hw.queue_event(r.interrupt_nr, "interrupt")
        elif r.nmi_injected:
            hw.queue_event(2, "nmi")

    def enter(self):
        """vcpu_enter_guest up to VMRUN.  False when the guest must not go on."""
        r = self.vcpu.record
        if self._soft_event() and not self.profile.nrips:
            # svm_update_soft_interrupt_rip: INT n, INT3 and INTO push the address after them
            self.emulator.skip()
            r.exception_injected = int(self.soft_exception)
        # an interrupt that has to wait for another event's delivery makes the entry an immediate exit; without an
        # in-kernel irqchip KVM takes the event being reinjected for one
        r.immediate_exit = int(r.interrupt_injected)
        r.rip = signed(self.hardware.rip)
        self._interrupts()
        result = calls.enter(self.vm.handle, self.vcpu.index)
        while result == entry.NESTED_EXIT:
            self.nested.leave_pending()
            r.rip = signed(self.hardware.rip)
            result = calls.enter(self.vm.handle, self.vcpu.index)
        if self.report is not None:
            return False
        if result == entry.SHUTDOWN:
            self.vm.emit(events.USERSPACE_EXIT, KVM_EXIT_SHUTDOWN)
            return self.end("shutdown", f"triple fault at RIP {self.hardware.rip:#x}")
        if result != entry.ENTER:
            return self.end("internal error", f"no root could be made (errno {-result}); "
                                               "the shadow page capacity is too small for the quota")
        if self.nested is not None:
            self.nested.count_run()
        self._sync_mode()
        self._flush()
        if not self.hardware.event_queued:
            self._inject()
        return True

    def _soft_event(self):
        """Is the event to be injected again an INT n, INT3 or INTO?"""
        r = self.vcpu.record
        return r.exception_injected and self.soft_exception or r.interrupt_injected and r.interrupt_soft

    def _interrupts(self):
        """Take an NMI or an interrupt from the platform when the guest can; else ask for a window."""
        r = self.vcpu.record
        if self.nmis.waiting():
            self.nmis.inject()
        if self.platform.pending_interrupt(self.vcpu.index) is None or self.nested is not None and not self.nested.gif:
            return
        if self.nested is not None and self.nested.active and self.nested.interrupt():
            return
        busy = r.exception_pending or r.exception_injected or r.interrupt_injected or r.nmi_injected
        if not busy and self.hardware.rflags & RFLAGS_IF and not self.hardware.in_interrupt_shadow:
            r.interrupt_nr = self.platform.acknowledge_interrupt(self.vcpu.index)
            r.interrupt_soft, r.interrupt_injected = 0, 1
        else:
            self.hardware.request_interrupt_window()

    # -- exit

    def _complete_interrupts(self):
        """svm_complete_interrupts: what was injected has arrived, unless its delivery was interrupted."""
        r = self.vcpu.record
        r.nmi_injected = r.exception_pending = r.exception_injected = r.interrupt_injected = 0
        r.vmexit_pending = 0
        self.soft_exception = False
        event = self.hardware.interrupted_event
        if event is None:
            return
        self.soft_length = event.instruction_length
        if event.kind == "nmi":
            r.nmi_injected = 1
        elif event.kind == "interrupt" or event.kind == "software" and (
                self.profile.soft_exceptions_as_interrupts or event.vector not in (BP, OF)):
            r.interrupt_injected, r.interrupt_nr = 1, event.vector
            r.interrupt_soft = int(event.kind == "software")
        else:
            self.soft_exception = event.kind == "software"
            r.exception_injected, r.exception_vector = 1, event.vector
            r.exception_has_error = int(event.error_code is not None)
            r.exception_error = event.error_code or 0
            r.exception_has_payload = 0

    soft_exception = False
    soft_length = 0

    def on_exit(self, code):
        """Handle one exit of the hardware; False ends the run."""
        block = self.block
        verdict, block[fast_path.VERDICT] = block[fast_path.VERDICT], fast_path.UNTOUCHED
        hw = self.hardware
        self._serial_output()
        if verdict != fast_path.UNTOUCHED:
            self.exits[code] += int(code in (svm.PAGE_FAULT, svm.NPF))   # the others are in the block's counts
            if verdict == fast_path.ENTER_ONLY:
                return self._enter_again()
            return self._conclude_page_fault(hw.fault_address, verdict)
        l2 = self.nested is not None and self.nested.active
        if code == svm.SWINT and l2:
            code = self._nested_software_interrupt()
        if code == svm.SWINT and not (l2 and self.nested.intercepted(code)):
            # real hardware delivers INT n without an exit
            hw.queue_event(hw.software_vector, "software", None, hw.instruction_length)
            return True
        delivered = hw.exit_counts[2]
        block[fast_path.EVENT_BEFORE] = int(delivered != block[fast_path.EVENTS_SEEN])
        block[fast_path.EVENTS_SEEN] = delivered
        if code == svm.VMMCALL and l2 and not self.nested.intercepted(code):
            # the host does not intercept VMMCALL of L2
            code = svm.EXCEPTION + UD
        if code in (svm.WRITE_CR0, svm.READ_CR0) and l2 and self.nested.intercepted(code):
            pass
        elif code == svm.WRITE_CR0 and self._cr0_is_real():
            code = self._selective_cr0()
            if code is None:
                return self.report is None
        elif code == svm.READ_CR0 and self._cr0_is_real():
            _, _, instruction = self.emulator.peek()
            if instruction.mnemonic == "smsw":
                return self._machine_status(instruction)
            self.emulator.complete_cr(instruction, False)
            return True
        info1, info2 = self.leave_guest(code)
        if l2:
            self.vm.emit(events.NESTED_VMEXIT, self.vcpu.index, code, hw.rip, info1, info2)
            if self.nested.wants(code, info1):
                self.nested.reflect(code, info1, info2)
                return self._enter_again()
        r, stepping, rip = self.vcpu.record, hw.rflags & RFLAGS_TF, hw.rip
        if not self._handle(code):
            return False
        if stepping and hw.rip != rip and not (r.exception_pending or r.exception_injected):
            self._single_step()
        return self._enter_again()

    def leave_guest(self, code):
        """What every exit begins with, up to its trace event; EXITINFO1 and 2."""
        hw, r = self.hardware, self.vcpu.record
        r.in_guest = 0
        r.rip = signed(hw.rip)
        r.cpl = hw.cpl
        r.ac = hw.rflags >> 18 & 1
        self._complete_interrupts()
        self.exits[code] += 1
        r.stat[counters.EXITS] += 1
        self.exit_code, self.exit_info = code, self._exit_info(code)
        self.vm.emit(events.EXIT, self.vcpu.index, code, hw.rip, *self.exit_info)
        return self.exit_info

    def _single_step(self):
        """kvm_vcpu_do_singlestep: an instruction that was completed here ends in a trap."""
        self.hardware.write_dr(6, self.hardware.dr[6] & ~DR6_TRAPS | DR6_BS)
        self._queue(DB)

    def _tick(self, begun=0):
        """The virtual clock: one guest instruction is one nanosecond; HLT and port accesses add their time.

        begun: instructions that are counted already but not finished."""
        passed = self.hardware.instruction_count - begun + self.quick_cells[quick.CLOCK_OFFSET] - self.platform.now
        if passed > 0:
            self.platform.advance(passed)

    def _pass_time(self, ns):
        """Time that passes without instructions."""
        self.quick_cells[quick.CLOCK_OFFSET] += ns
        self._tick()

    def _serial_output(self):
        """Hand on what the guest sent to its serial port without an exit to here."""
        count = self.quick_cells[quick.SERIAL_COUNT]
        if count:
            self.quick_cells[quick.SERIAL_COUNT] = 0
            self.platform.transmitted(bytes(self._serial[:count]))

    def _input(self, seconds):
        """Type what the user typed; None when nobody can type."""
        if self.poll_input is None:
            return None
        data = self.poll_input(seconds)
        if data:
            self.platform.receive(data)
        return data

    def _enter_again(self):
        self._tick()
        if self.vm.store.event_count() > self.vm.view.event_capacity // 2:
            self.drain_events()
        if not self.within_limits():
            return False
        self._show_serial()
        wait = self.platform.next_event()
        if wait is not None:
            self.hardware.limit_run(self.hardware.instruction_count + max(wait, 1))
        if not self.alone:
            if self.platform.has_signal(self.vcpu.index):
                return False
            if self.platform.sent_message(self.vcpu.index):
                # who spins for the answer does not spin for the rest of its turn
                self.hardware.limit_run(self.hardware.instruction_count + IPI_TIME)
        return self.enter()

    #: No other vCPU takes turns with this one (`smp`).
    alone = True
    #: Executed HLT and waits.  Only with others: alone it waits in `_halt`.
    halted = False

    def _show_serial(self):
        """Let compiled code answer for the serial port while it only transmits."""
        self.quick_cells[quick.SERIAL_READY], self.quick_cells[quick.SERIAL_STATUS] = self.platform.serial_state()

    def _cr0_is_real(self):
        return self._mode is not None and self._mode[0] == self.vcpu.cr0

    def _selective_cr0(self):
        """CR0 intercepts are off while the real CR0 equals the guest's; the selective one remains."""
        _, _, instruction = self.emulator.peek()
        if instruction.mnemonic in ("clts", "lmsw"):
            self._machine_status(instruction)
            return None
        value = self.emulator.cr_source(instruction)
        if (value ^ self.vcpu.cr0) & ~CR0_TS_MP:
            return CR0_SEL_WRITE
        self.emulator.complete_cr(instruction, True)
        self._sync_mode()
        return None

    def operand_fault(self, fault):
        """An operand of an emulated instruction cannot be reached: the guest, or L1, sees the fault."""
        calls.emulated_page_fault(self.vm.handle, self.vcpu.index, fault.error_code, signed(fault.address),
                                  fault.of_nested_table)

    def _machine_status(self, instruction):
        """CLTS, LMSW, SMSW while the real CR0 is the guest's: no exit on a real CPU, only the effect."""
        try:
            self.emulator.execute(instruction)
        except guest_memory.OperandFault as fault:
            self.operand_fault(fault)
        return self._enter_again()

    def _exit_info(self, code):
        hw = self.hardware
        if code == svm.PAGE_FAULT:
            return self.profile.page_fault_code(hw.error_code), hw.fault_address
        if code == svm.IOIO:
            io = hw.io
            sizes = {1: 0x10, 2: 0x20, 4: 0x40}
            info = io.port << 16 | sizes[io.size] | int(io.is_in) | int(io.string) << 2 | int(io.rep) << 3
            return info, hw.rip + self.hardware.io_length
        if code == svm.TASK_SWITCH:
            error = hw.interrupted_event.error_code
            return hw.fault_address, 0 if error is None else HAS_ERROR | error
        if code == svm.IRET and hw.rflags & RFLAGS_NT:
            return 0, REASON_IRET
        if code == svm.MSR or svm.EXCEPTION <= code < svm.EXCEPTION + 32:
            return hw.error_code, 0
        if code < 0x20 and self.profile.decode_assists:
            _, _, instruction = self.emulator.peek()
            return 1 << 63 | self.emulator.cr_register(instruction), 0
        if code == svm.INVLPG and self.profile.decode_assists:
            _, _, instruction = self.emulator.peek()
            return self.emulator.operand_address(instruction, 0), 0
        return 0, 0

    def _handle(self, code):
        if code == svm.PAGE_FAULT:
            return self._page_fault()
        if code < 0x20 or code == CR0_SEL_WRITE:
            return self._control_register(code)
        handler = self._HANDLERS.get(code)
        if handler is not None:
            return handler(self)
        if svm.EXCEPTION <= code < svm.EXCEPTION + 32:
            return self._exception(code - svm.EXCEPTION)
        if 0x20 <= code < 0x40:
            return self._debug_register(code)
        if code in descriptor_loads.EXITS:
            return descriptor_loads.handle(self, code)
        if self.nested is not None and code in self._NESTED:
            return self._NESTED[code](self.nested)
        if svm.VMRUN <= code <= svm.SKINIT or code in (svm.INVLPGA, svm.MONITOR, svm.MWAIT, svm.RDPMC):
            return self._queue(UD)
        return self.end("internal error", f"unsupported exit {code:#x} at RIP {self.hardware.rip:#x}")

    def _nested_software_interrupt(self):
        """INT3 and INTO of L2 when L1 intercepts the exception."""
        vector = self.hardware.software_vector
        if self.hardware.instruction_bytes[:1] in (b"\xcc", b"\xce") and self.nested.intercepted(svm.EXCEPTION + vector):
            return svm.EXCEPTION + vector
        return svm.SWINT

    def queue_exception(self, vector, error=None):
        """kvm_queue_exception; always True, as an exit handler's result."""
        return self._queue(vector, error)

    def arm_control_registers(self):
        """Which MOV CRn exit besides what always does: nothing to do here, all do."""

    def skip(self, length):
        """kvm_skip_emulated_instruction of a known length."""
        return self._skip(length)

    def give_up(self, text):
        """End the run: something that is not supported."""
        return self.end("internal error", text)

    def forget_soft_event(self):
        """The event in delivery was saved for L1 (or dropped)."""
        self.soft_exception = False

    def _queue(self, vector, error=None):
        calls.queue_exception(self.vm.handle, self.vcpu.index, vector, int(error is not None), error or 0)
        return True

    def _page_fault(self):
        hw = self.hardware
        verdict = calls.handle_page_fault(self.vm.handle, self.vcpu.index, signed(hw.fault_address),
                                          self.profile.page_fault_code(hw.error_code))
        return self._conclude_page_fault(hw.fault_address, verdict, enter=False)

    def _conclude_page_fault(self, address, verdict, enter=True):
        if verdict < 0:
            return self.end("internal error", f"the MMU gives up (errno {-verdict}) at RIP {self.hardware.rip:#x}, "
                                               f"address {address:#x}")
        if verdict & EMULATE:
            if self._vectoring():
                self.vm.emit(events.USERSPACE_EXIT, KVM_EXIT_INTERNAL_ERROR)
                self.end("internal error", "KVM_EXIT_INTERNAL_ERROR, suberror 3 (delivery of an event needs "
                                            f"emulation) at RIP {self.hardware.rip:#x}")
                # the union of struct kvm_run shows the suberror and the number of data words as the exit's reason
                self.report.kvm_exit = f"VMM exit_reason {KVM_EXIT_INTERNAL_ERROR} hw {5 << 32 | 3:x}"
                self.report.internal = (f"VMM internal suberror 3 nd 5 {address:x} "
                                        f"{svm.PAGE_FAULT:x}")
                return False
            if not self._emulate(address, verdict & ~EMULATE, faulted=True):
                return False
        return self._enter_again() if enter else True

    def _vectoring(self):
        """svm_check_emulate_instruction since 6.14: was an event being delivered?  On a host with stale type bits also
        after one has been."""
        if not interpreted.rules(self.vm.view).vectoring_check:
            return False
        stale = self.profile.stale_event_type and self.block[fast_path.EVENT_BEFORE]
        return bool(stale or self.hardware.interrupted_event)

    def _emulate(self, address=0, flags=0, faulted=False):
        """faulted: because of a fault of the MMU at `address` (EMULTYPE_PF)."""
        self.emulated += 1
        if self.emulator.emulate(address, flags, faulted) == FAILED:
            code = self.emulator.last_code.hex(" ")
            return self.end("internal error", f"the instruction at RIP {self.hardware.rip:#x} cannot be emulated: "
                                               f"{code}")
        return True

    def _skip(self, length=None):
        """kvm_skip_emulated_instruction."""
        if not self.profile.nrips:
            return self.emulator.skip() or True
        self.hardware.skip_instruction(length if length is not None else self.emulator.peek()[2].size)
        return True

    def _control_register(self, code):
        if not self.profile.decode_assists:
            return self._emulate()
        _, _, instruction = self.emulator.peek()
        if bytes(instruction.opcode[:2]) not in (b"\x0f\x20", b"\x0f\x22"):
            return self._emulate()
        write = code == CR0_SEL_WRITE or code & 0x10
        cr = 0 if code == CR0_SEL_WRITE else code & 15
        if write:
            value = self.emulator.cr_source(instruction)
            self.vm.emit(events.CR, 1, cr, value)
            if self.emulator.write_cr(cr, value):
                return self._queue(13, 0)
        else:
            value = self.emulator.read_cr(cr)
            self.emulator.cr_target(instruction, value)
            self.vm.emit(events.CR, 0, cr, value)
        return self._skip(instruction.size)

    def _debug_register(self, code):
        """MOV DRn: kvm_set_dr, kvm_get_dr, after the CPU's own check of DR7.GD."""
        hw = self.hardware
        if not self.profile.decode_assists:
            return self._emulate()
        _, _, instruction = self.emulator.peek()
        number, write = code & 15, code & 0x10
        if hw.dr[7] & DR7_GD:
            hw.write_dr(6, hw.dr[6] & ~DR6_TRAPS | DR6_BD)
            hw.write_dr(7, hw.dr[7] & ~DR7_GD)
            return self._queue(DB)
        if number in (4, 5):
            if self.vcpu.cr4 & CR4_DE:
                return self._queue(UD)
            number += 2
        if not write:
            self.emulator.cr_target(instruction, hw.dr[number])
            return self._skip(instruction.size)
        value = self.emulator.cr_source(instruction)
        if number >= 6:
            if value >> 32:
                return self._queue(13, 0)
            value = value & DR6_VOLATILE | DR6_FIXED if number == 6 else value & DR7_VOLATILE | DR7_FIXED
        hw.write_dr(number, value)
        return self._skip(instruction.size)

    def _invlpg(self):
        if not self.profile.decode_assists:
            return self._emulate()
        _, _, instruction = self.emulator.peek()
        calls.invlpg(self.vm.handle, self.vcpu.index, signed(self.emulator.operand_address(instruction, 0)))
        return self._skip(instruction.size)

    def _msr(self):
        hw = self.hardware
        index = hw.gpr[1] & 0xFFFFFFFF
        if hw.error_code & 1:
            value = (hw.gpr[2] & 0xFFFFFFFF) << 32 | hw.gpr[0] & 0xFFFFFFFF
            failed = self._write_msr(index, value)
            self.vm.emit(events.MSR, 1, index, value, int(failed))
        else:
            value = self._read_msr(index)
            failed = value is None
            self.vm.emit(events.MSR, 0, index, value or 0, int(failed))
            if not failed:
                hw.gpr[0], hw.gpr[2] = value & 0xFFFFFFFF, value >> 32
        if failed:
            return self._queue(13, 0)
        return self._skip(2)

    def _write_msr(self, index, value):
        if index in ADDRESS_MSRS:
            if not descriptor_loads.is_canonical(self.la57, value):
                return True
            self.hardware.write_msr(index, value)
            return False
        if index == EFER:
            if self.nested is not None and self.vcpu.efer & EFER_SVME and not value & EFER_SVME:
                self.nested.leave_for_disabled_svm()
            return calls.set_efer(self.vm.handle, self.vcpu.index, signed(value), False)
        if self.nested is not None and index in (HSAVE_PA, VM_CR):
            return self.nested.write_msr(index, value)
        if index in self.msrs:
            if machine_check_refuses(index, value, self.msrs[HWCR]):
                return True
            self.msrs[index] = value
            if index == TSC_AUX:
                self.quick_cells[quick.TSC_AUX] = value
            return False
        return index not in IGNORED_MSRS

    def _read_msr(self, index):
        if index == EFER:
            return self.vcpu.efer
        if index == TSC:
            return self.hardware.instruction_count + self.quick_cells[quick.CLOCK_OFFSET]
        if self.nested is not None and index in (HSAVE_PA, VM_CR):
            return self.nested.read_msr(index)
        return 0 if index in IGNORED_MSRS else self.msrs.get(index)

    def _time_stamp(self):
        """RDTSC and RDTSCP of a guest that single-steps; all others are answered in compiled code."""
        hw, now = self.hardware, self.hardware.instruction_count + self.quick_cells[quick.CLOCK_OFFSET]
        instruction = self.emulator.peek()[2]
        self._pass_time(quick.TIME_STAMP_TIME)
        hw.gpr[0], hw.gpr[2] = now & 0xFFFFFFFF, now >> 32
        if instruction.mnemonic == "rdtscp":
            hw.gpr[1] = self.msrs[TSC_AUX] & 0xFFFFFFFF
        return self._skip(instruction.size)

    def _cpuid(self):
        hw = self.hardware
        leaf, subleaf = hw.gpr[0] & 0xFFFFFFFF, hw.gpr[1] & 0xFFFFFFFF
        values = guest_cpuid(self.vcpu, hw, leaf, subleaf, la57=self.la57, svm=self.nested is not None,
                             svm_features=self.nested.features() if self.nested else 0)
        if self.platform.cpus > 1:
            values = topology(leaf, subleaf, values, self.vcpu.index, self.platform.cpus)
        count = self.quick_cells[quick.CPUID_COUNT]
        if count < quick.CPUID_ENTRIES and leaf != quick.XSAVE_LEAF:
            self._cpuid_table[6 * count:6 * count + 6] = leaf, subleaf, *values
            self.quick_cells[quick.CPUID_COUNT] = count + 1
        hw.gpr[0], hw.gpr[3], hw.gpr[1], hw.gpr[2] = values
        return self._skip(2)

    def _io(self):
        hw, io = self.hardware, self.hardware.io
        self._pass_time(self.platform.io_time)
        self.vcpu.record.stat[counters.IO_EXITS] += 1
        value = self.platform.io_read(io.port, io.size) if io.is_in else io.value
        self.vm.emit(events.PIO, int(not io.is_in), io.port, io.size, 1, value)
        self.vm.emit(events.USERSPACE_EXIT, KVM_EXIT_IO)
        if io.is_in:
            io.value = value
        else:
            self.platform.io_write(io.port, io.size, io.value)
        if self.platform.exit_code is not None:
            # KVM completes an OUT at the next KVM_RUN; there will be none
            hw.abandon_io()
            return self.end("exit", self.platform.exit_text, self.platform.exit_code)
        if not io.string:
            hw.complete_io()
            if self.stop_at_io:
                hw.stop()
        return True

    def _halt(self):
        self.vcpu.record.stat[counters.HALT_EXITS] += 1
        if not self._skip(1):
            return False
        if not self.alone:
            self.halted = not self.wakes()
            return not self.halted
        while not self.wakes():
            if not self.hardware.rflags & RFLAGS_IF:
                return self.end("halted", f"HLT with interrupts disabled at RIP {self.hardware.rip:#x}")
            if not self.wait_for_device():
                return self.report is None and self.end(
                    "halted", f"HLT and no device will ever interrupt, RIP {self.hardware.rip:#x}")
        return True

    def wakes(self):
        """Does an interrupt or NMI end HLT?"""
        interrupt = self.platform.pending_interrupt(self.vcpu.index) is not None and self.hardware.rflags & RFLAGS_IF
        return bool(interrupt) or self.nmis.deliverable()

    def wait_for_device(self):
        """An idle machine until something happens; False when nothing ever will, or a limit ended the run."""
        wait = self.platform.next_event()
        # with a terminal an idle guest idles: virtual time goes on with the clock on the wall
        typed = self._input(IDLE if wait is None else min(wait / 1e9, IDLE))
        if typed is not None and wait is None:
            return self.within_limits()
        if wait is None:
            return False
        if not typed:
            self._pass_time(wait)
        return True

    def _exception(self, vector):
        error = self.hardware.error_code
        if vector == UD:
            return self._undefined()
        return self._queue(vector, error if vector in (8, 10, 11, 12, 13, 17) else None)

    def _undefined(self):
        """#UD: what this CPU does not know, INVPCID and ICEBP, is done here; the rest is the guest's."""
        _, code, instruction = self.emulator.peek()
        name = instruction.mnemonic if instruction is not None else ""
        if name == "invpcid" and self.vcpu.record.has_pcid:
            return self._invpcid(instruction)
        if name == "int1":
            # a #DB that pushes the next address and says nothing in DR6
            self.hardware.skip_instruction(instruction.size)
            return self._queue(DB)
        return self._queue(UD)

    def _invpcid(self, instruction):
        """kvm_handle_invpcid: the descriptor is read with the guest's privilege."""
        if self.hardware.cpl:
            return self._queue(13, 0)
        kind = self.emulator.register_operand(instruction, 0)
        address = self.emulator.operand_address(instruction, 1)
        try:
            data = self.emulator.memory.read(address, 16)
        except guest_memory.OperandFault as fault:
            self.operand_fault(fault)
            return True
        pcid = int.from_bytes(data[:8], "little")
        gva = int.from_bytes(data[8:], "little")
        if kind > 3 or calls.invpcid(self.vm.handle, self.vcpu.index, kind, signed(pcid), signed(gva)):
            return self._queue(13, 0)
        self.hardware.skip_instruction(instruction.size)
        return True

    def _shutdown(self):
        self.vm.emit(events.USERSPACE_EXIT, KVM_EXIT_SHUTDOWN)
        return self.end("shutdown", f"triple fault at RIP {self.hardware.rip:#x}")

    def _kick(self):
        return True

    def _iret(self):
        """IRET of a nested task, or one that ends the mask of NMIs."""
        if not self.tasks.used or not self.hardware.rflags & RFLAGS_NT:
            return self.nmis.iret()
        self.hardware.nmi_masked = False
        return self.tasks.iret()

    def _pause(self):
        """kvm_vcpu_on_spin: another vCPU runs.  It takes as long as an exit, so that who waits for a time comes to it."""
        self._skip()
        self._pass_time(PAUSE_TIME)
        return self.alone

    def _hypercall(self):
        """kvm_emulate_hypercall: only the one that does nothing is offered here."""
        hw = self.hardware
        mask = U64 if self.emulator.code_bits() == 64 else 0xFFFFFFFF
        nr, *arguments = (hw.gpr[i] & mask for i in (0, 3, 1, 2, 6))
        self.vm.emit(events.HYPERCALL, nr, *arguments)
        hw.gpr[0] = (EPERM if hw.cpl else 0 if nr == VAPIC_POLL_IRQ else ENOSYS) & mask
        self.vcpu.record.stat[counters.HYPERCALLS] += 1
        return self._skip(3)

    _HANDLERS = {svm.INVLPG: lambda self: self._invlpg(), svm.MSR: _msr, svm.CPUID: _cpuid, svm.RDTSC: _time_stamp,
                 svm.IOIO: _io, svm.HLT: _halt, svm.SHUTDOWN: _shutdown, svm.INTR: _kick, svm.VINTR: _kick,
                 svm.VMMCALL: _hypercall, svm.PAUSE: _pause, svm.IRET: _iret,
                 svm.TASK_SWITCH: lambda self: self.tasks.through_gate(),
                 svm.ROOT_CHANGED: lambda self: self.end("internal error", "a hardware task switch by JMP or CALL is not "
                                                          f"supported; RIP {self.hardware.rip:#x}")}

    #: SVM instructions of a guest that may use them.
    _NESTED = {svm.VMRUN: NestedSvm.vmrun, svm.VMLOAD: NestedSvm.vmload, svm.VMSAVE: NestedSvm.vmsave,
               svm.STGI: lambda nested: nested.set_gif(True), svm.CLGI: lambda nested: nested.set_gif(False),
               svm.INVLPGA: NestedSvm.invlpga}

    # -- userspace's side of emulated accesses

    def mmio_read(self, gpa, size):
        self._tick()
        return self.platform.mmio_read(gpa, size)

    def mmio_write(self, gpa, size, value):
        self._tick()
        self.platform.mmio_write(gpa, size, value)

    def port_read(self, port, size):
        """IN of an emulated INS."""
        self._pass_time(self.platform.io_time)
        return self.platform.io_read(port, size)

    def port_write(self, port, size, value):
        """OUT of an emulated OUTS."""
        self._pass_time(self.platform.io_time)
        self.platform.io_write(port, size, value)

    @property
    def task_priority(self):
        """CR8: bits 7..4 of the local APIC's TPR, or a register of its own without one."""
        if self.platform.apic_base is None:
            return self.cr8
        return self.platform.mmio_read(self.platform.apic_base + APIC_TPR, 4) >> 4

    @task_priority.setter
    def task_priority(self, value):
        self.cr8 = value
        if self.platform.apic_base is not None:
            self.platform.mmio_write(self.platform.apic_base + APIC_TPR, 4, value << 4)

    #: CR8 of a machine without a local APIC.
    cr8 = 0

    def ram_written(self, offset, size):
        """Emulation stored into RAM: translated code made from it is stale."""
        self.hardware.invalidate_code((self.vm.view.ram_pfn << 12) + offset, size)

    # -- the loop

    def within_limits(self):
        now = time.monotonic()
        if self.progress is not None and now - self._last_check > 0.25:
            self._last_check = now
            self.progress(self)
        if self.timeout is not None and now - self._started > self.timeout:
            return self.end("timeout", f"stopped after {self.timeout} s at RIP {self.hardware.rip:#x}")
        if self.limit is not None and self.hardware.instruction_count >= self.limit:
            return self.end("limit", f"stopped after {self.limit} instructions at RIP {self.hardware.rip:#x}")
        return True

    def drain_events(self):
        rows = self.vm.drain_events()
        if self.drain is not None:
            self.drain(rows)

    def end(self, reason, text, exit_code=None):
        self.report = RunReport(reason, text, exit_code)
        return False

    #: `go_on` returns after every port access (but a string instruction's, in whose middle nobody can stop).
    stop_at_io = False
    #: Name of the exit that the fast path handles.
    FAULT_NAME = "#PF"
    #: Guest instructions between looks at limits and timers when the guest makes no exits.
    SLICE = 2_000_000

    def run(self):
        """Run to the end: a RunReport."""
        if self.start():
            self.go_on()
        return self.finish()

    def start(self):
        """The first entry; False when the guest cannot be entered."""
        self.start_clock()
        return self.enter()

    def budget(self, most, until=None):
        """Instructions to the next limit or timer, at most so many."""
        count = self.hardware.instruction_count
        for end in (self.limit, until):
            if end is not None:
                most = max(1, min(most, end - count))
        wait = self.platform.next_event()
        return most if wait is None else max(1, min(most, wait))

    def before_run(self):
        """Exits at IRET, which a run needs or not."""
        self.tasks.watch_iret()
        if self.nmis.waiting():
            self.nmis.wait()

    def after_run(self):
        """The hardware has come back: console and clock."""
        self._serial_output()
        self._input(0)
        self._tick()

    def start_clock(self):
        """From now on `timeout` counts.  A guest that only faults never comes by Python: a thread fetches it."""
        self._started = time.monotonic()
        if self.timeout is not None and self.beside is None:
            self._alarm = threading.Timer(self.timeout, self.hardware.kick)
            self._alarm.daemon = True
            self._alarm.start()

    _alarm = None

    def cancel_alarm(self):
        """No time limit any more."""
        if self._alarm is not None:
            self._alarm.cancel()

    def start_restored(self):
        """Into guest mode with the state of a snapshot, which lies between two instructions: no entry, no event."""
        self.start_clock()
        self._load_hardware()
        self._show_serial()

    def _load_hardware(self):
        """Control registers and root as the last entry had them."""
        self._sync_mode()
        self._flush()

    def read_back(self):
        """Take over from the CPU what changes without an exit: nothing, with shadow paging."""

    def go_on(self, until=None):
        """Run to the end, or until so many instructions have been executed, or (`stop_at_io`) the next port access."""
        try:
            while self.report is None and (until is None or self.hardware.instruction_count < until):
                count = self.hardware.instruction_count
                if self.snapshot_at is not None and count >= self.snapshot_at:
                    self.snapshot_at = None
                    self.on_snapshot(self)
                slice_ = self.SLICE if self.snapshot_at is None else min(self.SLICE, self.snapshot_at - count)
                self.before_run()
                reason = self.hardware.run(self.on_exit, max_instructions=self.budget(slice_, until))
                self.after_run()
                if self.report is None and reason != "handler":
                    if not self.within_limits():
                        break
                    if self.platform.pending_interrupt() is not None or self.nmis.deliverable():
                        self.hardware.kick()
                if reason == "stop":
                    break
        except KeyboardInterrupt:
            self.interrupted()

    def interrupted(self):
        """Ctrl-C."""
        self.end("interrupted", f"interrupted at RIP {self.hardware.rip:#x}")

    def fast_exits_by_name(self):
        """Exits that the compiled path counts with #PF and that are none: name -> how many."""
        return {name: self.block[cell] for name, cell in (("MOV to CR3", fast_path.CR3_WRITES),
                                                          ("MOV from CR3", fast_path.CR3_READS), ("INVLPG", fast_path.INVLPGS))}

    def finish(self, others=()):
        """The report of a run that has ended; others: runs of further vCPUs, whose exits count too."""
        report, runs = self.report, (self, *others)
        for run in runs:
            run.cancel_alarm()
        report.seconds = time.monotonic() - self._started
        report.instructions = self.hardware.instruction_count
        for run in runs:
            report.exits.update({exit_name(code): n for code, n in run.exits.items()})
        faults, quick_exits, ports = self.hardware.exit_counts[1], self.quick_cells[quick.TAKEN], self.quick_cells[quick.TAKEN_IO]
        report.fast_exits = faults + quick_exits
        for run in runs:
            others = run.fast_exits_by_name()
            report.exits.update(others)
            faults -= sum(others.values())
        report.exits[self.FAULT_NAME] += faults
        report.exits["IO"] += ports
        report.exits["CPUID, RDTSC"] += quick_exits - ports
        report.emulated = sum(run.emulated + run.block[fast_path.EMULATED] for run in runs)
        self.drain_events()
        return report


GPR_NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
             "r15")
