# SPDX-License-Identifier: GPL-2.0-or-later
r"""Telling states apart: a 62-bit digest of what matters for the future.

    registers, requests, roots | shadow pages in list order | guest memory, slots | held by hardware, permitted
          \________________________ fold, word by word _________________________/
                                        |
                                     digest ^ salt  -->  the set of those met (`seen`)

A shadow page goes by its place in the active list, never by its number; statistics, free lists and the order of chains do not
count.  vCPUs start equal and what one can do the other can, so states that differ by the vCPUs' numbers are one as well.  Two
states with one digest are taken for one state.
"""

from .. import state
from ..mmu import geometry as tables
from ..mmu import roots, sptes, walk
from ..oracle import walker
from ..state import core, layout
from . import architecture, l2_paging, tlb_model
from . import area as areas

MASK = (1 << 62) - 1
PRIME = 0x1E3779B97F4A7C15


@core
def fold(h, value):
    """Mix one word in; the same compiled (wrapping) and interpreted (long)."""
    h = ((h ^ (value & MASK)) * PRIME) & MASK
    return h ^ (h >> 31)


@core
def sum_of(words, n):
    """Digest of n words that do not wait for each other: each is mixed with its place, the results are added."""
    total = 0
    for i in range(n):
        w = ((words[i] ^ (i * 0x5851F42D4C957F2D)) & MASK) * PRIME & MASK
        total += (w ^ w >> 29) * 0x2545F4914F6CDD1D & MASK
    return total & MASK


@core
def label_pages(vm, area):
    """A name for every shadow page that does not depend on its number: place in the active list, then the invalid roots."""
    labels = areas.common(vm, area, areas.OUTCOMES)
    for i in range(vm.n_pages):
        labels[i] = 0
    n = 1
    i = vm.list_head[0]
    # a broken MMU may have made a ring of the list
    while i >= 0 and labels[i] == 0:
        labels[i] = n
        n += 1
        i = state.page(vm, i).next
    for i in range(vm.n_pages):
        if labels[i] == 0 and state.page(vm, i).in_use:
            labels[i] = n
            n += 1


@core
def named(vm, area, entry):
    """An spte, root or held row with the number of a shadow page replaced by its label, that of a vCPU's special frame
    (pae_root, pml4_root, ...) by its place among them."""
    frame = tables.entry_frame(entry)
    i = tables.frame_to_page(vm, frame)
    if i < 0:
        special = frame - vm.shadow_pfn - 1
        if 0 <= special < vm.n_vcpus * layout.SPECIAL_PER_VCPU:
            return entry & 0xFFF | (special % layout.SPECIAL_PER_VCPU + 0x3000) << 12 | entry & -(1 << 52)
        return entry
    return entry & 0xFFF | (areas.common(vm, area, areas.OUTCOMES)[i] + 0x4000) << 12 | entry & -(1 << 52)


@core
def digest_page(vm, area, h, sp):
    h = fold(h, sp.gfn)
    h = fold(h, sp.role)
    h = fold(h, sp.unsync | sp.unsync_children << 1 | sp.root_count << 8 | sp.write_flooding_count << 16
             | (sp.mmu_valid_gen != vm.mmu_valid_gen) << 24 | sp.unsync_child_bitmap[0] << 32)
    first = tables.first_sptep(vm, sp.id)
    gfns = state.words32(vm, vm.translation)
    for k in range(tables.entries(vm)):
        spte = tables.read_spte(vm, first + k)
        h = fold(h, named(vm, area, spte))
        if sp.has_translation and sptes.is_present(spte):
            h = fold(h, gfns[first + k] + 0)
    return h


@core
def digest_pending(vm, h, v, p):
    """What a vCPU has begun: its parameters, what its walk saw, and the fault so far."""
    for i in range(areas.PENDING_WORDS):
        h = fold(h, p[i])
    w = walk.walker_of(vm, state.vcpu(vm, v), walk.FAULT_WALKER)
    h = fold(h, w.level | w.pte_access << 8 | w.gfn << 16)
    for i in range(layout.MAX_LEVEL):
        h = fold(h, w.ptes[i])
        h = fold(h, w.table_gfn[i] << 8 | w.pt_access[i])
    f = state.fault(vm, 2 * v)
    h = fold(h, f.slot << 32 | f.map_writable << 8 | f.max_level)
    return fold(h, f.pfn << 1 | (f.mmu_seq != vm.invalidate_seq))


