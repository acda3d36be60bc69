# SPDX-License-Identifier: GPL-2.0-or-later
"""A small world for litmus tests of `oracle.nested`, and the language they are written in.

    pages of 32 bytes, four entries per table; 4-level guest tables on 4-level nested tables N (and M, the same but for x -> 50)

        ngva  a b c     one level-1 table G1:   a = x  b = y  c = z
        ngpa  g4 g3 g2 g1 | x y z h           -> gfn 20 21 22 23 | 30 31 32 33
        tables not in use: H (at ngpa h: a = y);  K (gfn 24, level 1 of the guest: a = z), Q (gfn 25, level 1 of N: x -> 60)

Statements, separated by `;`:
    N1.x = 40 pwuad     nested entry: gfn and flags  p w u a d n(NX) l(PS); of an EPT  r w x a d, memory type WB; `t2` another one
    G1.a = y pwuad      guest's entry (written through what N maps now)
    N2.x = Q pwua       tables by name
    vmrun N 1 none      nCR3, ASID, TLB_CONTROL: none all asid          entry N 1 [ad]   EPTP, VPID; A/D bits of EPT on
    exit                #VMEXIT, VM exit                                invept N | all, invvpid a 1 | 1 | all, invlpga a 1
    cr3, invlpg a, cr4 +pge, write a ...: of the guest
    violation x         an EPT violation at x is delivered
    efer -nx            of L1, for the next VMRUN
"""

from litmus import words

from shadowmmu.oracle import ept
from shadowmmu.oracle import nested as on
from shadowmmu.oracle import tlb as ot
from shadowmmu.oracle import walker as ow
from shadowmmu.x86 import bits as b

NGPA = {"g4": 0, "g3": 1, "g2": 2, "g1": 3, "x": 4, "y": 5, "z": 6, "h": 7}
NGVA = {"a": 0, "b": 1, "c": 2}
GFN = {"N4": 1, "N3": 2, "N2": 3, "N1t": 4, "N1": 5, "M4": 6, "M3": 7, "M2": 8, "M1t": 9, "M1": 10,
       "G4": 20, "G3": 21, "G2": 22, "G1": 23, "K": 24, "Q": 25, "H": 33}
LEVELS = {"Q": 1, "K": 1, "H": 1}
FLAGS = {"p": b.PT_PRESENT, "w": b.PT_WRITABLE, "u": b.PT_USER, "a": b.PT_ACCESSED, "d": b.PT_DIRTY, "g": b.PT_GLOBAL,
         "l": b.PT_PAGE_SIZE, "n": b.NX}
EPT_FLAGS = {"r": 1, "w": 2, "x": 4, "l": 0x80, "a": 0x100, "d": 0x200}
KINDS = {"read": ow.READ, "write": ow.WRITE_ACCESS, "fetch": ow.FETCH}
FRAMES, ROWS = 64, 200
MISCONFIGURED = 1 << 16


def zeros(n):
    return words([0] * n)


