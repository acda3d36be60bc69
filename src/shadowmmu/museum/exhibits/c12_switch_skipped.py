# SPDX-License-Identifier: GPL-2.0-or-later
"""L2 is entered on the MMU that was there.

id:      C12
year:    2018
commits: 3cf85f9f6bd7
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   nested guest
length:  2

When guest_mmu was split off, nested SVM went on using root_mmu: vcpu->arch.mmu was switched in nested VMX only. L2 ran on L1's
own
direct tables, with L2's physical addresses taken for L1's.

Fix: nested_svm_init_mmu_context sets vcpu->arch.mmu.
"""


@replaces("vm.nested_guest.init_svm_mmu_context")
def init_svm_mmu_context(vm, vcpu, l1_cr4, l1_efer, nested_cr3):
    """nested_svm_init_mmu_context."""
    vcpu.nested_pgd = nested_cr3
    contexts.init_mmu(vm, vcpu)
