# SPDX-License-Identifier: GPL-2.0-or-later
"""The check for reserved bits in shadow entries takes NX for one where the guest has none.

id:      C8
year:    2016
commits: 5f0b819995e1
cve:     -
rules:   linux-6.12
change:  -
breaks:  -
needs:   -
length:  -

When a fault says "reserved bit" KVM walks its own tables for an MMIO spte, and on the way it checks that no other entry has
reserved bits. What is reserved was computed from the guest's EFER.NX. After the fix of C7 entries may have NX although the
guest does not: the walk finds them broken and reports an internal error to userspace.

Fix: NX counts as used whenever shadow entries may have it.
"""


@replaces("mmu.faults.handle_mmio_page_fault")
def handle_mmio_page_fault(vm, vcpu, addr, direct):
    """handle_mmio_page_fault: a fault with PFEC.RSVD."""
    if mmio.in_cache(vm, vcpu, addr, direct):
        return EMULATE
    it = state.fault(vm, vcpu.id * 2 + 1)
    walk.shadow_walk_init(vm, vcpu, it, state.context(vm, vcpu.mmu).root_hpa, addr)
    spte = 0
    while walk.shadow_walk_okay(vm, it):
        spte = geometry.read_spte(vm, it.it_sptep)
        if sptes.is_present(spte) and spte & NX and not contexts.is_efer_nx(state.context(vm, vcpu.mmu)):
            warn.warn(vm, 23)
        walk.shadow_walk_next(vm, it)
    if sptes.is_mmio(spte):
        if not mmio.check_spte(vm, vcpu, spte):
            return INVALID
        if direct:
            addr = 0
        events.emit(vm, events.HANDLE_MMIO_PAGE_FAULT, addr, mmio.spte_gfn(spte), mmio.spte_access(spte))
        mmio.cache_info(vm, vcpu, addr, mmio.spte_gfn(spte), mmio.spte_access(spte))
        return EMULATE
    # the table was zapped by another vCPU: fault again
    return RETRY
