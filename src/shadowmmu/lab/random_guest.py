# SPDX-License-Identifier: GPL-2.0-or-later
"""Was a kernel right?  A recorded random guest (g9a, g9b) judged by the oracle, operation by operation.

    python -m shadowmmu.lab.random_guest tests/data/golden/guests/g9b1.cfg linux-6.12 linux-7.2 linux-7.2,role_has_smep=0

    engine runs the guest under the rules of a kernel ──before each operation──>  what will it do (its random numbers are in
                                                                                 its memory), what does the oracle permit
                                                      <──after it──────────────  what did it get: value read, page written, #PF

The oracle sees the guest's page tables as they lie in memory, learns from them before and after every operation, and is told the
guest's own invalidations; nothing of the MMU reaches it.  That the run is the recorded one is shown by the guest itself: it
reports every #PF, and a checksum of all values it read (`values` in `trace compare-run`).

The guest's program is golden/src/g9.S; the constants below are its memory layout.
"""

import array
import json
import re
import sys
from dataclasses import dataclass, field

from ..guests import golden, recorded
from ..guests.image import GuestImageError
from ..oracle import tlb, walker
from ..rules import RULES
from ..x86 import bits

RANDOM, COUNT, CHECKSUM = 0x3040, 0x3044, 0x3048
#: cmpl $NOPS,0x3044: the head of the guest's loop.
LOOP = bytes.fromhex("813d44300000")
#: Frames that hold page tables.
FIRST, LAST = 0x10, 0x34
GFNS, ROWS = 4096, 6000
MASK = 0xFFFFFFFF
OPERATIONS = (*("read",) * 4, *("write",) * 3, *("pte",) * 2, "pte invlpg", "invlpg", "cr3", "reload cr3", "pde", "toggle",
              "byte")


@dataclass
class Access:
    """One access of the guest: which operation it was, what was permitted and what it got."""

    number: int
    kind: str
    gva: int
    permitted: list
    got: str = ""
    fresh: str = ""
    allowed: bool = True
    walk: str = ""
    registers: str = ""

    @property
    def stale(self):
        """It got something that a CPU without anything cached would not get."""
        return self.got != self.fresh


@dataclass
class Verdict:
    """A whole run."""

    guest: str
    rules: str
    accesses: list = field(default_factory=list)
    values: list = field(default_factory=list)
    flushes: list = field(default_factory=list)

    @property
    def wrong(self):
        """Accesses that the architecture does not permit."""
        return [a for a in self.accesses if not a.allowed]


class _Random:
    """The guest's xorshift32, from the state in its memory."""

    def __init__(self, value):
        self.value = value

    def next(self):
        x = self.value
        x ^= x << 13 & MASK
        x ^= x >> 17
        x ^= x << 5 & MASK
        self.value = x
        return x


