# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's own TLB against `oracle.tlb`: random edits of the tables, few invalidations, and every answer of the CPU
must be in the permitted set.

The engine is an AMD CPU: a #PF removes nothing from its TLB, and it looks into the tables before it raises one.  It
caches only after an access, has no PCIDs and no paging-structure caches, so this tests that what a CPU does is
permitted, not that the set is tight (the litmus cases do that).  Stale answers are counted: they happen.
"""

import random

import pytest
from test_walk_engine import SIX, Engine
from walk_machine import ACCESSES, DATA_GFN, Controls, WalkMachine, memory_of, table

from shadowmmu import state
from shadowmmu.oracle import tlb as ot
from shadowmmu.oracle import walker as ow
from shadowmmu.state import JIT, core
from shadowmmu.vm.machine import signed
from shadowmmu.x86 import bits as b

ROWS = 2048
#: A second level-1 table.
OTHER_TABLE = 0x410


@core
def learn(handle, frames, cpu, tlb, gva, out):
    vm = state.attach(handle)
    ot.learn(memory_of(vm, frames), cpu, tlb, gva, out)


@core
def invalidate(handle, frames, cpu, tlb, event, gva, out):
    vm = state.attach(handle)
    ot.invalidate(memory_of(vm, frames), cpu, tlb, event, 0, gva, out)


@core
def permitted(handle, frames, cpu, tlb, gva, kind, out, outcomes):
    vm = state.attach(handle)
    ot.permitted(memory_of(vm, frames), cpu, tlb, gva, kind, out, outcomes)


class Run:
    def __init__(self, mode, seed):
        self.machine = m = WalkMachine(mode, amd=True, pse36=mode == "bits32")
        self.engine, self.rng = Engine(m), random.Random(seed)
        self.tlb, self.outcomes = table([0] * ot.words_for(ROWS)), table([0] * (2 * ROWS + 5))
        ot.clear(self.tlb, ROWS)
        controls = Controls(nxe=mode != "bits32")
        m.control(controls)
        self.engine.control(controls)
        self.engine.hw.flush_tlb()
        self.at = m.vm.handle, m.frames, m.cpu, self.tlb
        self.stale = self.answers = 0

    def change(self):
        """Store to one entry of the path."""
        m, rng = self.machine, self.rng
        learn(*self.at, signed(m.gva), m.out)
        flags = b.PT_PRESENT | b.PT_WRITABLE | b.PT_USER
        for flag, chance in ((b.PT_PRESENT, 0.15), (b.PT_WRITABLE, 0.25), (b.PT_USER, 0.15), (b.PT_ACCESSED, 0.4),
                             (b.PT_DIRTY, 0.4)):
            if rng.random() < chance:
                flags ^= flag
        where = rng.choice((1, 1, 2, "other"))
        if where == 2:
            m.set(2, rng.choice((m.target(2), OTHER_TABLE << 12)) | flags)
        elif where == 1:
            m.set(1, rng.randrange(DATA_GFN, DATA_GFN + 4) << 12 | flags)
        else:
            self.engine.put(OTHER_TABLE, m.index(1), rng.randrange(DATA_GFN, DATA_GFN + 4) << 12 | flags)

    def flush(self):
        m = self.machine
        if self.rng.random() < 0.7:
            self.engine.hw.flush_page(m.gva)
            event = ot.INVLPG
        else:
            self.engine.hw.flush_tlb()
            event = ot.MOV_CR3
        invalidate(*self.at, event, signed(m.gva), m.out)

    def access(self):
        m, name = self.machine, self.rng.choice(SIX)
        _, kind, m.cpu[ow.CPL] = ACCESSES[name]
        permitted(*self.at, signed(m.gva), kind, m.out, self.outcomes)
        ot.require_room(self.tlb)
        allowed = {(int(self.outcomes[1 + 2 * i]), int(self.outcomes[2 + 2 * i])) for i in range(int(self.outcomes[0]))}
        first = int(self.outcomes[1]), int(self.outcomes[2])
        for frame in range(DATA_GFN, DATA_GFN + 4):
            m.ram[(frame << 12) + 16] = 0
        seen = []
        self.engine.run([(name, lambda: None, lambda *answer: seen.append(answer))], flush=False)
        what, detail = seen[0]
        if what == "fault":
            answer = ow.DENIED, detail[0]
            invalidate(*self.at, ot.PAGE_FAULT, signed(m.gva), m.out)
        elif "read" in name:
            answer = ow.TRANSLATED, detail
        elif "write" in name:
            answer = ow.TRANSLATED, next(f for f in range(DATA_GFN, DATA_GFN + 4) if m.ram[(f << 12) + 16])
        else:
            # a fetch does not tell the frame
            answer = next((o for o in allowed if o[0] == ow.TRANSLATED), (ow.TRANSLATED, -1))
        assert answer in allowed, f"{m.mode} {name}: {answer}, permitted {sorted(allowed)}, held {ot.rows(self.tlb)}"
        self.answers += 1
        self.stale += answer != first and "fetch" not in name


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", ["bits32", "pae", "level4", "level5"])
def test_every_answer_of_the_engine_is_permitted(mode, seed):
    run = Run(mode, seed)
    for _ in range(4000 if JIT else 150):
        step = run.rng.random()
        if step < 0.35:
            run.change()
        elif step < 0.45:
            run.flush()
        else:
            run.access()
    assert run.stale > (50 if JIT else 0)
