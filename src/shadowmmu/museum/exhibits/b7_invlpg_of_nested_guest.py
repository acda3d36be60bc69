# SPDX-License-Identifier: GPL-2.0-or-later
"""INVLPG of a nested guest works on the MMU of its physical addresses.

id:      B7
year:    2021
commits: 05b29633c7a9
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   nested guest
length:  4

While L2 runs on L1's nested tables, vcpu->arch.mmu is the one that shadows them, and its addresses are L2's physical ones. An
INVLPG of L2 that KVM executed went there: no linear address was flushed, and L2 kept its old translation.

Fix: walk_mmu, the MMU of linear addresses.
"""


@replaces("vm.invalidation.invlpg")
def invlpg(vm, vcpu, gva):
    """kvm_mmu_invlpg."""
    walk.invalidate_addr(vm, vcpu, vcpu.mmu, gva, roots.ALL)
    vcpu.stat[counters.INVLPG] += 1
