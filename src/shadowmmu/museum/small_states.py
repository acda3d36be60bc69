# SPDX-License-Identifier: GPL-2.0-or-later
"""All small states of two data structures, made and judged one by one on the core's own functions (interpreted).

    root cache    current and three previous roots, each invalid | of this role | of another role, x the root asked for
    unsync bits   one root, two directories, two page tables: every way to link them, every set of unsync tables, a second root
                  that shares the directories; the vector as small as a path and as large as the kernel's

`root_cache()` and `unsync_graphs()` return a Verdict for whatever functions are in the core at that moment (in_place.applied).
"""

import itertools
import random
from dataclasses import dataclass, field

from ..mmu import faults, geometry, roles, roots, shadow_pages, unsync
from ..state import interpreted
from ..state.store import Config
from ..vm import Vm

PAGES = 64


@dataclass
class Verdict:
    """states: how many were judged; wrong: name of what is wrong -> in how many; example: one state of each."""

    states: int = 0
    wrong: dict = field(default_factory=dict)
    example: dict = field(default_factory=dict)

    def note(self, problems, state):
        self.states += 1
        for problem in problems:
            self.wrong[problem] = self.wrong.get(problem, 0) + 1
            self.example.setdefault(problem, state)

    def __str__(self):
        wrong = ", ".join(f"{what} in {n}" for what, n in sorted(self.wrong.items()))
        return f"{self.states:,} states; " + (wrong or "all in order")


class Bench:
    """A small machine that can be put back to its start."""

    def __init__(self):
        config = Config(page_shift=5, level_bits=2, prefetch_num=4, memory_pages=PAGES, shadow_pages=PAGES, slots=2,
                        slot_pages=PAGES, hash_buckets=4, events=1, spare_pages=1)
        self.machine = Vm(0, config=config, record=0)
        self.machine.add_memslot(0, 0, PAGES * 32, 0)
        self.machine.vcpus[0].set_sregs(cr0=0x80010011, cr3=1 << 12, cr4=0x20, efer=0xD00, cs_l=0)
        self.vm = self.machine.store.view
        self.vcpu = interpreted.vcpu(self.vm, 0)
        self.context = interpreted.context(self.vm, self.vcpu.mmu)
        self._start = bytes(self.machine.store.memory)

    def reset(self):
        self.machine.store.memory[:] = self._start

    def page(self, gfn, level, other_role=False):
        """A new shadow page."""
        role = self.context.root_role & ~roles.LEVEL | level
        if other_role:
            role ^= roles.CR0_WP_BIT
        return interpreted.page(self.vm, shadow_pages.alloc(self.vm, gfn, role))


# ---- the root cache

KINDS = ("-", "root", "other role")


def root_cache():
    """Ask for each root, and for one that is not there, in every state of the cache."""
    bench, verdict = Bench(), Verdict()
    for state in itertools.product(KINDS, repeat=1 + roots.NUM_PREV_ROOTS):
        for wanted in range(len(state) + 1):
            if wanted == len(state) or state[wanted] != "-":
                bench.reset()
                verdict.note(_switch(bench, state, wanted), (state, wanted))
    return verdict


def _hpa(bench, sp):
    return geometry.page_frame(bench.vm, sp.id) << 12


def _switch(bench, state, wanted):
    """Problems of one switch.  The measure is a list, most recently used first, from which the root asked for is taken, and the
    last place when all are full."""
    vm, ctx = bench.vm, bench.context
    pages = [None if kind == "-" else bench.page(i + 1, 4, kind == "other role") for i, kind in enumerate(state)]
    for i, sp in enumerate(pages):
        hpa = roots.INVALID_PAGE if sp is None else _hpa(bench, sp)
        if sp:
            sp.root_count = 1
        if i == 0:
            ctx.root_hpa, ctx.root_pgd = hpa, i + 1 << 12
        else:
            ctx.prev_hpa[i - 1], ctx.prev_pgd[i - 1] = hpa, i + 1 << 12
    hit = roots.fast_pgd_switch(vm, ctx, wanted + 1 << 12, ctx.root_role)
    after = [ctx.root_hpa, *(ctx.prev_hpa[i] for i in range(roots.NUM_PREV_ROOTS))]
    held = [hpa for hpa in after if hpa != roots.INVALID_PAGE]
    problems = set()
    present = wanted < len(state) and state[wanted] == "root"
    if bool(hit) != present or hit and after[0] != _hpa(bench, pages[wanted]):
        problems.add("a cached root is not used")
    if len(set(held)) != len(held):
        problems.add("a root stands in two places")
    for sp in pages:
        if sp and sp.root_count != held.count(_hpa(bench, sp)):
            problems.add("a count does not fit the references")
    before = [roots.INVALID_PAGE if sp is None else _hpa(bench, sp) for sp in pages]
    if present:
        del before[wanted]
    if pages[0] is None:
        del before[0]
    expected = (before + [roots.INVALID_PAGE])[:roots.NUM_PREV_ROOTS]
    if not problems and after[1:] != expected:
        problems.add("the order is not that of use")
    if not present and pages[0] and pages[-1] and None in pages:
        problems.add("a root is evicted although a place is empty")
    return problems


