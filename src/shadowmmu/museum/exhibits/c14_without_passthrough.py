# SPDX-License-Identifier: GPL-2.0-or-later
"""A table of four levels is shadowed as if it had five.

id:      C14
year:    2022
commits: 84e5ffd045f3
cve:     -
rules:   linux-6.12
change:  -
breaks:  follows
needs:   nested guest
length:  2

On a host with five levels the shadow of L1's four-level NPT has a root of level 5, which shadows nothing: its first entry leads
to the table that shadows L1's root. Without a role bit of its own this page had the role of a shadow of a level-5 table at the
same gfn, was write-tracked, counted and looked up as one, and with L1 toggling CR4.LA57 was used as one.

Fix: role.passthrough.
"""


@replaces("mmu.nested.init_shadow_npt_mmu")
def init_shadow_npt_mmu(vm, vcpu, cr0, cr4, efer, nested_cr3):
    """kvm_init_shadow_npt_mmu."""
    cr4 &= ~CR4_PKE
    if state.rules(vm).npt_role_has_wp:
        cr0 |= CR0_WP
    cpu_role = roles.calc_cpu_role(vm, vcpu, cr0, cr4, efer)
    cpu_ext = roles.calc_cpu_ext(cr0, cr4, efer)
    root_role = cpu_role & ~roles.LEVEL | vcpu.tdp_level
    ctx = state.context(vm, vcpu.mmu)
    contexts.init_shadow_mmu(vm, vcpu, ctx, cpu_role, cpu_ext, root_role)
    roots.new_pgd(vm, vcpu, nested_cr3)
