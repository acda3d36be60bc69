# SPDX-License-Identifier: GPL-2.0-or-later
"""Several vCPUs: each is a `KvmRun`, and they take turns on one engine (`processors`) over the same memory and devices.

    turn of vCPU n:   INIT, start-up? -> waiting, halted? -> kicked? exit and enter : go on -> quantum -> vCPU n+1
                                              ends early: HLT, PAUSE while another could run, soon after an IPI

The host modelled has a core for each vCPU.  So a vCPU whose quantum is over has not left the guest: nothing is traced, and
its next turn goes on without an exit, with the TLB it had.  What another vCPU did meanwhile is seen as on such a host:

    kvm_make_all_cpus_request       vcpu.in_guest was cleared: the kick.  INTR exit, then requests are served by the entry
    interrupt, NMI, INIT at its APIC   kvm_vcpu_kick: the same

Turns depend on counted instructions and the virtual clock only, so a run without input repeats exactly.  The clock counts
the instructions of all vCPUs, one nanosecond each: N vCPUs share the time of one.
"""

from functools import partial

from ...vm import calls
from . import exits as svm
from . import quick
from .hardware import CS, DS, ES, FS, GS, SS
from .processors import Processors

#: Guest instructions of one turn.
QUANTUM = 100_000
#: Cells of the quick block that belong to one vCPU.
QUICK_CELLS = (quick.CPUID_TABLE, quick.CPUID_COUNT, quick.TSC_AUX)

RUNNABLE, UNINITIALIZED, INIT_RECEIVED = range(3)   # KVM_MP_STATE_*; HALTED is `KvmRun.halted`
CODE, DATA, LDT, TSS = 0x9B00, 0x9300, 0x8200, 0x8B00
DR6_INIT, DR7_INIT = 0xFFFF0FF0, 0x400


def reset_registers(run):
    """kvm_vcpu_reset for INIT (SDM vol. 3, table 10-1): x87, SSE and most MSRs stay."""
    hw, r = run.hardware, run.vcpu.record
    calls.reset_vcpu(run.vm.handle, run.vcpu.index)
    for name in ("exception_pending", "exception_injected", "interrupt_injected", "nmi_injected", "vmexit_pending"):
        setattr(r, name, 0)
    r.cr2 = 0
    run.platform.set_pending_nmis(run.vcpu.index, 0)
    run.soft_exception = run.halted = False
    hw.drop_event()
    hw.cancel_interrupt_window()
    hw.nmi_masked = hw.in_interrupt_shadow = False
    for number in range(16):
        hw.gpr[number] = 0
    hw.gpr[2] = hw.native_cpuid(1)[0]
    hw.cr2 = 0
    hw.rip, hw.rflags = 0xFFF0, 2
    for number in (ES, SS, DS, FS, GS):
        hw.set_segment(number, 0, 0, 0xFFFF, DATA)
    hw.set_segment(CS, 0xF000, 0xFFFF0000, 0xFFFF, CODE)
    hw.gdtr = hw.idtr = 0, 0xFFFF
    hw.ldtr = 0, 0, 0xFFFF, LDT
    hw.tr = 0, 0, 0xFFFF, TSS
    for number in range(4):
        hw.dr[number] = 0
    hw.dr[6], hw.dr[7] = DR6_INIT, DR7_INIT


