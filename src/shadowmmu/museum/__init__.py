# SPDX-License-Identifier: GPL-2.0-or-later
"""The museum: bugs of KVM's shadow MMU put back into it, one file each, found by the checker from nothing.

    exhibits/a3_unexpected_gfn.py   docstring: the story;  functions: what was wrong   (`exhibit` reads it)
    scripts/a3_unexpected_gfn.txt   the shortest script a search came to               (`score --save` writes it)
"""
