# SPDX-License-Identifier: GPL-2.0-or-later
"""Three answers to the same access: a CPU that no one here wrote (the engine's own MMU), KVM's walker, the oracle.

The engine's hardware CR3 points straight at the test tables; its host-physical memory is the VM's RAM, so the three
walk the same bytes.  A routine of one instruction runs per case and its exit tells what happened:

    MOV AL, [RDI+8]; HLT      load:  AL names the page that was reached
    MOV [RDI+16], AL; HLT     store: the byte arrives in the page that the oracle names
    the page itself: HLT      fetch: RIP = the address

HLT exits at CPL 0; at CPL 3 it raises #GP, which exits as well.  A page fault exits with error code and CR2.

Covered, per mode and pair of levels (the other entries permit everything):
    rights   all P W U NX x P W U NX (256) x 6 accesses x 32 settings of WP NXE SMEP SMAP AC: the whole product
    format   pairs of entries with every one- and two-bit change to FORMAT, and 400 pairs drawn with a fixed seed from
             all bits, for 6 accesses, NXE off and on
A and D: the engine must have set what the oracle says it must, and no more than what it says it may.

The table ENGINE lists where the engine is not a reference.  Protection keys are not in it (compared with KVM's walker
only, in test_walk_exhaustive).
"""

import itertools
import random

import pytest
from test_walk_exhaustive import CASES_OF, FORMAT, all_controls
from walk_machine import ACCESSES, DATA_GFN, HIGH_FRAME, HIGH_GFN, HIGH_PAGES, PAGES, Controls, WalkMachine

from shadowmmu.engines.unicorn_svm import exits as ex
from shadowmmu.engines.unicorn_svm.hardware import CS, SvmHardware
from shadowmmu.oracle import walker as ow
from shadowmmu.state import JIT
from shadowmmu.x86 import bits as b

ENGINE = (
    # what the engine does, proof that it is the engine, how the test treats it
    ("MAXPHYADDR is always 40", "target/i386 of QEMU 5.0: PHYS_ADDR_MASK", "cases use MAXPHYADDR 40"),
    ("bit 8 of PML4E and PML5E is not reserved although the CPU model is AMD's",
     "APM vol. 2 fig. 5-19, 5-20: MBZ", "the oracle is asked as Intel (SDM tables 4-14, 4-15: ignored)"),
    ("PSE-36 is always there", "QEMU 5.0 does not ask CPUID", "32-bit machines have it"),
    ("CR4.PKE does nothing", "the CPU model has no PKU", "no case sets PKE"),
    ("sets A in a PDPTE of a 1G page whose bits 29:13 are not 0, then faults with RSVD",
     "SDM 4.8: A is set in an entry "
     "that translation uses; a reserved bit ends it (4.7)", "A is forgiven there (`forgiven`)"),
    ("an implicit access at CPL < 3 obeys EFLAGS.AC",
     "SDM 4.6.1: implicit supervisor accesses are always subject to SMAP",
     "test_implicit_access uses CPL 3"),
    ("32-bit paging uses CR3 bits 63:32", "SDM table 4-3: ignored", "no case sets them"),
    ("PAE: PDPTEs are read from memory at every walk, not from registers", "SDM 4.4.1; allowed by AMD under nested "
     "paging, APM 15.25.10", "PDPTEs do not vary"),
)

#: Instruction bytes by access, all 32- and 64-bit alike.  Code lies in RAM frame 0x38.
CODE_FRAME, CODE_TABLES = 0x38, 0x39
LOAD, STORE = bytes.fromhex("8a4708f4"), bytes.fromhex("884710f4")
HLT = 0xF4
SIX = ("user read", "user write", "user fetch", "read", "write", "fetch")
#: Linear addresses of the code: page 0 supervisor, page 1 user.
SUPERVISOR_CODE, USER_CODE = 0, 0x1000
#: Frames that a case may reach: behind 4K leaves, inside a 2M or 4M leaf, inside the 1G leaf.
GIGA_PAGE, GIGA_FRAME = HIGH_GFN + (6 << 9) + 5, 0x24
DATA_FRAMES = (*range(DATA_GFN, DATA_GFN + 4), 0x405, GIGA_FRAME)
#: PSE-36: every bit of the field reaches the same RAM, by another physical page.
PSE36_PAGES = {(1 << k) << 20 | 0x405 for k in range(8)}
#: What the instruction adds to the address.
OFFSET = {"read": 8, "write": 16, "fetch": 0}


