# SPDX-License-Identifier: GPL-2.0-or-later
"""A small world for litmus tests of `oracle.tlb`, and the language they are written in.

    two address spaces R and S, 4-level paging, real geometry; linear pages

        a b     the same level-1 table           R1: a=1 b=2        S1: a=11 b=12
        c       another level-1 table            R1c: c=3           S1c: c=13
        d       another PML4 entry               R1d: d=4           S1d: d=14
        h i     both in one 2M page              R2: 512, so h=512, i=513        S2: 1024
    spare tables, not linked: T (level 1: a=21 b=22), Q (level 2: a -> V), V (level 1: a=31 b=32)

Statements, separated by `;`:
    T.a = 7 pwuad       entry for page a in table T: frame (or table name) and flags  p w u a d g n(NX) l(PS)
    T.a = 0             not present
    cr3 S               MOV CR3; `cr3 S 2` with PCID 2, `cr3 S 2 keep` with bit 63
    cr4 +pge -smep      MOV CR4; likewise cr0 (pg wp), efer (nx), vars: ac cpl pkru
    invlpg a            INVLPG
    invpcid 0 2 a       INVPCID type, PCID, page
    #pf a               a page fault at a is delivered
    init, smi           INIT, SMI
    read a, write a     an access happens (by a CPU with nothing cached): A and D are set
    tag 1               another nested world

The CPU may have cached anything that the tables permitted before each statement: `learn` runs for every page before
each.
"""

from shadowmmu.oracle import tlb as ot
from shadowmmu.oracle import walker as ow
from shadowmmu.state import JIT
from shadowmmu.x86 import bits as b

PAGES = {"a": (1, 2, 3, 4), "b": (1, 2, 3, 5), "c": (1, 2, 4, 4), "d": (2, 2, 3, 4), "h": (1, 2, 6, 0),
         "i": (1, 2, 6, 1)}
FLAGS = {"p": b.PT_PRESENT, "w": b.PT_WRITABLE, "u": b.PT_USER, "a": b.PT_ACCESSED, "d": b.PT_DIRTY,
         "g": b.PT_GLOBAL, "l": b.PT_PAGE_SIZE, "n": b.NX}
#: Table name -> level; the RAM frame and gfn follow from the order.
TABLES = {}
for root in "RS":
    TABLES |= {f"{root}4": 4, f"{root}3": 3, f"{root}3d": 3, f"{root}2": 2, f"{root}2d": 2, f"{root}1": 1,
               f"{root}1c": 1, f"{root}1d": 1}
TABLES |= {"T": 1, "Q": 2, "V": 1}
FIRST_TABLE = 256
GFN = {name: FIRST_TABLE + i for i, name in enumerate(TABLES)}
BITS = {"pge": b.CR4_PGE, "pcide": b.CR4_PCIDE, "smep": b.CR4_SMEP, "smap": b.CR4_SMAP, "pae": b.CR4_PAE,
        "pse": b.CR4_PSE, "pke": b.CR4_PKE, "pg": b.CR0_PG, "wp": b.CR0_WP, "nx": b.EFER_NX}
REGISTERS = {"ac": ow.AC, "cpl": ow.CPL, "pkru": ow.PKRU, "tag": ow.TAG}
KINDS = {"read": ow.READ, "write": ow.WRITE_ACCESS, "fetch": ow.FETCH}
ROWS = 128


def words(values):
    """A table as core functions take it."""
    values = list(values)
    if JIT:
        import numpy
        return numpy.array(values, dtype=numpy.int64)
    return values


def gva_of(page):
    value = 0
    for level, index in zip((4, 3, 2, 1), PAGES[page], strict=True):
        value |= index << 12 + 9 * (level - 1)
    return value


