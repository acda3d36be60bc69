# SPDX-License-Identifier: GPL-2.0-or-later
"""With two-dimensional paging kvm_invalidate_pcid flushes the current PCID only.

id:      B5
year:    2021
commits: e45e9e3998f0
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  4

Where KVM carries out an INVPCID for the guest, it must take away what the CPU has cached under the PCID that is named. With
shadow paging that is a matter of cached roots. With two-dimensional paging roots do not depend on the guest's CR3, and KVM
does not know what the CPU has cached under which PCID; for any but the current one nothing was flushed. KVM seldom intercepts
INVPCID there (ept=1 without unrestricted guest), and said so when it mended this.

Fix: flush all of the guest's translations.
"""


@replaces("vm.registers.invalidate_pcid")
def invalidate_pcid(vm, vcpu, pcid):
    """kvm_invalidate_pcid."""
    if roots.active_pcid(vcpu) == pcid:
        vcpu.requests |= flush.REQ_MMU_SYNC | flush.REQ_TLB_FLUSH_CURRENT
    if not vcpu.cr4 & CR4_PCIDE:
        return
    ctx = state.context(vm, vcpu.mmu)
    which = 0
    for i in range(3):
        if roots.get_pcid(vcpu, ctx.prev_pgd[i]) == pcid:
            which |= roots.previous(i)
    roots.free_roots(vm, ctx, which)