def ram_frame(gfn):
    """RAM frame of a data page."""
    return GIGA_FRAME if gfn == GIGA_PAGE else 0x405 if gfn in PSE36_PAGES else gfn


class Engine:
    """The engine as a bare CPU on the tables of a WalkMachine."""

    def __init__(self, machine):
        self.machine = machine
        self.hw = hw = SvmHardware(counting=None)
        self.address = machine.vm.store.address + machine.vm.store.tables["ram"][0]
        hw.map_ram(0, self.address, PAGES << 12)
        hw.map_ram(HIGH_GFN << 12, self.address + (HIGH_FRAME << 12), HIGH_PAGES << 12)
        if machine.mode == "bits32":
            for page in PSE36_PAGES:
                hw.map_ram(page << 12, self.address + (0x405 << 12), 4096)
        hw.exception_intercepts = 1 << 13
        ram = machine.ram
        ram[CODE_FRAME << 12:(CODE_FRAME << 12) + 4] = LOAD
        ram[(CODE_FRAME << 12) + 16:(CODE_FRAME << 12) + 20] = STORE
        hw.map_ram(GIGA_PAGE << 12, self.address + (GIGA_FRAME << 12), 4096)
        for frame in DATA_FRAMES:
            ram[frame << 12] = HLT
            ram[(frame << 12) + 8] = frame & 0xFF
        self.map_code()
        hw.gpr[7] = machine.gva
        self.case = None

    def map_code(self):
        """Page 0 for CPL 0 and page 1 for CPL 3 under index 0 of every table of the path's root."""
        m, table = self.machine, CODE_TABLES
        at = m.table_gfn(m.root_level)
        for level in range(m.root_level, 1, -1):
            rights = 1 if m.mode == "pae" and level == 3 else 7
            self.put(at, 0, table << 12 | rights | (0 if rights == 1 else b.PT_ACCESSED))
            at, table = table, table + 1
        self.put(at, 0, CODE_FRAME << 12 | 0x63)
        self.put(at, 1, CODE_FRAME << 12 | 0x67)

    def put(self, frame, index, value):
        size = self.machine.size
        at = (frame << 12) + index * size
        self.machine.ram[at:at + size] = value.to_bytes(size, "little")

    def control(self, c):
        m, hw = self.machine, self.hw
        hw.load_root(m.vcpu.cr3)
        long = m.mode.startswith("level")
        hw.set_mode(m.vcpu.cr0, m.vcpu.cr4 | 0x200, m.vcpu.efer)
        for number in range(6):
            hw.set_segment(number, 0x10, 0, 0xFFFFFFFF, (0xA09B00 if long else 0xC09B00) if number == CS else 0xC09300)
        hw.rflags = 2 | (b.RFLAGS_AC if c.ac else 0)

    def run(self, cases, *, flush=True):
        """cases: iterable of (name, prepare, done); `prepare()` before each, `done(what, detail)` after it.

        flush: with an empty TLB each.

        what "fault": detail (error code, CR2); what "ok": detail AL.
        """
        hw, cases = self.hw, iter(cases)
        state = {}

        def begin():
            case = next(cases, None)
            if case is None:
                return False
            name, prepare, state["done"] = case
            prepare()
            if flush:
                hw.flush_tlb()
            user = name.startswith("user")
            hw.cpl = 3 if user else 0
            base = USER_CODE if user else SUPERVISOR_CODE
            hw.rip = self.machine.gva if "fetch" in name else base + (16 if "write" in name else 0)
            if "write" in name:
                hw.gpr[0] = hw.gpr[0] & ~0xFF | 0x5A
            return True

        def on_exit(code):
            if code == ex.PAGE_FAULT:
                state["done"]("fault", (hw.error_code, hw.fault_address))
            elif code in (ex.HLT, ex.EXCEPTION + 13):
                state["done"]("ok", hw.gpr[0] & 0xFF)
            else:
                raise AssertionError(f"exit {code:#x} at {hw.rip:#x}")
            return begin()

        if begin():
            hw.run(on_exit)


def rights_pairs(mode):
    positions = [0, 1, 2] + ([] if mode == "bits32" else [63])
    values = [sum(1 << p for p, on in zip(positions, v, strict=True) if on)
              for v in itertools.product((0, 1), repeat=len(positions))]
    return [*itertools.product(values, values)]


