# SPDX-License-Identifier: GPL-2.0-or-later
"""L1's EPT tables: the entry format that guest_mmu reads when L1 is a VMX hypervisor (SDM vol. 3 29.3).

    63        51      12 11  10   9  8  7   6    5..3     2 1 0
    | SVE ... | frame   |  | XU | D | A | PS | IPAT | memtype | X W R |        present: any of X, W, R
                                                             leaf only

R, W and X become ACC_USER, ACC_WRITE and ACC_EXEC, so that the shadow entry's U, W and NX say the same; a CPU that walks
the shadow of an EPT reads U as R: an execute-only page is U=0, NX=0.  Reserved combinations (write without read, a bad
memory type, execute-only where VMX does not offer it) are an EPT misconfiguration.
"""

from .. import state
from ..state import core
from . import contexts, roles, roots

READ, WRITE, EXEC, RWX = 1, 2, 4, 7
ACCESSED, DIRTY = 1 << 8, 1 << 9
#: EPTP: memory type in bits 2:0, walk length less 1 in 5:3, A/D enable in 6, bits 11:7 reserved.
EPTP_AD_ENABLE = 1 << 6
EPTP_WALK_SHIFT, EPTP_WALK = 3, 7 << 3
#: The bits by which INVEPT knows a context (EP4TA): the frame.
EP4TA = ((1 << 52) - 1) & ~0xFFF
UNCACHEABLE, WRITE_BACK = 0, 6

# Exit qualification of an EPT violation: the access, what the entries together permit, whether the address came from a walk.
QUAL_READ, QUAL_WRITE, QUAL_FETCH, QUAL_RWX_SHIFT = 1, 2, 4, 3
QUAL_GVA_VALID, QUAL_GVA_TRANSLATED = 1 << 7, 1 << 8


@core
def is_present(gpte):
    """FNAME(is_present_gpte)."""
    return gpte & RWX != 0


@core
def gpte_access(gpte):
    """FNAME(gpte_access)."""
    access = 0
    if gpte & WRITE:
        access |= roles.ACC_WRITE
    if gpte & EXEC:
        access |= roles.ACC_EXEC
    if gpte & READ:
        access |= roles.ACC_USER
    return access


@core
def is_bad_mt_xwr(ctx, gpte):
    """FNAME(is_bad_mt_xwr): bits 5:0 of the entry pick a bit of the mask."""
    return (ctx.bad_mt_xwr >> (gpte & 0x3F)) & 1 != 0


@core
def bad_mt_xwr(execonly):
    """rsvd_check->bad_mt_xwr: memory types 2, 3 and 7, and the access rights 010, 110 and (unless offered) 100."""
    mask = 0
    for value in range(64):
        memtype = value >> 3
        rights = value & RWX
        bad = memtype == 2 or memtype == 3 or memtype == 7 or rights == WRITE or rights == WRITE | EXEC
        if bad or rights == EXEC and not execonly:
            mask |= contexts.bit(value)
    return mask


@core
def reset_rsvd_bits(vm, vcpu, ctx, execonly, huge_page_level):
    """reset_rsvds_bits_mask_ept."""
    bits = vm.level_bits
    high = contexts.rsvd_bits(vcpu.maxphyaddr, 51)
    for i in range(10):
        ctx.rsvd[i] = 0
    no_1g = 1 << 7 if huge_page_level < 3 else 0
    no_2m = 1 << 7 if huge_page_level < 2 else 0
    for large in range(2):
        contexts.set_rsvd(ctx, large, 1, high)
        contexts.set_rsvd(ctx, large, 4, high | contexts.rsvd_bits(3, 7))
        contexts.set_rsvd(ctx, large, 5, high | contexts.rsvd_bits(3, 7))
    contexts.set_rsvd(ctx, 0, 2, high | contexts.rsvd_bits(3, 6) | no_2m)
    contexts.set_rsvd(ctx, 0, 3, high | contexts.rsvd_bits(3, 6) | no_1g)
    contexts.set_rsvd(ctx, 1, 2, high | contexts.rsvd_bits(12, 11 + bits) | no_2m)
    contexts.set_rsvd(ctx, 1, 3, high | contexts.rsvd_bits(12, 11 + 2 * bits) | no_1g)
    ctx.bad_mt_xwr = bad_mt_xwr(execonly)


@core
def reset_permissions(ctx):
    """update_permission_bitmask(ept): reads need R (our U), writes W, fetches X; no notion of a supervisor."""
    for byte in range(16):
        pfec = byte << 1
        fault = 0
        if pfec & 4:
            fault |= ~0xF0 & 0xFF
        if pfec & 2:
            fault |= ~0xCC & 0xFF
        if pfec & 16:
            fault |= ~0xAA & 0xFF
        ctx.permissions[byte] = fault
    ctx.pkru_mask = 0


@core
def eptp_level(eptp):
    """vmx_eptp_page_walk_level."""
    return ((eptp & EPTP_WALK) >> EPTP_WALK_SHIFT) + 1


@core
def is_valid_eptp(vcpu, eptp):
    """nested_vmx_check_eptp: memory type, walk length, reserved bits."""
    memtype = eptp & 7
    level = eptp_level(eptp)
    if memtype != UNCACHEABLE and memtype != WRITE_BACK or level != 4 and level != 5:
        return False
    if level > vcpu.tdp_level or eptp & EPTP_AD_ENABLE and not vcpu.ept_ad:
        return False
    return (eptp >> 7) & 0x1F == 0 and eptp >> vcpu.maxphyaddr == 0


@core
def init_shadow_mmu(vm, vcpu, ctx, eptp):
    """kvm_init_shadow_ept_mmu: CR0, CR4 and EFER do not count; the role is all in the EPTP and the VMX capabilities."""
    role = roles.ACC_ALL << roles.ACCESS_SHIFT | roles.GUEST_MODE | eptp_level(eptp)
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


@core
def root_matches(hpa, root_eptp, eptp):
    """nested_ept_root_matches: roots of other EPTPs with the same frame are the same context."""
    return hpa != roots.INVALID_PAGE and root_eptp & EP4TA == eptp & EP4TA


@core
def matching_roots(ctx, eptp):
    """Mask of the previous roots of the context of `eptp`."""
    which = 0
    for i in range(roots.NUM_PREV_ROOTS):
        if root_matches(ctx.prev_hpa[i], ctx.prev_pgd[i], eptp):
            which |= roots.previous(i)
    return which


@core
def qualification(w, access):
    """What FNAME(walk_addr) leaves for nested_ept_inject_page_fault; w.access has the AND of the raw entries."""
    q = 0
    if access & 2:
        q |= QUAL_WRITE
    if access & 4:
        q |= QUAL_READ
    if access & 16:
        q |= QUAL_FETCH
    return q | (w.access & RWX) << QUAL_RWX_SHIFT


@core
def invept(vm, vcpu, every, eptp):
    """handle_invept: free the roots of one context, or of all."""
    ctx = state.context(vm, 3 * vcpu.id + 1)
    which = roots.ALL
    if not every:
        which = matching_roots(ctx, eptp)
        if root_matches(ctx.root_hpa, ctx.root_pgd, eptp):
            which |= roots.CURRENT
    if which:
        roots.free_roots(vm, ctx, which)
