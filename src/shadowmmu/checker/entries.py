# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that Python calls of the checker's core, in one module so that it is compiled once; and running rows of operations.

    replay(arena, rows)     from the initial state, one after the other, everything checked after each
"""

import array

from .. import state
from ..state import JIT, Array, entry_point
from . import breadth as exhaustive
from . import execute, invariants, ops, random_walk, step, verify
from . import seen as met


@entry_point
def prepare(handle, area):
    """Make the area of a new machine."""
    step.begin(state.attach(handle), area)


@entry_point
def perform(handle, area, op: Array, at):
    """Do one operation and check, invariants too: 0 or the number of the failure."""
    vm = state.attach(handle)
    failure = execute.perform(vm, area, op, at)
    return failure if failure else verify.structure(vm, area)


@entry_point
def follow(handle, area, op: Array, count):
    """Operations 0..count-1 as a search has done them."""
    vm = state.attach(handle)
    for i in range(count):
        step.perform(vm, area, op, i * ops.ROW_WORDS)


@entry_point
def judge(handle, number):
    """Does the invariant of this number hold?  0: do all, in one pass."""
    vm = state.attach(handle)
    return invariants.holds(vm, number) if number else invariants.together.all_hold(vm)


@entry_point
def wander(initial, current, pool, stride, area, words, alphabet: Array, about: Array, kinds: Array, n_kinds, work: Array,
           trace: Array, pool_trace: Array, pool_depth: Array, seen: Array, bits, budget):
    """random_walk.wander."""
    return random_walk.wander(initial, current, pool, stride, area, words, alphabet, about, kinds, n_kinds, work, trace,
                              pool_trace, pool_depth, seen, bits, budget)


@entry_point
def breadth(initial, base, current, area, words, alphabet: Array, n_ops, work: Array, nodes: Array, path: Array,
            seen: Array, bits, budget, max_depth):
    """breadth.breadth."""
    return exhaustive.breadth(initial, base, current, area, words, alphabet, n_ops, work, nodes, path, seen, bits,
                              budget, max_depth)


@entry_point
def put_all(seen: Array, bits, digests: Array, n):
    """seen.put_all."""
    met.put_all(seen, bits, digests, n)


def table(n):
    """n words that core functions can index."""
    buffer = array.array("q", bytes(8 * n))
    if not JIT:
        return buffer
    import numpy
    return numpy.frombuffer(buffer, dtype=numpy.int64)


def table_from(words):
    """A table with the contents of a buffer of words."""
    out = table(len(words))
    memoryview(out).cast("B")[:] = memoryview(words).cast("B")
    return out


def table_of(rows):
    """Rows of operations as a table."""
    out = table(max(len(rows), 1) * ops.ROW_WORDS)
    for i, values in enumerate(rows):
        for k, value in enumerate(values):
            out[i * ops.ROW_WORDS + k] = value
    return out


def rows_of(words, n):
    """The first n rows of a table of operations."""
    size = ops.ROW_WORDS
    return [tuple(int(x) for x in words[i * size:(i + 1) * size]) for i in range(n)]


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
