# SPDX-License-Identifier: GPL-2.0-or-later
"""The loops of the benchmarks: one call runs n operations inside the core.

Each has its twin of the same name in `benchmarks/limit.c`; both must leave the same machine behind.  All take the
handle and two integers, return a count or a sum, and -1 when an access failed.

    faults    per process: CR3, 64 accesses that fault; after the last process everything is zapped
    hits      translations of scattered addresses by the CPU without a TLB
    cr3       round robin over the current and the three previous roots
    ptewrite  emulated write to a table entry that has no spte        refault   ... that has one, and its next use
    unsync    16 stores into a table that maps itself, CR3 reload (sync), 16 accesses
    invlpg    store into that table, INVLPG, access
    clone     copy the machine and hash the copy
    grow      one access in each of n page tables; zap: everything goes
"""

from .. import state
from ..mmu import writes
from ..mmu import zap as zapping
from ..state import core, entry_point
from ..vm import entry, hardware, invalidation, operations, registers
from ..x86.bits import PFERR_WRITE, PT_ACCESSED, PT_DIRTY, PT_PRESENT, PT_USER, PT_WRITABLE
from . import guest
from .guest import BLOCK, FIRST_TABLE, HIT_PAGES, PAGES, PAGES_PER_PT, SELF_MAP, STRIDE, TABLES, WINDOW

LEAF = PT_PRESENT | PT_WRITABLE | PT_USER | PT_ACCESSED | PT_DIRTY
HASH_FACTOR = guest.SHARED["HASH_FACTOR"]
MASK = 0xFFFFFFFF


@core
def process_root(p):
    return (FIRST_TABLE + p * TABLES) << 12


@core
def process_page(j):
    return (j // PAGES_PER_PT) << 21 | ((j % PAGES_PER_PT) * STRIDE) << 12


@entry_point
def faults(handle, processes, repeats):
    vm = state.attach(handle)
    vcpu = state.vcpu(vm, 0)
    done = 0
    for _ in range(repeats):
        for p in range(processes):
            # what an engine does after reading the events
            state.words(vm, vm.events)[0] = 0
            registers.set_cr3(vm, vcpu, process_root(p))
            for j in range(PAGES):
                pt = FIRST_TABLE + p * TABLES + 3 + j // PAGES_PER_PT
                state.words(vm, vm.ram)[(pt << 9) + (j % PAGES_PER_PT) * STRIDE] &= ~(PT_ACCESSED | PT_DIRTY)
                if operations.reach(vm, vcpu, process_page(j), PFERR_WRITE if j & 1 else 0) < 0:
                    return -1
                done += 1
        zapping.zap_all_fast(vm)
    return done


@entry_point
def hits(handle, n, unused):
    vm = state.attach(handle)
    vcpu = state.vcpu(vm, 0)
    x = 12345
    total = 0
    for _ in range(n):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        gva = ((x >> 8) & (HIT_PAGES - 1)) << 12 | x & 0xFF8
        total += hardware.translate(vm, vcpu, gva, PFERR_WRITE if x & 1 << 20 else 0)
    return total


@entry_point
def cr3(handle, n, unused):
    vm = state.attach(handle)
    vcpu = state.vcpu(vm, 0)
    for i in range(n):
        registers.set_cr3(vm, vcpu, process_root(i & 3))
        if entry.enter(vm, vcpu) != entry.ENTER:
            return -1
        vcpu.hw_flush = 0
    return n


@entry_point
def ptewrite(handle, n, unused):
    vm = state.attach(handle)
    vcpu = state.vcpu(vm, 0)
    pt = FIRST_TABLE + 3
    for i in range(n):
        at = (pt << 9) + 8 + (i & 7)
        state.words(vm, vm.ram)[at] = i << 12
        writes.track_write(vm, vcpu, at << 3, 8)
    return n


@entry_point
def refault(handle, n, unused):
    vm = state.attach(handle)
    vcpu = state.vcpu(vm, 0)
    at = (FIRST_TABLE + 3) << 9 | STRIDE
    for i in range(n):
        state.words(vm, vm.ram)[at] = (WINDOW + (i & 1)) << 12 | LEAF
        writes.track_write(vm, vcpu, at << 3, 8)
        if operations.reach(vm, vcpu, process_page(1), PFERR_WRITE) < 0:
            return -1
    return n


@entry_point
def unsync(handle, n, unused):
    vm = state.attach(handle)
    vcpu = state.vcpu(vm, 0)
    for c in range(n):
        for k in range(16):
            gpte = (WINDOW + k + 16 * (c & 1)) << 12 | LEAF
            if operations.store(vm, vcpu, SELF_MAP + (BLOCK + k) * 8, gpte, 8) < 0:
                return -1
        registers.set_cr3(vm, vcpu, vcpu.cr3)
        for k in range(16):
            if operations.reach(vm, vcpu, (BLOCK + k) << 12, 0) < 0:
                return -1
    return n


@entry_point
def invlpg(handle, n, unused):
    vm = state.attach(handle)
    vcpu = state.vcpu(vm, 0)
    for c in range(n):
        gpte = (WINDOW + 16 * (c & 1)) << 12 | LEAF
        if operations.store(vm, vcpu, SELF_MAP + BLOCK * 8, gpte, 8) < 0:
            return -1
        vcpu.hw_flush = 0
        vcpu.hw_flush_count = 0
        invalidation.invlpg(vm, vcpu, BLOCK << 12)
        if operations.reach(vm, vcpu, BLOCK << 12, PFERR_WRITE) < 0:
            return -1
    return n


@entry_point
def clone(handle, n, words):
    """words: size of the machine; the copy goes right behind it.  Sum over 32-bit hashes of four lanes."""
    vm = state.attach(handle)
    vcpu = state.vcpu(vm, 0)
    here = state.words(vm, 0)
    to = state.words(vm, words * 8)
    total = 0
    for i in range(n):
        vcpu.rip = i
        for k in range(words):
            to[k] = here[k]
        a = 1
        b = 2
        c = 3
        d = 4
        for k in range(0, words - 3, 4):
            a = (((a ^ to[k]) & MASK) * HASH_FACTOR >> 8 ^ to[k] >> 32) & MASK
            b = (((b ^ to[k + 1]) & MASK) * HASH_FACTOR >> 8 ^ to[k + 1] >> 32) & MASK
            c = (((c ^ to[k + 2]) & MASK) * HASH_FACTOR >> 8 ^ to[k + 2] >> 32) & MASK
            d = (((d ^ to[k + 3]) & MASK) * HASH_FACTOR >> 8 ^ to[k + 3] >> 32) & MASK
        total = (total * 31 + (a ^ b << 7 ^ c << 14 ^ d << 21)) & MASK
    return total


@entry_point
def grow(handle, tables, unused):
    vm = state.attach(handle)
    vcpu = state.vcpu(vm, 0)
    for i in range(tables):
        if operations.reach(vm, vcpu, i << 21, 0) < 0:
            return -1
    return tables


@entry_point
def zap(handle, unused, unused2):
    vm = state.attach(handle)
    zapping.zap_all_fast(vm)
    entry.enter(vm, state.vcpu(vm, 0))
    return vm.n_used_mmu_pages
