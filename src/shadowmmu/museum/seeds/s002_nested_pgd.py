# SPDX-License-Identifier: GPL-2.0-or-later
"""Seed 002 looks for a root by CR3, also where a nested guest's tables are what is shadowed.

id:      S002.nested
year:    2022
commits: 82518a181e6c
cve:     -
rules:   linux-6.12
change:  -
breaks:  root-cache
needs:   nested guest
length:  2
base:    s002_repaired.py

The draft calls kvm_mmu_new_pgd with the vCPU's CR3 after every reset. While L2 runs on nested page tables CR3 is L2's, and the
roots in the cache are those of L1's tables for L2. S002.repaired with the draft's argument.

Fix: the table where a walk of this MMU starts, get_guest_pgd().
"""


@replaces("mmu.contexts.reset")
def reset(vm, vcpu):
    """Roots of the new role may be in the cache; what the hardware holds was made for the old role."""
    init_mmu(vm, vcpu)
    mmio.clear_info(vcpu, mmio.GVA_ANY)
    roots.new_pgd(vm, vcpu, vcpu.cr3)
    vcpu.requests |= 16     # KVM_REQ_TLB_FLUSH_CURRENT
