# SPDX-License-Identifier: GPL-2.0-or-later
"""Entering or leaving a nested guest without a VPID syncs the current root only.

id:      B2
year:    2021
commits: 07ffaf343e34
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   nested guest
length:  5

Without a VPID, L1 and L2 share tag 0, and the architecture empties it at every VM entry and VM exit, all PCIDs of it. KVM
asked for a sync and a flush of the current root. The other cached roots kept their unsync pages, and a MOV CR3 that
need not flush brought one of them back.

Fix: the transition is a flush of the guest's whole TLB: with shadow paging unsync cached roots are freed.
"""


@replaces("vm.nested_guest.vmx_transition_tlb_flush")
def vmx_transition_tlb_flush(vm, vcpu, vpid, entering):
    """nested_vmx_transition_tlb_flush."""
    if vpid == 0:
        vcpu.requests |= flush.REQ_MMU_SYNC | flush.REQ_TLB_FLUSH_CURRENT
    elif entering and vpid != vcpu.last_vpid:
        vcpu.last_vpid = vpid
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
