# SPDX-License-Identifier: GPL-2.0-or-later
"""The NX bit of the iTLB-multihit workaround is taken for a reserved bit.

id:      C9
year:    2021
commits: 112022bdb5bc
cve:     -
rules:   linux-6.12
change:  -
breaks:  -
needs:   large host pages
length:  -

Against the iTLB multihit erratum KVM maps large pages without execute permission, also for guests that do not use NX. The
masks for the check of C8 were still made from the guest's EFER.NX for most MMUs, so such an entry looked broken as soon as an
MMIO walk met it.

Fix: efer_nx is set in the role of every shadow MMU that does not use nested paging, and the masks follow.
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
        if sptes.is_present(spte) and sptes.is_large(spte) and spte & NX \
                and not contexts.is_efer_nx(state.context(vm, vcpu.mmu)):
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
