# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory for the benchmarks.  Frame numbers equal gfns; all guests run in 64-bit mode, CPL 0.

    processes (the first is also the one that edits its own tables)
        gfn 1 + 7 p      PML4 -> PDPT -> PD -> PT0..PT3       seven tables a process, linear addresses from 0
        PT k             16 pages, 32 entries apart; next to each two more that are accessed already, so that a
                         fault prefetches two and stops at the third (both on an own frame that code left unused)
        page 16 k + i    even: code, read-only, the same frames in all processes; odd: data, own frames
        PT0, entry 400   a block of 16 pages on the frames WINDOW..WINDOW+15; an edit moves a page by 16 frames
        PT3, entry 500   PT0 itself, writable: the guest edits its own table there

    hits       one process, 8 full PTs: 4096 pages
    growth     one process, many PTs: each has its own gfn, but the host backs them all by 1024 frames, as if it had
               found them equal
"""

import array
from dataclasses import dataclass

from ..state.store import Config
from ..vm import calls
from ..vm.machine import Vm
from ..x86.bits import (
    CR0_ET,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    EFER_NX,
    PT_ACCESSED,
    PT_DIRTY,
    PT_PRESENT,
    PT_USER,
    PT_WRITABLE,
)

PROCESSES, PAGES, PAGES_PER_PT, STRIDE = 64, 64, 16, 32
FIRST_TABLE, TABLES = 1, 7
CODE = 512                                  # PAGES frames, shared
WINDOW = CODE + PAGES                       # 32 frames
DATA = WINDOW + 32                          # PAGES frames for each process
BLOCK = 400                                 # first entry of the block in PT0
SELF_ENTRY = 500
SELF_MAP = 3 << 21 | SELF_ENTRY << 12       # linear address of PT0
HIT_PAGES = 4096
BACKING = 1024                              # frames behind the page tables of the growth guest
#: Constants that the C side shares.
SHARED = {"PAGES": PAGES, "PAGES_PER_PT": PAGES_PER_PT, "STRIDE": STRIDE, "FIRST_TABLE": FIRST_TABLE, "TABLES": TABLES,
          "WINDOW": WINDOW, "BLOCK": BLOCK, "SELF_MAP": SELF_MAP, "HIT_PAGES": HIT_PAGES, "HASH_FACTOR": 0x4F1BBCDD}

TABLE = PT_PRESENT | PT_WRITABLE | PT_USER
USED = PT_ACCESSED | PT_DIRTY


@dataclass(frozen=True)
class Size:
    """How much guest a benchmark needs.  processes: of the 64; tables: page tables of the growth guest."""

    processes: int = PROCESSES
    tables: int = 1000


@dataclass(frozen=True)
class Guest:
    """A machine ready to run, and how many frames from 0 on hold its page tables."""

    vm: Vm
    table_frames: int


def _fill(vm, gfn, entries):
    """Write a guest table: index -> entry."""
    n = vm.page_size // 8
    words = array.array("q", bytes(vm.page_size))
    for i, entry in entries.items():
        words[i % n] = entry
    vm.store.ram()[gfn * vm.page_size:(gfn + 1) * vm.page_size] = words.tobytes()


def _boot(vm, root, shadow_pages):
    """64-bit mode on the tables at `root`, with a quota that reclaim never meets."""
    if shadow_pages > 64:
        vm.set_nr_mmu_pages(shadow_pages)
    vm.vcpus[0].set_sregs(cr0=CR0_PE | CR0_ET | CR0_WP | CR0_PG, cr3=root << 12, cr4=CR4_PAE,
                          efer=EFER_LME | EFER_LMA | EFER_NX)
    calls.enter(vm.handle, 0)
    return vm


def process_page(j):
    """Linear address of page `j` of a process."""
    return j // PAGES_PER_PT << 21 | j % PAGES_PER_PT * STRIDE << 12


def processes(size, events=0):
    """`size.processes` processes.  events: mask of recorded events."""
    pages = DATA + size.processes * PAGES
    config = Config(memory_pages=pages, spare_pages=1, shadow_pages=1024, slot_pages=pages, descs=4096)
    vm = Vm(pages << 12, config=config, record=events)
    for p in range(size.processes):
        pml4 = FIRST_TABLE + p * TABLES
        _fill(vm, pml4, {0: pml4 + 1 << 12 | TABLE})
        _fill(vm, pml4 + 1, {0: pml4 + 2 << 12 | TABLE})
        _fill(vm, pml4 + 2, {k: pml4 + 3 + k << 12 | TABLE for k in range(4)})
        for k in range(4):
            entries = {}
            for i in range(PAGES_PER_PT):
                j = k * PAGES_PER_PT + i
                frame, rights = (DATA + p * PAGES + j, TABLE) if j & 1 else (CODE + j, PT_PRESENT | PT_USER)
                entries[i * STRIDE] = frame << 12 | rights
                for n in range(2):
                    entries[i * STRIDE + 1 + n] = DATA + p * PAGES + (j & ~1) << 12 | PT_PRESENT | PT_USER | USED
            if k == 0:
                entries |= {BLOCK + i: WINDOW + i << 12 | TABLE | USED for i in range(16)}
            if k == 3:
                entries[SELF_ENTRY] = pml4 + 3 << 12 | TABLE | USED
            _fill(vm, pml4 + 3 + k, entries)
    return Guest(_boot(vm, FIRST_TABLE, 1024), FIRST_TABLE + size.processes * TABLES)


def warm_processes(size, events=0):
    """The same with every page of the first four processes touched, the four roots cached, the first one current."""
    guest = processes(size, events)
    cpu = guest.vm.vcpus[0]
    for p in (1, 2, 3, 0):
        cpu.set_cr3(FIRST_TABLE + p * TABLES << 12)
        for j in range(PAGES):
            cpu.write(process_page(j), j) if j & 1 else cpu.read(process_page(j))
        for i in range(16):
            cpu.read(BLOCK + i << 12)
    return guest


def hits(size, events=0):
    """One process of `HIT_PAGES` pages, all touched."""
    tables = HIT_PAGES >> 9
    pages = 4 + tables + HIT_PAGES
    config = Config(memory_pages=pages, spare_pages=1, shadow_pages=64, slot_pages=pages, descs=1024)
    vm = Vm(pages << 12, config=config, record=events)
    _fill(vm, 1, {0: 2 << 12 | TABLE})
    _fill(vm, 2, {0: 3 << 12 | TABLE})
    _fill(vm, 3, {k: 4 + k << 12 | TABLE for k in range(tables)})
    for k in range(tables):
        _fill(vm, 4 + k, {i: 4 + tables + k * 512 + i << 12 | TABLE | USED for i in range(512)})
    _boot(vm, 1, 64)
    for j in range(HIT_PAGES):
        vm.vcpus[0].write(j << 12, j)
    return Guest(vm, 4 + tables)


def growth(size, events=0):
    """One process of `size.tables` page tables, each with its first page mapped."""
    directories = -(-size.tables // 512)
    backing = min(BACKING, size.tables)
    first = 3 + directories                 # gfn of the first page table
    data = first + size.tables
    pages = data + backing
    shadow = size.tables + directories + 16
    config = Config(memory_pages=pages, spare_pages=1, shadow_pages=shadow, slot_pages=pages, descs=shadow)
    vm = Vm(pages << 12, config=config, record=events)
    _fill(vm, 1, {0: 2 << 12 | TABLE})
    _fill(vm, 2, {k: 3 + k << 12 | TABLE for k in range(directories)})
    for k in range(directories):
        _fill(vm, 3 + k, {i: first + k * 512 + i << 12 | TABLE for i in range(min(512, size.tables - k * 512))})
    for i in range(backing):
        _fill(vm, first + i, {0: data + i << 12 | PT_PRESENT | PT_USER | USED})
    hva = memoryview(vm.store.memory).cast("q")
    at = vm.store.tables["hva"][0] // 8 + first
    for i in range(size.tables):
        hva[at + i] = hva[at + i % backing]
    return Guest(_boot(vm, 1, shadow), first + backing)


def tiny(size, events=0):
    """A machine of the size that the checker searches: tables of 4 entries, 16 guest pages, one page mapped."""
    config = Config(page_shift=5, level_bits=2, prefetch_num=4, memory_pages=16, spare_pages=1, shadow_pages=8,
                    slots=1, slot_pages=16, descs=8, hash_buckets=16, events=16)
    return _small(config, 16 << 5, events)


def full40(size, events=0):
    """Real tables, 40 guest pages, one page mapped."""
    config = Config(memory_pages=40, spare_pages=1, shadow_pages=24, slots=1, slot_pages=40, descs=64,
                    hash_buckets=64, events=16)
    return _small(config, 40 << 12, events)


def _small(config, memory, events):
    vm = Vm(memory, config=config, record=events)
    for level in range(1, 4):
        _fill(vm, level, {0: level + 1 << 12 | TABLE})
    _fill(vm, 4, {0: 5 << 12 | TABLE})
    _boot(vm, 1, config.shadow_pages)
    vm.vcpus[0].write(0, 1)
    return Guest(vm, 5)
