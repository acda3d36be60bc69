# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory as KVM's instruction emulator sees it: addresses translated by walking the guest's tables.

    fetch(rip)      walk with PFEC F (and U at CPL 3)
    read, write     per page: MMIO cache hit? else walk; a gpa without memory is MMIO
    write           bytes to memory, then kvm_mmu_track_write for what they may have changed

Values move as bytes between here and Python; a core function handles one page of an access.
"""

from .. import state
from ..mmu import contexts, events, host, memslots, mmio, roles, walk, writes
from ..state import core
from ..x86.bits import CR0_PG, PFERR_FETCH, PFERR_IMPLICIT_ACCESS, PFERR_USER, PFERR_WRITE

FAULT = -1
RAM, MMIO = 0, 1
APIC_DEFAULT_PHYS_BASE = 0xFEE00000


@core
def fetch_gpa(vm, vcpu, gva):
    """kvm_fetch_guest_virt: gpa or FAULT."""
    access = PFERR_FETCH | (PFERR_USER if vcpu.cpl == 3 else 0)
    return walk.gva_to_gpa(vm, vcpu, gva, access)


@core
def system_gpa(vm, vcpu, gva, write):
    """emulator_read_std / write_std with system=true: descriptor tables, task state."""
    return walk.gva_to_gpa(vm, vcpu, gva, PFERR_IMPLICIT_ACCESS | (PFERR_WRITE if write else 0))


@core
def std_gpa(vm, vcpu, gva):
    """kvm_read_guest_virt: an operand that KVM itself reads (INVPCID descriptor)."""
    return walk.gva_to_gpa(vm, vcpu, gva, PFERR_USER if vcpu.cpl == 3 else 0)


@core
def data_gpa(vm, vcpu, gva, write):
    """vcpu_mmio_gva_to_gpa: gpa or FAULT."""
    access = (PFERR_USER if vcpu.cpl == 3 else 0) | (PFERR_WRITE if write else 0)
    ctx = state.context(vm, vcpu.walk_mmu)
    # 7.2: the cached access lacks ACC_READ, so permission_fault refuses every read by the cache
    if mmio.match_gva(vm, vcpu, gva) and (write or not state.rules(vm).mmio_cache_lacks_read) \
            and not (write and state.rules(vm).mmio_write_needs_w and not vcpu.mmio_access & roles.ACC_WRITE):
        if not vcpu.cr0 & CR0_PG or not contexts.permission_fault(vcpu, ctx, vcpu.mmio_access, 0, access):
            gpa = (vcpu.mmio_gfn << vm.page_shift) | (gva & ((1 << vm.page_shift) - 1))
            events.emit(vm, events.MATCH_MMIO, gva, gpa, write, 0)
            return gpa
    return walk.gva_to_gpa(vm, vcpu, gva, access)


@core
def is_mmio(vm, vcpu, gva, gpa, write):
    """vcpu_is_mmio_gpa, and whether memory answers at all."""
    if not vm.scaled and gpa & ~0xFFF == APIC_DEFAULT_PHYS_BASE:
        return True
    if mmio.match_gva(vm, vcpu, gva) and vcpu.mmio_gfn == gpa >> vm.page_shift:
        return True
    if mmio.match_gpa(vm, vcpu, gpa):
        events.emit(vm, events.MATCH_MMIO, gva, gpa, write, 1)
        return True
    i = memslots.vcpu_gfn_to_memslot(vm, vcpu, gpa >> vm.page_shift)
    if not memslots.is_visible(vm, i):
        return True
    return write and state.slot(vm, i).flags & memslots.READONLY != 0


@core
def ram_offset(vm, vcpu, gpa):
    """Byte offset in RAM of `gpa`; the host page is faulted in.  -1 without memory."""
    frame = host.gpa_frame(vm, vcpu, gpa, False)
    if frame < 0:
        return -1
    return (frame << vm.page_shift) + (gpa & ((1 << vm.page_shift) - 1))


@core
def written(vm, vcpu, gpa, size):
    """After `size` bytes at `gpa` were stored by emulation: dirty log, then the MMU."""
    memslots.mark_page_dirty(vm, vcpu, gpa >> vm.page_shift)
    writes.track_write(vm, vcpu, gpa, size)


@core
def retry_instruction(vm, vcpu, addr, allowed, writes_page_table):
    """Before executing: should the guest retry instead, because its page was unprotected?"""
    if not state.rules(vm).unprotect_reworked:
        return writes.retry_instruction(vm, vcpu, addr, allowed, writes_page_table)
    return allowed and not writes_page_table and writes.unprotect_gfn_and_retry(vm, vcpu, addr)
