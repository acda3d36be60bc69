# SPDX-License-Identifier: GPL-2.0-or-later
"""What may happen on a small machine: rows of operations by kind, drawn by random walks and enumerated by exhaustive search.

    alphabet(machine, vcpus)               everything that can be told apart, some rows twice so that they come more often
    alphabet(machine, vcpus, small=True)   the short list: few addresses, few values, no modes

A kind is what a machine weighs (geometry.WEIGHTS); its rows are drawn alike.
"""

from ..x86.bits import (
    CR0_PG,
    CR0_WP,
    CR3_NOFLUSH,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NX,
)
from . import nested_alphabet, ops
from .entry_values import directory_values, leaf_values, upper_values
from .ops import AC, BEGIN, BY_TLB, EMULATED, LOCKED, USER, row
from .places import (
    DATA,
    FULL,
    MMIO,
    PAGE,
    PD,
    PDPT,
    PS,
    ROOT_A,
    ROOT_B,
    U_TABLE,
    T,
    W,
    entry,
)

# ---- what a vCPU does

def accesses(m, v, small):
    """Loads and fetches.  None by a held translation: it would change nothing, and what is held is checked anyway."""
    if small:
        return [row(ops.LOAD, v, gva, 0, 0, 0) for gva in m.gvas[:7]]
    out = []
    for gva in m.gvas:
        out += [row(ops.LOAD, v, gva, 0, 0, flags) for flags in (0, USER, AC)]
        out += [row(ops.FETCH, v, gva, 0, 0, flags) for flags in (0, USER)]
    return out


def stores(m, v, small):
    """Stores of entries where the guest maps T, U and a directory, and of data everywhere."""
    out, size = [], m.entry_bytes
    for page, (values, more) in zip(m.pages, (leaf_values(m), leaf_values(m), directory_values(m))):
        for i in range(2 if small else m.per_table):
            for value in values[:4] if small else values + more:
                for flags in (0,) if small else (0, 0, BY_TLB):
                    out.append(row(ops.STORE, v, page * PAGE + i * size, value, size, flags))
    # a data page may be a page table at another place: values that are entries, and several
    for page in m.pages[3:5] if small else m.pages:
        for value in (entry(DATA + 1),) if small else (entry(DATA + 1), entry(DATA), 0):
            for flags in (0,) if small else (0, USER, BY_TLB):
                out.append(row(ops.STORE, v, page * PAGE, value, size, flags))
    return out


def upper_stores(m, v, small):
    """Stores of upper entries, where the guest may have mapped such a table."""
    page, values = m.pages[3] * PAGE, upper_values(m)
    places = range(1) if small else range(m.per_table)
    return [row(ops.STORE, v, page + i * m.entry_bytes, value, m.entry_bytes, 0)
            for i in places for value in (values[:3] if small else values)]