def format_pairs(mode):
    """Changes (as XOR) to a pair of permitting entries."""
    positions = [p for p in FORMAT if p < 8 * (4 if mode == "bits32" else 8)]
    single = [(1 << p, 0) for p in positions] + [(0, 1 << p) for p in positions]
    pairs = [(x[0] ^ y[0], x[1] ^ y[1]) for x, y in itertools.combinations(single, 2)]
    rng = random.Random(20)
    drawn = [tuple(sum(1 << p for p in positions if rng.random() < 0.4) for _ in range(2)) for _ in range(400)]
    return single + pairs + drawn


class ThreeWay:
    """Runs cases of one machine and collects differences."""

    def __init__(self, mode):
        self.machine = WalkMachine(mode, amd=False, pse36=mode == "bits32")
        self.engine = Engine(self.machine)
        self.count = 0

    def case(self, name, levels, values):
        machine = self.machine
        levels_values = list(zip(levels, values, strict=True))

        def prepare():
            for level, value in levels_values:
                machine.set(level, value)

        def done(what, detail):
            self.count += 1
            engine = what, detail, [machine.get(level) for level in levels]
            written = None
            prepare()
            out = machine.oracle(name)
            oracle_after = [machine.get(level) for level in levels]
            if out[ow.STATUS] == ow.TRANSLATED and "write" in name:
                at = ram_frame(out[ow.GFN]) << 12 | 16
                written = machine.ram[at]
                machine.ram[at] = 0
            prepare()
            gpa, error = machine.kvm(name)
            label = f"{machine.mode} {name} levels {levels} entries {[hex(v) for v in values]}"
            assert oracle_after == [machine.get(level) for level in levels], f"{label}: A/D, KVM and oracle"
            self.judge(label, name, out, engine, (gpa, error), levels_values, oracle_after, written)

        return name, prepare, done

    def judge(self, label, name, out, engine, kvm, before, oracle_after, written):
        """Assert that the three agree; A and D of the engine lie between must and may."""
        what, detail, after = engine
        if out[ow.STATUS] == ow.TRANSLATED:
            gpa = out[ow.GFN] << 12
            assert what == "ok", f"{label}: engine faults with {detail}, oracle translates to {gpa:#x}"
            assert kvm[0] == gpa, f"{label}: KVM {kvm}, oracle {gpa:#x}"
            if "read" in name:
                assert detail == ram_frame(out[ow.GFN]) & 0xFF, f"{label}: wrong page"
            if "write" in name:
                assert written == 0x5A, f"{label}: the store is elsewhere"
        else:
            assert what == "fault", f"{label}: engine succeeds, oracle faults with {out[ow.ERROR]:#x}"
            address = self.machine.gva + OFFSET[name.split()[-1]]
            assert detail == (out[ow.ERROR], address), f"{label}: engine {detail}, oracle {out[ow.ERROR]:#x}"
            assert kvm == (None, out[ow.ERROR]), f"{label}: KVM {kvm}, oracle {out[ow.ERROR]:#x}"
        _, kind, _ = ACCESSES[name]
        for (level, value), engine_value in zip(before, after, strict=True):
            changed = engine_value ^ value
            may = ow.may_set(self.machine.cpu, kind, self.machine.out, level)
            may |= forgiven(value, out[ow.STATUS], level)
            must = ow.must_set(kind, self.machine.out, level) & ~value
            assert not changed & ~may & 0xFFFFFFFFFFFFFFFF, f"{label}: engine set {changed:#x} at level {level}"
            assert changed & must == must, f"{label}: engine set only {changed:#x} at level {level}"

    def run(self, controls, levels, pairs, names=SIX):
        """pairs: values of both entries, complete."""
        self.machine.reset_path()
        for c in controls:
            self.machine.control(c)
            self.engine.control(c)
            self.engine.run(self.case(name, levels, pair) for pair in pairs for name in names)


def forgiven(entry, status, level):
    """Bits that only the engine sets (ENGINE)."""
    return b.PT_ACCESSED if level == 3 and status == ow.RESERVED_BIT and entry & b.PT_PAGE_SIZE else 0


def step_for_mode():
    """Interpreted, every 29th case."""
    return 1 if JIT else 29