class NestedWorld:
    def __init__(self, vendor="amd"):
        self.ept = vendor == "intel"
        self.words = zeros(4 * FRAMES)
        self.memory = ow.Memory(self.words, words([i << 1 for i in range(FRAMES)]), FRAMES, 5, 2)
        self.cpu, self.host = zeros(ow.CPU_WORDS), zeros(ow.CPU_WORDS)
        self.out, self.inner, self.work = zeros(ow.OUT_WORDS), zeros(ow.OUT_WORDS), zeros(on.WORK_WORDS)
        self.physical, self.combined = zeros(ot.words_for(ROWS)), zeros(ot.words_for(ROWS))
        self.outcomes = zeros(1000)
        for rows in (self.physical, self.combined):
            ot.clear(rows, ROWS)
        for table in (self.cpu, self.host):
            for field, value in ((ow.CR0, b.CR0_PE | b.CR0_PG | b.CR0_WP), (ow.CR4, b.CR4_PAE), (ow.MAXPHYADDR, 40), (ow.CPL, 3),
                                 (ow.EFER, b.EFER_LMA | b.EFER_LME | b.EFER_NX), (ow.AMD, int(not self.ept)), (ow.GBPAGES, 1)):
                table[field] = value
        self.efer, self.execute_only = int(self.cpu[ow.EFER]), 1
        self.cpu[ow.CR3] = NGPA["g4"] << 12
        ow.prepare(self.cpu, 2)
        table, page = ("rwxa", "rwxad") if self.ept else ("pwua", "pwuad")
        for n, x in (("N", 30), ("M", 50)):
            for line in (f"{n}4.x = {n}3 {table}", f"{n}3.x = {n}2 {table}", f"{n}2.g4 = {n}1t {table}", f"{n}2.x = {n}1 {table}",
                         *(f"{n}1t.g{4 - i} = {20 + i} {page}" for i in range(4)),
                         *(f"{n}1.{name} = {x if name == 'x' else 30 + i} {page}" for i, name in enumerate("xyzh"))):
                self.store(line)
        for line in ("G4.a = g3 pwua", "G3.a = g2 pwua", "G2.a = g1 pwua", "G1.a = x pwuad", "G1.b = y pwuad", "G1.c = z pwuad",
                     "K.a = z pwuad", "H.a = y pwuad", f"Q.x = 60 {page}"):
            self.store(line)
        self.running = False
        self.do("vmrun N 1 all" if not self.ept else "entry N 1 ad")

    def store(self, text):
        place, _, value = text.partition(" = ")
        table, name = place.split(".")
        target, _, flags = value.partition(" ")
        flags, _, memory_type = flags.partition("t")
        nested = table[0] in "NMQ"
        level = LEVELS[table] if table in LEVELS else int(table[1])
        names = EPT_FLAGS if nested and self.ept else FLAGS
        frame = NGPA[target] if target in NGPA else GFN[target] if target in GFN else int(target)
        entry = frame << 12
        for letter in flags:
            entry |= names[letter]
        if nested and self.ept and flags and (level == 1 or "l" in flags):
            entry |= int(memory_type or 6) << 3
        page = NGPA[name] if nested else NGVA[name]
        self.words[GFN[table] * 4 + (page >> 2 * (level - 1) & 3)] = (entry + (1 << 63)) % (1 << 64) - (1 << 63)

    def learn(self):
        if self.running:
            for name in NGPA:
                ot.learn(self.memory, self.host, self.physical, NGPA[name] << 5, self.inner)
            for name in NGVA:
                on.learn(*self.tables(), NGVA[name] << 5, self.out, self.inner, self.work, self.outcomes)

    def tables(self):
        return self.memory, self.cpu, self.host, self.physical, self.combined

    def event(self, what, tag, address=0):
        on.event(self.memory, self.host, self.physical, self.combined, what, tag, address, self.out)

    def run(self, program):
        for statement in filter(None, (s.strip() for s in program.split(";"))):
            self.learn()
            self.do(statement)
            ot.require_room(self.physical)
            ot.require_room(self.combined)

    def enter(self, args):
        self.running = True
        tag = int(args[1])
        self.cpu[ow.TAG] = tag
        root = GFN[args[0] + "4"] << 12
        self.host[ow.EXECUTE_ONLY] = self.execute_only
        if self.ept:
            on.ept_host(self.host, root | 3 << 3 | 6 | (ept.USE_ACCESSED_DIRTY if "ad" in args else 0), 2)
            if tag == 0:
                self.event(on.ENTRY_OR_EXIT_VPID_0, 0)
        else:
            on.npt_host(self.host, root, b.CR4_PAE, self.efer, tag, 2)
            self.event({"none": on.VMRUN, "all": on.VMRUN_FLUSH_ALL, "asid": on.VMRUN_FLUSH_ASID}[args[2]], tag)

    def do(self, statement):
        if " = " in statement:
            self.store(statement)
            return
        what, *args = statement.split()
        if what in ("vmrun", "entry"):
            self.enter(args)
        elif what == "exit":
            self.running = False
            if self.ept and self.cpu[ow.TAG] == 0:
                self.event(on.ENTRY_OR_EXIT_VPID_0, 0)
        elif what == "invept":
            every = args[0] == "all"
            self.event(on.INVEPT_ALL if every else on.INVEPT_CONTEXT, 0 if every else on.ep4ta(GFN[args[0] + "4"] << 12))
        elif what == "invvpid":
            if args[0] in NGVA:
                self.event(on.INVVPID_ADDRESS, int(args[1]), NGVA[args[0]] << 5)
            elif args[0] == "all":
                self.event(on.INVVPID_ALL, 0)
            else:
                self.event(on.INVVPID_CONTEXT, int(args[0]))
        elif what == "invlpga":
            self.event(on.INVLPGA, int(args[1]), NGVA[args[0]] << 5)
        elif what == "violation":
            self.event(on.EPT_VIOLATION, int(self.host[ow.TAG]), NGPA[args[0]] << 5)
        elif what == "invlpg":
            on.guest_event(self.memory, self.cpu, self.combined, ot.INVLPG, 0, NGVA[args[0]] << 5, self.out)
        elif what == "cr3":
            on.guest_event(self.memory, self.cpu, self.combined, ot.MOV_CR3, 0, 0, self.out)
        elif what == "cr4":
            self.cpu[ow.CR4] |= b.CR4_PGE
            on.guest_event(self.memory, self.cpu, self.combined, ot.PGE_TOGGLED, 0, 0, self.out)
        elif what == "paging":
            self.cpu[ow.CR0] &= ~b.CR0_PG
            self.cpu[ow.EFER] = 0
            ow.prepare(self.cpu, 2)
        elif what == "efer":
            self.efer &= ~b.EFER_NX
        elif what == "execute-only":
            self.execute_only = 0
        else:
            raise ValueError(f"unknown statement {statement!r}")

    def ask(self, question):
        """Permitted outcomes of "read a": gfn; pf<error> for the guest; npf:<page>:<error> (table: npt:),
        ev:<page>:<qualification>
        (et:), mis:<page>."""
        kind, page = question.split()
        gva = (NGVA[page] if page in NGVA else NGPA[page]) << 5
        on.permitted(*self.tables(), gva, KINDS[kind], self.out, self.inner, self.work, self.outcomes)
        names = {number: name for name, number in NGPA.items()}
        found = set()
        for i in range(int(self.outcomes[0])):
            what, value = int(self.outcomes[1 + 2 * i]), int(self.outcomes[2 + 2 * i])
            if what == ow.TRANSLATED:
                found.add(str(value))
            elif what == ow.DENIED:
                found.add(f"pf{value}")
            else:
                error = value & (on.FINAL - 1)
                where = names.get(value >> on.FAULT_PAGE_SHIFT, str(value >> on.FAULT_PAGE_SHIFT))
                final = value & on.FINAL
                if error & MISCONFIGURED:
                    found.add(f"mis:{where}")
                else:
                    found.add(f"{('e' if self.ept else 'np') + (('v' if self.ept else 'f') if final else 't')}:{where}:{error}")
        return found
