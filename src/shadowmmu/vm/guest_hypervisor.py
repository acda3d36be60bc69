# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest hypervisor without guest code: L2 of a vCPU entered and left from Python, as far as the MMU notices.

    l1 = vm.vcpus[0]
    l2 = GuestHypervisor(l1)
    l2.vmrun(cr0=0x80010011, cr3=0x50000, cr4=0x20, efer=0x1800)      # a PAE L2; nested_cr3=... with nested paging
    l1.read(0x200000)                                                  # an access of L2; NestedExit if L1 must handle it
    l2.vmexit()

On the engine the same transitions come from VMRUN and #VMEXIT of real guest code (engines/unicorn_svm/nested_svm).
"""

from ..mmu import contexts, inject
from ..x86.bits import PFERR_RSVD
from . import calls
from .errors import NestedExit, VmError
from .numbers import U64, signed

_KINDS = {inject.EXCEPTION_VMEXIT: "exception", inject.TABLE_FAULT_VMEXIT: "nested page fault",
          inject.SHUTDOWN_VMEXIT: "shutdown"}


class GuestHypervisor:
    """Nested SVM (`vmrun`) or VMX (`vmlaunch`) of one vCPU.  `active`: L2 runs."""

    def __init__(self, cpu):
        self.cpu = cpu
        self._l1, self._vmx = None, False
        cpu.hypervisor = self
        cpu.set_svm(True)

    @property
    def active(self):
        return self._l1 is not None

    def vmrun(self, *, cr0, cr3, cr4, efer, nested_cr3=None, exceptions=0):
        """VMRUN: L2 with these registers.  nested_cr3: L1's nested page table.  exceptions: mask of the vectors that L1
        intercepts.  Raises VmError when L2's CR3 or PDPTEs are not legal (L1 runs on)."""
        cpu, r = self.cpu, self.cpu.record
        if self.active:
            raise VmError("L2 runs already")
        self._l1 = cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer
        r.nested_exceptions = exceptions
        refused = calls.enter_nested_svm(cpu.vm.handle, cpu.index, signed(cr0), signed(cr3), signed(cr4), signed(efer),
                                         int(nested_cr3 is not None), signed(nested_cr3 or 0))
        if refused:
            self.vmexit()
            raise VmError(f"VMRUN: CR3 {cr3:#x} or its PDPTEs are not legal")

    def vmlaunch(self, *, cr0, cr3, cr4, efer, eptp=None, vpid=0, exceptions=0):
        """VM entry of VMX.  eptp: L1's EPT pointer.  vpid: 0 for none.  Raises VmError when EPTP, CR3 or PDPTEs are not legal
        (L1 runs on)."""
        cpu, r = self.cpu, self.cpu.record
        if self.active:
            raise VmError("L2 runs already")
        self._l1, self._vmx = (cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer), True
        r.nested_exceptions = exceptions
        refused = calls.enter_nested_vmx(cpu.vm.handle, cpu.index, signed(cr0), signed(cr3), signed(cr4), signed(efer), vpid,
                                         int(eptp is not None), signed(eptp or 0))
        if refused:
            self.vmexit()
            raise VmError(f"VM entry: EPTP {eptp!r}, CR3 {cr3:#x} or its PDPTEs are not legal")

    def switch_eptp(self, eptp):
        """VMFUNC 0 of L2."""
        if calls.switch_eptp(self.cpu.vm.handle, self.cpu.index, signed(eptp)):
            raise VmError(f"EPTP {eptp:#x} is not legal")

    def invept(self, eptp=None):
        """INVEPT of L1: one context, or all."""
        calls.invept(self.cpu.vm.handle, self.cpu.index, int(eptp is None), signed(eptp or 0))

    def invvpid(self, address=None):
        """INVVPID of L1 for L2's VPID: one address, or all."""
        calls.invvpid(self.cpu.vm.handle, self.cpu.index, int(address is not None), signed(address or 0))

    def vmexit(self):
        """#VMEXIT: L1 goes on."""
        if not self.active:
            raise VmError("L2 does not run")
        cr0, cr3, cr4, efer = self._l1
        leave = calls.leave_nested_vmx if self._vmx else calls.leave_nested_svm
        self._l1, self._vmx = None, False
        if leave(self.cpu.vm.handle, self.cpu.index, signed(cr0), signed(cr3), signed(cr4), signed(efer)):
            raise VmError("L1's CR3 or PDPTEs became illegal while L2 ran")


def nested_exit(cpu):
    """Leave L2 for the reason in `vmexit_pending`: the NestedExit to raise."""
    r = cpu.record
    kind = _KINDS[r.vmexit_pending]
    if kind == "nested page fault" and cpu.mmu.kind == contexts.PAGING_EPT:
        kind = "EPT misconfiguration" if r.vmexit_error & PFERR_RSVD else "EPT violation"
    exit_ = NestedExit(kind, r.vmexit_vector, r.vmexit_error, r.vmexit_payload & U64)
    exit_.qualification = r.vmexit_qualification if kind == "EPT violation" else 0
    cpu.hypervisor.vmexit()
    return exit_
