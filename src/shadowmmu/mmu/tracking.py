# SPDX-License-Identifier: GPL-2.0-or-later
"""Which gfns hold guest page tables that we shadow: write tracking and the ban on large mappings.

    upper-level shadow page  -> write_track[gfn] += 1, disallow_lpage += 1: never writable while it is shadowed
    level-1 shadow page      -> disallow_lpage += 1, write-protected once: may become unsync later
"""

from .. import state
from ..state import core
from . import flush, geometry, memslots, rmap, roles, warn


@core
def update_disallow_lpage(vm, i, gfn, change):
    """update_gfn_disallow_lpage_count at 2M and 1G."""
    two = memslots.large_meta2(vm, i, gfn)
    two.disallow_lpage += change
    one = memslots.large_meta3(vm, i, gfn)
    one.disallow_lpage += change
    if two.disallow_lpage < 0 or one.disallow_lpage < 0:
        warn.warn(vm, 16)


@core
def account_shadowed(vm, sp):
    """account_shadowed: a new page shadows the guest table at sp.gfn."""
    gfn = sp.gfn
    vm.indirect_shadow_pages += 1
    i = memslots.role_gfn_to_memslot(vm, sp.role, gfn)
    if i < 0:
        warn.warn(vm, 17)
        return
    update_disallow_lpage(vm, i, gfn, 1)
    if roles.level(sp.role) > 1:
        # __kvm_write_track_add_gfn
        memslots.gfn_meta(vm, i, gfn).write_track += 1
        if rmap.slot_gfn_write_protect(vm, i, gfn, 1):
            flush.remote_tlbs(vm)
    elif rmap.slot_gfn_write_protect(vm, i, gfn, 1):
        flush.remote_tlbs_gfn(vm, gfn, 1)
    if state.rules(vm).protect_all_address_spaces:
        other = memslots.gfn_to_memslot(vm, 1 - state.slot(vm, i).as_id, gfn)
        if other >= 0 and rmap.slot_gfn_write_protect(vm, other, gfn, 1):
            flush.remote_tlbs_gfn(vm, gfn, 1)


@core
def unaccount_shadowed(vm, sp):
    """unaccount_shadowed: the page no longer shadows anything."""
    gfn = sp.gfn
    vm.indirect_shadow_pages -= 1
    i = memslots.role_gfn_to_memslot(vm, sp.role, gfn)
    if i < 0:
        warn.warn(vm, 17)
        return
    if roles.level(sp.role) > 1:
        meta = memslots.gfn_meta(vm, i, gfn)
        meta.write_track -= 1
        if meta.write_track < 0:
            warn.warn(vm, 15)
    update_disallow_lpage(vm, i, gfn, -1)


@core
def forbids_large(vm, i, gfn, level):
    """disallow_lpage of the slot; with `protect_all_address_spaces` also for tables shadowed in the other address space."""
    if memslots.disallow_lpage(vm, i, gfn, level):
        return True
    if not state.rules(vm).protect_all_address_spaces:
        return False
    other = memslots.gfn_to_memslot(vm, 1 - state.slot(vm, i).as_id, gfn)
    if other < 0:
        return False
    # a block that the slot does not hold completely counts once without any table
    slot = state.slot(vm, other)
    first = geometry.round_gfn(vm, gfn, level)
    whole = slot.base_gfn <= first and first + geometry.pages_per_hpage(vm, level) <= slot.base_gfn + slot.npages
    return memslots.disallow_lpage(vm, other, gfn, level) > (0 if whole else 1)


@core
def is_nothing_shadowed(vm, i, gfn):
    """Is a large page allowed at the gfn in every address space?  Then no table in that range is shadowed (b3ae3ceb5569)."""
    if memslots.disallow_lpage(vm, i, gfn, 2):
        return False
    other = memslots.gfn_to_memslot(vm, 1 - state.slot(vm, i).as_id, gfn)
    return other < 0 or not memslots.disallow_lpage(vm, other, gfn, 2)


@core
def gfn_is_write_tracked(vm, i, gfn):
    """kvm_gfn_is_write_tracked.

    Since 0f38453cdb2e (2026) every address space counts: a page made in SMM protects the gfn outside it, too.
    """
    if i < 0:
        return False
    if memslots.gfn_meta(vm, i, gfn).write_track:
        return True
    if state.rules(vm).track_all_address_spaces:
        other = memslots.gfn_to_memslot(vm, 1 - state.slot(vm, i).as_id, gfn)
        if other >= 0 and memslots.gfn_meta(vm, other, gfn).write_track:
            return True
    return False
