# SPDX-License-Identifier: GPL-2.0-or-later
"""The hardware's TLB, at its worst: whatever the shadow tables allowed since the last flush that covered it.

    shadow tables now --sample--> HELD rows of this vCPU --(hw_flush, hw_flush_gva at the entry)--> fewer rows

    row = NAME                        ADDRESS                 VALUE
          pcid | kind | level         first address covered   frame << 12 | W U D | NX

    PAGE   a leaf that the CPU may have cached
    TABLE  a partial walk (paging-structure cache): a table unlinked without a flush is still walked

Hardware here is AMD's with our tables (vm/hardware.py): tagged by the PCID in hardware CR3 (only 64-bit tables carry one);
hw_flush empties the tag of the guest, every PCID (TLB_CONTROL, APM vol. 2 15.16.1), hw_flush_gva is INVLPGA, taken to
remove the leaves of one address in every PCID and no partial walk (15.16.2: the least it promises).

The check on a set does not depend on luck: if a translation in it is not permitted, some CPU can use it.
"""

from .. import state
from ..mmu import geometry, roles, sptes, warn
from ..state import core
from ..vm import hardware, two_dimensional
from ..x86.bits import CR3_PCID_MASK, CR4_PCIDE, FRAME_MASK, FRAME_SHIFT, NX, PT_DIRTY, PT_PRESENT, PT_USER, PT_WRITABLE
from . import area as areas
from . import l2_paging

COUNT, LAST_ROOT, LAST_SUM, ROWS = 0, 1, 2, 4
ROW_WORDS = 3
PAGE_ROW, TABLE_ROW = 0, 1 << 3
KIND, LEVEL = 1 << 3, 7
PCID_SHIFT = 4
#: Level of the guest page that a row is a part of; 0: the row is the whole.
WHOLE_SHIFT = 16


@core
def hold(vm, area, held, name, address, value):
    """Add a row, once."""
    n = held[COUNT] + 0
    at = ROWS
    for _ in range(n):
        if held[at + 1] == address and held[at + 2] == value and held[at] == name:
            return
        at += ROW_WORDS
    if n == areas.HARDWARE_ROWS:
        areas.head(vm, area)[areas.FULL] = 1
        return
    held[at] = name
    held[at + 1] = address
    held[at + 2] = value
    held[COUNT] = n + 1


@core
def drop(held, i):
    """Take row i out (the last one takes its place); freed words become zero."""
    n = held[COUNT] - 1
    held[COUNT] = n
    at = ROWS + i * ROW_WORDS
    last = ROWS + n * ROW_WORDS
    for k in range(ROW_WORDS):
        held[at + k] = held[last + k]
        held[last + k] = 0


@core
def clear(held):
    """Nothing is held."""
    for i in range(ROWS + (held[COUNT] + 0) * ROW_WORDS):
        held[i] = 0


@core
def current_pcid(vm, area, vcpu):
    """PCID in hardware CR3.  With nested paging, rows are guest-physical: under AMD's ASID, which L1 and L2 share, or Intel's
    EP4TA, the root's frame."""
    if areas.head(vm, area)[areas.UNSHADOWED]:
        return vcpu.cr3 & CR3_PCID_MASK if vcpu.cr4 & CR4_PCIDE else 0
    if state.rules(vm).tdp_enabled:
        return 0 if vcpu.is_amd else geometry.entry_frame(vcpu.hw_root) - vm.shadow_pfn
    if roles.level(state.context(vm, vcpu.mmu).root_role) < 4:
        return 0
    return vcpu.hw_root & CR3_PCID_MASK


@core
def pcid_of(name):
    """PCID of a row (above it: `unshadowed`)."""
    return name >> PCID_SHIFT & CR3_PCID_MASK


@core
def covers(vm, name, address, gva):
    """Does an INVLPG of `gva` take this leaf?  Of a large page it takes every part (SDM vol. 3 4.10.2.3)."""
    level = max(name & LEVEL, name >> WHOLE_SHIFT & 3)
    return (address ^ gva) & -(geometry.pages_per_hpage(vm, level) << vm.page_shift) == 0


@core
def obey(vm, area, vcpu, held):
    """At an entry: do the flushes that the MMU asked for."""
    l2_paging.obey(vm, area, vcpu)
    if vcpu.hw_flush:
        clear(held)
    elif not areas.nested(vm, area):
        # (INVLPGA and INVVPID promise nothing about guest-physical rows)
        if vcpu.hw_flush_count:
            held[LAST_ROOT] = 0
        for k in range(vcpu.hw_flush_count):
            gva = vcpu.hw_flush_gva[k]
            i = 0
            while i < held[COUNT]:
                at = ROWS + i * ROW_WORDS
                name = held[at]
                if not name & KIND and covers(vm, name, held[at + 1] + 0, gva):
                    drop(held, i)
                else:
                    i += 1
    vcpu.hw_flush = 0
    vcpu.hw_flush_count = 0
    for k in range(16):
        vcpu.hw_flush_gva[k] = 0