class Watcher:
    """Stands at the head of the guest's loop."""

    def __init__(self, vm, outcome, pae, verdict):
        self.vm, self.outcome, self.pae, self.verdict = vm, outcome, pae, verdict
        self.words = array.array("q", bytes(8 * 512 * (LAST - FIRST)))
        frames = array.array("q", [walker.NO_FRAME] * GFNS)
        for gfn in range(FIRST, LAST):
            frames[gfn] = walker.ram_frame(gfn - FIRST, 0)
        self.memory = walker.Memory(self.words, frames, GFNS, 12, 9)
        self.cpu, self.out = array.array("q", bytes(8 * walker.CPU_WORDS)), array.array("q", bytes(8 * walker.OUT_WORDS))
        self.table = array.array("q", bytes(8 * tlb.words_for(ROWS)))
        self.outcomes = array.array("q", bytes(8 * (2 * ROWS + 8)))
        tlb.clear(self.table, ROWS)
        for place, value in ((walker.CR0, bits.CR0_PE | bits.CR0_PG | bits.CR0_WP | bits.CR0_ET),
                             (walker.CR4, bits.CR4_PAE if pae else bits.CR4_PSE), (walker.CR3, 0x18000 if pae else 0x20000),
                             (walker.MAXPHYADDR, 40), (walker.AMD, 1), (walker.GBPAGES, 1), (walker.PSE36, 1)):
            self.cpu[place] = value
        step, shift = (0x100, 21) if pae else (0x200, 22)
        self.step, self.shift = step, shift
        self.pages = [q << 30 | (1 + b) << shift | h * step << 12 | i << 12
                      for q in range(4) for b in range(2) for h in range(2) for i in range(8)]
        self.pending, self.seen_lines, self.started, self.count = None, 0, False, -1

    # -- the guest's memory

    def word(self, gpa):
        """32 bits of guest memory."""
        return int.from_bytes(self.vm.read_gpa(gpa, 4), "little")

    def read_tables(self):
        """The page tables as they are now."""
        self.words[:] = array.array("q", self.vm.read_gpa(FIRST << 12, (LAST - FIRST) << 12))

    def learn(self):
        """Everything that may be cached now."""
        for gva in self.pages:
            tlb.learn(self.memory, self.cpu, self.table, gva, self.out)
        tlb.require_room(self.table)

    # -- the loop

    def __call__(self):
        """The guest is at the head of its loop: an operation has ended, another begins."""
        count = self.word(COUNT)
        if count == self.count:
            return      # the instruction at the head itself exited and is done again
        self.count = count
        self.read_tables()
        if not self.started:
            self.started = True
            walker.prepare(self.cpu, 9)
            self.load_pdptes()
        if self.pending:
            self.ended()
        self.learn()
        self.begin()

    def begin(self):
        """What the guest will do now, from its random numbers."""
        random = _Random(self.word(RANDOM))
        number = self.word(COUNT) + 1
        kind = OPERATIONS[random.next() & 15]
        access = None
        if kind in ("read", "write"):
            gva = self.address(random)
            access = self.judge(number, kind, gva)
        self.pending = kind, random, access, self.word(CHECKSUM)

    def ended(self):
        """The operation has ended: its outcome, or its effect on what may be cached."""
        kind, random, access, checksum = self.pending
        lines, self.seen_lines = self.outcome.lines[self.seen_lines:], len(self.outcome.lines)
        faults = [line.split()[1] for line in lines if line.startswith("PFEC")]
        if access is not None:
            if faults:
                access.got = f"#PF {int(faults[0], 16):#x}"
            elif kind == "read":
                value = self.word(CHECKSUM) - (checksum << 1 & MASK | checksum >> 31) & MASK
                access.got = self.name_of(access, value)
            else:
                access.got = self.written(access)
            access.allowed = access.got in access.permitted
            self.verdict.accesses.append(access)
        elif kind == "pte invlpg":
            self.entry(random)
            self.invlpg(self.address(random))
        elif kind == "invlpg":
            self.invlpg(self.address(random))
        elif kind == "cr3":
            r = random.next() & 1
            self.cr3(0x18000 + (r << 5) if self.pae else 0x20000 + (r << 12))
        elif kind == "reload cr3":
            self.cr3(self.cpu[walker.CR3])
        elif kind == "toggle":
            self.toggle(random.next() & 7)

    # -- the guest's own arithmetic (RVA and RPTE in g9.S)

    def address(self, random):
        """A random linear address."""
        r = random.next()
        return (r & 3) << 30 | ((r >> 2 & 1) + 1) << self.shift | (r >> 3 & 1) * (self.step << 12) | (r >> 4 & 7) << 12

    def entry(self, random):
        """Draws what RPTE draws."""
        random.next()

    # -- the oracle's side

    def load_pdptes(self):
        if self.cpu[walker.MODE] == walker.PAE:
            walker.load_pdptes(self.memory, self.cpu, self.cpu[walker.CR3])

    def cr3(self, value):
        self.flushed(f"mov cr3 {value:#x}")
        tlb.mov_cr3(self.memory, self.cpu, self.table, value, self.out)
        walker.prepare(self.cpu, 9)
        self.load_pdptes()

    def flushed(self, what):
        """Note an invalidation, or a register that says how entries are read."""
        self.verdict.flushes.append((self.count, what))

    def invlpg(self, gva):
        self.flushed(f"invlpg {gva:#x}")
        tlb.invalidate(self.memory, self.cpu, self.table, tlb.INVLPG, 0, gva, self.out)

    def toggle(self, which):
        cpu = self.cpu
        if which < 4:
            self.flushed("toggle " + ("CR0.WP", "CR4.PGE", "CR4.SMEP", "EFER.NXE" if self.pae else "CR0.PG, twice")[which])
        if which == 0:
            tlb.mov_cr0(self.memory, cpu, self.table, cpu[walker.CR0] ^ bits.CR0_WP, self.out)
        elif which in (1, 2):
            tlb.mov_cr4(self.memory, cpu, self.table, cpu[walker.CR4] ^ (bits.CR4_PGE if which == 1 else bits.CR4_SMEP), self.out)
            self.load_pdptes()
        elif which == 3 and self.pae:
            cpu[walker.EFER] = cpu[walker.EFER] ^ bits.EFER_NX
            walker.prepare(cpu, 9)
        elif which == 3:
            for _ in range(2):
                tlb.mov_cr0(self.memory, cpu, self.table, cpu[walker.CR0] ^ bits.CR0_PG, self.out)

    def judge(self, number, kind, gva):
        """The permitted outcomes of an access now."""
        what = walker.WRITE_ACCESS if kind == "write" else walker.READ
        tlb.permitted(self.memory, self.cpu, self.table, gva, what, self.out, self.outcomes)
        names = []
        for i in range(self.outcomes[0]):
            status, value = self.outcomes[1 + 2 * i], self.outcomes[2 + 2 * i]
            names.append(f"page {value:#x}" if status == walker.TRANSLATED else f"#PF {value:#x}")
        # the first outcome is that of a walk from CR3
        access = Access(number, kind, gva, names, fresh=names[0])
        walker.walk(self.memory, self.cpu, gva, self.out)
        access.walk = " > ".join(f"level {level} {self.out[walker.ENTRY + level - 1] & (1 << 64) - 1:#x}" for level in range(
            self.out[walker.TOP], self.out[walker.LEVEL] - 1, -1))
        access.registers = " ".join(f"{name} {self.cpu[place]:#x}" for name, place in (
            ("cr0", walker.CR0), ("cr3", walker.CR3), ("cr4", walker.CR4), ("efer", walker.EFER)))
        return access

    def name_of(self, access, value):
        """The page that a value came from: one with that value, a permitted one if there is a choice."""
        pages = [gfn for gfn in (*range(0x200, 0x240), *range(0x400, 0x600)) if self.word(gfn << 12) == value]
        names = [f"page {gfn:#x}" for gfn in pages]
        likely = [name for name in (access.fresh, *access.permitted) if name in names]
        return (likely or names or [f"value {value:#x}"])[0]

    def written(self, access):
        """The page that a write went to: it left the number of the operation there."""
        for gfn in (*range(0x200, 0x240), *range(0x400, 0x600)):
            if self.word(gfn << 12) == access.number:
                return f"page {gfn:#x}"
        return "nowhere"


