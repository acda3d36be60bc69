# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's state decoded once, for all invariants to look at.

    raw words --> Picture: pages (tables included), trees (pages of the TDP MMU), slots, links parent -> child, leaves,
                  references to roots

Only bytes and bit positions are shared with the MMU: nothing here calls a function of `mmu/`, so a mistake there
cannot hide itself.
"""

from dataclasses import dataclass, field

from ...mmu import roles
from ...state import interpreted, layout
from ...x86.bits import FRAME_MASK, PT_PAGE_SIZE, PT_PRESENT

HOST_WRITABLE, MMU_WRITABLE, MMU_PRESENT = 1 << 9, 1 << 10, 1 << 11
MMIO_MARK = 1 << 51 | PT_PRESENT


@dataclass
class Page:
    """A shadow page in use."""

    id: int
    gfn: int
    role: int
    record: object
    table: list
    bits: set = field(default_factory=set)

    @property
    def level(self):
        return self.role & roles.LEVEL

    @property
    def direct(self):
        return bool(self.role & roles.DIRECT)

    @property
    def invalid(self):
        return bool(self.role & roles.INVALID)

    @property
    def has_gptes(self):
        return not self.role & (roles.DIRECT | roles.PASSTHROUGH)

    @property
    def as_id(self):
        return 1 if self.role & roles.SMM else 0

    @property
    def tdp(self):
        return bool(self.record.tdp_mmu_page)

    def __str__(self):
        return f"{'TDP page' if self.tdp else 'page'} {self.id} (gfn {self.gfn:#x} role {self.role:#x} level {self.level})"


@dataclass(frozen=True)
class Leaf:
    """A present spte that maps memory."""

    page: Page
    index: int
    sptep: int
    spte: int
    gfn: int

    @property
    def level(self):
        return self.page.level

    @property
    def pfn(self):
        return (self.spte & FRAME_MASK) >> 12

    def __str__(self):
        return f"entry {self.index} of {self.page} for gfn {self.gfn:#x}"


@dataclass(frozen=True)
class Link:
    """A present spte that points to a shadow table; `child` is None when no such page is in use."""

    parent: Page
    index: int
    sptep: int
    child: Page | None


@dataclass(frozen=True)
class Slot:
    """A memslot in use, with its place in the state."""

    index: int
    id: int
    as_id: int
    base: int
    npages: int
    hva: int
    flags: int
    record: object

    def holds(self, gfn):
        return self.base <= gfn < self.base + self.npages


class Picture:
    """What `look` returns."""

    def __init__(self, vm):
        self.vm, self.view = vm, vm.view
        view = self.view
        self.rules = interpreted.rules(view)
        self.bits, self.entries = view.level_bits, 1 << view.level_bits
        self.slots = self._slots()
        self.pages, self.trees = {}, {}
        spt, at = view.view, (view.spt >> 3)
        for i in range(view.n_pages):
            record = interpreted.page(view, i)
            if record.in_use:
                first = at + self.first_sptep(i)
                page = Page(i, record.gfn, record.role, record, spt[first:first + self.entries].tolist())
                for w, word in enumerate(record.unsync_child_bitmap[k] for k in range(layout.BITMAP_WORDS)):
                    page.bits |= {32 * w + b for b in range(32) if word >> b & 1}
                (self.trees if page.tdp else self.pages)[i] = page
        self.valid = [p for p in self.pages.values() if not p.invalid and p.record.mmu_valid_gen == view.mmu_valid_gen]
        self.leaves, self.links, self.mmio = [], [], []
        for page in self.everything():
            self._entries_of(page)

    def everything(self):
        """All pages in use: those of the shadow MMU and those of the TDP MMU."""
        return [*self.pages.values(), *self.trees.values()]

    def page_in_use(self, i):
        """A page of either kind, or None."""
        return self.pages.get(i) or self.trees.get(i)

    def _slots(self):
        out = []
        for i in range(self.view.n_slots):
            r = interpreted.slot(self.view, i)
            if r.used:
                out.append(Slot(i, r.id, r.as_id, r.base_gfn, r.npages, r.hva, r.flags, r))
        return out

    def _entries_of(self, page):
        first = self.first_sptep(page.id)
        empty = self.rules.nonpresent_spte
        for i, spte in enumerate(page.table):
            if spte == empty:
                continue
            if not spte & MMU_PRESENT:
                if spte & MMIO_MARK == MMIO_MARK:
                    self.mmio.append((page, i, spte))
                continue
            if page.level == 1 or spte & PT_PAGE_SIZE:
                self.leaves.append(Leaf(page, i, first + i, spte, self.gfn_of(page, i)))
            else:
                child = self.page_in_use(self.page_of_frame((spte & FRAME_MASK) >> 12))
                self.links.append(Link(page, i, first + i, child))

    # -- arithmetic

    def span(self, level):
        """4K pages that an entry of `level` covers."""
        return 1 << self.bits * (level - 1)

    def first_sptep(self, i):
        """Place of entry 0 of shadow page `i`."""
        return (self.view.special_frames + i) << self.bits

    def page_of_frame(self, frame):
        """Index of the shadow page whose table is this frame; None for others."""
        i = frame - self.view.shadow_pfn - self.view.special_frames
        return i if 0 <= i < self.view.n_pages else None

    def gfn_of(self, page, index):
        """The gfn that an entry stands for: computed for direct pages, recorded for indirect ones."""
        if page.role & roles.PASSTHROUGH:
            return page.gfn
        if page.has_gptes and page.level <= 3:
            return interpreted.words32(self.view, self.view.translation)[self.first_sptep(page.id) + index] >> 4
        return page.gfn + index * self.span(page.level)

    def slot_of(self, as_id, gfn):
        """The memslot of a gfn, or None."""
        return next((s for s in self.slots if s.as_id == as_id and s.holds(gfn)), None)

    def frames(self, slot, gfn, count):
        """Host frames behind gfns; -1 where the host has none now."""
        at = (self.view.hva >> 3) + slot.hva + gfn - slot.base
        return [entry if entry == -1 else entry & (1 << 56) - 1 for entry in self.view.view[at:at + count].tolist()]

    # -- metadata of slots

    def large_count(self, slot, level):
        """Entries of a slot's table at `level`."""
        shift = self.bits * (level - 1)
        return ((slot.base + slot.npages - 1) >> shift) - (slot.base >> shift) + 1

    def column(self, slot, level, name):
        """One field of all metadata records of a slot at `level`."""
        table, first, fields = {1: (self.view.meta, slot.record.meta, layout.META),
                                2: (self.view.meta2, slot.record.meta2, layout.META_LARGE),
                                3: (self.view.meta3, slot.record.meta3, layout.META_LARGE)}[level]
        size, place = len(fields), list(fields).index(name)
        at = (table >> 3) + first * size
        return self.view.view[at:at + self.large_count(slot, level) * size].tolist()[place::size]

    # -- lists of sptes

    def places(self, head):
        """(places of sptes, descriptors) of a pte_list head."""
        if head == 0:
            return [], []
        if not head & 1:
            return [(head >> 1) - 1], []
        out, descs, d = [], [], (head >> 1) - 1
        while d >= 0 and len(descs) <= self.view.n_descs:
            desc = interpreted.desc(self.view, d)
            out += [desc.sptes[k] for k in range(desc.spte_count)]
            descs.append(d)
            d = desc.more
        return out, descs

    def heads(self):
        """Every pte_list head: (description, head)."""
        for page in self.pages.values():
            yield f"parent_ptes of {page}", page.record.parent_ptes
        for slot in self.slots:
            for level in (1, 2, 3):
                for k, head in enumerate(self.column(slot, level, "rmap")):
                    if head:
                        yield f"rmap {k} of slot {slot.id} level {level}", head

    # -- roots

    def contexts(self):
        """(vCPU, number of the MMU, record) of every MMU context."""
        for v in range(self.view.n_vcpus):
            for m in range(layout.CONTEXTS_PER_VCPU):
                yield v, m, interpreted.context(self.view, v * layout.CONTEXTS_PER_VCPU + m)

    def pae_entries(self, ctx):
        """The four PDPTEs of the context's pae_root."""
        if not ctx.pae_root:
            return []
        first = (ctx.pae_root - self.view.shadow_pfn) << self.bits
        spt = interpreted.words(self.view, self.view.spt)
        return [spt[first + i] for i in range(4)]


def look(vm):
    """The picture of a `Vm`; a picture passes through, so that `check_all` decodes once."""
    return vm if isinstance(vm, Picture) else Picture(vm)
