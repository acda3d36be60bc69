# SPDX-License-Identifier: GPL-2.0-or-later
"""write_track and disallow_lpage count what they are for.

    write_track[gfn]      valid upper-level pages at gfn that shadow a guest table, of the slot's address space
    disallow_lpage[n]     valid pages of any level inside the large page, plus 1 where the slot's edge or the alignment
                          of gfn and hva rules a large page out

Dossier 2.3, rows "write tracking" and "large pages".  "Valid-or-zapping-not-invalid" there is simply "not invalid": an
obsolete page counts until it is zapped, and the counters go down in the same breath that marks it invalid.
"""

from collections import Counter

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
