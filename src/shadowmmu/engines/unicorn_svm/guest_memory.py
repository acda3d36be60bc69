# SPDX-License-Identifier: GPL-2.0-or-later
"""What the instruction stepper sees as memory: KVM's emulator callbacks, with their walks and their events.

    read, write --per page--> data_gpa (walks; may fault) --> RAM, then kvm_mmu_track_write
                                                          +-> MMIO: userspace
    locked write (cmpxchg_emulated): a write walk, then the exchange
"""

from ...mmu import counters, events
from ...vm import calls
from ...vm.machine import signed
from .stepper import GuestFault

MMIO_UNSATISFIED_READ, MMIO_READ, MMIO_WRITE = 0, 1, 2
KVM_EXIT_MMIO = 6


class OperandFault(GuestFault):
    """The walk for an operand failed: #PF with this error code and address, or a fault of L1's nested tables."""

    def __init__(self, error_code, address, of_nested_table=0):
        self.error_code, self.address, self.of_nested_table = error_code, address, of_nested_table


class EmulatorMemory:
    """Memory of one vCPU for one emulated instruction.  `mmio` is the platform (`mmio_read`, `mmio_write`).

    gpa_value: guest-physical address of the fault that led here (ctxt->gpa_val), or None: an operand at the same offset in
    its page needs no walk.
    """

    def __init__(self, vm, vcpu, userspace):
        self.vm, self.vcpu, self.userspace = vm, vcpu, userspace
        self.ram = vm.store.ram()
        self.gpa_value = None

    def _mmio_exit(self):
        self.vcpu.record.stat[counters.MMIO_EXITS] += 1

    def _pieces(self, gva, size):
        while size:
            n = min(size, self.vm.page_size - gva % self.vm.page_size)
            yield gva, n
            gva, size = gva + n, size - n

    def _fault(self):
        w = self.vcpu.other_walker
        raise OperandFault(w.fault_error, w.fault_address & (1 << 64) - 1, w.fault_nested)

    def fetch(self, gva, size):
        """kvm_fetch_guest_virt within a page; a gpa without memory reads as nothing (bytes cut short)."""
        gpa = calls.fetch_gpa(self.vm.handle, self.vcpu.index, signed(gva))
        if gpa < 0:
            self._fault()
        at = calls.ram_offset(self.vm.handle, self.vcpu.index, gpa)
        return bytes(self.ram[at:at + size]) if at >= 0 else b""

    def _gpa(self, gva, write, implicit_supervisor=False):
        known = self.gpa_value
        if known is not None and not implicit_supervisor and not (gva ^ known) % self.vm.page_size:
            return known
        walk = calls.system_gpa if implicit_supervisor else calls.data_gpa
        gpa = walk(self.vm.handle, self.vcpu.index, signed(gva), write)
        if gpa < 0:
            self._fault()
        return gpa

    def read(self, gva, size, implicit_supervisor=False):
        """The bytes of an operand."""
        out = b""
        for address, n in self._pieces(gva, size):
            gpa = self._gpa(address, 0, implicit_supervisor)
            if not implicit_supervisor and calls.is_mmio(self.vm.handle, self.vcpu.index, signed(address),
                                                         gpa, 0):
                out += self._mmio_read(gpa, n)
                continue
            at = calls.ram_offset(self.vm.handle, self.vcpu.index, gpa)
            out += bytes(self.ram[at:at + n]) if at >= 0 else b"\xff" * n
        return out

    def _mmio_read(self, gpa, n):
        self._mmio_exit()
        self.vm.emit(events.MMIO, MMIO_UNSATISFIED_READ, n, gpa, 0)
        self.vm.emit(events.USERSPACE_EXIT, KVM_EXIT_MMIO)
        value = self.userspace.mmio_read(gpa, n) & (1 << 8 * n) - 1
        self.vm.emit(events.MMIO, MMIO_READ, n, gpa, value)
        return value.to_bytes(n, "little")

    def write(self, gva, data, implicit_supervisor=False):
        """Store an operand and tell the MMU, page by page as the kernel does."""
        at = 0
        for address, n in self._pieces(gva, len(data)):
            piece = data[at:at + n]
            at += n
            gpa = self._gpa(address, 1, implicit_supervisor)
            if calls.is_mmio(self.vm.handle, self.vcpu.index, signed(address), gpa, 1):
                self._mmio_exit()
                value = int.from_bytes(piece, "little")
                self.vm.emit(events.MMIO, MMIO_WRITE, n, gpa, value)
                self.vm.emit(events.USERSPACE_EXIT, KVM_EXIT_MMIO)
                self.userspace.mmio_write(gpa, n, value)
                continue
            offset = calls.ram_offset(self.vm.handle, self.vcpu.index, gpa)
            self.ram[offset:offset + n] = piece
            self.userspace.ram_written(offset, n)
            calls.written(self.vm.handle, self.vcpu.index, gpa, n)
