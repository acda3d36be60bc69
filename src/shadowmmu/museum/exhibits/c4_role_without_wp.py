# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages made with CR0.WP=0 are used again with CR0.WP=1.

id:      C4
year:    2010
commits: 3dbe141595fa
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  4

With CR0.WP=0 the supervisor may write pages that are read-only. KVM runs the CPU with WP=1, so it makes such an entry
writable and takes it away from user mode. The shadow page with that entry was found again after the guest had set WP: a
supervisor write to a read-only page succeeded, and user reads faulted without reason.

Fix: CR0.WP is part of the role.
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
    root_role = (cpu_role | roles.EFER_NX_BIT) & ~roles.CR0_WP_BIT
    if roles.level(root_role) < 3:
        root_role = root_role & ~roles.LEVEL | 3
    init_shadow_mmu(vm, vcpu, state.context(vm, vcpu.mmu), cpu_role, cpu_ext, root_role)
