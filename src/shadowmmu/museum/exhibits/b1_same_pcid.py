# SPDX-License-Identifier: GPL-2.0-or-later
"""MOV CR3 with a flush brings only the new root up to date, not other roots of its PCID.

id:      B1
year:    2021
commits: 21823fbda552
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  3

A flushing MOV CR3 empties everything the CPU holds under the PCID. KVM synchronised the one page table that was being loaded;
other cached roots that had run under the same PCID kept their out-of-date entries. A later load of such a root without a
flush brings them back, although the architecture knows the PCID only and has long forgotten them.

Fix: cached roots whose pgd carries the PCID are freed; when they come back they are looked up and synchronised.
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
