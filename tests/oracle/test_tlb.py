# SPDX-License-Identifier: GPL-2.0-or-later
"""The table behind `oracle.tlb`: order, capacity, equality, pieces, other modes and geometries, laws on random
programs."""

import ast
import pathlib
import random

import pytest
from litmus import GFN, PAGES, World, gva_of, words

from shadowmmu import oracle
from shadowmmu.oracle import tlb as ot
from shadowmmu.oracle import walker as ow
from shadowmmu.state import JIT
from shadowmmu.x86 import bits as b


def raw(world):
    return [int(v) for v in world.tlb]


def used(world):
    count = int(world.tlb[ot.COUNT])
    return [tuple(raw(world)[ot.FIRST_ROW + 3 * i:ot.FIRST_ROW + 3 * i + 3]) for i in range(count)]


def test_rows_say_what_is_held():
    world = World()
    world.learn()
    starts = gva_of("a"), gva_of("a") & -(1 << 21)
    rows = {(r.kind, r.level, r.frame) for r in ot.rows(world.tlb) if r.address in starts}
    assert rows == {("translation", 1, 1), ("walk", 2, GFN["R1"])}
    assert all(r.write and r.user and not r.no_execute for r in ot.rows(world.tlb))


def test_equal_sets_are_equal_words():
    """The order of learning leaves no trace, nor does what was removed."""
    worlds = []
    for order in (sorted(PAGES), sorted(PAGES, reverse=True)):
        world = World()
        for page in order:
            ot.learn(world.memory, world.cpu, world.tlb, gva_of(page), world.out)
        worlds.append(world)
    worlds[1].run("T.a = 9 pwuad; R2.a = T pwua; R2.a = R1 pwua; cr3 S; cr3 R")
    worlds[1].learn()
    assert raw(worlds[0]) == raw(worlds[1])


def test_overflow_is_reported():
    world = World()
    ot.clear(world.tlb, 3)
    world.learn()
    with pytest.raises(ot.OracleOverflow, match="more than 3"):
        ot.require_room(world.tlb)
    assert int(world.tlb[ot.COUNT]) == 3
    ot.clear(world.tlb, 100)
    world.learn()
    ot.require_room(world.tlb)


def test_holes_go_with_their_translation():
    world = World()
    world.run("T.h = 21 pwuad; T.i = 22 pwuad; R2.h = T pwua; invlpg h; invlpg i")
    kinds = [r.kind for r in ot.rows(world.tlb)]
    assert kinds.count("hole") == 2 and kinds.count("pieces") == 1
    # the large page comes back, is cached anew, and is broken up again: i is there again
    world.run("R2.h = 512 pwuadl; R2.h = T pwua; invlpg h")
    assert world.ask("read i") == {"513", "22"} and world.ask("read h") == {"21"}
    # an invalidation under tables that specify the large page takes all pieces and holes
    world.run("R2.h = 512 pwuadl; invlpg h; R2.h = 0; invlpg a")
    world.run("cr3 S; cr3 R")
    assert not {r.kind for r in ot.rows(world.tlb)} & {"hole", "pieces"}


def test_sources_for_every_rule():
    assert len(ot.SOURCES) == len(ot.RULES) == ot.OTHER_BIT + 1
    assert all("SDM" in source or "APM" in source or "named" in source for _, source in ot.SOURCES)


def legacy(pae):
    """A world in 32-bit or PAE paging: its own table at frame 0, one leaf at linear 0x5000."""
    world = World()
    cpu, memory = world.cpu, world.memory
    cpu[ow.EFER], cpu[ow.CR4] = 0, b.CR4_PAE if pae else b.CR4_PSE
    first = 256 << 12
    for i in range(1024):
        memory.words[i] = 0
    if pae:
        cpu[ow.PDPTE] = first | 1
        memory.words[0] = first + 4096 | 0x27
        memory.words[512 + 5] = 7 << 12 | 0x67
    else:
        cpu[ow.CR3] = first
        memory.words[0] = first + 4096 | 0x27
        memory.words[512 + 2] = (7 << 12 | 0x67) << 32
    ow.prepare(cpu, 9)
    return world


def outcomes(world, gva, kind=ow.READ):
    ot.permitted(world.memory, world.cpu, world.tlb, gva, kind, world.out, world.outcomes)
    return {(int(world.outcomes[1 + 2 * i]), int(world.outcomes[2 + 2 * i])) for i in range(int(world.outcomes[0]))}


@pytest.mark.parametrize("pae", [False, True])
def test_legacy_paging(pae):
    world = legacy(pae)
    assert outcomes(world, 0x5000) == {(ow.TRANSLATED, 7)}
    # bits above 31 of the address do not exist
    assert outcomes(world, 0x5000 | 1 << 32) == {(ow.TRANSLATED, 7)}
    at = 512 + 5 if pae else 512 + 2
    world.memory.words[at] = 0
    assert outcomes(world, 0x5000) == {(ow.TRANSLATED, 7), (ow.DENIED, 4)}
    changed = b.CR4_PSE if pae else b.CR4_PAE | b.CR4_PSE
    ot.mov_cr4(world.memory, world.cpu, world.tlb, changed, world.out)
    assert (int(world.tlb[ot.COUNT]) == 0) == (int(world.cpu[ow.MODE]) != (ow.PAE if pae else ow.BITS32))


