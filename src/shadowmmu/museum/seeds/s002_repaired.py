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
base:    s002_reuse_with_final_flushes.py

What the search leaves of seed 002's idea: roots of the new role are taken from the cache, and

    CR4.PGE, SMM                  flush of the guest's TLB: synchronises
                                  the current root, frees unsync cached ones
    CR0.PG 1->0                   the same, and unload all roots (S002.off)
    CR4.PCIDE 0->1, CPUID, INIT   unload all roots
    CR4.SMEP 0->1, CR4.PAE        like a MOV CR3 that flushes this PCID
    any change of role            flush of the hardware's TLB; the MMIO cache
                                  is emptied (S002.mmio)
    MOV CR3 without PCIDs         free cached roots of other roles (S002.cr3)

Fix: none needed, as far as the search went; not merged.
"""


@replaces("mmu.contexts.reset")
def reset(vm, vcpu):
    """Roots of the new role may be in the cache; what the hardware holds was made for the old role."""
    init_mmu(vm, vcpu)
    mmio.clear_info(vcpu, mmio.GVA_ANY)
    roots.new_pgd(vm, vcpu, nested.guest_pgd(vcpu, state.context(vm, vcpu.mmu)))
    vcpu.requests |= 16     # KVM_REQ_TLB_FLUSH_CURRENT


@replaces("vm.registers.post_set_cr0")
def post_set_cr0(vm, vcpu, old, new):
    """kvm_post_set_cr0.  No root outlives paging: while it is off, stores to page tables make cached roots unsync."""
    if old ^ new == CR0_WP:
        if not new & CR0_PG:
            return
        if state.rules(vm).tdp_enabled:
            # only walks that KVM makes itself depend on it
            contexts.init_mmu(vm, vcpu)
            return
    if (old ^ new) & CR0_PG and not new & CR0_PG:
        contexts.unload(vm, vcpu)
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    if (old ^ new) & roles.CR0_ROLE_BITS:
        contexts.reset(vm, vcpu)


@replaces("vm.registers.post_set_cr4")
def post_set_cr4(vm, vcpu, old, new):
    """kvm_post_set_cr4.  The flush conditions stand on their own: a reset of the context does not imply them."""
    if (new ^ old) & roles.CR4_ROLE_BITS:
        contexts.reset(vm, vcpu)
    if new & CR4_PCIDE and not old & CR4_PCIDE and not state.rules(vm).tdp_enabled:
        # no flush is due, but a stale previous root could come back by a NOFLUSH load (509bfe3d9796)
        contexts.unload(vm, vcpu)
    if (new ^ old) & CR4_PGE or not new & CR4_PCIDE and old & CR4_PCIDE:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    elif (new ^ old) & CR4_PAE or new & CR4_SMEP and not old & CR4_SMEP:
        # cached roots of this PCID, too: MOV CR3 with NOFLUSH, or the next change of role, brings them back as they are
        invalidate_pcid(vm, vcpu, roots.active_pcid(vcpu))


@replaces("vm.registers.smm_changed")
def smm_changed(vm, vcpu, entering):
    """kvm_smm_changed: a change of the root no longer implies that it is up to date."""
    vcpu.smm = 1 if entering else 0
    contexts.reset(vm, vcpu)
    vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST


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
