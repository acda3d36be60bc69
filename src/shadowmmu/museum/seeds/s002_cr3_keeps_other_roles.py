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
base:    s002_repaired.py

Every change of a control register has the flush that it needs (S002.repaired lists them), and yet a stale translation is
used. Without PCIDs, MOV CR3 synchronises the root in use and keeps the cached ones as they are, unsync or not: only another
MOV CR3 can bring one back, and it will synchronise (509bfe3d9796). With reuse a change of role brings back a root, too. It is the
one that the old role had for this CR3, and what was written before the MOV CR3 is not in its tables. Nobody named it in the
review; the search did, after some million operations on the machine pcid.

Fix: without PCIDs, MOV CR3 frees the cached roots of other roles.
"""


@replaces("vm.registers.invalidate_pcid")
def invalidate_pcid(vm, vcpu, pcid):
    """kvm_invalidate_pcid."""
    if state.rules(vm).tdp_enabled:
        # roots do not depend on the guest's CR3; all that KVM can do is to flush the hardware (e45e9e3998f0)
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
        return
    if roots.active_pcid(vcpu) == pcid:
        vcpu.requests |= flush.REQ_MMU_SYNC | flush.REQ_TLB_FLUSH_CURRENT
    if not vcpu.cr4 & CR4_PCIDE:
        # every MOV CR3 flushes then; the cache may keep its roots (509bfe3d9796)
        return
    ctx = state.context(vm, vcpu.mmu)
    which = 0
    for i in range(3):
        if roots.get_pcid(vcpu, ctx.prev_pgd[i]) == pcid:
            which |= roots.previous(i)
    roots.free_roots(vm, ctx, which)
