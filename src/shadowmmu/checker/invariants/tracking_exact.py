# SPDX-License-Identifier: GPL-2.0-or-later
"""write_track and disallow_lpage count what they are for.

    write_track[gfn]      valid upper-level pages at gfn that shadow a guest table, of the slot's address space
    disallow_lpage[n]     valid pages of any level inside the large page, plus 1 where the slot's edge or the alignment
                          of gfn and hva rules a large page out

Dossier 2.3, rows "write tracking" and "large pages".  "Valid-or-zapping-not-invalid" there is simply "not invalid": an
obsolete page counts until it is zapped, and the counters go down in the same breath that marks it invalid.
"""

from collections import Counter

from ... import state
from ...mmu import roles
from ...state import core, layout
from . import raw
from .picture import look


def check(vm):
    p, out = look(vm), []
    tracked, tables = Counter(), Counter()
    for page in p.pages.values():
        if page.has_gptes and not page.invalid:
            tables[page.as_id, page.gfn] += 1
            if page.level > 1:
                tracked[page.as_id, page.gfn] += 1
    for slot in p.slots:
        mine = {gfn: n for (as_id, gfn), n in tables.items() if as_id == slot.as_id and slot.holds(gfn)}
        for k, got in enumerate(p.column(slot, 1, "write_track")):
            right = tracked.get((slot.as_id, slot.base + k), 0)
            if got != right:
                out.append(f"write_track of gfn {slot.base + k:#x} is {got}, should be {right}")
        for level in (2, 3):
            span = p.span(level)
            count = p.large_count(slot, level)
            inside = Counter()
            for gfn, n in mine.items():
                inside[gfn // span - slot.base // span] += n
            for k, got in enumerate(p.column(slot, level, "disallow_lpage")):
                edge = (slot.base ^ slot.hva) % span or (k == 0 and slot.base % span) \
                    or (k == count - 1 and (slot.base + slot.npages) % span)
                right = inside[k] + bool(edge)
                if got != right:
                    out.append(f"disallow_lpage {k} of slot {slot.id} level {level} is {got}, should be {right}")
    for as_id, gfn in tables:
        if p.slot_of(as_id, gfn) is None:
            out.append(f"a page shadows a guest table at gfn {gfn:#x}, which is in no memslot")
    return out


@core
def tables_in(vm, slot, first, count, least):
    """Pages on the active list (all that are not invalid: `lists`) of at least level `least` that shadow guest tables at
    these gfns of the slot."""
    n = 0
    k = vm.list_head[layout.ACTIVE_LIST]
    for _ in range(vm.n_pages):
        if k < 0:
            break
        sp = state.page(vm, k)
        if first <= sp.gfn < first + count and raw.has_gptes(sp) and not sp.role & roles.INVALID \
                and raw.space(sp) == slot.as_id and slot.base_gfn <= sp.gfn < slot.base_gfn + slot.npages \
                and raw.level(sp) >= least:
            n += 1
        k = sp.next
    return n


@core
def disallow(vm, slot, lv, k):
    if lv == 2:
        return state.meta2(vm, slot.meta2 + k).disallow_lpage
    return state.meta3(vm, slot.meta3 + k).disallow_lpage


@core
def edge(vm, slot, lv, k, count):
    """1 if the slot's shape alone rules a large page out there."""
    mask = raw.span(vm, lv) - 1
    if (slot.base_gfn ^ slot.hva) & mask or k == 0 and slot.base_gfn & mask:
        return 1
    return 1 if k == count - 1 and (slot.base_gfn + slot.npages) & mask else 0


@core
def page_holds(vm, slot, sp):
    """The counters that this page is counted in."""
    if raw.level(sp) > 1 and state.meta(vm, slot.meta + sp.gfn - slot.base_gfn).write_track != tables_in(vm, slot, sp.gfn, 1, 2):
        return False
    for lv in range(2, 4):
        span = raw.span(vm, lv)
        k = raw.large_index(vm, slot, sp.gfn, lv)
        right = tables_in(vm, slot, sp.gfn & -span, span, 1) + edge(vm, slot, lv, k, raw.large_count(vm, slot, lv))
        if disallow(vm, slot, lv, k) != right:
            return False
    return True


@core
def sums_hold(vm, slot):
    """The counters count nothing else: their sums over the slot."""
    upper = 0
    for k in range(slot.npages):
        upper += state.meta(vm, slot.meta + k).write_track
    if upper != tables_in(vm, slot, slot.base_gfn, slot.npages, 2):
        return False
    tables = tables_in(vm, slot, slot.base_gfn, slot.npages, 1)
    for lv in range(2, 4):
        count = raw.large_count(vm, slot, lv)
        total = 0
        for k in range(count):
            total += disallow(vm, slot, lv, k) - edge(vm, slot, lv, k, count)
        if total != tables:
            return False
    return True


@core
def holds(vm):
    """The same, compiled: right at every gfn that has a page, and right in sum."""
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if slot.used and not sums_hold(vm, slot):
            return False
    for i in range(vm.n_pages):
        sp = state.page(vm, i)
        if not sp.in_use or not raw.has_gptes(sp) or sp.role & roles.INVALID:
            continue
        s = raw.slot_of(vm, raw.space(sp), sp.gfn)
        if s < 0 or not page_holds(vm, state.slot(vm, s), sp):
            return False
    return True