class SmpRun:
    """The vCPUs of `vm` together; interface and report of `KvmRun`.

    cpu_class: `KvmRun` or a subclass.  quantum: guest instructions of a turn.  options: as for `KvmRun`; `drain` is called
    with (rows, cpu=number).
    """

    def __init__(self, cpu_class, vm, platform, *, quantum=QUANTUM, drain=None, **options):
        self.vm, self.platform, self.quantum = vm, platform, quantum
        drains = [drain and partial(drain, cpu=number) for number in range(len(vm.vcpus))]
        first = cpu_class(vm, platform, drain=drains[0], **options)
        self.runs, self.hardware, self.vcpu = [first], first.hardware, first.vcpu
        self.processors = Processors(self.hardware)
        for number in range(1, len(vm.vcpus)):
            self._select(self.processors.add())
            self.runs.append(cpu_class(vm, platform, drain=drains[number], number=number, beside=first, **options))
        self._quick = []
        for run in self.runs:
            run.alone = False
            self._quick.append([run.cpuid_table_address, 0, 0])
        self._select(0)
        self.mp_state = [RUNNABLE] + [UNINITIALIZED] * (len(self.runs) - 1)
        #: Its quantum ended inside the guest.
        self._inside = [False] * len(self.runs)

    # -- what a session needs

    @property
    def report(self):
        """Of the vCPU that ended the run, or None."""
        return next((run.report for run in self.runs if run.report is not None), None)

    @property
    def poll_input(self):
        return self.runs[0].poll_input

    @poll_input.setter
    def poll_input(self, value):
        self.runs[0].poll_input = value

    def load(self, image):
        """Load the image; the boot processor gets its entry state, the others wait for INIT and start-up."""
        self.runs[0].load(image)
        for run in self.runs[1:]:
            run.offer(image.entry.pcid)

    def registers(self, number=0):
        """Registers of one vCPU."""
        self._select(number)
        return self.runs[number].registers()

    # -- turns

    def _select(self, number):
        """Swap a vCPU in."""
        cells, old = self.runs[0].quick_cells, self.processors.selected
        if number == old:
            return
        if len(self.runs) > max(number, old):
            self._quick[old] = [cells[cell] for cell in QUICK_CELLS]
            for cell, value in zip(QUICK_CELLS, self._quick[number], strict=True):
                cells[cell] = value
        self.processors.select(number)
        self.platform.running = number

    def _accept_signals(self, number):
        """kvm_apic_accept_events."""
        if not self.platform.has_signal(number):
            return
        run = self.runs[number]
        self._select(number)
        if self._inside[number]:
            self._inside[number] = False
            run.leave_guest(svm.INTR)
        init, vector = self.platform.take_signal(number)
        if init:
            reset_registers(run)
            self.mp_state[number] = INIT_RECEIVED if number else RUNNABLE
        if vector is not None and self.mp_state[number] == INIT_RECEIVED:
            self.hardware.set_segment(CS, vector << 8, vector << 12, 0xFFFF, CODE)
            self.hardware.rip = 0
            self.mp_state[number] = RUNNABLE

    def _can_run(self, number):
        """Not waiting for a start-up message, not halted; wakes a halted one that has reason to."""
        run = self.runs[number]
        if self.mp_state[number] != RUNNABLE:
            return False
        if run.halted:
            self._select(number)
            run.halted = not run.wakes()
        return not run.halted

    def _kicked(self, number):
        """Did another vCPU, or a device, make this one leave the guest?"""
        run, record = self.runs[number], self.runs[number].vcpu.record
        interrupt = self.platform.pending_interrupt(number) is not None and not self.hardware.interrupt_window_requested
        return not record.in_guest or record.requests or interrupt or run.nmis.deliverable()

    def _turn(self, number):
        """Run one vCPU until its quantum is over or it has nothing to do."""
        run = self.runs[number]
        self._select(number)
        if not self._inside[number]:
            ready = run.enter()
        else:
            ready = not self._kicked(number) or run.on_exit(svm.INTR)
        self._inside[number] = False
        if ready:
            run.before_run()
            # who spins while all others sleep only wants time to pass
            self.hardware.intercept(svm.PAUSE, any(state == RUNNABLE and not other.halted and other is not run
                                                   for state, other in zip(self.mp_state, self.runs, strict=True)))
            reason = self.hardware.run(run.on_exit, max_instructions=run.budget(self.quantum))
            self._inside[number] = reason == "budget"
        run.after_run()
        run.drain_events()

    def run(self):
        """Run to the end: a RunReport."""
        for run in self.runs:
            run.start_clock()
        number = 0
        try:
            while self.report is None:
                ran = False
                for _ in self.runs:
                    self._accept_signals(number)
                    if self._can_run(number):
                        self._turn(number)
                        ran = True
                    number = (number + 1) % len(self.runs)
                    if self.report is not None:
                        break
                if not ran:
                    self._idle()
                elif self.report is None:
                    self.runs[0].within_limits()
        except KeyboardInterrupt:
            self.runs[0].interrupted()
        return self.finish()

    def _idle(self):
        """Everybody waits: time goes on to the next timer."""
        if not self.runs[0].wait_for_device() and self.report is None:
            waiting = ", ".join(f"vCPU {run.vcpu.index} at RIP {self.registers(run.vcpu.index)['rip']:#x}" for run in self.runs
                                if self.mp_state[run.vcpu.index] == RUNNABLE)
            self.runs[0].end("halted", f"HLT and no device will ever interrupt: {waiting}")

    def finish(self):
        """The report of a run that has ended, with the exits of all vCPUs."""
        ended = next(run for run in self.runs if run.report is not None)
        return ended.finish([run for run in self.runs if run is not ended])
