# SPDX-License-Identifier: GPL-2.0-or-later
"""The shadow MMU itself: one module per idea, KVM's function names.

    guest page tables                 shadow page tables (what the CPU walks)
    walk     reads gptes              shadow_pages   hash (gfn, role) -> shadow page
    faults   #PF -> gptes -> sptes    sptes          how an spte is made
    writes   an emulated PTE write    rmap, tracking gfn -> sptes; gfn -> who shadows it
    unsync   pages allowed to lag     roots          root_count, previous roots
    zap, reclaim, dirty, mmio, flush, contexts (roles), memslots, host (the primary MMU)

Without guest page tables to shadow (two-dimensional paging): tdp_mmu, tdp_iter, tdp_ranges, access_tracking.

Functions take `vm` (the state), records and ints; modules call each other as `module.function(...)`, so a patch can
replace any function before it is compiled.
"""
