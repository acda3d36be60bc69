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

What the search leaves of seed 002's idea: roots of the new role are taken from the cache, CR0.PG, PGE and SMM flush the
guest's TLB (which synchronises the current root and frees unsync cached ones), PCIDE unloads, SMEP and PAE synchronise the
current root and free the cached ones of its PCID, every change of role flushes the hardware's TLB, and the per-vCPU MMIO
cache is emptied (S002.mmio).

Fix: none needed, as far as the search went; not merged.
"""


@replaces("mmu.contexts.reset")
def reset(vm, vcpu):
    """Roots of the new role may be in the cache; what the hardware holds was made for the old role."""
    init_mmu(vm, vcpu)
    mmio.clear_info(vcpu, mmio.GVA_ANY)
    roots.new_pgd(vm, vcpu, nested.guest_pgd(vcpu, state.context(vm, vcpu.mmu)))
    vcpu.requests |= 16     # KVM_REQ_TLB_FLUSH_CURRENT


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
        vcpu.requests |= flush.REQ_TLB_FLUSH_CURRENT | flush.REQ_MMU_SYNC
        # cached roots of this PCID, too: MOV CR3 with NOFLUSH brings them back as they are
        invalidate_pcid(vm, vcpu, roots.active_pcid(vcpu))


@replaces("vm.registers.smm_changed")
def smm_changed(vm, vcpu, entering):
    """kvm_smm_changed: a change of the root no longer implies that it is up to date."""
    vcpu.smm = 1 if entering else 0
    contexts.reset(vm, vcpu)
    vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
