# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002's reuse with the flushes and syncs that it needs.

id:      S002.repaired
year:    2022
commits: 82518a181e6c
cve:     -
rules:   linux-6.12
change:  -
breaks:  nothing
needs:   -
length:  -
base:    s002_cr3_keeps_other_roles.py

What the search leaves of seed 002's idea: roots of the new role are taken from the cache, and

    CR0.PG 1->0, CR4.PGE, SMM     flush of the guest's TLB: synchronises the current root, frees unsync cached ones
    CR4.PCIDE 0->1, CPUID, INIT   unload all roots
    CR4.SMEP 0->1, CR4.PAE        like a MOV CR3 that flushes the current PCID
    any change of role            flush of the hardware's TLB, and the per-vCPU MMIO cache is emptied (S002.mmio)
    MOV CR3 without PCIDs         frees the cached roots of other roles (S002.cr3)

Fix: none needed, as far as the search went; not merged.
"""


@replaces("vm.registers.invalidate_pcid")
def invalidate_pcid(vm, vcpu, pcid):
    """kvm_invalidate_pcid.  Without PCIDs, cached roots of other roles go: a change of role would bring them back unflushed."""
    if state.rules(vm).tdp_enabled:
        # roots do not depend on the guest's CR3; all that KVM can do is to flush the hardware (e45e9e3998f0)
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
        return
    if roots.active_pcid(vcpu) == pcid:
        vcpu.requests |= flush.REQ_MMU_SYNC | flush.REQ_TLB_FLUSH_CURRENT
    ctx = state.context(vm, vcpu.mmu)
    which = 0
    for i in range(3):
        root = roots.root_to_sp(vm, ctx.prev_hpa[i])
        if vcpu.cr4 & CR4_PCIDE:
            if roots.get_pcid(vcpu, ctx.prev_pgd[i]) == pcid:
                which |= roots.previous(i)
        elif root >= 0 and state.page(vm, root).role != ctx.root_role:
            which |= roots.previous(i)
    roots.free_roots(vm, ctx, which)
