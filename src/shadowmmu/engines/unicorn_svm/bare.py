# SPDX-License-Identifier: GPL-2.0-or-later
"""`--mmu none`: the same guest, the same devices, but the engine walks the guest's own page tables.

    guest address --engine's MMU--> guest tables at the guest's CR3 --> guest-physical memory, mapped at host-physical 0

The measure for everything else: output, memory and registers must be the same as on the shadow MMU.  Control
registers, MSRs and CPUID still exit, so that the CPU's rules (and what CPUID shows) are the same ones.
"""

import functools

from ...mmu.flush import REQ_TRIPLE_FAULT
from ...vm import calls
from ...vm.machine import signed
from ...x86.bits import CR4_PCIDE, EFER_SVME, FRAME_MASK
from . import hooks, quick
from .errors import EngineError
from .kvm import KvmRun

MMIO_LIMIT = 1 << 32


class BareRun(KvmRun):
    """A run without shadow paging; interface and report of `KvmRun`."""

    def _map_memory(self):
        store = self.vm.store
        offset, _ = store.tables["ram"]
        self.hardware.map_ram(0, store.address + offset, self.vm.view.n_hva << 12)
        self.hardware.watch_code(0, self.vm.view.n_hva << 12)
        for gpa, size in self.platform.mmio_regions():
            end = min(gpa + size, MMIO_LIMIT)
            if end > gpa:
                self.hardware.map_mmio(gpa, end - gpa, lambda at, n, base=gpa: self.mmio_read(base + at, n),
                                       lambda at, n, value, base=gpa: self.mmio_write(base + at, n, value))

    def mmio_read(self, gpa, size):
        self._mid_instruction()
        return self.platform.mmio_read(gpa, size)

    def mmio_write(self, gpa, size, value):
        self._mid_instruction()
        self.platform.mmio_write(gpa, size, value)

    def ram_written(self, offset, size):
        # here guest-physical memory begins at host-physical 0
        self.hardware.invalidate_code(offset, size)

    def _mid_instruction(self):
        """No exit leads here: what the access does to interrupts has to be seen after the instruction."""
        self._tick(self.hardware.cells[hooks.STARTED])
        self.hardware.limit_run(self.hardware.instruction_count)

    def _install_fast_path(self):
        super()._install_fast_path()
        self.hardware.install_fast_path(0, 0)

    def _sync_mode(self):
        mode = self.vcpu.cr0, self.vcpu.cr4 & ~CR4_PCIDE, self.vcpu.efer | EFER_SVME
        if mode != self._mode:
            self.quick_cells[quick.CPUID_COUNT] = 0
            self.hardware.set_mode(*mode)
            self._mode = mode
            self.hardware.flush_tlb()

    def _cr0_is_real(self):
        return False

    def enter(self):
        r = self.vcpu.record
        self._interrupts()
        if r.requests & REQ_TRIPLE_FAULT:
            return self.end("shutdown", f"triple fault at RIP {self.hardware.rip:#x}")
        r.requests = 0
        r.in_guest = 1
        if r.exception_pending:
            r.exception_pending, r.exception_injected = 0, 1
            r.exception_set_rf = int(r.exception_vector not in NOT_FAULTS)
        self._load_hardware()
        if not self.hardware.event_queued:
            self._inject()
        return True

    def _load_hardware(self):
        self._sync_mode()
        root = self.vcpu.cr3 & FRAME_MASK
        if self.hardware.root != root:
            self.hardware.load_root(self.vcpu.cr3 & ~0x1F if self._is_pae() else root)
            self.roots.add(self.hardware.root)
            self.hardware.flush_tlb()
        if self._flush_asked:
            self.hardware.flush_tlb()
            self._flush_asked = False

    _flush_asked = False

    @functools.cached_property
    def roots(self):
        """Every CR3 that was loaded."""
        return set()

    def _is_pae(self):
        return self.vcpu.cr4 & 0x20 and not self.vcpu.efer & 0x400

    def _page_fault(self):
        hw = self.hardware
        calls.emulated_page_fault(self.vm.handle, self.vcpu.index, hw.error_code, signed(hw.fault_address), False)
        return True

    def _control_register(self, code):
        self._flush_asked = True
        return super()._control_register(code)

    def _invlpg(self):
        _, _, instruction = self.emulator.peek()
        self.hardware.flush_page(self.emulator.operand_address(instruction, 0))
        self.hardware.skip_instruction(instruction.size)
        return True

    def _invpcid(self, instruction):
        self._flush_asked = True
        return super()._invpcid(instruction)

    def _emulate(self, address=0, flags=0, faulted=False):
        instruction = self.emulator.peek()[2]
        if instruction is None:
            raise EngineError(f"no instruction at RIP {self.hardware.rip:#x}")
        self.emulator.execute(instruction)
        return True


#: #DB, NMI, #BP, #OF, #DF, #MC: not faults, RF stays as it is.
NOT_FAULTS = (1, 2, 3, 4, 8, 18)
