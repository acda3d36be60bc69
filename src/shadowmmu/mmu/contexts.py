# SPDX-License-Identifier: GPL-2.0-or-later
"""MMU contexts (struct kvm_mmu): from control registers to roles, permission tables and reserved bits.

    CR0 CR4 EFER SMM  -->  cpu_role (what the guest asked for)  -->  root_role (what the shadow pages get)
                                  |                                   level at least 3, NX always on
                                  +--> permissions[16], pkru_mask, reserved-bit masks

`permissions[PFEC >> 1]` is a byte: bit uwx (access & 7) says that this access faults on that combination.
"""

from .. import state
from ..state import core
from ..x86.bits import (
    CR0_PG,
    CR0_WP,
    PFERR_FETCH,
    PFERR_IMPLICIT_ACCESS,
    PFERR_PK,
    PFERR_PRESENT,
    PFERR_RSVD,
    PFERR_USER,
    PFERR_WRITE,
    PT_PAGE_SIZE,
)
from . import ept, mmio, nested, roles, roots

#: `CONTEXT.kind`: format of the guest's tables.
NONPAGING, PAGING32, PAGING64, PAGING_EPT = 0, 32, 64, 18


@core
def rsvd_bits(low, high):
    """rsvd_bits(s, e): mask of bits low..high, empty if high < low; bit 63 is the sign."""
    mask = 0
    for bit in range(low, high + 1):
        if bit == 63:
            mask |= -(1 << 63)
        else:
            mask |= 1 << bit
    return mask


@core
def bit(n):
    """1 << n as a signed word."""
    return -(1 << 63) if n == 63 else 1 << n


@core
def is_cr0_wp(ctx):
    return ctx.cpu_role & roles.CR0_WP_BIT != 0


@core
def is_cr4_smep(ctx):
    return ctx.cpu_ext & roles.EXT_SMEP != 0


@core
def is_efer_nx(ctx):
    return ctx.cpu_role & roles.EFER_NX_BIT != 0


@core
def set_rsvd(ctx, large, level, mask):
    """Reserved bits of an entry of `level` whose bit 7 is `large`."""
    ctx.rsvd[large * 5 + level - 1] = mask


@core
def reset_rsvd_bits(vm, vcpu, ctx):
    """reset_guest_rsvds_bits_mask: per level and bit 7 (SDM vol. 3 4.3-4.5, APM vol. 2 5.3)."""
    level = roles.level(ctx.cpu_role)
    pse = ctx.cpu_ext & roles.EXT_PSE != 0
    bits = vm.level_bits
    for i in range(10):
        ctx.rsvd[i] = 0
    if level == 2:
        if pse:
            # the field of PSE-36 has no room in small geometries
            low = 17 if vcpu.has_pse36 and bits == 9 else 13
            set_rsvd(ctx, 1, 2, rsvd_bits(low, 12 + bits))
        return
    high = rsvd_bits(vcpu.maxphyaddr, 62 if level == 3 else 51)
    if not is_efer_nx(ctx):
        high |= rsvd_bits(63, 63)
    large2 = high | rsvd_bits(13, 11 + bits)
    set_rsvd(ctx, 0, 1, high)
    set_rsvd(ctx, 1, 1, high)
    set_rsvd(ctx, 0, 2, high)
    set_rsvd(ctx, 1, 2, large2)
    if level == 3:
        pdpte = rsvd_bits(63, 63) | high | rsvd_bits(5, 8) | rsvd_bits(1, 2)
        set_rsvd(ctx, 0, 3, pdpte)
        return
    no_gbpages = 0 if vcpu.has_gbpages else PT_PAGE_SIZE
    set_rsvd(ctx, 0, 3, high | no_gbpages)
    set_rsvd(ctx, 1, 3, high | no_gbpages | rsvd_bits(13, 11 + 2 * bits))
    # non-leaf entries reserve bit 8 on AMD only
    upper = high | PT_PAGE_SIZE | (rsvd_bits(8, 8) if vcpu.is_amd else 0)
    for lv in range(4, level + 1):
        set_rsvd(ctx, 0, lv, upper)
        set_rsvd(ctx, 1, lv, upper)


@core
def is_rsvd_bits_set(ctx, gpte, level):
    """FNAME(is_rsvd_bits_set)."""
    if ctx.kind == PAGING_EPT and ept.is_bad_mt_xwr(ctx, gpte):
        return True
    return gpte & ctx.rsvd[((gpte >> 7) & 1) * 5 + level - 1] != 0


