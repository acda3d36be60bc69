# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest page tables for the tests: built from the host before the guest runs, or by the guest itself.

    vm = machine()
    g = Guest(vm)                          # 4-level paging, vCPU 0, nothing mapped
    g.map(0x400000, 0x800000)              # a 4K page: tables appear as needed
    g.start()                              # KVM_SET_SREGS: paging on
    g.cpu.read(0x400000)

    g.alias(table gpa) -> gva              # a second, writable mapping of a page table: how the guest edits it
    g.poke(gva, entry)                     # the guest writes the level-1 entry of gva through such a mapping

Physical memory: tables from gfn 0x100 up, the caller's data wherever it likes.
"""

from shadowmmu.x86 import bits as b

P, W, U, A, D, PS, G, NX = 1, 2, 4, 0x20, 0x40, 0x80, 0x100, 1 << 63
TABLE, PAGE = P | W | U | A, P | W | U | A | D
CR0 = b.CR0_PE | b.CR0_ET | b.CR0_NE | b.CR0_WP | b.CR0_PG
NOFLUSH = 1 << 63
#: mode -> (levels, index bits, bytes of an entry, CR4, EFER)
MODES = {"bits32": (2, 10, 4, b.CR4_PSE, 0), "pae": (3, 9, 8, b.CR4_PAE, b.EFER_NX),
         "level4": (4, 9, 8, b.CR4_PAE, b.EFER_LME | b.EFER_LMA | b.EFER_NX),
         "level5": (5, 9, 8, b.CR4_PAE | b.CR4_LA57, b.EFER_LME | b.EFER_LMA | b.EFER_NX)}
ALIAS = {"bits32": 0xE0000000, "pae": 0xE0000000, "level4": 0x7000_0000_0000, "level5": 0x7000_0000_0000}


class Guest:
    """Page tables in one VM, and the vCPU that uses them."""

    def __init__(self, vm, mode="level4", cpu=0, first_gfn=0x100):
        self.vm, self.mode, self.cpu = vm, mode, vm.vcpus[cpu]
        self.levels, self.bits, self.size, self.cr4, self.efer = MODES[mode]
        self.next = first_gfn
        self.root = self.page()
        self.aliases = {}

    def page(self):
        """A fresh page for a table: its gpa."""
        gpa = self.next << 12
        self.next += 1
        self.vm.write_gpa(gpa, bytes(4096))
        return gpa

    # -- entries, from the host's side

    def get(self, gpa):
        return int.from_bytes(self.vm.read_gpa(gpa, self.size), "little")

    def put(self, gpa, entry):
        """Write an entry behind the MMU's back."""
        self.vm.write_gpa(gpa, (entry & (1 << 8 * self.size) - 1).to_bytes(self.size, "little"))

    def index(self, gva, level):
        if self.mode == "pae" and level == 3:
            return gva >> 30 & 3
        return gva >> 12 + self.bits * (level - 1) & (1 << self.bits) - 1

    def entry(self, gva, level=1, root=None, flags=TABLE):
        """gpa of the entry of `gva` at `level`; tables above it are made as needed."""
        table = self.root if root is None else root
        for at in range(self.levels, level, -1):
            gpa = table + self.index(gva, at) * self.size
            if not self.get(gpa) & P:
                self.put(gpa, self.page() | (P if self.mode == "pae" and at == 3 else flags))
            table = self.get(gpa) & 0xF_FFFF_FFFF_F000
        return table + self.index(gva, level) * self.size

    def table(self, gva, level=1, root=None):
        """gpa of the table of `level` that translates `gva`."""
        return self.entry(gva, level, root) & -4096

    def map(self, gva, gpa, flags=PAGE, level=1, root=None):
        """Map a page (level 1) or a large one (level 2, 3)."""
        self.put(self.entry(gva, level, root), gpa | flags | (PS if level > 1 else 0))

    # -- the guest

    def start(self, *, cr0=CR0, cr4=0, efer=0, cr3=None):
        """Paging on; `cr4` and `efer` come on top of what the mode needs."""
        self.cpu.set_sregs(cr0=cr0, cr3=self.root if cr3 is None else cr3, cr4=self.cr4 | cr4, efer=self.efer | efer)

    def alias(self, gpa, root=None):
        """gva of a writable supervisor mapping of a physical page, made from the host if new."""
        key = gpa >> 12, root
        if key not in self.aliases:
            gva = ALIAS[self.mode] + (gpa & -4096)
            self.map(gva, gpa & -4096, P | W | A | D, root=root)
            self.aliases[key] = gva
        return self.aliases[key] + (gpa & 0xFFF)

    def poke(self, gva, entry, level=1, root=None):
        """The guest writes the entry of `gva` through its alias (an instruction, not the host)."""
        gpa = self.entry(gva, level, root)
        self.cpu.write(self.alias(gpa, root), entry, self.size)

    def fill(self, gpa, value):
        """A recognisable value at the start of a physical page."""
        self.vm.write_gpa(gpa, value.to_bytes(8, "little"))


def pages(vm, gpa):
    """Valid shadow pages of the gfn of `gpa`."""
    return [sp for sp in vm.shadow_pages if sp.gfn == gpa >> 12 and not sp.direct]


def unsync(guest, gva, old, new):
    """The page table of `gva` becomes unsync and lags: the guest maps `old`, reads it, changes its entry to `new`
    natively.  Returns after making sure that the page is unsync."""
    vm = guest.vm
    guest.fill(old, 0x01D)
    guest.fill(new, 0x4E7)
    guest.map(gva, old)
    table = guest.table(gva)
    alias = guest.alias(table)
    assert guest.cpu.read(gva) == 0x01D
    # an unused entry first: the write fault makes the table unsync
    guest.cpu.write(alias + 4096 - guest.size, 0, guest.size)
    guest.poke(gva, new | PAGE)
    assert any(sp.unsync for sp in pages(vm, table))
    return table


OLD, NEW = 0x01D, 0x4E7
