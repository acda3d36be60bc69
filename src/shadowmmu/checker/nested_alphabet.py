# SPDX-License-Identifier: GPL-2.0-or-later
"""What may happen on a machine with nested paging, in place of `alphabet`'s rows of a vCPU.

    L1   edits nested tables at their own addresses, enters L2 (nCR3 or EPTP, ASID or VPID, flush), INVLPGA, INVEPT, INVVPID,
         changes of CR4 and EFER that decide how its nested tables are read
    L2   loads, stores, fetches by its physical addresses; edits what translates it, where that is mapped; leaves; VMFUNC; its own
         CR0, CR4, EFER

The same row serves both: who runs decides what it is (`nested_execute`).
"""

from ..x86.bits import CR0_PG, CR0_WP, CR4_PGE, CR4_PKE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_LMA, EFER_NX
from . import entry_values, ops
from .ops import BEGIN, EMULATED, LOCKED, USER, row
from .places import (
    DATA,
    FULL,
    L2_ROOT,
    L2_TABLE,
    PAGE,
    PD,
    PDPT,
    PDPTES_A,
    PDPTES_B,
    PML4,
    PS,
    ROOT_A,
    ROOT_B,
    U_TABLE,
    A,
    P,
    T,
    U,
    W,
    entry,
    eptp,
)


def privileges(m, small):
    """Flags of accesses: L2 has privileges if it pages."""
    return (0, USER) if m.l2_paging and not small else (0,)


def accesses(m, v, small):
    """Loads and fetches."""
    gvas = m.gvas[:7] if small else m.gvas
    out = [row(ops.LOAD, v, gva, 0, 0, flags) for gva in gvas for flags in privileges(m, small)]
    return out if small else out + [row(ops.FETCH, v, gva, 0, 0, flags) for gva in gvas for flags in privileges(m, small)]


def own_tables(m, v, small):
    """L2 edits its own page directory, and makes a page table of a page; L1 does, too."""
    if not m.l2_paging:
        return []
    values = [entry(8, FULL | PS), 0, entry(0, FULL | PS), entry(8, FULL & ~W | PS)]
    more = [entry(0, FULL & ~U | PS), entry(L2_ROOT), entry(8, P | W | U | PS), entry(5), entry(8, P | W | U | A | PS)]
    return [row(ops.STORE, v, page * PAGE + 4 * i, value, 4, 0) for page in (L2_ROOT, L2_TABLE)
            for i in range(1 if small else 4) for value in (values if small else values + more)]


def table_places(m, small):
    """(address, values) of nested tables: where L2 has them, and where L1 has them."""
    leaf, directory, upper = entry_values.of_nested(m)
    if m.entry_bytes == 4:
        tables = ((0, T, leaf), (1, U_TABLE, leaf), (2, ROOT_A, directory), (2, ROOT_B, directory))
    else:
        tables = ((0, T, leaf), (1, U_TABLE, leaf), (2, PD, directory))
    out = []
    for page, gfn, (values, more) in tables:
        chosen = values[:4] if small else values + more
        out += [(m.pages[page] * PAGE, chosen), (gfn * PAGE, chosen)]
    if m.weights["upper"] and m.entry_bytes == 8:
        out += [(gfn * PAGE, upper[:3] if small else upper) for gfn in (PDPT, ROOT_A)]
        out.append((m.pages[3] * PAGE, upper[:3] if small else upper))
    return out


def stores(m, v, small):
    """Stores of entries and of data."""
    size = m.entry_bytes
    out = [row(ops.STORE, v, at + i * size, value, size, 0) for at, values in table_places(m, small)
           for i in range(2 if small else m.per_table) for value in values]
    out += [row(ops.STORE, v, gva, entry(DATA + 1), size, flags) for gva in (m.gvas[3:5] if small else m.gvas)
            for flags in privileges(m, small)]
    return out + own_tables(m, v, small)


