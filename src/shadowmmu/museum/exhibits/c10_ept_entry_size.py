# SPDX-License-Identifier: GPL-2.0-or-later
"""The size of an entry of L1's EPT follows L2's CR4.PAE.

id:      C10
year:    2019
commits: 47c42e6b4192
cve:     -
rules:   linux-6.12
change:  -
breaks:  follows
needs:   nested guest
length:  4

The bit of the role that tells 4-byte from 8-byte entries was called cr4_pae, and for the MMU that shadows L1's EPT it was
taken from L2's CR4. An EPT has 8-byte entries whatever L2 does: with CR4.PAE = 0 a page was synced from the wrong places.

Fix: the role says what it means, gpte_is_8_bytes, and of an EPT it is always set.
"""


@replaces("mmu.ept.init_shadow_mmu")
def init_shadow_mmu(vm, vcpu, ctx, eptp):
    """kvm_init_shadow_ept_mmu."""
    role = roles.ACC_ALL << roles.ACCESS_SHIFT | roles.GUEST_MODE | eptp_level(eptp)
    if not eptp & EPTP_AD_ENABLE:
        role |= roles.AD_DISABLED
    # CR4 is still L1's when L2 is entered; EPTP switching happens under L2's own
    if not vcpu.cr4 & 32:
        role |= roles.HAS_4_BYTE_GPTE
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
