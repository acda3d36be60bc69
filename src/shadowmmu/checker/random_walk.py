# SPDX-License-Identifier: GPL-2.0-or-later
"""Random walks with restarts.

    initial or pooled state -> operation -> operation -> ... -> LENGTH operations on -> restart
                                   |
                                   a state never met before may take a place in the pool: later walks start there;
                                   it does if a rule of the MMU took effect for the first time (`coverage`)

What a walk does is drawn by `choice`: some kinds of operations more often, some never, most of them about few pages.
An operation that could not be done does not count towards LENGTH.  When the host has written a guest's table behind the MMU's
back most checks rest (`verify.excused`): the walk ends BLIND operations later, and such states are not pooled.

Everything follows from the seed.  A walk that was interrupted goes on exactly: its numbers, its trace and the traces of the
pool are saved, and the states are made anew from the traces.
"""

from .. import state
from ..state import JIT, core
from . import area as areas
from . import choice, coverage, digest, execute, ops, step, verify
from . import seen as met
from .work import (
    COVERED,
    DEPTH,
    END,
    FULLS,
    LENGTH,
    OPERATIONS,
    POOLED,
    RESTARTS,
    SALT,
    SKIPS,
    STATES,
    STEP,
    TABLE_FULL,
)

POOL, MAX_LENGTH = 32, 256
#: A walk starts in the pool three times in four; a new state is pooled once in 256 times.
FROM_POOL, INTO_POOL = 4, 256
BLIND = 8


@core
def copy_operation(trace, to, alphabet, at):
    for k in range(ops.ROW_WORDS):
        trace[to + k] = alphabet[at + k]


@core
def restart(vm, initial, pool, stride, words, work, trace, pool_trace, pool_depth):
    """Begin a walk: at the initial state or in the pool, with some of the kinds."""
    work[RESTARTS] += 1
    choice.begin_walk(work)
    work[STEP] = 0
    work[END] = work[LENGTH]
    if not work[POOLED] or not choice.draw(work, FROM_POOL):
        step.copy(vm, state.attach(initial), words)
        return
    k = choice.draw(work, work[POOLED])
    step.copy(vm, state.attach(pooled(pool, stride, k)), words)
    work[STEP] = pool_depth[k]
    work[END] = min(work[STEP] + work[LENGTH], MAX_LENGTH)
    for i in range(work[STEP] * ops.ROW_WORDS):
        trace[i] = pool_trace[k * MAX_LENGTH * ops.ROW_WORDS + i]


@core
def keep(vm, pool, stride, words, work, trace, pool_trace, pool_depth):
    """Put the state into the pool, in an arbitrary one's place if that is full."""
    k = work[POOLED] if work[POOLED] < POOL else choice.draw(work, POOL)
    step.copy(state.attach(pooled(pool, stride, k)), vm, words)
    pool_depth[k] = work[STEP]
    for i in range(work[STEP] * ops.ROW_WORDS):
        pool_trace[k * MAX_LENGTH * ops.ROW_WORDS + i] = trace[i]
    if work[POOLED] < POOL:
        work[POOLED] += 1


@core
def wander(initial, current, pool, stride, area, words, alphabet, about, kinds, n_kinds, work, trace,
           pool_trace, pool_depth, seen, bits, budget):
    """`budget` operations: 0, or the number of a failure, whose operations stand in `trace`.

    kinds: per kind of operation (cumulated weight, first row, number of rows).  pool: handle of the first pooled state.
    """
    vm = state.attach(current)
    total = kinds[3 * (n_kinds - 1)]
    for _ in range(budget):
        if work[STEP] >= work[END]:
            restart(vm, initial, pool, stride, words, work, trace, pool_trace, pool_depth)
        at = choice.operation(vm, area, alphabet, about, kinds, total, work)
        copy_operation(trace, work[STEP] * ops.ROW_WORDS, alphabet, at)
        was = coverage.before(vm, area, alphabet, at)
        h = areas.head(vm, area)
        seeing = not h[areas.TAINTED]
        failure = execute.perform(vm, area, alphabet, at)
        work[OPERATIONS] += 1
        work[STEP] += 1
        if failure:
            return failure
        if h[areas.FULL]:
            work[FULLS] += 1
            work[STEP] = work[END]
            continue
        if h[areas.SKIPPED]:
            # it may still have served requests, so it stays in the trace
            work[SKIPS] += 1
            work[END] = min(work[END] + 1, MAX_LENGTH)
        if h[areas.TAINTED] and seeing:
            work[END] = min(work[END], work[STEP] + BLIND)
        fresh = coverage.reached(vm, area, alphabet, at, was) & ~work[COVERED]
        work[COVERED] |= fresh
        step.forget_counters(vm)
        if work[STEP] > work[DEPTH]:
            work[DEPTH] = work[STEP]
        new = met.is_new(seen, bits, (digest.digest(vm, area) ^ work[SALT]) | 1)
        if new < 0:
            work[TABLE_FULL] += 1
        if new:
            # a state for which there is no room may be new
            work[STATES] += new > 0
            failure = verify.structure(vm, area)
            if failure:
                return failure
            if work[STEP] * 2 < MAX_LENGTH and not h[areas.TAINTED] and (choice.draw(work, INTO_POOL) == 0 or fresh):
                keep(vm, pool, stride, words, work, trace, pool_trace, pool_depth)
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
