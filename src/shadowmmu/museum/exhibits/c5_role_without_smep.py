# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages made with CR0.WP=0 and SMEP are used again without SMEP, and the other way round.

id:      C5
year:    2015
commits: 898761158be7
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  3

The entry of C4 (supervisor only, writable) would also let the supervisor execute a user page that SMEP protects, so with SMEP
it gets NX. That makes SMEP part of what the page contains, as long as WP is 0. A comparison of roles left the bit out.

Fix: smep_andnot_wp is part of the role, and of every comparison.
"""


@replaces("mmu.contexts.init_mmu")
def init_mmu(vm, vcpu):
    """kvm_init_mmu: make the root MMU's roles fit the registers (init_kvm_softmmu, init_kvm_tdp_mmu)."""
    cpu_role = roles.calc_cpu_role(vm, vcpu, vcpu.cr0, vcpu.cr4, vcpu.efer)
    cpu_ext = roles.calc_cpu_ext(vcpu.cr0, vcpu.cr4, vcpu.efer)
    if nested.is_nested(vcpu):
        nested.init_nested_mmu(vm, vcpu, cpu_role, cpu_ext)
        return
    if state.rules(vm).tdp_enabled:
        # how the guest pages does not show in nested page tables; cpu_role is for walks that KVM makes itself
        init_shadow_mmu(vm, vcpu, state.context(vm, vcpu.mmu), cpu_role, cpu_ext, roles.calc_tdp_root_role(vm, vcpu, cpu_role))
        return
    # PAE tables whenever the guest does not use 64-bit paging; NX forced on (112022bdb5bc)
    root_role = (cpu_role | roles.EFER_NX_BIT) & ~roles.SMEP_ANDNOT_WP
    if roles.level(root_role) < 3:
        root_role = root_role & ~roles.LEVEL | 3
    init_shadow_mmu(vm, vcpu, state.context(vm, vcpu.mmu), cpu_role, cpu_ext, root_role)
