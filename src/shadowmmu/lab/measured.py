# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine under measurement, and what a run leaves behind.

    Measured(operation, size, events)     a machine and the driver that works on it, of this process or of C
      .run(n)      -> seconds, result
      .outcome()   -> counters, A and D bits, digest: what every way of running must agree on
"""

import mmap
import time

from ..mmu import counters, warn
from ..state import interpreted
from ..state.store import Store
from . import drivers, guest
from .errors import BenchError

#: Counters that every way of running must agree on.
VM_COUNTERS = ("mmu_page_created", "mmu_shadow_zapped", "mmu_unsync", "mmu_unsynced", "mmu_synced", "mmu_pte_write",
               "mmu_cache_miss", "mmu_cache_hit", "root_hit", "root_miss", "remote_tlb_flush_requests")
VCPU_COUNTERS = ("pf_taken", "pf_fixed", "tlb_flush", "invlpg")
ACCESSED, DIRTY = 1 << 5, 1 << 6


def bits_set(octets, bit):
    """How many 64-bit words of `octets` have the bit of value `bit` set."""
    pattern = int.from_bytes(bit.to_bytes(8, "little") * (len(octets) // 8), "little")
    return (int.from_bytes(octets, "little") & pattern).bit_count()


def outcome(store, table_frames, whole=True):
    """What a run left behind: counters, A and D bits in guest tables, and (whole) the digest of the machine."""
    stat = dict(zip(counters.VM_STATS, store.view.stat, strict=False))
    vcpu = dict(zip(counters.VCPU_STATS, interpreted.vcpu(store.view, 0).stat, strict=False))
    tables = bytes(store.ram()[:table_frames << store.config.page_shift])
    found = {name: stat[name] for name in VM_COUNTERS} | {name: vcpu[name] for name in VCPU_COUNTERS}
    found |= {"accessed_bits": bits_set(tables, ACCESSED), "dirty_bits": bits_set(tables, DIRTY)}
    found |= {"used_pages": store.view.n_used_mmu_pages, "warnings": store.view.warnings,
              "last_warning": store.view.last_warning}
    if whole:
        found["digest"] = store.hash().hex()
    return found


def roomy(store):
    """The same machine with as much room behind it again, for the copies of the clone driver."""
    twice = Store(store.config, store.rules_words, mmap.mmap(-1, 2 * store.length))
    memoryview(twice.memory)[:store.used] = memoryview(store.memory)[:store.used]
    return twice


class Measured:
    """A machine and a way to run one operation on it.

    functions: name -> function of the C side, which takes addresses; None: the drivers of this process.
    """

    def __init__(self, operation, size, events=0, functions=None):
        self.operation, self.size = operation, size
        made = getattr(guest, operation.guest)(size, events if operation.events else 0)
        self.table_frames = made.table_frames
        self.store = made.vm.store
        if operation.form == "n words":
            self.store = roomy(self.store)
        self.function, self.handle = getattr(drivers, operation.driver), self.store.vm
        if functions:
            self.function, self.handle = functions[operation.driver], self.store.address

    def units(self, n):
        """Operations that `run(n)` performs."""
        return n * self.size.processes * guest.PAGES if self.operation.form == "processes n" else n

    def run(self, n):
        """Seconds and the driver's result."""
        arguments = {"n": (n, 0), "processes n": (self.size.processes, n), "n words": (n, self.store.used // 8)}
        first, second = arguments[self.operation.form]
        start = time.perf_counter()
        result = self.function(self.handle, first, second)
        return time.perf_counter() - start, int(result)

    def outcome(self):
        """See the function of the same name."""
        return outcome(self.store, self.table_frames)


def compare(name, outcomes):
    """Raise BenchError unless all outcomes (side -> dict) are equal and free of warnings."""
    (first, expected), *others = outcomes.items()
    if expected["warnings"] or expected["result"] == -1:
        raise BenchError(f"{name}: the run failed (result {expected['result']}, {expected['warnings']} warnings, the "
                         f"last: {warn.NAMES.get(expected['last_warning'], 'none')})")
    for side, found in others:
        for key, value in expected.items():
            if found[key] != value:
                raise BenchError(f"{name}: {first} and {side} disagree: {key} {value} and {found[key]}")