@core
def update_permission_bitmask(ctx):
    """update_permission_bitmask for IA-32 formats.

    Truth table of SDM vol. 3 4.6: columns of the byte are uwx = 0..7, bit set = page fault.
        x = 0xaa (columns with X), w = 0xcc, u = 0xf0
    """
    x, w, u = 0xAA, 0xCC, 0xF0
    wp = is_cr0_wp(ctx)
    nx = is_efer_nx(ctx)
    smep = is_cr4_smep(ctx)
    smap = ctx.cpu_ext & roles.EXT_SMAP != 0
    for byte in range(16):
        pfec = byte << 1
        user = pfec & PFERR_USER != 0
        wf = ~w & 0xFF if pfec & PFERR_WRITE and (user or wp) else 0
        uf = ~u & 0xFF if user else 0
        ff = ~x & 0xFF if pfec & PFERR_FETCH and nx else 0
        kf = 0 if user else u
        smepf = kf if smep and pfec & PFERR_FETCH else 0
        # PFEC.RSVD stands for "not subject to SMAP" (see permission_fault)
        smapf = kf if smap and not pfec & (PFERR_RSVD | PFERR_FETCH) else 0
        ctx.permissions[byte] = ff | uf | wf | smepf | smapf


@core
def update_pkru_bitmask(ctx):
    """update_pkru_bitmask: for PFEC and the page's U bit, which of PKRU's AD and WD count."""
    ctx.pkru_mask = 0
    if not ctx.cpu_ext & roles.EXT_PKE:
        return
    wp = is_cr0_wp(ctx)
    for byte in range(16):
        pfec = byte << 1
        # RSVD stands for "user page"; fetches are never checked
        check = not pfec & PFERR_FETCH and pfec & PFERR_RSVD
        keys = 0
        if check:
            keys = 1
            if pfec & PFERR_WRITE and (pfec & PFERR_USER or wp):
                keys = 3
        ctx.pkru_mask |= keys << pfec


@core
def permission_fault(vcpu, ctx, pte_access, pkey, access):
    """permission_fault: error code of the fault, or 0."""
    # an explicit supervisor access with EFLAGS.AC=1 is not subject to SMAP; an implicit one always is
    not_smap = vcpu.ac and not access & PFERR_IMPLICIT_ACCESS
    index = (access & (PFERR_WRITE | PFERR_USER | PFERR_FETCH)) | (PFERR_RSVD if not_smap else 0)
    fault = (ctx.permissions[index >> 1] >> (pte_access & 7)) & 1
    errcode = PFERR_PRESENT
    if ctx.pkru_mask:
        bits = (vcpu.pkru >> (pkey * 2)) & 3
        offset = access & (PFERR_WRITE | PFERR_USER | PFERR_FETCH)
        if pte_access & roles.ACC_USER:
            offset |= PFERR_RSVD
        bits &= ctx.pkru_mask >> offset
        if bits:
            errcode |= PFERR_PK
            fault = 1
    return errcode if fault else 0


@core
def reset_guest_paging_metadata(vm, vcpu, ctx):
    """reset_guest_paging_metadata."""
    if ctx.kind == NONPAGING:
        return
    reset_rsvd_bits(vm, vcpu, ctx)
    update_permission_bitmask(ctx)
    update_pkru_bitmask(ctx)


@core
def init_shadow_mmu(vm, vcpu, ctx, cpu_role, cpu_ext, root_role):
    """shadow_mmu_init_context, the same of init_kvm_tdp_mmu: nothing to do when the roles have not changed."""
    if ctx.valid and ctx.cpu_role == cpu_role and ctx.cpu_ext == cpu_ext and ctx.root_role == root_role:
        return
    ctx.valid = 1
    ctx.cpu_role = cpu_role
    ctx.cpu_ext = cpu_ext
    ctx.root_role = root_role
    if cpu_role & roles.DIRECT:
        ctx.kind = NONPAGING
    elif cpu_role & roles.HAS_4_BYTE_GPTE:
        ctx.kind = PAGING32
    else:
        ctx.kind = PAGING64
    reset_guest_paging_metadata(vm, vcpu, ctx)


@core
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
    root_role = cpu_role | roles.EFER_NX_BIT
    if roles.level(root_role) < 3:
        root_role = root_role & ~roles.LEVEL | 3
    init_shadow_mmu(vm, vcpu, state.context(vm, vcpu.mmu), cpu_role, cpu_ext, root_role)


@core
def unload(vm, vcpu):
    """kvm_mmu_unload: free all roots of root_mmu and guest_mmu."""
    base = vcpu.id * 3
    roots.free_roots(vm, state.context(vm, base), roots.ALL)
    roots.free_roots(vm, state.context(vm, base + 1), roots.ALL)
    mmio.clear_info(vcpu, mmio.GVA_ANY)


@core
def reset(vm, vcpu):
    """kvm_mmu_reset_context."""
    unload(vm, vcpu)
    init_mmu(vm, vcpu)


@core
def after_set_cpuid(vm, vcpu):
    """kvm_mmu_after_set_cpuid: reserved bits are not in the role, so every role must be computed anew."""
    base = vcpu.id * 3
    for i in range(base, base + 3):
        ctx = state.context(vm, i)
        ctx.valid = 0
        ctx.cpu_ext &= ~roles.EXT_VALID
        # until 4fa96da3e6fe (6.13, stable) the role was zeroed
        ctx.root_role = ctx.root_role | roles.INVALID if state.rules(vm).cpuid_invalidates_role else 0
    reset(vm, vcpu)


@core
def is_paging(vcpu):
    return vcpu.cr0 & CR0_PG != 0


@core
def is_wp(vcpu):
    return vcpu.cr0 & CR0_WP != 0
