# SPDX-License-Identifier: GPL-2.0-or-later
"""A table gives way to a large page without a flush.

id:      B15
year:    2010
commits: 3be2264be3c0
cve:     -
rules:   linux-6.12
change:  -
breaks:  two-sizes
needs:   large host pages
length:  3

When a large mapping becomes possible, the entry that pointed to a table gets the large page. CPUs that walked through the
table may hold 4K translations of the same range beside the large one. They agree, so a guest sees nothing wrong; but which one
is used is up to the CPU, and some raise a machine check when a fetch meets both. KVM promises that it never comes to that.

Fix: dropping the table's link is followed by a remote flush.
"""


@replaces("mmu.faults.set_spte")
def set_spte(vm, vcpu, slot, sptep, pte_access, gfn, pfn, host_writable, prefetch, write_fault):
    """mmu_set_spte: FIXED, SPURIOUS, WRITE_PROTECTED, or EMULATE for MMIO."""
    sp = state.page(vm, geometry.sptep_page(vm, sptep))
    level = roles.level(sp.role)
    rules = state.rules(vm)
    old = geometry.read_spte(vm, sptep)
    was_rmapped = False
    flushing = False
    result = FIXED
    if pfn == host.PFN_NOSLOT and not rules.drop_before_mmio_spte:
        # until aad885e77496 (CVE-2026-23401) a present entry was simply overwritten
        vcpu.stat[counters.PF_MMIO_SPTE_CREATED] += 1
        mmio.mark_spte(vm, vcpu, sptep, gfn, pte_access)
        return EMULATE
    if sptes.is_present(old):
        if rules.prefetch_same_pfn_spurious and prefetch and sptes.is_last(old, level) \
                and pfn == geometry.entry_frame(old):
            return SPURIOUS
        if level > 1 and not sptes.is_large(old):
            zap.drop_parent_pte(vm, state.page(vm, geometry.frame_to_page(vm, geometry.entry_frame(old))), sptep)
        elif pfn != geometry.entry_frame(old) or rules.set_spte_looks_at_gfn \
                and rmap.page_get_gfn(vm, sp, geometry.sptep_index(vm, sptep)) != gfn:
            rmap.drop_spte(vm, sptep)
            flushing = True
        else:
            was_rmapped = True
    if pfn == host.PFN_NOSLOT:
        vcpu.stat[counters.PF_MMIO_SPTE_CREATED] += 1
        mmio.mark_spte(vm, vcpu, sptep, gfn, pte_access)
        if flushing:
            flush.remote_tlbs_gfn(vm, gfn, level)
        return EMULATE
    old = geometry.read_spte(vm, sptep)
    spte = sptes.make(vm, vcpu, sp, slot, pte_access, gfn, pfn, old, prefetch, True, False, host_writable)
    refused = pte_access & roles.ACC_WRITE and host_writable and not spte & PT_WRITABLE
    if old == spte:
        result = SPURIOUS
    else:
        if sptes.update(vm, sptep, spte):
            flushing = True
        events.emit(vm, events.SET_SPTE, gfn, spte, level, sptep)
    if refused and write_fault:
        result = WRITE_PROTECTED
    if flushing:
        flush.remote_tlbs_gfn(vm, gfn, level)
    if not was_rmapped:
        if result == SPURIOUS:
            warn.warn(vm, 10)
        rmap.add(vm, slot, sptep, gfn, pte_access)
    else:
        rmap.page_set_access(vm, sp, geometry.sptep_index(vm, sptep), pte_access)
    return result