@pytest.mark.parametrize("mode, levels", CASES_OF)
def test_rights_three_ways(mode, levels):
    three = ThreeWay(mode)
    m = three.machine
    pairs = [(m.target(levels[0]) | x, m.target(levels[1]) | y) for x, y in rights_pairs(mode)]
    controls = all_controls(mode)
    three.run(controls, levels, pairs[::step_for_mode()])
    if JIT:
        assert three.count == len(controls) * (64 if mode == "bits32" else 256) * 6


@pytest.mark.parametrize("mode, levels", CASES_OF)
def test_format_three_ways(mode, levels):
    three = ThreeWay(mode)
    m = three.machine
    pairs = [(m.target(levels[0]) | 7 ^ x, m.target(levels[1]) | 7 ^ y) for x, y in format_pairs(mode)]
    nxe = (False,) if mode == "bits32" else (False, True)
    controls = [Controls(nxe=n, pse=s) for n in nxe for s in ((False, True) if mode == "bits32" else (True,))]
    three.run(controls, levels, pairs[::step_for_mode()])


def answers(three, name, level, value):
    """One case of three, unjudged: engine (what, detail), oracle (status, gfn, error), KVM (gpa, error)."""
    machine, seen = three.machine, []
    machine.set(level, value)
    three.engine.run([(name, lambda: None, lambda *answer: seen.append(answer))])
    machine.set(level, value)
    out = machine.oracle(name)
    machine.set(level, value)
    return seen[0], (out[ow.STATUS], out[ow.GFN], out[ow.ERROR]), machine.kvm(name)


def start(mode, controls):
    three = ThreeWay(mode)
    three.machine.control(controls)
    three.engine.control(controls)
    return three


def test_engine_and_oracle_agree_on_pse36_against_kvm():
    """SDM 4.3: with MAXPHYADDR 40 PDE bits 20:13 are address bits 39:32 and bit 21 is reserved (DEVIATIONS)."""
    three = start("bits32", Controls(nxe=False))
    for bit in range(13, 22):
        engine, oracle, kvm = answers(three, "read", 2, 0x400087 | 1 << bit)
        if bit == 21:
            assert engine == ("fault", (9, three.machine.gva + 8)) and oracle[2] == 9
            assert kvm == (None, 9)
        else:
            assert engine == ("ok", 0x05) and oracle[:2] == (ow.TRANSLATED, 1 << bit + 7 | 0x405)
            assert kvm == ((1 << bit + 19 | 0x405000, 0) if bit < 17 else (None, 9))


def test_engine_and_oracle_agree_on_the_fetch_bit_against_kvm():
    """SDM 4.7: without CR4.PAE the I/D bit needs SMEP, whatever EFER.NXE says (DEVIATIONS)."""
    for smep in (False, True):
        three = start("bits32", Controls(nxe=True, smep=smep))
        engine, oracle, kvm = answers(three, "user fetch", 1, 0)
        expected = 0x14 if smep else 0x4
        assert engine == ("fault", (expected, three.machine.gva)) and oracle[2] == expected
        assert kvm == (None, 0x14)


def test_implicit_access_ignores_ac():
    """A segment load reads the descriptor table with supervisor privilege; SMAP forbids a user page there even with
    EFLAGS.AC = 1, while an explicit load of the same byte is permitted (SDM 4.6.1)."""
    three = start("level4", Controls(smap=True, ac=True))
    machine, hw = three.machine, three.engine.hw
    engine, oracle, kvm = answers(three, "read", 1, DATA_GFN << 12 | 7)
    assert engine == ("ok", DATA_GFN) and oracle[0] == ow.TRANSLATED and kvm == (DATA_GFN << 12, 0)
    at = (CODE_FRAME << 12) + 32
    machine.ram[at:at + 2] = bytes.fromhex("8ed8")          # MOV DS, EAX
    seen = []

    def on_exit(code):
        seen.append((code, hw.error_code, hw.fault_address))
        return False

    hw.gdtr, hw.gpr[0], hw.rip, hw.cpl = (machine.gva, 0xFF), 0x10, USER_CODE + 32, 3
    hw.flush_tlb()
    hw.run(on_exit)
    assert seen == [(ex.PAGE_FAULT, b.PFERR_PRESENT, machine.gva + 0x10)]
    assert machine.oracle("implicit read")[ow.ERROR] == b.PFERR_PRESENT
    assert machine.kvm("implicit read") == (None, b.PFERR_PRESENT)
