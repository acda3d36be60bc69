# SPDX-License-Identifier: GPL-2.0-or-later
"""The root of a shadowed NPT has as many levels as L1 has.

id:      C13
year:    2021
commits: a3322d5cd87f
cve:     -
rules:   linux-6.12
change:  -
breaks:  livelock
needs:   nested guest
length:  2

On SVM the number of levels of nested tables is that of the host: hCR4.LA57 decides for every VMRUN. The shadow of L1's NPT was
built
with L1's four levels on a host with five. The hardware took its root for a table one level higher.

Fix: the root level of the shadow is the host's (shadow_root_level of kvm_init_shadow_npt_mmu).
"""


@replaces("mmu.nested.init_shadow_npt_mmu")
def init_shadow_npt_mmu(vm, vcpu, cr0, cr4, efer, nested_cr3):
    """kvm_init_shadow_npt_mmu."""
    cr4 &= ~CR4_PKE
    if state.rules(vm).npt_role_has_wp:
        cr0 |= CR0_WP
    cpu_role = roles.calc_cpu_role(vm, vcpu, cr0, cr4, efer)
    cpu_ext = roles.calc_cpu_ext(cr0, cr4, efer)
    root_role = cpu_role
    if roles.level(root_role) < 4:
        root_role = cpu_role & ~roles.LEVEL | vcpu.tdp_level
    ctx = state.context(vm, vcpu.mmu)
    contexts.init_shadow_mmu(vm, vcpu, ctx, cpu_role, cpu_ext, root_role)
    roots.new_pgd(vm, vcpu, nested_cr3)
