# SPDX-License-Identifier: GPL-2.0-or-later
"""Protection keys are applied to L1's nested tables.

id:      C28
year:    2021
commits: 87d9c628be26
cve:     -
rules:   linux-6.12
change:  -
breaks:  nested-exit
needs:   nested guest
length:  4

CR4.PKE gives bits 62:59 of a page table entry a meaning. In nested tables they have none, and PKRU is the guest's. The permission
tables of the MMU that shadows L1's NPT were made from L1's CR4 as it was: L2's own PKRU could take pages away from L2 that L1 had
given it.

Fix: kvm_init_shadow_npt_mmu clears CR4.PKE first.
"""


@replaces("mmu.nested.init_shadow_npt_mmu")
def init_shadow_npt_mmu(vm, vcpu, cr0, cr4, efer, nested_cr3):
    """kvm_init_shadow_npt_mmu."""
    if state.rules(vm).npt_role_has_wp:
        cr0 |= CR0_WP
    cpu_role = roles.calc_cpu_role(vm, vcpu, cr0, cr4, efer)
    cpu_ext = roles.calc_cpu_ext(cr0, cr4, efer)
    level = vcpu.tdp_level
    root_role = cpu_role & ~roles.LEVEL | level
    if level == 5 and roles.level(cpu_role) == 4:
        root_role |= roles.PASSTHROUGH
    ctx = state.context(vm, vcpu.mmu)
    contexts.init_shadow_mmu(vm, vcpu, ctx, cpu_role, cpu_ext, root_role)
    roots.new_pgd(vm, vcpu, nested_cr3)
