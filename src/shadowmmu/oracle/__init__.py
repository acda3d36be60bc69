# SPDX-License-Identifier: GPL-2.0-or-later
"""What x86 permits: an independent page walker, and the set of translations that a CPU may hold.

    walker   one walk at one moment: translation or fault, rights, A and D
    tlb      what may still be cached from earlier moments, and what removes it

Written from the manuals (SDM vol. 3 ch. 4, APM vol. 2 ch. 5).  Imports only `x86` and `state`, never `mmu` or `vm`.
"""
