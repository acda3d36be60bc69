# SPDX-License-Identifier: GPL-2.0-or-later
"""A search over one machine that can be done in slices, stopped, saved and taken up again: at random or exhaustively.

    lane.step(budget)    0, the number of a failure, or -1 when nothing is left       lane.found()   its operations
    lane.go_on()         after a failure                                              lane.save(), lane.restore(words)
"""

from array import array

from ..state import JIT
from . import blackbox, choice, entries, ops
from .breadth import COVERED as BREADTH_COVERED
from .breadth import LEVEL_END, LOST, MAX_DEPTH, MOVE_BITS, NEXT_NODE, NEXT_OP, NODES
from .breadth import SALT as BREADTH_SALT
from .breadth import WORK_WORDS as BREADTH_WORDS
from .focus import Focus
from .random_walk import MAX_LENGTH, POOL
from .work import ALWAYS, COVERED, END, FULLS, LENGTH, PAGES, POOLED, SALT, SEED, STEP, TABLE_FULL, WALK_WORDS, WIDE_IN


class RandomWalk:
    """One walk over one machine.  rows: kind -> rows; seen: a `seen.Seen`."""

    mode = "random"
    #: Copies of the state that it needs in its arena.
    COPIES = 2 + POOL

    def __init__(self, arena, rows, seen, seed, length=40, salt=0):
        self.arena, self.seen = arena, seen
        kinds, flat, total, always = [], [], 0, 0
        for kind, weight in arena.machine.weights.items():
            if rows[kind] and weight:
                always |= (kind in choice.NEVER_OUT) << 2 * (len(kinds) // 3)
                total += weight
                kinds += [total, len(flat), len(rows[kind])]
                flat += rows[kind]
        self.alphabet, self.n_kinds = entries.table_of(flat), len(kinds) // 3
        about = Focus(arena.machine).about
        self.kinds = entries.table_from(array("q", kinds))
        self.about = entries.table_from(array("q", map(about, flat)))
        self.work = blackbox.table(self, "work", WALK_WORDS)
        self.trace = blackbox.table(self, "trace", ops.ROW_WORDS * MAX_LENGTH)
        self.pool_trace, self.pool_depth = entries.table(POOL * MAX_LENGTH * ops.ROW_WORDS), entries.table(POOL)
        w = self.work
        w[SEED], w[LENGTH], w[SALT] = seed * 7919 + 17, min(length, MAX_LENGTH), salt
        w[PAGES], w[ALWAYS], w[WIDE_IN] = len(arena.machine.pages), always, arena.machine.wide_in
        self.pool = arena.handle(2) if JIT else [arena.handle(2 + k) for k in range(POOL)]

    def step(self, budget):
        """So many operations: 0, or the number of a failure."""
        a, seen = self.arena, self.seen
        blackbox.note(self)
        with seen.slice(self.work, budget):
            result = int(entries.wander(a.handle(0), a.handle(1), self.pool, a.stride, a.area, a.words, self.alphabet, self.about,
                                        self.kinds, self.n_kinds, self.work, self.trace, self.pool_trace, self.pool_depth,
                                        seen.table, seen.bits, budget))
        blackbox.rest()
        return result

    def found(self):
        """Rows from the initial state to the failure that `step` has just reported."""
        return entries.rows_of(self.trace, int(self.work[STEP]))

    def go_on(self):
        """After a failure: the next operation starts a new walk."""
        self.work[STEP] = self.work[END]

    @property
    def covered(self):
        """The marks reached (coverage.NAMES)."""
        return int(self.work[COVERED])

    @property
    def complete_depth(self):
        return -1

    def save(self):
        """Tables of words from which `restore` makes the same walk again."""
        n = ops.ROW_WORDS
        out = [self.work, self.pool_depth, self.trace[:n * int(self.work[STEP])]]
        for k in range(int(self.work[POOLED])):
            at = k * MAX_LENGTH * n
            out.append(self.pool_trace[at:at + n * int(self.pool_depth[k])])
        return out

    def restore(self, saved):
        """Become the walk that was saved."""
        work, depths, trace, *pool = saved
        for to, words in ((self.work, work), (self.pool_depth, depths), (self.trace, trace)):
            to[:len(words)] = words
        for k, words in enumerate(pool):
            at = k * MAX_LENGTH * ops.ROW_WORDS
            self.pool_trace[at:at + len(words)] = words
            self._follow(words, 2 + k)
        if self.work[STEP] < self.work[END]:
            self._follow(trace, 1)

    def _follow(self, words, i):
        """Make copy i the state at the end of a trace."""
        self.arena.copy(i, 0)
        entries.follow(self.arena.handle(i), self.arena.area, words, len(words) // ops.ROW_WORDS)


class BreadthFirst:
    """One exhaustive search over one machine.  rows: kind -> rows; seen: a `seen.Seen`."""

    mode = "exhaustive"
    COPIES = 3

    def __init__(self, arena, rows, seen, depth=MAX_DEPTH, salt=0):
        self.arena, self.seen = arena, seen
        self.rows = [r for kind in rows.values() for r in kind]
        self.alphabet, self.depth = entries.table_of(self.rows), min(depth, MAX_DEPTH)
        self.work, self.nodes = blackbox.table(self, "work", BREADTH_WORDS), entries.table(1 << 12)
        self.path = blackbox.table(self, "path", MAX_DEPTH + 1)
        self.work[NODES], self.work[BREADTH_SALT] = 1, salt
        self.done = False

    def step(self, budget):
        """So many operations: 0, the number of a failure, or -1 when there is nothing left to do."""
        a, seen = self.arena, self.seen
        self._make_room(int(self.work[NODES]) + budget)
        blackbox.note(self, self.rows)
        with seen.slice(self.work, budget):
            result = int(entries.breadth(a.handle(0), a.handle(1), a.handle(2), a.area, a.words, self.alphabet, len(self.rows),
                                         self.work, self.nodes, self.path, seen.table, seen.bits, budget, self.depth))
        blackbox.rest()
        self.done = result < 0
        return result

    def _make_room(self, n):
        """Have room for n nodes."""
        if n > len(self.nodes):
            old, self.nodes = self.nodes, entries.table(max(n, 2 * len(self.nodes)))
            self.nodes[:len(old)] = old

    def found(self):
        """Rows from the initial state to the failure that `step` has just reported."""
        node, back = int(self.work[NEXT_NODE]), [self.rows[int(self.work[NEXT_OP])]]
        while node:
            back.append(self.rows[int(self.nodes[node]) & (1 << MOVE_BITS) - 1])
            node = int(self.nodes[node]) >> MOVE_BITS
        return back[::-1]

    def go_on(self):
        """After a failure: leave that operation out."""
        self.work[NEXT_OP] += 1

    @property
    def covered(self):
        """The marks reached (coverage.NAMES)."""
        return int(self.work[BREADTH_COVERED])

    @property
    def exhausted(self):
        """Every state that the alphabet reaches (to the depth asked for) has been met."""
        return self.done and not self.work[TABLE_FULL] and not self.work[FULLS]

    @property
    def complete_depth(self):
        """Every sequence of so many operations has been done."""
        w = self.work
        reached = self.depth if self.done else int(w[LEVEL_END])
        return min(reached, int(w[LOST])) if w[LOST] else reached

    def save(self):
        """Tables of words from which `restore` makes the same search again."""
        done = entries.table(1)
        done[0] = self.done
        return [self.work, self.nodes[:int(self.work[NODES])], done]

    def restore(self, saved):
        """Become the search that was saved."""
        self._make_room(len(saved[1]))
        for to, words in zip((self.work, self.nodes), saved):
            to[:len(words)] = words
        self.done = bool(saved[2][0])
