# SPDX-License-Identifier: GPL-2.0-or-later
"""Exhaustive search: every operation of an alphabet in every state, each state once, in order of distance.

    depth 0:  the initial state
    depth 1:  one node per new state         node = parent << 16 | operation: 8 bytes; a state is rebuilt from its path,
       ...                                   so memory does not limit the width

Everything to depth d has been done when the first node of depth d is expanded; LOST remembers where that ceased to be true
because a table was full.
"""

from .. import state
from ..state import core
from . import area as areas
from . import coverage, digest, execute, ops, step, verify
from . import seen as met
from .work import COMMON_WORDS, DEPTH, FULLS, OPERATIONS, SKIPS, STATES, TABLE_FULL

#: Words of the loop's table besides those of every search.
NODES, NEXT_NODE, NEXT_OP, LEVEL_END, LOST, SALT, COVERED = range(COMMON_WORDS, COMMON_WORDS + 7)
WORK_WORDS = COMMON_WORDS + 7
MAX_DEPTH = 64
MOVE_BITS = 16


@core
def rebuild(vm, initial, area, words, alphabet, nodes, node, path):
    """Bring `vm` to the state of a node: the operations on its path from the root.  Depth of the node."""
    depth = 0
    while node:
        path[depth] = nodes[node] & ((1 << MOVE_BITS) - 1)
        depth += 1
        node = nodes[node] >> MOVE_BITS
    step.copy(vm, initial, words)
    for k in range(depth - 1, -1, -1):
        execute.perform(vm, area, alphabet, path[k] * ops.ROW_WORDS)
        step.forget_counters(vm)
    return depth


@core
def lose(work, depth):
    """There was no room to note a state of this depth as met: if it is new, it is not gone on from."""
    work[TABLE_FULL] += 1
    if not work[LOST]:
        work[LOST] = depth


@core
def expand(vm, area, alphabet, work, nodes, seen, bits, node, depth):
    """Do operation NEXT_OP in the state of `node`: 0, or the number of a failure."""
    at = work[NEXT_OP] * ops.ROW_WORDS
    was = coverage.before(vm, area, alphabet, at)
    failure = execute.perform(vm, area, alphabet, at)
    work[OPERATIONS] += 1
    if failure:
        return failure
    h = areas.head(vm, area)
    if h[areas.FULL]:
        work[FULLS] += 1
        return 0
    if h[areas.SKIPPED]:
        work[SKIPS] += 1
        return 0
    work[COVERED] |= coverage.reached(vm, area, alphabet, at, was)
    step.forget_counters(vm)
    new = met.is_new(seen, bits, (digest.digest(vm, area) ^ work[SALT]) | 1)
    if new:
        work[STATES] += new > 0
        failure = verify.structure(vm, area)
        if failure:
            return failure
        if new > 0:
            nodes[work[NODES]] = node << MOVE_BITS | work[NEXT_OP]
            work[NODES] += 1
            work[DEPTH] = depth + 1
            return 0
        lose(work, depth + 1)
    return 0


@core
def breadth(initial, base, current, area, words, alphabet, n_ops, work, nodes, path,
            seen, bits, budget, max_depth):
    """Expand nodes in order until `budget` operations are done (`nodes` has room for as many more): 0; -1 when everything to
    max_depth is done; or the number of a failure, found by operation NEXT_OP in node NEXT_NODE."""
    start = state.attach(initial)
    there = state.attach(base)
    vm = state.attach(current)
    done = 0
    while work[NEXT_NODE] < work[NODES]:
        node = work[NEXT_NODE]
        depth = rebuild(there, start, area, words, alphabet, nodes, node, path)
        work[LEVEL_END] = depth
        if depth >= max_depth:
            return -1
        while work[NEXT_OP] < n_ops:
            if done >= budget:
                return 0
            step.copy(vm, there, words)
            failure = expand(vm, area, alphabet, work, nodes, seen, bits, node, depth)
            done += 1
            if failure:
                return failure
            work[NEXT_OP] += 1
        work[NEXT_OP] = 0
        work[NEXT_NODE] += 1
    return -1