def test_pdpte_registers_are_not_reloaded_by_a_walk():
    world = legacy(True)
    world.cpu[ow.PDPTE] = 0
    assert outcomes(world, 0x5000) == {(ow.DENIED, 4)}


def test_no_paging_and_noncanonical():
    world = World()
    assert outcomes(world, 1 << 47) == {(ow.NONCANONICAL, 0)}
    world.cpu[ow.CR0] = b.CR0_PE
    ow.prepare(world.cpu, 9)
    assert outcomes(world, 0x12345) == {(ow.TRANSLATED, 0x12)}
    assert int(world.tlb[ot.COUNT]) == 0


INVALIDATIONS = ("invlpg a", "invlpg h", "invlpg i", "cr3 R 1", "cr3 S 2 keep", "cr3 R 1 keep", "#pf a",
                 "invpcid 0 1 a", "invpcid 1 1", "invpcid 3 0", "cr4 +pge", "cr4 -pge")


def random_program(rng, steps):
    entries = ["R1.a", "R1.b", "R2.a", "R3.a", "R4.a", "R2.h", "T.a", "T.h", "S1.a"]
    out = []
    for _ in range(steps):
        pick = rng.random()
        if pick < 0.55:
            entry = rng.choice(entries)
            flags = "".join(f for f in "pwuad" if rng.random() < 0.85)
            if entry[1] == "1" or entry[0] == "T":
                target = rng.choice(["7", "8", "9"])
                flags += rng.choice(["", "", "g", "n"])
            else:
                target = {"2": rng.choice(["R1", "T"]), "3": rng.choice(["R2", "Q"]), "4": "R3"}[entry[1]]
                if entry == "R2.h" and rng.random() < 0.5:
                    target, flags = rng.choice(["512", "1024"]), flags + "l"
            out.append(f"{entry} = {target} {flags}")
        elif pick < 0.85:
            out.append(rng.choice(INVALIDATIONS))
        else:
            out.append(rng.choice(["read a", "write a", "read i"]))
    return out


@pytest.mark.parametrize("seed", range(30 if JIT else 6))
def test_laws(seed):
    """Rows stay sorted and unique; an invalidation only removes (pieces aside); a store to a table removes nothing; the
    answer of the tables as they are is always permitted."""
    rng = random.Random(seed)
    world = World(rng.choice(["intel", "amd"]))
    world.run("cr4 +pcide +pge")
    for statement in random_program(rng, 60):
        world.learn()
        before = set(used(world))
        world.do(statement)
        ot.require_room(world.tlb)
        rows = used(world)
        assert rows == sorted(set(rows)), statement
        assert not any(raw(world)[ot.FIRST_ROW + 3 * len(rows):]), statement
        if statement.split()[0] in ("invlpg", "invpcid", "#pf", "cr3"):
            kinds = {name & ot.KIND for name, _, _ in set(rows) - before}
            assert kinds <= {ot.PIECES, ot.HOLE}, statement
        elif " = " in statement:
            assert set(rows) == before
        for page in PAGES:
            gva = gva_of(page)
            answers = outcomes(world, gva)
            status = int(ow.walk(world.memory, world.cpu, gva, world.out))
            error = int(ow.fault_of(world.cpu, ow.READ, status)) if status else int(ow.judge(
                world.cpu, ow.READ, *(world.out[k] for k in (ow.WRITE, ow.USER, ow.NO_EXECUTE, ow.KEY))))
            own = (ow.DENIED, error) if status or error else (ow.TRANSLATED, int(world.out[ow.GFN]))
            assert own in answers, statement


def test_scaled_geometry():
    """32-byte pages, 4 entries a table: a leaf changes, INVLPG takes the old one."""
    memory = ow.Memory(words([0] * 64), words(range(0, 32, 2)), 16, 5, 2)
    cpu, out = words([0] * ow.CPU_WORDS), words([0] * ow.OUT_WORDS)
    table, answers = words([0] * ot.words_for(32)), words([0] * 71)
    for field, value in ((ow.CR0, b.CR0_PG | b.CR0_PE), (ow.CR4, b.CR4_PAE), (ow.EFER, b.EFER_LMA), (ow.CR3, 1 << 12),
                         (ow.MAXPHYADDR, 40), (ow.GBPAGES, 1)):
        cpu[field] = value
    ow.prepare(cpu, 2)
    ot.clear(table, 32)
    gva = 0
    for level, index in ((4, 1), (3, 2), (2, 3), (1, 1)):
        gva |= index << 5 + 2 * (level - 1)
        memory.words[(5 - level) * 4 + index] = (6 - level) << 12 | 0x67
    ot.learn(memory, cpu, table, gva, out)
    assert int(table[ot.COUNT]) == 4
    memory.words[4 * 4 + 1] = 9 << 12 | 0x67
    ot.permitted(memory, cpu, table, gva, ow.READ, out, answers)
    assert [int(v) for v in answers[:5]] == [2, ow.TRANSLATED, 9, ow.TRANSLATED, 5]
    ot.invalidate(memory, cpu, table, ot.INVLPG, 0, gva, out)
    ot.permitted(memory, cpu, table, gva, ow.READ, out, answers)
    assert [int(v) for v in answers[:3]] == [1, ow.TRANSLATED, 9]


def test_the_oracle_imports_neither_mmu_nor_vm():
    for path in pathlib.Path(oracle.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [f"{'.' * node.level}{node.module or ''}"]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                assert name in (".", ".walker", "..state", "..x86.bits", "..x86.paging", "collections"), (path, name)
