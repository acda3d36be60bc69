# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002 repaired, but for a MOV CR3 that keeps cached roots of other roles.

id:      S002.cr3
year:    2022
commits: 82518a181e6c, 509bfe3d9796
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  6
base:    s002_reuse_with_final_flushes.py

Every change of a control register has the flush that it needs (S002.repaired lists them), and yet a stale translation is
used. Without PCIDs, MOV CR3 synchronises the root in use and keeps the cached ones as they are, unsync or not: only another
MOV CR3 can bring one back, and it will synchronise (509bfe3d9796). With reuse a change of role brings back a root, too. It is the
one that the old role had for this CR3, and what was written before the MOV CR3 is not in its tables. Nobody named it in the review;
the search did, after some million operations on the machine pcid.

Fix: without PCIDs, MOV CR3 frees the cached roots of other roles.
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
        # cached roots of this PCID, too: MOV CR3 with NOFLUSH, or the next change of role, brings them back as they are
        invalidate_pcid(vm, vcpu, roots.active_pcid(vcpu))


@replaces("vm.registers.smm_changed")
def smm_changed(vm, vcpu, entering):
    """kvm_smm_changed: a change of the root no longer implies that it is up to date."""
    vcpu.smm = 1 if entering else 0
    contexts.reset(vm, vcpu)
    vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
