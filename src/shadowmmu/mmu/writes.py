# SPDX-License-Identifier: GPL-2.0-or-later
"""Emulated writes to guest page tables: which shadow entries die, and when the whole page does.

    write(gpa, bytes) --> every valid page that shadows the gfn
                            crosses an entry, or tiny?  zap the page   ("misaligned")
                            third write without use?    zap the page   ("flooding"; upper levels only)
                            else                        zap the entry (two for a 4-byte PDE)

    4-byte gptes:   PT:  offset * 2 -> quadrant = bit 12         PD: offset * 4 -> quadrant = bits 13:12, two sptes
"""

from .. import state
from ..state import core
from ..x86.bits import CR4_PAE
from . import counters, geometry, host, roles, shadow_pages, sptes, walk, zap

FLOODING_THRESHOLD = 3


@core
def detect_flooding(sp):
    """detect_write_flooding: level-1 pages become unsync instead."""
    if roles.level(sp.role) == 1:
        return False
    sp.write_flooding_count += 1
    return sp.write_flooding_count >= FLOODING_THRESHOLD


@core
def detect_misaligned(vm, sp, gpa, size):
    """detect_write_misaligned; one byte at the start of an entry is how an OS clears a status bit."""
    offset = geometry.page_offset(vm, gpa)
    entry = 4 if sp.role & roles.HAS_4_BYTE_GPTE else 8
    if not offset & (entry - 1) and size == 1:
        return False
    return (offset ^ (offset + size - 1)) & -entry != 0 or size < 4


@core
def written_spte(vm, sp, gpa):
    """get_written_sptes: place of the first entry, or -1 when the write is in another quadrant."""
    offset = geometry.page_offset(vm, gpa)
    if sp.role & roles.HAS_4_BYTE_GPTE:
        offset <<= 1
        if roles.level(sp.role) == 2:
            offset = (offset & ~7) << 1
        if offset >> vm.page_shift != roles.quadrant(sp.role):
            return -1
        offset = geometry.page_offset(vm, offset)
    return geometry.first_sptep(vm, sp.id) + (offset >> 3)


@core
def track_write(vm, vcpu, gpa, size):
    """kvm_mmu_track_write, after `size` bytes at `gpa` have been written."""
    gfn = gpa >> vm.page_shift
    if not vm.indirect_shadow_pages:
        return
    gentry = 0
    if vcpu.cr4 & CR4_PAE and size == 4:
        # half of an 8-byte entry
        gpa &= ~7
        size = 8
    if size == 4 or size == 8:
        # what is in memory now counts, not what was passed: another vCPU may have written since (0e0fee5c539b)
        gentry = read_unaligned(vm, vcpu, gpa, size)
    vm.stat[counters.MMU_PTE_WRITE] += 1
    flushing = False
    i = shadow_pages.hash_first(vm, gfn)
    while i >= 0:
        sp = state.page(vm, i)
        i = sp.hash_next
        if sp.gfn != gfn or not roles.has_gptes(sp.role) or shadow_pages.is_obsolete(vm, sp):
            continue
        if detect_misaligned(vm, sp, gpa, size) or detect_flooding(sp):
            zap.prepare_zap_page(vm, sp)
            vm.stat[counters.MMU_FLOODED] += 1
            continue
        sptep = written_spte(vm, sp, gpa)
        if sptep < 0:
            continue
        count = 2 if sp.role & roles.HAS_4_BYTE_GPTE and roles.level(sp.role) == 2 else 1
        for k in range(count):
            spte = geometry.read_spte(vm, sptep + k)
            orphan = zap.zap_pte(vm, sp, sptep + k)
            if orphan >= 0 and state.rules(vm).write_zaps_orphans:
                zap.prepare_zap_page(vm, state.page(vm, orphan))
            if gentry and roles.level(sp.role) != 1:
                vm.stat[counters.MMU_PDE_ZAPPED] += 1
            if sptes.is_present(spte):
                flushing = True
    zap.remote_flush_or_zap(vm, flushing)


@core
def read_unaligned(vm, vcpu, gpa, size):
    """Up to 8 bytes at any alignment within a page, without faulting the host page in."""
    frame = host.gpa_frame(vm, vcpu, gpa, True)
    if frame < 0:
        return 0
    return host.read_guest(vm, vcpu, gpa, size) if geometry.page_offset(vm, gpa) + size <= 1 << vm.page_shift else 0


@core
def unprotect_gfn_and_retry(vm, vcpu, addr):
    """kvm_mmu_unprotect_gfn_and_retry: zap what shadows the page behind `addr`, so that the CPU can write it."""
    if not vm.indirect_shadow_pages:
        return False
    gpa = addr
    if not state.context(vm, vcpu.mmu).root_role & roles.DIRECT:
        gpa = walk.gva_to_gpa(vm, vcpu, addr, 2 | (4 if vcpu.cpl == 3 else 0))
        if gpa == walk.INVALID_GPA:
            return False
    zapped = zap.unprotect_gfn(vm, gpa >> vm.page_shift)
    if zapped:
        vcpu.last_retry_eip = vcpu.rip
        vcpu.last_retry_addr = addr
    return zapped


@core
def unprotect_page_virt(vm, vcpu, addr):
    """kvm_mmu_unprotect_page_virt (before the unprotect-and-retry rework of 6.12): a #PF arrived while an event was
    being delivered; shadow pages of the page behind it go, so that delivery cannot fault on it again."""
    if state.context(vm, vcpu.mmu).root_role & roles.DIRECT:
        return
    gpa = walk.gva_to_gpa(vm, vcpu, addr, 4 if vcpu.cpl == 3 else 0)
    if gpa != walk.INVALID_GPA:
        zap.unprotect_gfn(vm, gpa >> vm.page_shift)


@core
def retry_instruction(vm, vcpu, addr, allowed, writes_page_table):
    """retry_instruction before that rework: an instruction that does not look like a page table write is retried after
    unprotecting, whether or not something was zapped, but not twice in a row."""
    last_eip = vcpu.last_retry_eip
    last_addr = vcpu.last_retry_addr
    vcpu.last_retry_eip = 0
    vcpu.last_retry_addr = 0
    if not allowed or writes_page_table or vcpu.rip == last_eip and addr == last_addr:
        return False
    vcpu.last_retry_eip = vcpu.rip
    vcpu.last_retry_addr = addr
    gpa = addr
    if not state.context(vm, vcpu.mmu).root_role & roles.DIRECT:
        gpa = walk.gva_to_gpa(vm, vcpu, addr, 2 | (4 if vcpu.cpl == 3 else 0))
    if gpa != walk.INVALID_GPA:
        zap.unprotect_gfn(vm, gpa >> vm.page_shift)
    return True
