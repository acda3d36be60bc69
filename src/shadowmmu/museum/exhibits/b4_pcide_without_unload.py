# SPDX-License-Identifier: GPL-2.0-or-later
"""Switching PCIDs on lets a stale cached root come back without a flush.

id:      B4
year:    2021
commits: 509bfe3d9796
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  4

Without PCIDs every MOV CR3 flushes, so KVM may keep out-of-date roots in its cache: they are synchronised when they are used.
Setting CR4.PCIDE flushes nothing, as the architecture says, but it makes MOV CR3 without a flush possible, and with that an
old root of PCID 0 can be loaded as it is. The author of the fix calls the case very unlikely; it needs eight operations.

Fix: CR4.PCIDE going from 0 to 1 unloads all roots.
"""


@replaces("vm.registers.post_set_cr4")
def post_set_cr4(vm, vcpu, old, new):
    """kvm_post_set_cr4.  The flush conditions stand on their own: a reset of the context does not imply them."""
    if (new ^ old) & roles.CR4_ROLE_BITS:
        contexts.reset(vm, vcpu)
    if (new ^ old) & CR4_PGE or not new & CR4_PCIDE and old & CR4_PCIDE:
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    elif (new ^ old) & CR4_PAE or new & CR4_SMEP and not old & CR4_SMEP:
        vcpu.requests |= flush.REQ_TLB_FLUSH_CURRENT
