# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue of historical bugs (81 rows, five groups) and what became of each row here.

    A  security fixes of 2026      B  root cache, PCIDs, TLB      C  roles and contexts      D  races      E  rmap, dirty log
    an exhibit has the row's id; a row without one stands in WAITING with the reason
"""

#: Group -> number of rows.
GROUPS = {"A": 10, "B": 17, "C": 30, "D": 13, "E": 11}
ROWS = tuple(f"{letter}{i}" for letter, n in GROUPS.items() for i in range(1, n + 1))


#: Row -> (what it is, why it cannot be an exhibit yet).
WAITING = {
    "C18": ("the page for the PDPTEs is missing on a 32-bit host, too", "a 32-bit host is not modelled"),
    "D2": ("an emulated page table write is applied by the value passed, not by memory",
           "today's code drops the entry instead of "
           "writing it, so the value is not used"),
    "D3": ("A and D bits are written to a page that vm_pgoff names", "the host's VM_PFNMAP mappings are not modelled"),
    "D4": ("pages are made available under the wrong lock (CVE-2022-45869)",
           "locks are not modelled: what may happen between two holders of mmu_lock for read is not in the state"),
    "D8": ("a fault without memslot is retried while the notifier runs", "needs a notifier range that never ends"),
    "D9": ("a shadow entry is stored in two halves", "a 32-bit host is not modelled"),
    "D12": ("the emulator's CMPXCHG8B stores the wrong register", "instruction emulation is the engine's, not the core's"),
    "E8": ("deleting a memslot zaps too much", "performance only"),
    "E11": ("unsync_children below zero in an illumos port",
            "the port's code is not known; S001.alone counts to -1 in the same way"),
}
