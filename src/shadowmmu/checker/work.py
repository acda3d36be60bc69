# SPDX-License-Identifier: GPL-2.0-or-later
"""Places in the table of words that a search's compiled loop and Python share.

    0 .. 5    both kinds of search                      6 ..    random walks; exhaustive search has its own (`breadth`)
"""

OPERATIONS, STATES, DEPTH, SKIPS, FULLS, TABLE_FULL = range(6)
COMMON_WORDS = 6

#: SEED, KINDS and those from FOCUS on are `choice`'s.
(SEED, LENGTH, STEP, POOLED, RESTARTS, SALT, END, KINDS, COVERED, FOCUS, PAGES, NARROW, WALK,
 ALWAYS, WIDE_IN) = range(COMMON_WORDS, COMMON_WORDS + 15)
WALK_WORDS = COMMON_WORDS + 15