@core
def digest_nested(vm, area, h, v):
    """What nested paging adds to a vCPU: the other MMU's roots, and who runs on what."""
    vcpu = state.vcpu(vm, v)
    for i in range(2):
        ctx = state.context(vm, 3 * v + i)
        h = fold(h, named(vm, area, ctx.root_hpa))
        h = fold(h, ctx.root_role << 32 | ctx.cpu_role)
        for k in range(3):
            h = fold(h, named(vm, area, ctx.prev_hpa[k]))
            h = fold(h, ctx.prev_pgd[k])
        for k in range(4):
            h = fold(h, named(vm, area, roots.read_pae_root(vm, ctx, k)))
    h = fold(h, vcpu.l1_cr4 << 16 | vcpu.l1_efer)
    h = fold(h, architecture.cpu_of(vm, area, v)[walker.TAG] << 8 | vcpu.guest_mode << 4 | vcpu.vpid << 1)
    if areas.head(vm, area)[areas.L2_CR0]:
        h = fold(h, sum_of(l2_paging.combined_of(vm, area, v), 3 + 3 * l2_paging.combined_of(vm, area, v)[0]))
        h = fold(h, l2_paging.digest_rows(vm, area, v))
    return fold(h, vcpu.nested_pgd)


@core
def digest_vcpu(vm, area, v):
    h = 1
    vcpu = state.vcpu(vm, v)
    ctx = state.context(vm, vcpu.mmu)
    h = fold(h, vcpu.cr0)
    h = fold(h, vcpu.cr3)
    h = fold(h, vcpu.cr4 << 16 | vcpu.efer)
    h = fold(h, vcpu.requests << 8 | vcpu.in_guest << 1 | vcpu.smm)
    h = fold(h, named(vm, area, ctx.root_hpa))
    h = fold(h, named(vm, area, vcpu.hw_root))
    for i in range(3):
        h = fold(h, named(vm, area, ctx.prev_hpa[i]))
        h = fold(h, ctx.prev_pgd[i])
    for i in range(4):
        h = fold(h, ctx.pdptrs[i])
        h = fold(h, named(vm, area, roots.read_pae_root(vm, ctx, i)))
    if state.rules(vm).tdp_enabled:
        h = digest_nested(vm, area, h, v)
    h = fold(h, vcpu.mmio_gva)
    h = fold(h, vcpu.mmio_gfn << 32 | vcpu.mmio_access << 16 | vcpu.mmio_gen)
    h = fold(h, vcpu.last_retry_addr)
    p = areas.part(vm, area, v, areas.PENDING)
    if p[0]:
        h = digest_pending(vm, h, v, p)
    held = areas.part(vm, area, v, areas.HELD)
    total = 0
    for i in range(held[tlb_model.COUNT]):
        at = tlb_model.ROWS + i * tlb_model.ROW_WORDS
        total = (total + fold(fold(fold(0, held[at]), held[at + 1]), named(vm, area, held[at + 2]))) & MASK
    h = fold(h, total)
    return fold(h, sum_of(architecture.permitted_of(vm, area, v), architecture.permitted_words(vm, area, v)))


@core
def digest(vm, area):
    """62-bit digest of the state."""
    label_pages(vm, area)
    h = 1
    for v in range(vm.n_vcpus):
        # a sum: which vCPU is which does not matter
        h = (h + digest_vcpu(vm, area, v)) & MASK
    i = vm.list_head[0]
    for _ in range(vm.n_pages):
        if i < 0:
            break
        sp = state.page(vm, i)
        h = digest_page(vm, area, h, sp)
        i = sp.next
    for i in range(vm.n_pages):
        sp = state.page(vm, i)
        if sp.in_use and (sp.list == layout.NO_LIST or sp.list == layout.TDP_ROOT_LIST):
            h = digest_page(vm, area, h, sp)
    head = areas.head(vm, area)
    h = fold(h, head[areas.TAINTED] | head[areas.KEPT] << 4 | head[areas.UNTRACKED] << 8 | head[areas.HOST_CODE] << 16
             | head[areas.HOST_A] << 32)
    h = fold(h, vm.n_max_mmu_pages << 32 | vm.indirect_shadow_pages << 16 | vm.mmio_generation[0])
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if not slot.used:
            continue
        h = fold(h, slot.id << 48 | slot.as_id << 40 | slot.base_gfn << 32 | slot.hva << 16 | slot.flags)
        for k in range(slot.npages):
            meta = state.meta(vm, slot.meta + k)
            h = fold(h, meta.dirty | meta.write_track << 1 | (meta.rmap != 0) << 16)
    h = fold(h, sum_of(state.words(vm, vm.hva), vm.n_hva))
    return fold(h, sum_of(state.words(vm, vm.ram), vm.n_ram << (vm.page_shift - 3))) | 1
