# SPDX-License-Identifier: GPL-2.0-or-later
"""`--mmu tdp`, `--mmu tdp-legacy`: KVM with npt=1.  The guest's page tables are its own business; the MMU serves #NPF.

    differs from `KvmRun` (npt=0) in: #PF, MOV CR3, INVLPG do not exit; hardware CR0, CR3, CR4, EFER are the guest's;
    CR0 and CR3 are read back at every exit; NPF carries a guest-physical address
"""

import ctypes

from ...vm import calls
from ...vm.machine import signed
from . import exits as svm
from . import fast_path, quick
from .kvm import KvmRun
from .nested_paging import Walker

CR4_PCIDE = 1 << 17
CR3_NOFLUSH = 1 << 63


class NestedPagingRun(KvmRun):
    """A run with two-dimensional paging; interface and report of `KvmRun`."""

    npt = True
    FAULT_NAME = "NPF"

    def _install_fast_path(self):
        super()._install_fast_path()
        self.block[fast_path.NESTED_ROOT] = -1
        if fast_path.AVAILABLE:
            self.hardware.install_fast_path(fast_path.handle_nested.address, ctypes.addressof(self.block))
        store, view = self.vm.store, self.vm.view
        offset, length = store.tables["ram"]
        self.walker = Walker(self.vm, self.vcpu, self.hardware, self.profile, self.hardware.fail)
        self.hardware.enable_nested_paging(self.walker.address, self.walker.argument, view.ram_pfn << 12,
                                           store.address + offset, length)
        self.vcpu.record.pdpte_accessed_allowed = int(self.profile.pdpte_accessed)

    # -- entry

    def _sync_mode(self):
        mode = calls.hardware_registers(self.vm.handle, self.vcpu.index)
        if mode != self._mode:
            self.quick_cells[quick.CPUID_COUNT] = 0
            cr0, cr4, efer = mode
            self.hardware.set_mode(cr0, cr4 & ~CR4_PCIDE, efer)
            # PCIDs do not exist in the engine: a MOV to CR3 must be looked at, its NOFLUSH bit is not an address bit
            self._pcid = bool(cr4 & CR4_PCIDE)
            self.arm_control_registers()
            self._mode = mode
        if self.hardware.root != self.vcpu.cr3:
            self.hardware.load_root(self.vcpu.cr3)
            self.hardware.flush_tlb()

    def _flush(self):
        r, hw = self.vcpu.record, self.hardware
        changed = self.block[fast_path.NESTED_ROOT] != r.hw_root
        if r.hw_flush or r.hw_flush_count or changed or self.profile.flush_on_world_switch:
            hw.flush_tlb()
        self.block[fast_path.NESTED_ROOT] = r.hw_root
        r.hw_flush = r.hw_flush_count = 0

    _pcid = False

    def arm_control_registers(self):
        """CR3 exits only for the engine's sake, or for a guest hypervisor that wants it of its guest."""
        read = write = False
        if self.nested is not None and self.nested.active:
            read, write = (self.nested.intercepted(code) for code in (svm.READ_CR0 + 3, svm.WRITE_CR0 + 3))
        self.hardware.intercept_cr(3, read, write or self._pcid)

    # -- exit

    def on_exit(self, code):
        wanted = self.nested is not None and self.nested.active and self.nested.intercepted(code)
        if code == svm.WRITE_CR0 + 3 and not wanted:
            return self._write_cr3()
        if code not in (svm.SWINT, svm.READ_CR0):
            self.read_back()
        return super().on_exit(code)

    def read_back(self):
        self.vcpu.record.cr2 = signed(self.hardware.cr2)
        calls.guest_loaded(self.vm.handle, self.vcpu.index, self.vcpu.cr0, signed(self.hardware.root))

    def _write_cr3(self):
        """MOV to CR3 with PCIDs: real hardware does not exit here, so nobody hears of it."""
        _, _, instruction = self.emulator.peek()
        value = self.emulator.cr_source(instruction)
        if (value & ~CR3_NOFLUSH) >> self.profile.maxphyaddr:
            self.hardware.queue_event(13, "exception", 0)
            return True
        self.hardware.load_root(value & ~CR3_NOFLUSH)
        self.hardware.flush_tlb()
        self.hardware.skip_instruction(instruction.size)
        return True

    def _exit_info(self, code):
        if code == svm.NPF:
            return self.hardware.error_code, self.hardware.fault_address
        return super()._exit_info(code)

    def _handle(self, code):
        if code == svm.NPF:
            hw = self.hardware
            verdict = calls.handle_page_fault(self.vm.handle, self.vcpu.index, signed(hw.fault_address), hw.error_code)
            return self._conclude_page_fault(hw.fault_address, verdict, enter=False)
        return super()._handle(code)

    def _invpcid(self, instruction):
        """Emulated for want of an engine that knows it; on real hardware the guest executes it."""
        self.hardware.flush_tlb()
        return super()._invpcid(instruction)