# ---- the unsync bits

class Endless(Exception):
    """The walk goes round without getting anything done."""


def _graph(bench, root, directories, tables, dirty, other=None):
    """Link pages as said; unsync the page tables of `dirty`.  Page objects: root, second root."""
    leaves = [bench.page(20 + i, 1) for i in range(tables)]
    middles = [bench.page(10 + i, 2) for i in range(len(directories))]
    tops = [bench.page(5, 3), bench.page(6, 3)]
    for parent, links, children in [(tops[0], root, middles), (tops[1], other or range(len(middles)), middles),
                                    *((m, links, leaves) for m, links in zip(middles, directories))]:
        for index, child in enumerate(links):
            if child is not None:
                faults.link_shadow_page(bench.vm, geometry.first_sptep(bench.vm, parent.id) + index, children[child])
    for i in dirty:
        unsync.unsync_page(bench.vm, leaves[i])
    return tops


def _children(vm, sp):
    first = geometry.first_sptep(vm, sp.id)
    for index in range(geometry.entries(vm)):
        i = geometry.frame_to_page(vm, geometry.entry_frame(geometry.read_spte(vm, first + index)))
        if i >= 0:
            yield index, interpreted.page(vm, i)


def _dirty_below(vm, sp):
    """Is a page below (or this one) unsync?"""
    return sp.unsync or any(_dirty_below(vm, child) for _, child in _children(vm, sp))


def _judge(bench, tops):
    """Flush the first root; what is wrong then?"""
    vm, calls = bench.vm, itertools.count()
    walk = unsync.unsync_walk

    def counted(*arguments):
        if next(calls) > 100:
            raise Endless
        return walk(*arguments)

    unsync.unsync_walk = counted
    try:
        unsync.sync_children(vm, bench.vcpu, tops[0].id, True)
    except Endless:
        return {"the walk never ends"}
    finally:
        unsync.unsync_walk = walk
    problems = set()
    if vm.warnings:
        problems.add("a count below zero")
    if _dirty_below(vm, tops[0]):
        problems.add("an unsync page is missed")
    for i in range(vm.n_pages):
        sp = interpreted.page(vm, i)
        if not sp.in_use:
            continue
        if sp.unsync_children != bin(sp.unsync_child_bitmap[0]).count("1"):
            problems.add("a count differs from its bitmap")
        for index, child in _children(vm, sp):
            if _dirty_below(vm, child) and not sp.unsync_child_bitmap[0] >> index & 1:
                problems.add("a page that stays unsync is out of reach")
    return problems


def unsync_graphs(vectors=(3, 4, 5, 16), graphs=400, seed=1):
    """Every small graph with every size of the vector, then `graphs` large random ones with the kernel's vector."""
    bench, verdict = Bench(), Verdict()
    size = unsync.PAGE_ARRAY_NR
    entries = (None, 0, 1)
    try:
        for vector in vectors:
            unsync.PAGE_ARRAY_NR = vector
            for root, a, b in itertools.product(itertools.product(entries, repeat=2), repeat=3):
                for dirty in ((0,), (1,), (0, 1)):
                    bench.reset()
                    tops = _graph(bench, root, (a, b), 2, dirty)
                    verdict.note(_judge(bench, tops), (vector, root, a, b, dirty))
    finally:
        unsync.PAGE_ARRAY_NR = size
    draw = random.Random(seed)
    for n in range(graphs):
        bench.reset()
        shape = [[draw.choice([None, *range(20)]) for _ in range(4)] for _ in range(4)]
        dirty = [i for i in range(20) if draw.random() < 0.8]
        tops = _graph(bench, [draw.choice([None, 0, 1, 2, 3]) for _ in range(4)], shape, 20, dirty)
        verdict.note(_judge(bench, tops), ("random", n))
    return verdict
