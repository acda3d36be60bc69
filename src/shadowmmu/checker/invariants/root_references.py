# SPDX-License-Identifier: GPL-2.0-or-later
"""root_count of a page is the number of roots that refer to it, over all vCPUs and MMUs.

    references: current root, previous roots, and, while the current root is pae_root, its present PDPTEs

Dossier 1.0 (f, seed 003) and 2.3, row "special roots".  Too low is a use after free, too high a page that can never go.
pae_root has present entries only while it is the current root; the dummy root maps nothing.
"""

from collections import Counter

from ...x86.bits import FRAME_MASK, PT_PRESENT
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