class World:
    def __init__(self, vendor="intel"):
        frames = [ow.NO_FRAME] * FIRST_TABLE + [ow.ram_frame(i, 0) for i in range(len(TABLES))]
        self.memory = ow.Memory(words([0] * (512 * len(TABLES))), words(frames), len(frames), 12, 9)
        self.cpu, self.out = words([0] * ow.CPU_WORDS), words([0] * ow.OUT_WORDS)
        self.tlb, self.outcomes = words([0] * ot.words_for(ROWS)), words([0] * (2 * ROWS + 5))
        ot.clear(self.tlb, ROWS)
        for field, value in ((ow.CR0, b.CR0_PE | b.CR0_PG | b.CR0_WP), (ow.CR4, b.CR4_PAE), (ow.MAXPHYADDR, 40),
                             (ow.EFER, b.EFER_LMA | b.EFER_LME | b.EFER_NX), (ow.AMD, int(vendor == "amd")),
                             (ow.GBPAGES, 1), (ow.CPL, 3), (ow.CR3, GFN["R4"] << 12)):
            self.cpu[field] = value
        ow.prepare(self.cpu, 9)
        for r, at in (("R", 0), ("S", 10)):
            for line in (f"{r}4.a = {r}3 pwua", f"{r}4.d = {r}3d pwua", f"{r}3.a = {r}2 pwua", f"{r}3d.d = {r}2d pwua",
                         f"{r}2.a = {r}1 pwua", f"{r}2.c = {r}1c pwua", f"{r}2d.d = {r}1d pwua",
                         f"{r}2.h = {512 if r == 'R' else 1024} pwuadl", f"{r}1.a = {at + 1} pwuad",
                         f"{r}1.b = {at + 2} pwuad", f"{r}1c.c = {at + 3} pwuad", f"{r}1d.d = {at + 4} pwuad"):
                self.store(line)
        for line in ("T.a = 21 pwuad", "T.b = 22 pwuad", "Q.a = V pwua", "V.a = 31 pwuad", "V.b = 32 pwuad"):
            self.store(line)

    def store(self, text):
        place, _, value = text.partition(" = ")
        table, page = place.split(".")
        target, _, flags = value.partition(" ")
        level = TABLES[table]
        frame = GFN[target] if target in GFN else int(target)
        entry = frame << 12
        for letter in flags:
            entry |= FLAGS[letter]
        self.memory.words[(GFN[table] - FIRST_TABLE) * 512 + PAGES[page][4 - level]] = entry

    def learn(self):
        for page in PAGES:
            ot.learn(self.memory, self.cpu, self.tlb, gva_of(page), self.out)

    def toggled(self, old, items):
        for item in items:
            old = old | BITS[item[1:]] if item[0] == "+" else old & ~BITS[item[1:]]
        return old

    def invalidate(self, event, pcid=None, gva=0):
        pcid = int(ot.current_pcid(self.cpu)) if pcid is None else pcid
        ot.invalidate(self.memory, self.cpu, self.tlb, event, pcid, gva, self.out)

    def run(self, program):
        for statement in filter(None, (s.strip() for s in program.split(";"))):
            self.learn()
            self.do(statement)
            ot.require_room(self.tlb)

    def do(self, statement):
        m, cpu, tlb, out = self.memory, self.cpu, self.tlb, self.out
        if " = " in statement:
            self.store(statement)
            return
        what, *args = statement.split()
        if what == "cr3":
            pcid = int(args[1]) if len(args) > 1 else 0
            value = GFN[args[0] + "4"] << 12 | pcid
            ot.mov_cr3(m, cpu, tlb, value + b.CR3_NOFLUSH if "keep" in args else value, out)
        elif what == "cr4":
            ot.mov_cr4(m, cpu, tlb, self.toggled(int(cpu[ow.CR4]), args), out)
        elif what == "cr0":
            ot.mov_cr0(m, cpu, tlb, self.toggled(int(cpu[ow.CR0]), args), out)
        elif what == "efer":
            cpu[ow.EFER] = self.toggled(int(cpu[ow.EFER]), args)
            ow.prepare(cpu, 9)
            self.invalidate(ot.WRMSR_EFER)
        elif what in REGISTERS:
            cpu[REGISTERS[what]] = int(args[0], 0)
        elif what == "invlpg":
            self.invalidate(ot.INVLPG, gva=gva_of(args[0]))
        elif what == "invpcid":
            ot.invpcid(m, cpu, tlb, int(args[0]), int(args[1]), gva_of(args[2]) if len(args) > 2 else 0, out)
        elif what == "#pf":
            self.invalidate(ot.PAGE_FAULT, gva=gva_of(args[0]))
        elif what in ("init", "smi"):
            self.invalidate(ot.INIT if what == "init" else ot.SMM)
        elif what in KINDS:
            ot.access(m, cpu, tlb, gva_of(args[0]), KINDS[what], out)
        else:
            raise ValueError(f"unknown statement {statement!r}")

    def ask(self, question):
        """Permitted outcomes of "read a" as a set of strings: a frame number, or pf<error code>."""
        kind, page = question.split()
        ot.permitted(self.memory, self.cpu, self.tlb, gva_of(page), KINDS[kind], self.out, self.outcomes)
        ot.require_room(self.tlb)
        pairs = [(int(self.outcomes[1 + 2 * i]), int(self.outcomes[2 + 2 * i])) for i in range(int(self.outcomes[0]))]
        return {str(value) if what == ow.TRANSLATED else f"pf{value}" for what, value in pairs}
