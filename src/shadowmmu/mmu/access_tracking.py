# SPDX-License-Identifier: GPL-2.0-or-later
"""Age without an Accessed bit: on a host whose second-level tables have no A/D bits, an old page is made not present to
the hardware, and the fault of its next use tells that it is young again.

    leaf        | A/D type disabled | ... | MMU-present | W P |
    mark        saved := P (bit 54), P := 0, W := 0              the page is old
    restore     P := saved, saved := 0; W comes back on a write, from the MMU-writable bit (fast_page_fault)

The kernel does this for EPT (R and X of the EPT entry are saved); our entries say "readable" with P and "not
executable" with NX, so P alone has to be saved.
"""

from ..state import core
from ..x86.bits import PT_ACCESSED, PT_PRESENT, PT_WRITABLE
from . import sptes

#: SHADOW_ACC_TRACK_SAVED_BITS_SHIFT: bit 0 of a leaf is kept here.
SAVED_PRESENT = 1 << 54


@core
def is_tracked(spte):
    """is_access_track_spte."""
    return not sptes.ad_enabled(spte) and not spte & PT_PRESENT


@core
def is_accessed(spte):
    """is_accessed_spte: with A/D bits the bit, without them "not marked"."""
    if sptes.ad_enabled(spte):
        return spte & PT_ACCESSED != 0
    return not is_tracked(spte)


@core
def mark(spte):
    """mark_spte_for_access_track."""
    if sptes.ad_enabled(spte):
        return spte & ~PT_ACCESSED
    if is_tracked(spte):
        return spte
    return (spte | SAVED_PRESENT) & ~(PT_PRESENT | PT_WRITABLE)


@core
def mark_new(spte):
    """The last step of make_spte for a prefetched entry: nobody has used the page yet.  With A/D bits make_spte left A
    clear already, and D stays."""
    return spte if sptes.ad_enabled(spte) else mark(spte)


@core
def restore(spte):
    """restore_acc_track_spte."""
    return (spte | PT_PRESENT) & ~SAVED_PRESENT
