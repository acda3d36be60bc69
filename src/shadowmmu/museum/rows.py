# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue of historical bugs (81 rows, five groups) and what became of each row here.

    A  security fixes of 2026      B  root cache, PCIDs, TLB      C  roles and contexts      D  races      E  rmap, dirty log
    an exhibit has the row's id; a row without one stands in WAITING with the reason
"""

#: Group -> number of rows.
GROUPS = {"A": 10, "B": 17, "C": 30, "D": 13, "E": 11}
ROWS = tuple(f"{letter}{i}" for letter, n in GROUPS.items() for i in range(1, n + 1))

TDP = "needs a guest that pages on a host with two-dimensional paging: the machines with nested paging run an L1 that does not"

#: Row -> (what it is, why it cannot be an exhibit yet).
WAITING = {
    "B5": ("kvm_invalidate_pcid does not flush another PCID", TDP),
    "B8": ("a 32-bit host truncates the address to invalidate", "a 32-bit host is not modelled"),
    "B13": ("a Hyper-V range flush starts at the wrong gfn", "KVM as a guest of Hyper-V is not modelled"),
    "C18": ("the page for the PDPTEs is missing on a 32-bit host, too", "a 32-bit host is not modelled"),
    "C22": ("KVM_SET_CPUID clears root_role, and the wrong kind of lock is taken",
            "locks are not modelled (what the role becomes is: rule cpuid_invalidates_role)"),
    "C26": ("NX recovery looks into the memslots of the wrong address space", "the recovery worker is not modelled"),
    "C27": ("CR0.WP is the guest's own, the cached permissions are old", TDP),
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
