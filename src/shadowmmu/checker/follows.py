# SPDX-License-Identifier: GPL-2.0-or-later
"""A write-protected guest table and its shadow say the same: check 7.

    guest table   [ PD   | 0    | large 8 | ...  ]      every write to it goes through KVM, which takes the entry's shadow away
    its shadow    [ sp(PD) | -  | direct sp(8) | ]      present here  =>  present there, and it leads to the same gfn

An unsync page may differ until the next flush that covers it; there the architecture decides (checks 1 to 3).  For all others a
difference is an error even before a guest can see it: nothing will ever correct it (kvm_mmu_track_write and
account_shadowed; FNAME(fetch) looks at the entry again once the table is write-protected).  Rights are not compared: what a bit
means depends on the role, and the checks of translations see it.

Like the invariants it reads the raw words and asks none of the MMU's functions.
"""

from .. import state
from ..mmu import roles
from ..state import core
from ..x86.bits import FRAME_MASK, PT_PAGE_SIZE
from .invariants import raw

HVA_FRAME = (1 << 56) - 1


@core
def table_of(vm, sp):
    """RAM offset of the guest table behind a shadow page; -1 where the host has none now."""
    i = raw.slot_of(vm, raw.space(sp), sp.gfn)
    if i < 0:
        return -1
    slot = state.slot(vm, i)
    frame = state.words(vm, vm.hva)[slot.hva + sp.gfn - slot.base_gfn]
    if frame == -1:
        return -1
    return ((frame & HVA_FRAME) - vm.ram_pfn) << vm.page_shift


@core
def guest_entry(vm, sp, table, i, short):
    """The guest's entry that entry i of the shadow stands for.  short: a table of 4-byte entries; it has several shadows, and two
    entries of its directory's stand for one."""
    if not short:
        return state.words(vm, vm.ram)[(table >> 3) + i]
    number = (sp.role & roles.QUADRANT) >> roles.QUADRANT_SHIFT << vm.level_bits | i
    return (state.words32(vm, vm.ram)[(table >> 2) + (number >> (raw.level(sp) - 1))] + 0) & 0xFFFFFFFF


@core
def same(vm, sp, i, spte, gpte, ept, short):
    """Does a present entry of the shadow say what the guest's entry says?"""
    if not gpte & (7 if ept else 1):
        return False
    gfn = (gpte & FRAME_MASK) >> 12
    level = raw.level(sp)
    if level == 1:
        return raw.gfn(vm, sp, i) == gfn
    large = level <= 3 and gpte & PT_PAGE_SIZE != 0
    pages = raw.span(vm, level)
    if short:
        pages *= 2
    if raw.is_leaf(sp, spte):
        return large and raw.gfn(vm, sp, i) & -pages == gfn & -pages
    c = raw.child(vm, spte)
    if c < 0:
        return False
    child = state.page(vm, c)
    if large and short:
        # whether bit 7 means a large page is for CR4.PSE to say, which is in no role
        return child.gfn & -pages == gfn & -pages
    if large:
        return child.role & roles.DIRECT != 0 and child.gfn & -pages == gfn & -pages
    return not child.role & roles.DIRECT and child.gfn == gfn


@core
def differs(vm):
    """Place (sptep) of an entry that does not follow its guest table; -1 if there is none."""
    ept = state.rules(vm).tdp_enabled != 0 and not state.vcpu(vm, 0).is_amd
    for n in range(vm.n_pages):
        sp = state.page(vm, n)
        if not raw.is_shadow_page(sp) or not raw.has_gptes(sp) or sp.unsync or not raw.valid(vm, sp):
            continue
        table = table_of(vm, sp)
        if table < 0:
            continue
        # entries of EPT have 8 bytes whatever the role says
        short = sp.role & roles.HAS_4_BYTE_GPTE != 0 and not ept
        for i in range(1 << vm.level_bits):
            spte = raw.entry(vm, sp, i)
            if raw.present(spte) and not same(vm, sp, i, spte, guest_entry(vm, sp, table, i, short), ept, short):
                return raw.place(vm, sp, i)
    return -1
