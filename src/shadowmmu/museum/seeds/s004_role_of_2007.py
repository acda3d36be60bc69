# SPDX-License-Identifier: GPL-2.0-or-later
"""The role of seed 004: levels, quadrant, and whether there is a guest table.

id:      S004.role
year:    2007
commits: cea0f0e7ea54
cve:     -
rules:   linux-6.12
change:  -
breaks:  translation
needs:   -
length:  1

Seed 004's role has no access rights and none of the control bits. Each of them came with a bug (rows C1 to C6, SMM, nesting).

Fix: a role of 32 bits, one bug after the other.
"""


@replaces("mmu.roles.child")
def child(parent_role, direct, child_access, index):
    """kvm_mmu_child_role: role of the table that entry `index` of a page with `parent_role` points to."""
    role = parent_role - 1
    role &= ~(ACCESS | DIRECT | PASSTHROUGH)
    role |= ACC_ALL << ACCESS_SHIFT
    if direct:
        role |= DIRECT
    if role & HAS_4_BYTE_GPTE:
        # a 4-byte table maps twice what an 8-byte one does: bit 21 (4M half) selects the shadow table
        role = role & ~QUADRANT | (index & 1) << QUADRANT_SHIFT
    return role


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
    root_role = cpu_role & (roles.LEVEL | roles.HAS_4_BYTE_GPTE | roles.DIRECT | roles.ACCESS) | roles.EFER_NX_BIT
    if roles.level(root_role) < 3:
        root_role = root_role & ~roles.LEVEL | 3
    init_shadow_mmu(vm, vcpu, state.context(vm, vcpu.mmu), cpu_role, cpu_ext, root_role)
