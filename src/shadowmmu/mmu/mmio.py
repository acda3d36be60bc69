# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest addresses without memory: MMIO sptes with a generation, and the per-vCPU cache of the last one.

    #PF with PFEC.RSVD --> cache hit? --> emulate
                       --> MMIO spte of the current generation? --> cache it, emulate
                       --> an old generation --> full fault (a slot may have appeared there)

    spte: | gen 18..8 (bits 62..52) | 51: mark | gfn | gen 7..0 (bits 10..3) | U W | P |

On a host with 52 bits of physical address no bit is reserved: `enable_mmio_caching` is off, no MMIO spte is made and each
access is an ordinary fault (faults.faultin_pfn).
"""

from .. import state
from ..state import core
from ..x86.bits import FRAME_SHIFT, PT_USER, PT_WRITABLE
from . import events, geometry, memslots, nested, roles, sptes

GEN_BITS = 19
GEN_MASK = (1 << GEN_BITS) - 1
GEN_LOW_BITS = 8
#: Bits of the frame field that can hold a gfn below the mark.
GFN_MASK = (1 << 39) - 1
GVA_ANY = -1


@core
def make_spte(generation, gfn, access):
    """make_mmio_spte."""
    gen = generation & GEN_MASK
    spte = (gen & 0xFF) << 3 | (gen >> GEN_LOW_BITS) << 52
    return spte | sptes.MMIO_VALUE | access & (PT_WRITABLE | PT_USER) | gfn << FRAME_SHIFT


@core
def spte_generation(spte):
    """get_mmio_spte_generation."""
    return (spte >> 3) & 0xFF | ((spte >> 52) & 0x7FF) << GEN_LOW_BITS


@core
def spte_gfn(spte):
    """get_mmio_spte_gfn."""
    return (spte >> FRAME_SHIFT) & GFN_MASK


@core
def spte_access(spte):
    """get_mmio_spte_access."""
    return spte & (PT_WRITABLE | PT_USER)


@core
def mark_spte(vm, vcpu, sptep, gfn, access):
    """mark_mmio_spte."""
    generation = memslots.mmio_generation(vm, vcpu)
    spte = make_spte(generation, gfn, access)
    # the tracepoint shows spte & ACC_ALL, so P appears as X
    events.emit(vm, events.MARK_MMIO_SPTE, sptep, gfn, spte & roles.ACC_ALL, spte_generation(spte))
    geometry.write_spte(vm, sptep, spte)


@core
def check_spte(vm, vcpu, spte):
    """check_mmio_spte: is its generation the current one?"""
    generation = memslots.mmio_generation(vm, vcpu) & GEN_MASK
    old = spte_generation(spte)
    events.emit(vm, events.CHECK_MMIO_SPTE, spte, generation, old, 1 if generation == old else 0)
    return generation == old


@core
def sync_spte(vm, vcpu, sptep, gfn, access):
    """sync_mmio_spte: True if the entry was an MMIO spte (now cleared or marked anew)."""
    spte = geometry.read_spte(vm, sptep)
    if not sptes.is_mmio(spte):
        return False
    # a memslot may have come since the entry was made; the kernel does not look
    if gfn != spte_gfn(spte) or state.rules(vm).mmio_sync_looks and memslots.vcpu_gfn_to_memslot(vm, vcpu, gfn) >= 0:
        sptes.clear_no_track(vm, sptep)
    else:
        mark_spte(vm, vcpu, sptep, gfn, access)
    return True


@core
def cache_info(vm, vcpu, gva, gfn, access):
    """vcpu_cache_mmio_info.  With GVA 0 (direct maps) only the gfn can match."""
    generation = memslots.mmio_generation(vm, vcpu)
    # a generation that is being updated is never cached
    # with nested tables the address of a fault is L2's gpa, which must not match
    vcpu.mmio_gva = gva & -(1 << vm.page_shift) if gva and not nested.is_nested(vcpu) else 0
    vcpu.mmio_access = access
    vcpu.mmio_gfn = gfn
    vcpu.mmio_gen = generation


@core
def clear_info(vcpu, gva):
    """vcpu_clear_mmio_info: forget it if it is about `gva` (page aligned by the caller), or always for GVA_ANY."""
    if gva != GVA_ANY and vcpu.mmio_gva != gva:
        return
    vcpu.mmio_gva = 0


@core
def match_gen(vm, vcpu):
    """vcpu_match_mmio_gen."""
    return vcpu.mmio_gen == memslots.mmio_generation(vm, vcpu)


@core
def match_gva(vm, vcpu, gva):
    """vcpu_match_mmio_gva."""
    return match_gen(vm, vcpu) and vcpu.mmio_gva != 0 and vcpu.mmio_gva == gva & -(1 << vm.page_shift)


@core
def match_gpa(vm, vcpu, gpa):
    """vcpu_match_mmio_gpa."""
    return match_gen(vm, vcpu) and vcpu.mmio_gfn != 0 and vcpu.mmio_gfn == gpa >> vm.page_shift


@core
def in_cache(vm, vcpu, addr, direct):
    """mmio_info_in_cache: never for L2 on nested tables, whose faults have L2's gpa."""
    if nested.is_nested(vcpu):
        return False
    if direct:
        return match_gpa(vm, vcpu, addr)
    return match_gva(vm, vcpu, addr)


@core
def is_mmio_access(access):
    """The bits of an access that an MMIO spte keeps (shadow_mmio_access_mask)."""
    return access & (roles.ACC_WRITE | roles.ACC_USER)
