# SPDX-License-Identifier: GPL-2.0-or-later
"""Making a finding small: remove operations while the failure stays, the same way every time.

    halves, quarters, ... single operations      until no single one can be removed any more

The result is minimal in that sense: without any one of its operations the failure (of the same number) does not appear.
"""

from . import search


def fails(arena, rows, failure):
    """Length of the prefix that shows this failure, or 0."""
    found, done = search.replay(arena, rows)
    return done if found == failure else 0


def shrink(arena, rows, failure):
    """The smallest list reached, from `rows`, which must show `failure`."""
    if not fails(arena, rows, failure):
        raise ValueError("the operations do not show the failure")
    return smallest(rows, lambda some: fails(arena, some, failure))


def smallest(rows, shown):
    """The smallest list reached from `rows`.  shown(some): length of the prefix that shows what is looked for, or 0."""
    rows = list(rows[:shown(rows)])
    size = max(len(rows) // 2, 1)
    while True:
        removed = False
        end = len(rows)
        while end > 0:
            start = max(end - size, 0)
            shorter = rows[:start] + rows[end:]
            n = shown(shorter)
            if n:
                rows = shorter[:n]
                removed = True
                end = min(start, len(rows))
            else:
                end = start
        if size > 1:
            size //= 2
        elif not removed:
            return rows