@core
def table_sum(vm):
    """Checksum of all shadow tables: each entry, multiplied by an odd number of its place, so that the terms do not wait for
    each other."""
    spt = state.words(vm, vm.spt)
    total = 0
    for i in range((vm.special_frames + vm.n_pages) << vm.level_bits):
        total += spt[i] * (2 * i + 0x10001) ^ spt[i] >> 40
    return total & 0x3FFFFFFFFFFFF


@core
def expand(vm, area, held, pcid, level, address, value):
    """Hold everything that one table offers.  value: rights so far."""
    limit = areas.head(vm, area)[areas.LIMIT]
    size = geometry.pages_per_hpage(vm, level) << vm.page_shift
    frame = geometry.entry_frame(value)
    if not geometry.is_table(vm, frame):
        warn.warn(vm, warn.NO_TABLE)
        return
    first = geometry.frame_sptep(vm, frame)
    for i in range(1 << vm.level_bits):
        at = address + i * size
        if at >= limit:
            return
        spte = geometry.read_spte(vm, first + i)
        if not spte & PT_PRESENT or spte & sptes.MMIO_MASK == sptes.MMIO_VALUE:
            continue
        if level == 3 and first < vm.special_frames << vm.level_bits:
            # an entry of pae_root has no rights
            hold(vm, area, held, pcid << PCID_SHIFT | TABLE_ROW | 2, at, spte & FRAME_MASK | PT_WRITABLE | PT_USER)
            continue
        rights = spte & value & (PT_WRITABLE | PT_USER) | (spte | value) & NX | spte & FRAME_MASK
        if sptes.is_last(spte, level):
            hold(vm, area, held, pcid << PCID_SHIFT | level, at, rights | spte & PT_DIRTY)
        else:
            hold(vm, area, held, pcid << PCID_SHIFT | TABLE_ROW | level - 1, at, rights)


@core
def sample(vm, area, v):
    """While the vCPU runs guest code: hold everything that the tables offer now.  True if there may be something new."""
    vcpu = state.vcpu(vm, v)
    held = areas.part(vm, area, v, areas.HELD)
    total = table_sum(vm)
    if held[LAST_ROOT] == vcpu.hw_root and held[LAST_SUM] == total and held[COUNT]:
        return False
    held[LAST_ROOT] = vcpu.hw_root
    held[LAST_SUM] = total
    pcid = current_pcid(vm, area, vcpu)
    level = roles.level(state.context(vm, vcpu.mmu).root_role)
    if state.rules(vm).tdp_enabled:
        level = two_dimensional.levels_of(vm, vcpu)
    frame = geometry.entry_frame(vcpu.hw_root)
    expand(vm, area, held, pcid, level, 0, frame << FRAME_SHIFT | PT_WRITABLE | PT_USER)
    i = 0
    while i < held[COUNT]:
        at = ROWS + i * ROW_WORDS
        name = held[at]
        if name & KIND and pcid_of(name) == pcid:
            expand(vm, area, held, pcid, name & LEVEL, held[at + 1], held[at + 2])
        i += 1
    return True


@core
def find(vm, area, v, gva, access):
    """Row (index) that lets the CPU do `access` (PFEC W, U, F) at `gva` without looking into the tables, of those the one that
    was held first; -1 for none."""
    vcpu = state.vcpu(vm, v)
    held = areas.part(vm, area, v, areas.HELD)
    pcid = current_pcid(vm, area, vcpu)
    for i in range(held[COUNT]):
        at = ROWS + i * ROW_WORDS
        name = held[at]
        if name & KIND or pcid_of(name) != pcid:
            continue
        size = geometry.pages_per_hpage(vm, name & LEVEL) << vm.page_shift
        value = held[at + 2]
        if held[at + 1] != gva & -size or access & 2 and not value & PT_DIRTY:
            continue
        if not hardware.permission_error(vcpu, value & PT_WRITABLE != 0, value & PT_USER != 0, value & NX != 0, access):
            return i
    return -1


@core
def frame_of(vm, held, i, gva):
    """Host frame that row i gives for `gva`."""
    at = ROWS + i * ROW_WORDS
    pages = geometry.pages_per_hpage(vm, held[at] & LEVEL)
    return (held[at + 2] & FRAME_MASK) >> FRAME_SHIFT & -pages | gva >> vm.page_shift & (pages - 1)