def emulated(m, v, small):
    """Stores and loads by KVM's emulator; torn and misaligned ones."""
    size = m.entry_bytes
    if small:
        return [row(ops.STORE, v, U_TABLE * PAGE, table_places(m, small)[2][1][0], size, EMULATED)]
    out = []
    for at, values in table_places(m, small):
        for i in range(2):
            out += [row(ops.STORE, v, at + i * size, value, size, flags)
                    for value in values[:5] for flags in (EMULATED, EMULATED | LOCKED, LOCKED)]
        out += [row(ops.STORE, v, at + where, value, n, flags) for flags in (EMULATED, 0)
                for where, value, n in ((4, 0, 4), (0, 5, 1), (size, 0, 1), (2, 0, 2), (3, 0, 1), (size // 2, 0, size))]
        # the low half of an entry, as a 32-bit hypervisor writes it
        out += [row(ops.STORE, v, at + i * size, value, 4, flags) for flags in (EMULATED, 0) for i in range(m.per_table)
                for value in (0, values[0])]
    # as often as all of these: any page
    often = range(len(out) // (2 * len(m.gvas)))
    out += [row(ops.STORE, v, gva, entry(DATA), size, EMULATED) for gva in m.gvas for _ in often]
    return out + [row(ops.LOAD, v, gva, 0, 0, EMULATED) for gva in m.gvas for _ in often]


def begun(m, v, small):
    """Accesses that stop at mmu_lock."""
    size = m.entry_bytes
    out = [row(ops.LOAD, v, gva, 0, 0, BEGIN) for gva in (m.gvas[3:6] if small else m.gvas)]
    if not small:
        out += [row(ops.STORE, v, gva, entry(DATA), size, BEGIN) for gva in m.gvas]
    for at, values in table_places(m, small)[:4 if small else None]:
        out += [row(ops.STORE, v, at, value, size, flags) for value in values[:2 if small else 5]
                for flags in ((BEGIN,) if small else (BEGIN, BEGIN | EMULATED))]
    return out


def transitions(m, v, small):
    """Entries with either root, each tag, each flush; exits."""
    out = [row(ops.VM_EXIT, v) for _ in range(1 if small else 8)]
    if m.nested == "ept":
        roots = [eptp(gfn, ad, m.nested_levels) for gfn in (ROOT_A, ROOT_B) for ad in ((True,) if small else (True, True, False))]
        if not small:
            # a lower table as the root, another walk length, one that is refused
            roots += [eptp(PDPT), eptp(ROOT_A, levels=5), eptp(14)]
            roots += [eptp(PML4)] * 2 if m.nested_levels == 5 else []
            out += [row(ops.VMFUNC, v, root) for root in roots]
        out += [row(ops.EPT_ENTRY, v, root, vpid) for root in roots for vpid in ((1,) if small else (0, 1, 2))]
        return out
    a, b, more = (PDPTES_A, PDPTES_B, ()) if m.is_nested_pae else (ROOT_A, ROOT_B, (PDPT, 14))
    roots = [root << 12 for root in ((a, b) if small else (a, a, b, *more))]
    asids, flushes = ((1,), (0, 3)) if small else ((1, 2), (0, 1, 3))
    return out + [row(ops.VMRUN, v, root, asid, flush) for root in roots for asid in asids for flush in flushes]


def invalidations(m, v, small):
    """What L1 does to L2's translations, and L2 itself."""
    if m.l2_paging:
        flags = (0, EMULATED)
        return [row(ops.INVLPG, v, gva, 0, 0, f) for gva in m.gvas[:9] for f in flags] + of_hypervisor(m, v, small)
    return of_hypervisor(m, v, small)


def root_loads(m, v, small):
    """MOV CR3 of L2."""
    if not m.l2_paging:
        return []
    return [row(ops.MOV_CR3, v, page << 12) for page in ((L2_ROOT,) if small else (L2_ROOT, L2_ROOT, 5, 4, 2))]


def of_hypervisor(m, v, small):
    """INVEPT, INVVPID, INVLPGA."""
    if m.nested == "ept":
        roots = [eptp(gfn) for gfn in (ROOT_A, ROOT_B)]
        out = [row(ops.INVEPT, v, 1, root) for root in roots] + [row(ops.INVEPT, v, 2, roots[0])]
        return out if small else out + [row(ops.INVVPID, v, kind, vpid, m.gvas[4]) for kind in range(3) for vpid in (1, 2)]
    return [] if small else [row(ops.INVLPGA, v, gva, asid) for gva in m.gvas[:8] for asid in (1, 2)]


def registers(m, v, small):
    """CR0, CR4, EFER of whoever runs; of L1 they decide how the next VMRUN reads its nested tables."""
    changes = (0, CR4_SMEP) if small else (0, 0, CR4_SMEP, CR4_PGE, CR4_SMAP, CR4_PKE)
    out = [row(ops.MOV_CR4, v, m.cr4 ^ change) for change in changes]
    if small:
        return out
    if m.l2_paging:
        pse = CR4_PSE
        out += [row(ops.MOV_CR4, v, change) for change in (pse, pse | CR4_SMEP, pse | CR4_PGE, pse | CR4_SMAP, 0)]
        out += [row(ops.MOV_CR0, v, m.cr0 & ~CR0_PG)]
    if m.efer & EFER_LMA and not m.l2_paging:
        out += [row(ops.LEVELS, v, levels) for levels in ((4, 5, 5) if m.tdp_level == 5 and m.nested == "npt" else (2, 4))]
    out += [row(ops.WRMSR_EFER, v, (m.efer ^ change) & ~EFER_LMA) for change in (0, EFER_NX)]
    return out + [row(ops.MOV_CR0, v, m.cr0), row(ops.MOV_CR0, v, m.cr0 & ~CR0_WP)]


def add(m, v, small, out):
    """Add the rows of vCPU `v` to the lists of their kinds."""
    for kind, rows in (("access", accesses), ("store", stores), ("emulated", emulated), ("nested", transitions),
                       ("flush", invalidations), ("registers", registers), ("cr3", root_loads)):
        out[kind] += rows(m, v, small)


def host_writes(m, small):
    """Nested tables written behind the MMU's back."""
    size = m.entry_bytes
    return [row(ops.HOST_WRITE, 0, at + i * size, value, size) for at, values in table_places(m, small)
            if at // PAGE in (T, U_TABLE, PD, PDPT, ROOT_A) for i in range(1 if small else m.per_table) for value in values[:8]]
