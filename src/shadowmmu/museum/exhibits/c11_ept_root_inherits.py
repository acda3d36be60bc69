# SPDX-License-Identifier: GPL-2.0-or-later
"""The role of a shadowed EPT begins as a copy of another MMU's.

id:      C11
year:    2019
commits: 552c69b1dc71
cve:     -
rules:   linux-6.12
change:  -
breaks:  access
needs:   nested guest
length:  2

kvm_init_shadow_ept_mmu copied the role of the root MMU and changed what it knew of. What it did not know of stayed: direct,
smm, cr0_wp, quadrant, invalid. Here it is direct, for a host with nested paging shadows nothing of L1 itself: the shadow of the
EPT maps L2's physical addresses to L1's same ones, and what the EPT says does not matter.

Fix: the role is built from nothing.
"""


@replaces("mmu.ept.init_shadow_mmu")
def init_shadow_mmu(vm, vcpu, ctx, eptp):
    """kvm_init_shadow_ept_mmu."""
    base = state.context(vm, 3 * vcpu.id).root_role
    role = base & ~roles.LEVEL | roles.ACC_ALL << roles.ACCESS_SHIFT | roles.GUEST_MODE | eptp_level(eptp)
    if not eptp & EPTP_AD_ENABLE:
        role |= roles.AD_DISABLED
    ext = roles.EXT_VALID | (roles.EXT_EXECONLY if vcpu.ept_execonly else 0)
    if not (ctx.valid and ctx.kind == contexts.PAGING_EPT and ctx.cpu_role == role and ctx.cpu_ext == ext):
        ctx.valid = 1
        ctx.cpu_role = role
        ctx.cpu_ext = ext
        ctx.root_role = role
        ctx.kind = contexts.PAGING_EPT
        reset_permissions(ctx)
        reset_rsvd_bits(vm, vcpu, ctx, vcpu.ept_execonly, vcpu.ept_huge_level)
    roots.new_pgd(vm, vcpu, eptp)
