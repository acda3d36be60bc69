# SPDX-License-Identifier: GPL-2.0-or-later
"""root_count of a page is the number of roots that refer to it, over all vCPUs and MMUs.

    references: current root, previous roots, and, while the current root is pae_root, its present PDPTEs

Dossier 1.0 (f, seed 003) and 2.3, row "special roots".  Too low is a use after free, too high a page that can never go.
pae_root has present entries only while it is the current root; the dummy root maps nothing.
"""

from collections import Counter

from ... import state
from ...mmu import roles
from ...state import core, layout
from ...x86.bits import FRAME_MASK, PT_PRESENT
from . import raw
from .picture import look


def check(vm):
    p, out = look(vm), []
    refs = Counter()
    for v, m, ctx in p.contexts():
        hpas = [ctx.root_hpa, *(ctx.prev_hpa[i] for i in range(3))]
        refs.update(p.page_of_frame(hpa >> 12) for hpa in hpas if hpa != -1)
        entries = p.pae_entries(ctx)
        special = (ctx.pae_root, ctx.pml4_root, ctx.pml5_root)
        present = [e for e in entries if e & PT_PRESENT]
        refs.update(p.page_of_frame((e & FRAME_MASK) >> 12) for e in present)
        if present and ctx.root_hpa >> 12 not in special:
            out.append(f"vCPU {v} MMU {m}: pae_root has entries although the root is {ctx.root_hpa:#x}")
        if ctx.root_hpa != -1 and p.page_of_frame(ctx.root_hpa >> 12) is None \
                and ctx.root_hpa >> 12 not in (*special, p.view.shadow_pfn):
            out.append(f"vCPU {v} MMU {m}: the root {ctx.root_hpa:#x} is nobody's")
    refs.pop(None, None)
    # a root of the TDP MMU has one more reference: the MMU's own, until it is invalidated
    refs.update(i for i, page in p.trees.items() if page.record.ptep < 0 and not page.invalid)
    for i in set(refs) | set(p.pages) | set(p.trees):
        page = p.page_in_use(i)
        if page is None:
            out.append(f"page {i} is a root {refs[i]} times, but not in use")
        elif page.record.root_count != refs[i]:
            out.append(f"{page}: root_count {page.record.root_count}, references {refs[i]}")
    spt, first = p.view.view, p.view.spt >> 3
    if any(word & PT_PRESENT for word in spt[first:first + p.entries]):
        out.append("the dummy root has a present entry")
    return out


@core
def special(ctx, frame):
    return frame == ctx.pae_root or frame == ctx.pml4_root or frame == ctx.pml5_root


@core
def references(vm, c, i):
    """How often context `c` refers to shadow page `i`; -1 if what it refers to is nobody's."""
    ctx = state.context(vm, c)
    n = 0
    for k in range(-1, layout.NUM_PREV_ROOTS):
        hpa = ctx.root_hpa if k < 0 else ctx.prev_hpa[k]
        if hpa != -1 and hpa >> 12 == vm.shadow_pfn + vm.special_frames + i:
            n += 1
    if ctx.pae_root:
        spt = state.words(vm, vm.spt)
        first = (ctx.pae_root - vm.shadow_pfn) << vm.level_bits
        for k in range(4):
            entry = spt[first + k]
            if entry & PT_PRESENT and (entry & FRAME_MASK) >> 12 == vm.shadow_pfn + vm.special_frames + i:
                n += 1
    return n


@core
def context_holds(vm, c):
    """What a context refers to is there, and pae_root has entries only while it is the root."""
    ctx = state.context(vm, c)
    for k in range(-1, layout.NUM_PREV_ROOTS):
        hpa = ctx.root_hpa if k < 0 else ctx.prev_hpa[k]
        if hpa == -1 or raw.page_of(vm, hpa >> 12) >= 0:
            continue
        if k >= 0 or hpa >> 12 != vm.shadow_pfn and not special(ctx, hpa >> 12):
            return False
    if ctx.pae_root:
        spt = state.words(vm, vm.spt)
        first = (ctx.pae_root - vm.shadow_pfn) << vm.level_bits
        for k in range(4):
            entry = spt[first + k]
            if entry & PT_PRESENT and (not special(ctx, ctx.root_hpa >> 12) or raw.child(vm, entry) < 0):
                return False
    return True


@core
def holds(vm):
    """The same, compiled."""
    contexts = vm.n_vcpus * layout.CONTEXTS_PER_VCPU
    for c in range(contexts):
        if not context_holds(vm, c):
            return False
    for i in range(vm.n_pages):
        sp = state.page(vm, i)
        if not sp.in_use:
            continue
        # a root of the TDP MMU has one more reference: the MMU's own, until it is invalidated
        n = 1 if sp.tdp_mmu_page and sp.ptep < 0 and not sp.role & roles.INVALID else 0
        for c in range(contexts):
            n += references(vm, c, i)
        if n != sp.root_count:
            return False
    spt = state.words(vm, vm.spt)
    for k in range(1 << vm.level_bits):
        if spt[k] & PT_PRESENT:
            return False
    return True
