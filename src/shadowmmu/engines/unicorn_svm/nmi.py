# SPDX-License-Identifier: GPL-2.0-or-later
"""NMIs as KVM delivers them (process_nmi, kvm_check_and_inject_events, enable_nmi_window, iret_interception).

    APIC --NMI--> waits --can be taken?--> injected, further ones masked ... IRET ... not masked any more
                    |  no: masked             intercept IRET; one block later it has happened
                    +  no: shadow, other event  look again after one block

The mask is the processor's (HF2_NMI_MASK): the engine's IRET ends it.  Two NMIs can wait, one while masked; more are lost.
"""

from . import exits as svm


class Nmis:
    """The NMIs of one `KvmRun`."""

    def __init__(self, run):
        self.run = run
        self._at_iret = False

    def deliverable(self):
        """Is there one that is not masked?"""
        return self.waiting() > 0 and not self.run.hardware.nmi_masked and not self._closed()

    def waiting(self):
        return self.run.platform.pending_nmis(self.run.vcpu.index)

    def _closed(self):
        """GIF of a guest hypervisor."""
        return self.run.nested is not None and not self.run.nested.gif

    def inject(self):
        """Before an entry: take one if possible (True), else see to it that the guest exits when it is."""
        count = self.waiting()
        if not count or self._closed():
            return False
        run, hw, r = self.run, self.run.hardware, self.run.vcpu.record
        masked = hw.nmi_masked or bool(r.nmi_injected)
        count = min(count, 1 if masked else 2)
        busy = r.exception_pending or r.exception_injected or r.interrupt_injected or r.nmi_injected
        taken = not masked and not busy and not hw.in_interrupt_shadow
        if taken:
            r.nmi_injected, hw.nmi_masked = 1, True
            count -= 1
        run.platform.set_pending_nmis(run.vcpu.index, count)
        if count:
            self.wait()
        return taken

    def wait(self):
        """One waits: exit at IRET if they are masked, else (and when that IRET is next) after a block."""
        hw = self.run.hardware
        if hw.nmi_masked and not self._at_iret:
            hw.intercept(svm.IRET)
        else:
            hw.limit_run(hw.instruction_count + 1)
        self._at_iret = False

    def iret(self):
        """The exit at IRET: let the CPU do it, and look again behind it."""
        hw = self.run.hardware
        hw.intercept(svm.IRET, False)
        hw.limit_run(hw.instruction_count + 1)
        self._at_iret = True
        return True
