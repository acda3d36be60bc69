# SPDX-License-Identifier: GPL-2.0-or-later
"""A CPU without a TLB: what hardware does with our tables on every single access.

    hw CR3 -> [pae_root] -> [spte] -> [spte] -> frame      W, U ANDed, NX ORed; CR0.WP is always 1

Used where no engine runs (scripts, the library, the checker's ground truth); it knows the format of the shadow
tables and nothing of the MMU.
"""

from .. import state
from ..mmu import geometry, roles, sptes, warn
from ..state import core
from ..x86.bits import (
    CR4_SMAP,
    CR4_SMEP,
    EFER_NX,
    NX,
    PFERR_FETCH,
    PFERR_PRESENT,
    PFERR_RSVD,
    PFERR_USER,
    PFERR_WRITE,
    PT_ACCESSED,
    PT_DIRTY,
    PT_PAGE_SIZE,
    PT_PRESENT,
    PT_USER,
    PT_WRITABLE,
)
from . import registers


@core
def permission_error(vcpu, w, u, nx, access):
    """Does the hardware refuse `access` (PFEC W, U, F) on a page with these accumulated bits?"""
    if access & PFERR_WRITE and not w:
        return True
    if access & PFERR_FETCH and nx:
        return True
    if access & PFERR_USER:
        return not u
    cr4 = registers.shadow_cr4(vcpu)
    if u and access & PFERR_FETCH and cr4 & CR4_SMEP:
        return True
    return u and not access & PFERR_FETCH and cr4 & CR4_SMAP != 0 and not vcpu.ac


@core
def translate(vm, vcpu, gva, access):
    """RAM byte offset for the access, or -1 - PFEC of the #PF that the hardware raises."""
    ctx = state.context(vm, vcpu.mmu)
    level = roles.level(ctx.root_role)
    frame = geometry.entry_frame(vcpu.hw_root)
    error = access & (PFERR_WRITE | PFERR_USER | PFERR_FETCH)
    w = True
    u = True
    nx = False
    if level == 3:
        entry = geometry.read_spte(vm, geometry.frame_sptep(vm, frame)
                                   + ((gva >> (vm.page_shift + 2 * vm.level_bits)) & 3))
        if not entry & PT_PRESENT:
            return -1 - error
        frame = geometry.entry_frame(entry)
        level = 2
    while True:
        if not geometry.is_table(vm, frame):
            warn.warn(vm, warn.NO_TABLE)
            return -1 - error
        sptep = geometry.frame_sptep(vm, frame) + geometry.index(vm, gva, level)
        spte = geometry.read_spte(vm, sptep)
        if not spte & PT_PRESENT:
            return -1 - error
        if spte & sptes.MMIO_MASK == sptes.MMIO_VALUE:
            # a frame beyond MAXPHYADDR
            return -1 - (error | PFERR_RSVD | PFERR_PRESENT)
        w = w and spte & PT_WRITABLE != 0
        u = u and spte & PT_USER != 0
        nx = nx or spte & NX != 0
        if level == 1 or spte & PT_PAGE_SIZE:
            break
        geometry.write_spte(vm, sptep, spte | PT_ACCESSED)
        frame = geometry.entry_frame(spte)
        level -= 1
    if nx and not registers.hardware_efer(vm, vcpu) & EFER_NX:
        # bit 63 is reserved then
        return -1 - (error | PFERR_RSVD | PFERR_PRESENT)
    if permission_error(vcpu, w, u, nx, access):
        return -1 - (error | PFERR_PRESENT)
    geometry.write_spte(vm, sptep, spte | PT_ACCESSED | (PT_DIRTY if access & PFERR_WRITE else 0))
    pages = geometry.pages_per_hpage(vm, level)
    pfn = (geometry.entry_frame(spte) & -pages) + ((gva >> vm.page_shift) & (pages - 1))
    return ((pfn - vm.ram_pfn) << vm.page_shift) + geometry.page_offset(vm, gva)

