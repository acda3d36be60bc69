# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiler of the core: syntax trees of plain functions over records become machine code.

    kinds                what a value can be                  source   the tree of a function
    values, expressions, statements, translate                tree -> LLVM's representation
    unit                                                      representation -> machine code, cached on disk

Numba compiled this core before: 4 minutes 25 seconds for the checker after every edit or patch, because each
function is optimised again inside each of its callers.  Here all functions that an entry point reaches are one LLVM
module, optimised once.  `docs/performance.md` has the figures.
"""
