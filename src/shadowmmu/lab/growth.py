# SPDX-License-Identifier: GPL-2.0-or-later
"""Cost of a fault and memory of a shadow page while their number grows.

    machine without shadow pages --one access in each of n page tables--> n shadow pages --zap--> ... again

The first growth is not timed: it touches the memory that the host then has provided.
"""

import time
from dataclasses import dataclass

from ..state import interpreted, layout
from ..state.store import Config
from . import drivers, guest
from .measured import compare, outcome

#: Faults in all timed growths together, at least.
FAULTS = 50_000


@dataclass
class Growth:
    """Nanoseconds for a fault that makes a shadow page, while the machine grows from none to `pages`."""

    pages: int
    compiled_ns: float
    c_ns: float | None
    state_bytes: float


class Growing:
    """A machine that can grow.  functions: the C side's; None: compiled."""

    def __init__(self, size, functions=None):
        made = guest.growth(size)
        self.vm, self.table_frames, self.tables = made.vm, made.table_frames, size.tables
        self.grow, self.zap, self.handle = drivers.grow, drivers.zap, self.vm.handle
        if functions:
            self.grow, self.zap, self.handle = functions["grow"], functions["zap"], self.vm.store.address
        self.best = float("inf")
        self.outcome = {}
        self.pages = self.descriptors = 0

    def once(self):
        """Grow, look, zap."""
        start = time.perf_counter()
        done = self.grow(self.handle, self.tables, 0)
        self.best = min(self.best, time.perf_counter() - start)
        self.outcome = {"result": done} | outcome(self.vm.store, self.table_frames, whole=False)
        self.pages, self.descriptors = self.outcome["used_pages"], descriptors_in_use(self.vm)
        self.zap(self.handle, 0, 0)

    def fault_ns(self):
        """Nanoseconds per fault, best of all growths."""
        return self.best / self.tables * 1e9


def measure_growth(pages, rounds, functions):
    """Growth row for about `pages` shadow pages."""
    size = guest.Size(tables=max(1, pages - pages // 512 - 3))
    sides = {"compiled": Growing(size)} | ({"C": Growing(size, functions)} if functions else {})
    for side in sides.values():
        side.once()
        side.best = float("inf")
    for _ in range(max(rounds, FAULTS // pages)):
        for side in sides.values():
            side.once()
    compare(f"growth to {pages}", {name: side.outcome for name, side in sides.items()})
    compiled = sides["compiled"]
    descriptors = compiled.descriptors * layout.record_words(layout.DESC) * layout.WORD
    return Growth(compiled.pages, compiled.fault_ns(), sides["C"].fault_ns() if functions else None,
                  sum(page_bytes().values()) + descriptors / compiled.pages)


def descriptors_in_use(vm):
    """pte_list descriptors that hold something."""
    d, free = vm.view.desc_free, 0
    while d >= 0:
        free += 1
        d = interpreted.desc(vm.view, d).more
    return vm.view.desc_next - free


def page_bytes():
    """Bytes of state that one shadow page of the real geometry takes in each table, descriptors excepted."""
    entries = 1 << Config.level_bits
    return {"sptes": 8 * entries, "gfns": 4 * entries,
            "kvm_mmu_page": layout.record_words(layout.PAGE) * layout.WORD, "free list": layout.WORD}
