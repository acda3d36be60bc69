# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking for a failure: exhaustively to a depth, or at random with restarts.  Both draw from geometry.alphabet.

    breadth     depth 0:  the initial state                       every operation in every state, each state once
                depth 1:  one node per new state                  node = (parent, operation): 16 bytes, a state is rebuilt
                   ...                                            from its path, so memory does not limit the width
    wander      initial or pooled state -> operation -> ... -> LENGTH operations -> restart
                a state never seen before may take a place in the pool: later walks start where something was new

Both loops run compiled, in slices; between slices Python shows progress and can stop.  Everything follows from the seed.

States are told apart by a 62-bit digest of what matters for the future: registers, roots, shadow pages in list order (by place
in the list, not by number), guest memory, slots, what the hardware may hold and what is permitted; not counters, free lists
and the order of chains.  Two states with one digest are taken for one state.
"""

import array
import time
from dataclasses import dataclass, field

from .. import state
from ..mmu import counters, roots, sptes
from ..mmu import geometry as tables
from ..state import JIT, Array, core, entry_point, layout
from . import architecture, ops, tlb_model, verify
from . import area as areas

MASK = (1 << 62) - 1
PRIME = 0x1E3779B97F4A7C15

#: Words of `work`, which a loop and Python share.
(SEED, OPERATIONS, STATES, DEPTH, NODES, NEXT_NODE, NEXT_OP, LENGTH, STEP, POOLED, RESTARTS, SKIPS, FULLS, LEVEL_END,
 TABLE_FULL) = range(15)
WORK_WORDS = 16
POOL, MAX_LENGTH = 32, 256


# ---- digest

@core
def fold(h, value):
    """Mix one word in; the same compiled (wrapping) and interpreted (long)."""
    h = ((h ^ (value & MASK)) * PRIME) & MASK
    return h ^ (h >> 31)


@core
def label_pages(vm, area):
    """A name for every shadow page that does not depend on its number: place in the active list, then the invalid roots."""
    labels = areas.common(vm, area, areas.OUTCOMES)
    for i in range(vm.n_pages):
        labels[i] = 0
    n = 1
    i = vm.list_head[0]
    while i >= 0:
        labels[i] = n
        n += 1
        i = state.page(vm, i).next
    for i in range(vm.n_pages):
        if labels[i] == 0 and state.page(vm, i).in_use:
            labels[i] = n
            n += 1


@core
def named(vm, area, entry):
    """An spte, root or held row with the number of a shadow page replaced by its label."""
    i = tables.frame_to_page(vm, tables.entry_frame(entry))
    if i < 0:
        return entry
    return entry & 0xFFF | (areas.common(vm, area, areas.OUTCOMES)[i] + 0x4000) << 12 | entry & -(1 << 52)


@core
def digest_page(vm, area, h, sp):
    h = fold(h, sp.gfn)
    h = fold(h, sp.role)
    h = fold(h, sp.unsync | sp.unsync_children << 1 | sp.root_count << 8 | sp.write_flooding_count << 16
             | (sp.mmu_valid_gen != vm.mmu_valid_gen) << 24 | sp.unsync_child_bitmap[0] << 32)
    first = tables.first_sptep(vm, sp.id)
    gfns = state.words32(vm, vm.translation)
    for k in range(tables.entries(vm)):
        spte = tables.read_spte(vm, first + k)
        h = fold(h, named(vm, area, spte))
        if sp.has_translation and sptes.is_present(spte):
            h = fold(h, gfns[first + k] + 0)
    return h


@core
def digest_vcpu(vm, area, h, v):
    vcpu = state.vcpu(vm, v)
    ctx = state.context(vm, vcpu.mmu)
    h = fold(h, vcpu.cr0)
    h = fold(h, vcpu.cr3)
    h = fold(h, vcpu.cr4 << 16 | vcpu.efer)
    h = fold(h, vcpu.requests << 8 | vcpu.in_guest << 1 | vcpu.smm)
    h = fold(h, named(vm, area, ctx.root_hpa))
    h = fold(h, named(vm, area, vcpu.hw_root))
    for i in range(3):
        h = fold(h, named(vm, area, ctx.prev_hpa[i]))
        h = fold(h, ctx.prev_pgd[i])
    for i in range(4):
        h = fold(h, ctx.pdptrs[i])
        h = fold(h, named(vm, area, roots.read_pae_root(vm, ctx, i)))
    h = fold(h, vcpu.mmio_gva)
    h = fold(h, vcpu.mmio_gfn << 32 | vcpu.mmio_access << 16 | vcpu.mmio_gen)
    h = fold(h, vcpu.last_retry_addr)
    held = areas.part(vm, area, v, areas.HELD)
    total = 0
    for i in range(held[tlb_model.COUNT]):
        at = tlb_model.ROWS + i * tlb_model.ROW_WORDS
        total = (total + fold(fold(fold(0, held[at]), held[at + 1]), named(vm, area, held[at + 2]))) & MASK
    h = fold(h, total)
    permitted = architecture.permitted_of(vm, area, v)
    for i in range(architecture.permitted_words(vm, area, v)):
        h = fold(h, permitted[i])
    return h


@core
def digest(vm, area):
    """62-bit digest of the state."""
    label_pages(vm, area)
    h = 1
    for v in range(vm.n_vcpus):
        h = digest_vcpu(vm, area, h, v)
    i = vm.list_head[0]
    while i >= 0:
        sp = state.page(vm, i)
        h = digest_page(vm, area, h, sp)
        i = sp.next
    for i in range(vm.n_pages):
        sp = state.page(vm, i)
        if sp.in_use and sp.list == layout.NO_LIST:
            h = digest_page(vm, area, h, sp)
    h = fold(h, areas.head(vm, area)[areas.TAINTED] + 0)
    h = fold(h, vm.n_max_mmu_pages << 32 | vm.indirect_shadow_pages << 16 | vm.mmio_generation[0])
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if not slot.used:
            continue
        h = fold(h, slot.id << 48 | slot.as_id << 40 | slot.base_gfn << 32 | slot.hva << 16 | slot.flags)
        for k in range(slot.npages):
            meta = state.meta(vm, slot.meta + k)
            h = fold(h, meta.dirty | meta.write_track << 1 | (meta.rmap != 0) << 16)
    hva = state.words(vm, vm.hva)
    for i in range(vm.n_hva):
        h = fold(h, hva[i])
    ram = state.words(vm, vm.ram)
    for i in range(vm.n_ram << (vm.page_shift - 3)):
        h = fold(h, ram[i])
    return h | 1


@core
def is_new(seen, bits, h, work):
    """Put a digest into the open-addressed set of 2**bits words; False if it was there."""
    mask = (1 << bits) - 1
    at = h >> 8 & mask
    for _ in range(64):
        if seen[at] == h:
            return False
        if seen[at] == 0:
            seen[at] = h
            work[STATES] += 1
            return True
        at = at + 1 & mask
    work[TABLE_FULL] += 1
    return False


# ---- one operation

@core
def forget_counters(vm):
    """Statistics that nothing depends on would only grow."""
    kept = vm.stat[counters.PAGES_4K]
    for i in range(24):
        vm.stat[i] = 0
    vm.stat[counters.PAGES_4K] = kept
    for v in range(vm.n_vcpus):
        vcpu = state.vcpu(vm, v)
        for i in range(20):
            vcpu.stat[i] = 0


@core
def begin(vm, area):
    """The initial state: every vCPU in the guest, nothing cached."""
    h = areas.head(vm, area)
    h[areas.FREE_RAM] = vm.n_free_ram
    architecture.frames(vm, area)
    architecture.see_memory(vm, area)
    for v in range(vm.n_vcpus):
        architecture.reset(vm, area, v)
        architecture.load_pdptes(vm, area, v)
    architecture.settle(vm, area)
    for v in range(vm.n_vcpus):
        ops.come_in(vm, area, v)
    verify.after_operation(vm, area)


@entry_point
def prepare(handle, area):
    """Make the area of a new machine."""
    begin(state.attach(handle), area)


@entry_point
def perform(handle, area, op: Array, at):
    """Do one operation and check: 0 or the number of the failure."""
    return ops.perform(state.attach(handle), area, op, at)


@core
def copy(to, source, words):
    """Copy a state."""
    a = state.words(to, 0)
    b = state.words(source, 0)
    for i in range(words):
        a[i] = b[i]


@core
def copy_operation(trace, to, alphabet, at):
    for k in range(ops.ROW_WORDS):
        trace[to + k] = alphabet[at + k]


# ---- random

@core
def draw(work, n):
    """A number below n from the generator in SEED."""
    work[SEED] = (work[SEED] * 1103515245 + 12345) & 0x7FFFFFFFFFFF
    return (work[SEED] >> 16) % n


@entry_point
def wander(initial, current, pool, stride, area, words, alphabet: Array, kinds: Array, n_kinds, work: Array, trace: Array,
           pool_trace: Array, pool_depth: Array, seen: Array, bits, budget):
    """Random walk of `budget` operations: 0, or the number of a failure, whose operations stand in `trace`.

    kinds: per kind of operation (cumulated weight, first row, number of rows).  pool: handle of the first pooled state.
    """
    vm = state.attach(current)
    total = kinds[3 * (n_kinds - 1)]
    row_words = ops.ROW_WORDS
    for _ in range(budget):
        if work[STEP] >= work[LENGTH] or areas.head(vm, area)[areas.FULL]:
            work[RESTARTS] += 1
            work[STEP] = 0
            if work[POOLED] and draw(work, 4):
                k = draw(work, min(work[POOLED], POOL))
                copy(vm, state.attach(pooled(pool, stride, k)), words)
                work[STEP] = pool_depth[k]
                for i in range(work[STEP] * row_words):
                    trace[i] = pool_trace[k * MAX_LENGTH * row_words + i]
            else:
                copy(vm, state.attach(initial), words)
        pick = draw(work, total)
        kind = 0
        while kinds[3 * kind] <= pick:
            kind += 1
        at = (kinds[3 * kind + 1] + draw(work, kinds[3 * kind + 2])) * row_words
        copy_operation(trace, work[STEP] * row_words, alphabet, at)
        failure = ops.perform(vm, area, alphabet, at)
        work[OPERATIONS] += 1
        if failure:
            work[STEP] += 1
            return failure
        h = areas.head(vm, area)
        if h[areas.FULL]:
            work[FULLS] += 1
            continue
        if h[areas.SKIPPED]:
            # it may still have served requests, so it stays in the trace
            work[SKIPS] += 1
        work[STEP] += 1
        forget_counters(vm)
        if work[STEP] > work[DEPTH]:
            work[DEPTH] = work[STEP]
        if is_new(seen, bits, digest(vm, area), work) and work[STEP] * 2 < MAX_LENGTH and draw(work, 256) == 0:
            k = work[POOLED] if work[POOLED] < POOL else draw(work, POOL)
            copy(state.attach(pooled(pool, stride, k)), vm, words)
            pool_depth[k] = work[STEP]
            for i in range(work[STEP] * row_words):
                pool_trace[k * MAX_LENGTH * row_words + i] = trace[i]
            if work[POOLED] < POOL:
                work[POOLED] += 1
    return 0


if JIT:
    @core
    def pooled(pool, stride, k):
        """Handle of a pooled state: compiled, an address."""
        return pool + k * stride
else:
    def pooled(pool, stride, k):
        """Handle of a pooled state: interpreted, from a list."""
        return pool[k]


# ---- breadth first

@core
def rebuild(vm, initial, area, words, alphabet, parents, moves, node, path):
    """Bring `vm` to the state of a node: the operations on its path from the root.  Depth of the node."""
    depth = 0
    while node:
        path[depth] = moves[node]
        depth += 1
        node = parents[node]
    copy(vm, initial, words)
    for k in range(depth - 1, -1, -1):
        ops.perform(vm, area, alphabet, path[k] * ops.ROW_WORDS)
        forget_counters(vm)
    return depth


@entry_point
def breadth(initial, base, current, area, words, alphabet: Array, n_ops, work: Array, parents: Array, moves: Array,
            capacity, path: Array, seen: Array, bits, budget, max_depth):
    """Expand nodes in order until `budget` operations are done: 0; -1 when everything to max_depth is done; or the number
    of a failure, found by operation NEXT_OP in node NEXT_NODE."""
    start = state.attach(initial)
    there = state.attach(base)
    vm = state.attach(current)
    done = 0
    while work[NEXT_NODE] < work[NODES]:
        node = work[NEXT_NODE]
        depth = rebuild(there, start, area, words, alphabet, parents, moves, node, path)
        if depth >= max_depth:
            return -1
        while work[NEXT_OP] < n_ops:
            if done >= budget:
                return 0
            copy(vm, there, words)
            failure = ops.perform(vm, area, alphabet, work[NEXT_OP] * ops.ROW_WORDS)
            work[OPERATIONS] += 1
            done += 1
            if failure:
                return failure
            h = areas.head(vm, area)
            if h[areas.FULL]:
                work[FULLS] += 1
            elif h[areas.SKIPPED]:
                work[SKIPS] += 1
            else:
                forget_counters(vm)
                if is_new(seen, bits, digest(vm, area), work):
                    if work[NODES] == capacity:
                        work[TABLE_FULL] += 1
                    else:
                        parents[work[NODES]] = node
                        moves[work[NODES]] = work[NEXT_OP]
                        work[NODES] += 1
                        work[DEPTH] = depth + 1
            work[NEXT_OP] += 1
        work[NEXT_OP] = 0
        work[NEXT_NODE] += 1
        work[LEVEL_END] = depth
    return -1


# ---- driven from Python

#: How often a kind of operation is drawn.
WEIGHTS = {"access": 34, "store": 26, "cr3": 8, "flush": 8, "registers": 4, "modes": 2, "enter": 3, "host write": 3,
           "slots": 2, "dirty": 2, "unmap": 1, "reclaim": 1}


def table(n):
    """n words that core functions can index."""
    buffer = array.array("q", bytes(8 * n))
    if not JIT:
        return buffer
    import numpy
    return numpy.frombuffer(buffer, dtype=numpy.int64)


def table_of(rows):
    out = table(len(rows) * ops.ROW_WORDS)
    for i, values in enumerate(rows):
        for k, value in enumerate(values):
            out[i * ops.ROW_WORDS + k] = value
    return out


@dataclass
class Progress:
    """What a search has done so far."""

    operations: int = 0
    states: int = 0
    depth: int = 0
    seconds: float = 0.0
    restarts: int = 0
    skipped: int = 0
    abandoned: int = 0
    complete_depth: int = -1
    exhausted: bool = False

    @property
    def rate(self):
        return self.operations / self.seconds if self.seconds else 0.0


@dataclass
class Found:
    """A failure, and the operations that lead to it from the initial state."""

    failure: int
    rows: list = field(default_factory=list)


class Search:
    """One search over one machine.  `random` and `exhaustive` return a Found, or None when the budget is used up.

    progress: called with a Progress after every slice; may raise to stop (KeyboardInterrupt is the user's way).
    """

    def __init__(self, machine, rules, vcpus=1, seed=1, progress=None, seen_bits=None, aside=0):
        from .geometry import Arena, alphabet
        self.machine, self.rules, self.vcpus, self.seed = machine, rules, vcpus, seed
        self.arena = Arena(machine, rules, vcpus, copies=4 + POOL, aside=aside)
        self.kinds = alphabet(machine, vcpus)
        self.small = alphabet(machine, vcpus, small=True)
        self.callback = progress or (lambda p: None)
        self.bits = seen_bits or (24 if JIT else 14)
        self.progress = Progress()

    def _slice(self):
        return 20_000 if JIT else 200

    def _run(self, step, work, seconds, operations, finished):
        started = time.monotonic()
        while True:
            left = operations - work[OPERATIONS] if operations else self._slice()
            result = step(int(min(left, self._slice())))
            p = self.progress
            p.operations, p.states, p.depth = int(work[OPERATIONS]), int(work[STATES]), int(work[DEPTH])
            p.restarts, p.skipped, p.abandoned = int(work[RESTARTS]), int(work[SKIPS]), int(work[FULLS])
            p.seconds = time.monotonic() - started
            finished(p, result)
            self.callback(p)
            if result > 0:
                return result
            if result < 0 or (operations and p.operations >= operations) or (seconds and p.seconds >= seconds):
                return 0

    def random(self, seconds=0, operations=0, length=40):
        """Random walks of `length` operations until a budget is used up."""
        rows, kinds = [], []
        total = 0
        for kind, weight in WEIGHTS.items():
            if self.kinds[kind]:
                total += weight
                kinds += [total, len(rows), len(self.kinds[kind])]
                rows += self.kinds[kind]
        work, trace = table(WORK_WORDS), table(ops.ROW_WORDS * MAX_LENGTH)
        work[SEED], work[LENGTH], work[STEP] = self.seed * 7919 + 17, min(length, MAX_LENGTH), MAX_LENGTH
        alphabet_table, kinds_table = table_of(rows), table(len(kinds))
        for i, value in enumerate(kinds):
            kinds_table[i] = value
        pool_trace, pool_depth, seen = table(POOL * MAX_LENGTH * ops.ROW_WORDS), table(POOL), table(1 << self.bits)
        a = self.arena
        pool = a.handle(4) if JIT else [a.handle(4 + k) for k in range(POOL)]

        def step(budget):
            return wander(a.handle(0), a.handle(1), pool, a.stride, a.area, a.words, alphabet_table, kinds_table,
                          len(kinds) // 3, work, trace, pool_trace, pool_depth, seen, self.bits, budget)

        failure = self._run(step, work, seconds, operations, lambda p, r: None)
        if not failure:
            return None
        n = ops.ROW_WORDS
        return Found(int(failure), [tuple(int(x) for x in trace[i * n:(i + 1) * n]) for i in range(int(work[STEP]))])

    def exhaustive(self, depth, seconds=0, operations=0, nodes=1 << 22):
        """All sequences of up to `depth` operations of the short alphabet, states that were met before left out."""
        rows = [r for kind in WEIGHTS for r in self.small[kind]]
        work, path = table(WORK_WORDS), table(64)
        capacity = nodes if JIT else min(nodes, 1 << 14)
        parents, moves, seen = table(capacity), table(capacity), table(1 << self.bits)
        work[NODES] = 1
        alphabet_table, a = table_of(rows), self.arena

        def step(budget):
            return breadth(a.handle(0), a.handle(1), a.handle(2), a.area, a.words, alphabet_table, len(rows), work, parents,
                           moves, capacity, path, seen, self.bits, budget, depth)

        def finished(p, result):
            p.exhausted = result < 0 and not work[TABLE_FULL]
            p.complete_depth = (depth if work[NEXT_NODE] < work[NODES] or work[NODES] == 1 else -1) if result < 0 else int(
                work[LEVEL_END])

        failure = self._run(step, work, seconds, operations, finished)
        if not failure:
            return None
        node, rows_back = int(work[NEXT_NODE]), [rows[int(work[NEXT_OP])]]
        while node:
            rows_back.append(rows[int(moves[node])])
            node = int(parents[node])
        return Found(int(failure), rows_back[::-1])


def replay(arena, rows, watch=None):
    """The operations from the initial state: (failure, number of operations done).  watch(i): after each operation."""
    arena.copy(1, 0)
    op_table = table_of(rows)
    for i in range(len(rows)):
        failure = int(perform(arena.handle(1), arena.area, op_table, i * ops.ROW_WORDS))
        if watch:
            watch(i)
        if failure:
            return failure, i + 1
    return 0, len(rows)
