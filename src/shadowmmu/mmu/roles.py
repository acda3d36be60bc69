# SPDX-License-Identifier: GPL-2.0-or-later
"""The page role: everything besides the gfn that decides what a shadow page contains.

Inside, all kernels use one layout, a superset of theirs (a bit that a kernel lacks stays 0, so equality of words means
the same as in that kernel); `rules.role_layouts` has each kernel's own, for what people read.

    31    24 23  22 21             20       19 18          17         16          15             14     13
    | smm   |      | smep_andnot_wp | cr4_smep |  | passthrough | guest_mode | ad_disabled | smap_andnot_wp | cr0_wp | efer_nx |
    12        11    8 7        6      5 4                3     0
    | invalid | access | direct | quadrant | has_4_byte_gpte | level |
"""

from .. import state
from ..state import core
from ..x86.bits import CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, CR4_PKE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_LMA, EFER_NX

LEVEL = 0xF
HAS_4_BYTE_GPTE = 1 << 4
QUADRANT_SHIFT, QUADRANT = 5, 3 << 5
DIRECT = 1 << 7
ACCESS_SHIFT, ACCESS = 8, 0xF << 8
INVALID = 1 << 12
EFER_NX_BIT = 1 << 13
CR0_WP_BIT = 1 << 14
SMAP_ANDNOT_WP = 1 << 15
AD_DISABLED = 1 << 16
GUEST_MODE = 1 << 17
PASSTHROUGH = 1 << 18
CR4_SMEP_BIT = 1 << 20
SMEP_ANDNOT_WP = 1 << 21
SMM_SHIFT = 24
SMM = 0xFF << 24

#: union kvm_mmu_extended_role.
EXT_VALID, EXT_EXECONLY, EXT_PSE, EXT_PKE, EXT_SMAP, EXT_SMEP, EXT_LA57, EXT_LMA = (1 << i for i in range(8))

#: ACC_*: what a walk permits.
ACC_EXEC, ACC_WRITE, ACC_USER, ACC_ALL = 1, 2, 4, 7

#: Bits that may differ between a page and the MMU that syncs it (kvm_sync_page_check).
SYNC_IGNORED = LEVEL | ACCESS | QUADRANT | PASSTHROUGH

#: Register bits that are part of a role (KVM_MMU_CR0_ROLE_BITS and friends).
CR0_ROLE_BITS = CR0_PG | CR0_WP
CR4_ROLE_BITS = CR4_PSE | CR4_PAE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE


@core
def level(role):
    return role & LEVEL


@core
def access(role):
    return (role & ACCESS) >> ACCESS_SHIFT


@core
def quadrant(role):
    return (role & QUADRANT) >> QUADRANT_SHIFT


@core
def as_id(role):
    """Address space of a page: 1 in system management mode."""
    return 1 if role & SMM else 0


@core
def differ(vm, a, b):
    """Are these not the same role?"""
    return (a ^ b) & ~state.rules(vm).role_ignores != 0


@core
def calc_cpu_role(vm, vcpu, cr0, cr4, efer):
    """Base word of kvm_calc_cpu_role: what the guest asked for."""
    role = ACC_ALL << ACCESS_SHIFT
    if vcpu.smm:
        role |= 1 << SMM_SHIFT
    if vcpu.guest_mode:
        role |= GUEST_MODE
    if not cr0 & CR0_PG:
        return role | DIRECT
    if efer & EFER_NX:
        role |= EFER_NX_BIT
    smep_in_role = state.rules(vm).role_has_smep
    if smep_in_role and cr4 & CR4_SMEP:
        role |= CR4_SMEP_BIT
    if cr0 & CR0_WP:
        role |= CR0_WP_BIT
    else:
        if cr4 & CR4_SMEP and not smep_in_role:
            role |= SMEP_ANDNOT_WP
        if cr4 & CR4_SMAP:
            role |= SMAP_ANDNOT_WP
    if not cr4 & CR4_PAE:
        role |= HAS_4_BYTE_GPTE
    if efer & EFER_LMA:
        role |= 5 if cr4 & CR4_LA57 else 4
    elif cr4 & CR4_PAE:
        role |= 3
    else:
        role |= 2
    return role


@core
def calc_cpu_ext(cr0, cr4, efer):
    """Extended word of kvm_calc_cpu_role."""
    ext = EXT_VALID
    if not cr0 & CR0_PG:
        return ext
    if cr4 & CR4_SMEP:
        ext |= EXT_SMEP
    if cr4 & CR4_SMAP:
        ext |= EXT_SMAP
    if cr4 & CR4_PSE:
        ext |= EXT_PSE
    if efer & EFER_LMA:
        ext |= EXT_LMA
        # PKEY and LA57 are active only in long mode
        if cr4 & CR4_PKE:
            ext |= EXT_PKE
        if cr4 & CR4_LA57:
            ext |= EXT_LA57
    return ext


#: kvm_mmu_get_tdp_level: levels of nested page tables on a host with 4-level paging.
TDP_LEVEL = 4


@core
def calc_tdp_root_role(vm, vcpu, cpu_role):
    """kvm_calc_tdp_mmu_root_page_role: the same whatever paging mode the guest is in."""
    role = ACC_ALL << ACCESS_SHIFT | CR0_WP_BIT | EFER_NX_BIT | DIRECT | vcpu.tdp_level | cpu_role & (SMM | GUEST_MODE)
    return role if state.rules(vm).ad_enabled else role | AD_DISABLED


@core
def child(parent_role, direct, child_access, index):
    """kvm_mmu_child_role: role of the table that entry `index` of a page with `parent_role` points to."""
    role = parent_role - 1
    role &= ~(ACCESS | DIRECT | PASSTHROUGH)
    role |= child_access << ACCESS_SHIFT
    if direct:
        role |= DIRECT
    if role & HAS_4_BYTE_GPTE:
        # a 4-byte table maps twice what an 8-byte one does: bit 21 (4M half) selects the shadow table
        role = role & ~QUADRANT | (index & 1) << QUADRANT_SHIFT
    return role


@core
def has_gptes(role):
    """sp_has_gptes: the page shadows a guest page table."""
    return not role & (DIRECT | PASSTHROUGH)