def rules_of(text):
    """linux-7.2,role_has_smep=0: a kernel's rules with fields of docs/rules.md changed."""
    name, *changes = text.split(",")
    if name not in RULES:
        raise GuestImageError(text, f"no such rules; there is {', '.join(RULES)}")
    return RULES[name] | {field: int(value) for field, _, value in (change.partition("=") for change in changes)}


def run(path, rules):
    """Run the guest of a .cfg under a kernel's rules: a Verdict."""
    image = golden.load(path)
    contents = bytes(image.segments[0][1])
    if not image.name.startswith("g9") or LOOP not in contents:
        raise GuestImageError(path, "not one of the random 32-bit guests (g9a, g9b)")
    at, pae = contents.index(LOOP), image.name.startswith("g9b")
    verdict = Verdict(image.name, rules)

    def watch(machine, outcome):
        machine.hardware.watch(at, Watcher(machine.vm, outcome, pae, verdict))

    outcome = recorded.run(image, rules=rules_of(rules), on_machine=watch)
    verdict.values = [line for line in outcome.lines if re.match(r"VAL|PF", line)]
    return verdict


def compare(verdicts):
    """What the kernels did, what the architecture does not permit, and where they differ: plain data."""
    runs = [{"rules": v.rules, "accesses": len(v.accesses), "stale": sum(a.stale for a in v.accesses),
             "stale and permitted": sum(a.stale and a.allowed for a in v.accesses), "not permitted": [a.number for a in v.wrong],
             "checksums": [x.split()[1] for x in v.values if x.startswith("VAL")],
             "faults": sum(x.startswith("PFEC") for x in v.values)} for v in verdicts]
    by_number = [{a.number: a for a in v.accesses} for v in verdicts]
    rows = []
    for number in sorted(set().union(*by_number)):
        found = [accesses.get(number) for accesses in by_number]
        if len({a.got if a else None for a in found}) > 1 or not all(a and a.allowed for a in found):
            first = next(a for a in found if a)
            rows.append({"operation": number, "access": f"{first.kind} {first.gva:#x}",
                         "permitted": {v.rules: a.permitted for v, a in zip(verdicts, found) if a},
                         "got": {v.rules: a.got for v, a in zip(verdicts, found) if a},
                         "tables now": first.walk, "registers": first.registers,
                         "flushes before": [f for f in verdicts[0].flushes if f[0] < number][-4:]})
    return {"guest": verdicts[0].guest, "runs": runs, "differ or not permitted": rows}


def main(path, *all_rules):
    """For the command line: 1 if a kernel did what the architecture does not permit."""
    verdicts = [run(path, rules) for rules in all_rules]
    print(json.dumps(compare(verdicts), indent=1))
    return 1 if any(v.wrong for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
