# SPDX-License-Identifier: GPL-2.0-or-later
"""INVLPG and INVPCID as the guest executes them."""

from .. import state
from ..mmu import counters, flush, roots, walk
from ..state import core
from ..x86.bits import CR4_PCIDE
from . import registers

INVPCID_ADDRESS, INVPCID_SINGLE, INVPCID_ALL_WITH_GLOBAL, INVPCID_ALL = range(4)


@core
def invlpg(vm, vcpu, gva):
    """kvm_mmu_invlpg: global translations of every PCID go, so all cached roots are looked at."""
    walk.invalidate_addr(vm, vcpu, vcpu.walk_mmu, gva, roots.ALL)
    vcpu.stat[counters.INVLPG] += 1


@core
def invpcid_gva(vm, vcpu, gva, pcid):
    """kvm_mmu_invpcid_gva: one address in the roots of one PCID."""
    ctx = state.context(vm, vcpu.mmu)
    which = 0
    if pcid == roots.active_pcid(vcpu):
        which |= roots.CURRENT
    for i in range(3):
        if ctx.prev_hpa[i] != roots.INVALID_PAGE and pcid == roots.get_pcid(vcpu, ctx.prev_pgd[i]):
            which |= roots.previous(i)
    if which:
        walk.invalidate_addr(vm, vcpu, vcpu.mmu, gva, which)
    vcpu.stat[counters.INVLPG] += 1


@core
def invpcid(vm, vcpu, kind, pcid, gva):
    """kvm_handle_invpcid with the descriptor already read; True: #GP(0)."""
    if kind < 0 or kind > 3 or pcid >> 12:
        return True
    pcid_enabled = vcpu.cr4 & CR4_PCIDE != 0
    if kind == INVPCID_ADDRESS:
        if not pcid_enabled and pcid != 0 or walk.is_noncanonical(vm, vcpu, gva):
            return True
        invpcid_gva(vm, vcpu, gva, pcid)
    elif kind == INVPCID_SINGLE:
        if not pcid_enabled and pcid != 0:
            return True
        registers.invalidate_pcid(vm, vcpu, pcid)
    else:
        # globals cannot be told apart, so all means all
        vcpu.requests |= flush.REQ_TLB_FLUSH_GUEST
    return False
