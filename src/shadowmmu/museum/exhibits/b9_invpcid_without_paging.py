# SPDX-License-Identifier: GPL-2.0-or-later
"""INVPCID in a guest without paging calls a function that is not there.

id:      B9
year:    2022
commits: 9f46c187e2e6
cve:     CVE-2022-1789
rules:   linux-6.12
change:  -
breaks:  warning
needs:   no guest paging
length:  1

INVPCID of one address called the invlpg function of the MMU in use. An MMU for a guest without paging has none; INVLPG
checked for that, INVPCID did not, and the host called address zero.

Fix: INVPCID goes the same way as INVLPG and looks first.
"""


@replaces("vm.invalidation.invpcid_gva")
def invpcid_gva(vm, vcpu, gva, pcid):
    """kvm_mmu_invpcid_gva: one address in the roots of one PCID."""
    ctx = state.context(vm, vcpu.mmu)
    which = 0
    if pcid == roots.active_pcid(vcpu):
        which |= roots.CURRENT
    for i in range(3):
        if ctx.prev_hpa[i] != roots.INVALID_PAGE and pcid == roots.get_pcid(vcpu, ctx.prev_pgd[i]):
            which |= roots.previous(i)
    if which:
        walk.invalidate_addr_in_root(vm, vcpu, vcpu.mmu, gva, ctx.root_hpa)
    vcpu.stat[counters.INVLPG] += 1


@replaces("mmu.walk.invalidate_addr_in_root")
def invalidate_addr_in_root(vm, vcpu, mmu, addr, root_hpa):
    """__kvm_mmu_invalidate_addr: reread the one gpte in every unsync page on the way; the page stays unsync."""
    if state.context(vm, mmu).kind == contexts.NONPAGING:
        # the call through mmu->invlpg
        warn.warn(vm, 42)
    mmio.clear_info(vcpu, addr & -(1 << vm.page_shift))
    if mmu != vcpu.mmu:
        warn.warn(vm, 22)
        return
    if root_hpa == roots.INVALID_PAGE:
        return
    it = state.fault(vm, vcpu.id * 2 + 1)
    zaps = state.rules(vm).invlpg_zaps
    shadow_walk_init(vm, vcpu, it, root_hpa, addr)
    while shadow_walk_okay(vm, it):
        i = geometry.sptep_page(vm, it.it_sptep)
        if i < 0:
            break   # the dummy root
        sp = state.page(vm, i)
        spte = geometry.read_spte(vm, it.it_sptep)
        if zaps and sptes.is_last(spte, it.it_level):
            if not sp.unsync or not zap_and_prefetch(vm, vcpu, sp, it.it_sptep, it.it_index):
                break
        elif not zaps and sp.unsync:
            flags = 0
            if spte != state.rules(vm).nonpresent_spte:
                flags = faults.sync_spte(vm, vcpu, sp, it.it_index)
            if flags < 0:
                zap.zap_pte(vm, sp, it.it_sptep)
            if flags != 0:
                flush.remote_tlbs_sptep(vm, it.it_sptep)
        if not sp.unsync_children:
            break
        shadow_walk_next(vm, it)
