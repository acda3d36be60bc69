# SPDX-License-Identifier: GPL-2.0-or-later
"""Aligning two long lists that are mostly equal, in bounded time.

    a  1 2 3 x y 4 5 6 7 8
    b  1 2 3     4 5 6 7 9      -> equal 0..3, a 3..5 against b 3..3, equal 5..9 with 3..7, ...

After a difference both sides are searched forward, in windows that grow, for the nearest place where `RUN` items in
a row agree.  The cost is linear in what is equal and bounded by the largest window at each difference.
"""

RUN = 4
WINDOWS = (64, 1024, 16384)


def blocks(a, b):
    """Yield (tag, i1, i2, j1, j2) with tag "equal" or "differ", covering both lists in order."""
    i = j = 0
    n, m = len(a), len(b)
    while i < n or j < m:
        start_i, start_j = i, j
        while i < n and j < m and a[i] == b[j]:
            i += 1
            j += 1
        if i > start_i:
            yield "equal", start_i, i, start_j, j
        if i >= n and j >= m:
            return
        next_i, next_j = _resync(a, b, i, j)
        yield "differ", i, next_i, j, next_j
        i, j = next_i, next_j


def _resync(a, b, i, j):
    """Nearest (x, y) with x >= i, y >= j where a run agrees; the ends of both if there is none."""
    n, m = len(a), len(b)
    for window in WINDOWS:
        end_i, end_j = min(n, i + window), min(m, j + window)
        places = {}
        for y in range(end_j - 1, j - 1, -1):
            places[tuple(b[y:y + RUN])] = y
        best = None
        for x in range(i, end_i):
            if best and x - i >= best[0]:
                break
            y = places.get(tuple(a[x:x + RUN]))
            if y is not None and (best is None or x - i + y - j < best[0]):
                best = x - i + y - j, x, y
        if best:
            return best[1:]
        if end_i == n and end_j == m:
            break
    return n, m


def equal_items(a, b):
    """How many items are equal in the alignment of `blocks`."""
    return sum(i2 - i1 for tag, i1, i2, _j1, _j2 in blocks(a, b) if tag == "equal")