def emulated(m, v, small):
    """Stores and loads that KVM's emulator executes; misaligned, torn, and locked ones."""
    t, u, d = (page * PAGE for page in m.pages[:3])
    size = m.entry_bytes
    if small:
        return [row(ops.STORE, v, u, entry(DATA + 1), size, EMULATED)]
    out = []
    for gva, values in ((t, leaf_values(m)[0]), (u, leaf_values(m)[0]), (d, directory_values(m)[0])):
        for i in range(2):
            for value in values[:6]:
                out += [row(ops.STORE, v, gva + i * size, value, size, flags) for flags in (EMULATED, EMULATED | LOCKED, LOCKED)]
        # across two entries; half an entry; the byte with P, W, U, A, D; one byte in the middle; two bytes
        out += [row(ops.STORE, v, gva + size // 2, value, size, flags) for value in (0, entry(DATA)) for flags in (EMULATED, 0)]
        out += [row(ops.STORE, v, gva + at, value, n, flags) for flags in (EMULATED, 0, USER)
                for at, value, n in ((0, 0, 4), (4, 0, 4), (0, FULL & ~W, 1), (size, 0, 1), (2, 0, 2), (0, FULL, 2), (3, 0, 1))]
    for gva in m.gvas:
        out += [row(ops.STORE, v, gva, entry(DATA), size, EMULATED | flags) for flags in (0, USER)]
        out += [row(ops.LOAD, v, gva, 0, 0, EMULATED | flags) for flags in (0, USER)]
    return out


def root_loads(m, v, small):
    """MOV CR3."""
    roots = (ROOT_A, ROOT_B) if small else (ROOT_A, ROOT_A, ROOT_A, ROOT_B, ROOT_B, ROOT_B, MMIO, 12, PDPT)
    # the machine may have PCIDs off at the start and switch them on
    keep = (0, CR3_NOFLUSH) if len(m.pcids) > 1 or m.efer & EFER_LMA and not small else (0,)
    return [row(ops.MOV_CR3, v, root << 12 | pcid | bit) for root in roots for pcid in m.pcids for bit in keep]


def invalidations(m, v, small):
    """INVLPG, INVPCID."""
    # with two-dimensional paging the hardware does them, unless KVM emulates
    hows = (0, EMULATED) if m.unshadowed else (0,)
    out = [row(ops.INVLPG, v, gva, 0, 0, how) for gva in m.gvas[:8 if small else None] for how in hows]
    return out + [row(ops.INVPCID, v, kind, pcid, m.gvas[3 + pcid], how) for pcid in m.pcids for kind in range(4) for how in hows]


def registers(m, v, small):
    """MOV CR0, MOV CR4, WRMSR EFER."""
    out = [row(ops.MOV_CR0, v, m.cr0 & ~clear) for clear in ((0, CR0_WP) if small else (0, CR0_WP, CR0_PG))]
    if not m.cr0 & CR0_PG:
        out.append(row(ops.MOV_CR0, v, m.cr0 | CR0_PG | CR0_WP))
    changes = (0, CR4_PGE, CR4_SMEP)
    if not small:
        changes += (CR4_SMAP, CR4_SMEP | CR4_SMAP, CR4_PSE, CR4_PCIDE, CR4_PGE | CR4_SMEP, CR4_PGE | CR4_SMAP)
        out += [row(ops.WRMSR_EFER, v, (m.efer ^ EFER_NX) & ~EFER_LMA), row(ops.WRMSR_EFER, v, m.efer & ~EFER_LMA)]
        if not m.efer & EFER_LMA:
            out.append(row(ops.MOV_CR4, v, m.cr4 ^ CR4_PAE))
    return out + [row(ops.MOV_CR4, v, m.cr4 ^ change) for change in changes]


def nested(m, v, small):
    """VM entry with either root, VM exit; on the machines that have them."""
    if not m.weights["nested"]:
        return []
    pcids = m.pcids if m.cr4 & CR4_PCIDE else (0,)
    return [row(ops.VM_ENTRY, v, root << 12 | pcid) for root in (ROOT_A, ROOT_B) for pcid in pcids] + [
        row(ops.VM_EXIT, v) for _ in range(1 if small else 3)]


def modes(v, small):
    """SMM, INIT."""
    return [] if small else [row(ops.SMM_ENTER, v), row(ops.SMM_LEAVE, v), row(ops.SMM_ENTER, v), row(ops.SMM_LEAVE, v),
                             row(ops.INIT, v)]


def host_registers(m, v, small):
    """What userspace does to a vCPU: registers, MSRs, CPUID."""
    if small:
        return []
    root_b = ROOT_B << 12 | (m.pcids[-1] if m.cr4 & CR4_PCIDE else 0)
    return [row(ops.SET_SREGS, v, m.cr0, m.cr3, m.cr4, m.efer), row(ops.SET_SREGS, v, m.cr0, m.cr3, m.cr4, m.efer),
            row(ops.SET_SREGS, v, m.cr0, root_b, m.cr4, m.efer), row(ops.SET_SREGS, v, m.cr0, m.cr3, m.cr4 ^ CR4_SMEP, m.efer),
            row(ops.SET_MSRS, v, m.efer), row(ops.SET_MSRS, v, m.efer ^ EFER_NX), row(ops.SET_MSRS, v, m.efer ^ EFER_LME),
            *(row(ops.SET_CPUID, v, bits) for bits in ((19, 20) if m.unshadowed else (36, 40)))]


def pre_faulted(m, v, small):
    """Pages that userspace has mapped for a guest that does not run."""
    if not m.unshadowed:
        return []
    return [row(ops.PRE_FAULT, v, gfn) for gfn in ((DATA,) if small else (T, U_TABLE, DATA, DATA + 1, 12, MMIO))]


def begun(m, v, small):
    """Accesses that stop at mmu_lock."""
    t, u, d = (page * PAGE for page in m.pages[:3])
    size = m.entry_bytes
    out = [row(ops.LOAD, v, gva, 0, 0, BEGIN) for gva in (m.gvas[3:4] if small else m.gvas)]
    for gva, values in ((u, leaf_values(m)[0][:1 if small else 6]), (d, directory_values(m)[0][:1 if small else 6])):
        for value in values:
            out += [row(ops.STORE, v, gva, value, size, flags) for flags in ((BEGIN,) if small else (BEGIN, BEGIN | EMULATED))]
    if not small:
        out += [row(ops.STORE, v, gva, entry(DATA), size, BEGIN | flags) for gva in m.gvas for flags in (0, USER)]
        out += [row(ops.STORE, v, t + 3 * size, value, size, BEGIN | EMULATED) for value in (entry(DATA), entry(U_TABLE))]
    return out


# ---- what the host does

def host_writes(m, small):
    """Guest page tables written behind the MMU's back."""
    out, size = [], m.entry_bytes
    places = ((T, leaf_values(m)), (U_TABLE, leaf_values(m)), (PD if size == 8 else ROOT_A, directory_values(m)))
    for gfn, (values, more) in places:
        for i in range(1 if small else m.per_table):
            out += [row(ops.HOST_WRITE, 0, gfn * PAGE + i * size, value, size)
                    for value in (values[:2] if small else values + more)]
    # from a large page to a page table at the same gfn, and back
    out += [row(ops.HOST_WRITE, 0, places[2][0] * PAGE + 2 * size, value, size) for _ in range(0 if small else 12)
            for value in (entry(DATA), entry(DATA, FULL | PS), entry(12, FULL | PS))]
    if not small:
        top = ROOT_A if size == 4 or not m.efer & EFER_LMA else PDPT
        out += [row(ops.HOST_WRITE, 0, top * PAGE + i * size, value, size) for i in range(m.per_table)
                for value in upper_values(m)]
    return out


def slots(small):
    """Memslots come, move and go: slot 1; memory where MMIO was, in either address space; a second gfn for a data page."""
    out = [row(ops.SLOT_DELETE, 0, 1, 0), row(ops.SLOT_CREATE, 0, 1, 12, 2, 12, 0)]
    if small:
        return out
    return out + [row(ops.SLOT_MOVE, 0, 1, 14, 0), row(ops.SLOT_MOVE, 0, 1, 12, 0),
                  row(ops.SLOT_CREATE, 0, 3, 14, 2, 14, 0), row(ops.SLOT_DELETE, 0, 3, 0),
                  row(ops.SLOT_CREATE, 0, 1, 12, 2, 12, 4), row(ops.SLOT_CREATE, 0, 1, 12, 2, 12, 2),
                  row(ops.SLOT_CREATE, 0, 4, 14, 2, 14, 1), row(ops.SLOT_DELETE, 0, 4, 1),
                  row(ops.SLOT_CREATE, 0, 6, 15, 1, DATA + 2, 0), row(ops.SLOT_DELETE, 0, 6, 0)]


def dirty(small):
    """Dirty logs on, off, read; cleared page by page (KVM_CLEAR_DIRTY_LOG)."""
    numbers = (0,) if small else (0, 1)
    out = [row(ops.DIRTY_LOG, 0, slot, on, 0) for slot in numbers for on in (1, 0)]
    out += [row(ops.DIRTY_READ, 0, slot, 0) for slot in numbers]
    if not small:
        out += [row(ops.DIRTY_LOG, 0, 2, on, 1) for on in (1, 0)]
        out += [row(ops.DIRTY_LOG, 0, 0, 1, 0, 1), row(ops.DIRTY_READ, 0, 0, 0, 1)]
        out += [row(ops.DIRTY_CLEAR, 0, 0, gfn, 1, 0) for gfn in (T, U_TABLE, PD, DATA, DATA + 1)]
        out.append(row(ops.DIRTY_CLEAR, 0, 0, DATA, 4, 0))
    return out


def memory(small):
    """Host pages go, move to other frames, age."""
    if small:
        return [row(ops.UNMAP, 0, DATA, 1)]
    out = [row(ops.UNMAP, 0, hva, 1) for hva in (DATA, DATA + 1, U_TABLE, 12)] + [row(ops.UNMAP, 0, DATA, 4)]
    out += [row(ops.UNMAP, 0, hva, 1, 1) for hva in (DATA, DATA + 1)] + [row(ops.MIGRATE, 0, hva, 1) for hva in (DATA, U_TABLE)]
    out += [row(ops.MIGRATE, 0, hva) for hva in (DATA, DATA + 1, T, U_TABLE, PD, ROOT_A, PDPT, 12)]
    return out + [row(ops.AGE, 0, DATA, 4)]


def add(m, v, small, out):
    """Add the rows of vCPU `v` to the lists of their kinds."""
    for kind, rows in (("access", accesses), ("store", stores), ("upper", upper_stores), ("emulated", emulated),
                       ("cr3", root_loads), ("flush", invalidations), ("registers", registers),
                       ("host registers", host_registers), ("host registers", pre_faulted), ("nested", nested)):
        out[kind] += rows(m, v, small)
    out["modes"] += modes(v, small)


def alphabet(machine, vcpus, small=False):
    """Kind -> list of rows.  small: the short list for exhaustive search."""
    m = machine
    out = {kind: [] for kind in m.weights}
    for v in range(vcpus):
        if m.nested:
            nested_alphabet.add(m, v, small, out)
        else:
            add(m, v, small, out)
        if vcpus > 1:
            out["enter"].append(row(ops.ENTER, v))
        # in the short list only where another vCPU can do something in between
        if not small or vcpus > 1:
            out["begin"] += (nested_alphabet.begun if m.nested else begun)(m, v, small)
            out["finish"].append(row(ops.FINISH, v))
    out["host write"] = nested_alphabet.host_writes(m, small) if m.nested else host_writes(m, small)
    out["slots"], out["dirty"] = slots(small), dirty(small)
    out["memory"] = memory(small)
    if not small:
        out["finish"].append(row(ops.HOST_FINISH))
    if machine.parameter("nx_huge_pages"):
        out["memory"] += [row(ops.NX_RECOVERY, 0, 1)] * 4
    out["reclaim"] = [row(ops.SET_NR_MMU_PAGES, 0, n) for n in
                      ((m.least_quota,) if small else (m.least_quota, m.least_quota + 4, m.quota))]
    return out
