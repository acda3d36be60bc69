# SPDX-License-Identifier: GPL-2.0-or-later
"""Walks that no product of entry bits reaches: memory that is special, tables that map themselves, edges of
addresses."""

import pytest
from walk_machine import GVA, HIGH_GFN, PERMISSIVE, ROOT, Controls, WalkMachine, oracle_load_pdptes, table

from shadowmmu import state
from shadowmmu.mmu import walk
from shadowmmu.oracle import walker as ow
from shadowmmu.state import core
from shadowmmu.vm.machine import GuestFault, signed
from shadowmmu.x86 import bits as b


def machine_for(mode="level4", controls=None, **options):
    machine = WalkMachine(mode, **options)
    machine.control(controls or Controls())
    return machine


def path_entries(machine):
    low = 1
    return [machine.get(level) for level in range(low, machine.root_level + 1)]


# ---- accessed and dirty

def recursive(machine, depth):
    """Every level's entry of the path refers to the root table: `depth` levels walk the same entry."""
    root = machine.table_gfn(machine.root_level)
    slot = 5
    gva = 0
    for level in range(1, machine.root_level + 1):
        gva |= (slot if level > machine.root_level - depth else level) << 12 + 9 * (level - 1)
    at = (root << 12) + slot * 8
    machine.ram[at:at + 8] = (root << 12 | PERMISSIVE).to_bytes(8, "little")
    machine.gva = gva
    return at


@pytest.mark.parametrize("name, bits", [("read", b.PT_ACCESSED), ("write", b.PT_ACCESSED | b.PT_DIRTY)])
def test_recursive_mapping_restarts(name, bits):
    """All four levels go through one entry: setting A at the first changes what the last read, the walk starts again
    (SDM 4.8: locked update; kernel: cmpxchg and `goto retry_walk`)."""
    results = []
    for walker in ("oracle", "kvm"):
        machine = machine_for()
        at = recursive(machine, 4)
        result = getattr(machine, walker)(name)
        entry = int.from_bytes(machine.ram[at:at + 8], "little")
        root = machine.table_gfn(4)
        assert entry == root << 12 | PERMISSIVE | bits
        results.append(result[ow.GFN] if walker == "oracle" else result[0] >> 12)
        assert results[-1] == root
    assert results[0] == results[1]


def test_two_levels_through_one_entry():
    """The leaf is reached through a self-reference at the root only; A lands in both."""
    for walker in ("oracle", "kvm"):
        machine = machine_for()
        at = recursive(machine, 2)
        # below: level 2 index 2, level 1 index 1 in the root table again
        root = machine.table_gfn(4)
        for index, target in ((2, root), (1, 0x20)):
            place = (root << 12) + index * 8
            machine.ram[place:place + 8] = (target << 12 | PERMISSIVE).to_bytes(8, "little")
        getattr(machine, walker)("user write")
        assert machine.ram[at] & 0x60 == b.PT_ACCESSED
        assert machine.ram[(root << 12) + 16] & 0x60 == b.PT_ACCESSED
        assert machine.ram[(root << 12) + 8] & 0x60 == b.PT_ACCESSED | b.PT_DIRTY


def test_a_fault_sets_nothing_by_default():
    """KVM and the oracle's `access` set no A on a faulting walk; the architecture permits A above the fault."""
    machine = machine_for()
    machine.set(1, 0)
    before = path_entries(machine)
    out = machine.oracle("write")
    assert out[ow.STATUS] == ow.NOT_PRESENT and path_entries(machine) == before
    machine.kvm("write")
    assert path_entries(machine) == before
    assert [ow.may_set(machine.cpu, ow.WRITE_ACCESS, machine.out, level) for level in (1, 2, 3, 4)] == [0, 32, 32, 32]
    assert all(ow.must_set(ow.WRITE_ACCESS, machine.out, level) == 0 for level in (1, 2, 3, 4))


def test_dirty_only_in_the_leaf_and_only_on_writes():
    for name, leaf in (("read", 0x20), ("fetch", 0x20), ("write", 0x60)):
        for walker in ("oracle", "kvm"):
            machine = machine_for()
            getattr(machine, walker)(name)
            assert [e & 0x60 for e in path_entries(machine)] == [leaf, 0x20, 0x20, 0x20]


# ---- memory

def read_only_machine():
    """The level-2 table lies in a read-only memslot."""
    machine = WalkMachine("level4")
    machine.vm.delete_memslot(1)
    machine.vm.add_memslot(1, HIGH_GFN << 12, 4 << 12, 0x30 << 12, readonly=True)
    for i in range(4):
        machine.frames[HIGH_GFN + i] = ow.ram_frame(0x30 + i, 1)
    machine.control(Controls())
    return machine


def test_tables_in_read_only_memory():
    """The CPU's write of A is lost as any write to a ROM is; the access succeeds; writable tables get theirs."""
    for walker in ("oracle", "kvm"):
        machine = read_only_machine()
        result = getattr(machine, walker)("user write")
        assert (result[ow.GFN] if walker == "oracle" else result[0] >> 12) == 0x20
        assert [e & 0x60 for e in path_entries(machine)] == [0x60, 0, 0x20, 0x20]


def test_table_without_memory():
    """Architecturally undefined; KVM reports a page that is not present, and so does ERROR."""
    for gfn in (0x500, 0x3FFFF, HIGH_GFN + 4, 1 << 27):
        machine = machine_for()
        machine.set(2, gfn << 12 | PERMISSIVE)
        out = machine.oracle("user write")
        assert out[ow.STATUS] == ow.NO_MEMORY and out[ow.ERROR] == 6 and out[ow.LEVEL] == 1
        assert machine.kvm("user write") == (None, 6)


def test_root_without_memory():
    machine = machine_for()
    machine.vcpu.set_sregs(cr0=machine.vcpu.cr0, cr3=0x500000, cr4=machine.vcpu.cr4, efer=machine.vcpu.efer)
    machine.cpu[ow.CR3] = 0x500000
    assert machine.oracle("read")[ow.STATUS] == ow.NO_MEMORY
    assert machine.kvm("read") == (None, 0)


def test_leaf_without_memory_is_a_translation():
    machine = machine_for()
    machine.set(1, 0x12345 << 12 | PERMISSIVE)
    assert machine.oracle("read")[ow.GFN] == 0x12345
    assert machine.kvm("read") == (0x12345000, 0)


# ---- addresses

@core
def is_noncanonical(handle, gva):
    vm = state.attach(handle)
    return walk.is_noncanonical(vm, state.vcpu(vm, 0), gva)


@core
def oracle_canonical(handle, frames, cpu, gva):
    vm = state.attach(handle)
    memory = ow.Memory(state.words(vm, vm.ram), frames, len(frames), vm.page_shift, vm.level_bits)
    return ow.is_canonical(memory, cpu, gva)


@pytest.mark.parametrize("mode, bits", [("level4", 48), ("level5", 57)])
def test_canonical_addresses(mode, bits):
    machine = machine_for(mode)
    top = 1 << bits - 1
    good = [0, 1, top - 1, (1 << 64) - top, (1 << 64) - 1]
    bad = [top, top + 1, (1 << 64) - top - 1, 1 << 63, 1 << bits, 1 << 62]
    for gva, expected in [(g, True) for g in good] + [(g, False) for g in bad]:
        machine.gva = gva
        assert bool(oracle_canonical(machine.vm.handle, machine.frames, machine.cpu, signed(gva))) == expected
        assert bool(is_noncanonical(machine.vm.handle, signed(gva))) != expected
        if not expected:
            assert machine.oracle("read")[ow.STATUS] == ow.NONCANONICAL


def test_negative_addresses_walk():
    """The upper half: indices come from the sign-extended address."""
    for mode in ("level4", "level5"):
        machine = machine_for(mode)
        width = 12 + 9 * ROOT[mode]
        machine.gva = (1 << 64) - (1 << width - 1) | GVA[mode]
        machine.reset_path()
        assert machine.oracle("read")[ow.GFN] == 0x20
        assert machine.kvm("read") == (0x20000, 0)


def test_no_paging_is_the_identity():
    machine = machine_for()
    machine.vcpu.set_sregs(cr0=0x11, cr3=0, cr4=0, efer=0)
    machine.cpu[ow.CR0] = 0x11
    ow.prepare(machine.cpu, 9)
    machine.gva = 0x123456
    for name in ("user write", "fetch", "read"):
        out = machine.oracle(name)
        assert out[ow.STATUS] == ow.TRANSLATED and out[ow.GFN] == 0x123
        assert machine.kvm(name) == (0x123456, 0)


# ---- error codes

@pytest.mark.parametrize("mode", ["pae", "level4"])
@pytest.mark.parametrize("nxe, smep, bit", [(False, False, 0), (True, False, 16), (False, True, 16), (True, True, 16)])
def test_fetch_bit_of_the_error_code(mode, nxe, smep, bit):
    """I/D only with SMEP or NXE (SDM 4.7)."""
    machine = machine_for(mode, Controls(nxe=nxe, smep=smep))
    machine.set(1, 0)
    for name, rest in (("fetch", 0), ("user fetch", 4)):
        assert machine.oracle(name)[ow.ERROR] == bit | rest
        assert machine.kvm(name) == (None, bit | rest)


def test_implicit_supervisor_access():
    """At CPL 3, AC = 1: U/S of the error code is 0 and SMAP applies (SDM 4.6.1, 4.7)."""
    machine = machine_for(controls=Controls(smap=True, ac=True))
    for name, code in (("implicit read", 1), ("implicit write", 3)):
        assert machine.oracle(name)[ow.ERROR] == code
        assert machine.kvm(name) == (None, code)
    for name in ("read", "write", "user read"):
        assert machine.oracle(name)[ow.STATUS] == ow.TRANSLATED
        assert machine.kvm(name)[0] == 0x20000


def test_not_present_wins_over_reserved_bits():
    """In an entry with P = 0 nothing else counts (SDM 4.7: RSVD only with P)."""
    machine = machine_for()
    machine.set(2, 0xFFFF_FFFF_FFFF_FFFE)
    assert machine.oracle("read")[ow.ERROR] == 0
    assert machine.kvm("read") == (None, 0)


def test_key_and_protection_fault_together():
    """PK says that the key forbids the access, also when W does (SDM 4.7)."""
    machine = machine_for(controls=Controls(pke=True, pkru=2 << 2))
    machine.set(1, 0x20000 | b.PT_PRESENT | b.PT_USER | 1 << 59)
    assert machine.oracle("user write")[ow.ERROR] == 0x27
    assert machine.kvm("user write") == (None, 0x27)


# ---- PDPTE registers

def test_pdptes_are_registers():
    """A PDPTE changed in memory counts from the next MOV CR3 (SDM 4.4.1)."""
    machine = machine_for("pae")
    machine.set(3, 0)
    assert machine.oracle("read")[ow.GFN] == 0x20
    assert machine.kvm("read") == (0x20000, 0)
    cr3 = machine.vcpu.cr3
    machine.vcpu.set_cr3(cr3)
    assert oracle_load_pdptes(machine.vm.handle, machine.frames, machine.cpu, cr3)
    assert machine.oracle("read")[ow.ERROR] == 0 and machine.oracle("read")[ow.STATUS] == ow.NOT_PRESENT
    assert machine.kvm("read") == (None, 0)


@pytest.mark.parametrize("bit", range(1, 64))
def test_reserved_bits_of_pdptes(bit):
    """Bits 2:1, 8:5 and 63:MAXPHYADDR of a present PDPTE: #GP at MOV CR3 (SDM 4.4.1, table 4-8)."""
    machine = machine_for("pae")
    cr3 = machine.vcpu.cr3
    reserved = bit in (1, 2, 5, 6, 7, 8) or bit >= 40
    machine.set(3, machine.target(3) | 1 | 1 << bit)
    assert bool(oracle_load_pdptes(machine.vm.handle, machine.frames, machine.cpu, cr3)) != reserved
    if reserved:
        with pytest.raises(GuestFault):
            machine.vcpu.set_cr3(cr3)
    else:
        machine.vcpu.set_cr3(cr3)
    # not present: nothing is reserved
    machine.set(3, 1 << bit)
    assert oracle_load_pdptes(machine.vm.handle, machine.frames, machine.cpu, cr3)
    machine.vcpu.set_cr3(cr3)


# ---- geometry

def test_scaled_geometry():
    """32-byte pages, 4 entries a table: the oracle on a plain list (no VM)."""
    words = [0] * 64                    # 16 pages of 4 words
    frames = table(range(0, 32, 2))
    memory = ow.Memory(table(words), frames, 16, 5, 2)
    cpu, out = table([0] * ow.CPU_WORDS), table([0] * ow.OUT_WORDS)
    for field, value in ((ow.CR0, b.CR0_PG | b.CR0_PE | b.CR0_WP), (ow.CR4, b.CR4_PAE),
                         (ow.EFER, b.EFER_LMA | b.EFER_NX), (ow.CR3, 1 << 12), (ow.MAXPHYADDR, 40), (ow.GBPAGES, 1)):
        cpu[field] = value
    ow.prepare(cpu, 2)
    gva = 0                             # indices 1 2 3 1 at levels 4 3 2 1
    for level, index in ((4, 1), (3, 2), (2, 3), (1, 1)):
        gva |= index << 5 + 2 * (level - 1)
        memory.words[(5 - level) * 4 + index] = (6 - level) << 12 | 7
    assert ow.access(memory, cpu, gva, ow.WRITE_ACCESS, out) == ow.TRANSLATED
    assert out[ow.GFN] == 5 and memory.words[4 * 4 + 1] == 5 << 12 | 0x67
    # a level-2 leaf covers 4 pages; the address bits below its frame are 13
    memory.words[3 * 4 + 3] = 8 << 12 | 0x87
    assert ow.access(memory, cpu, gva, ow.READ, out) == ow.TRANSLATED and out[ow.GFN] == 9
    memory.words[3 * 4 + 3] = 8 << 12 | 0x87 | 1 << 13
    assert ow.access(memory, cpu, gva, ow.READ, out) == ow.RESERVED_BIT
    assert not ow.is_canonical(memory, cpu, 1 << 12) and ow.is_canonical(memory, cpu, -(1 << 12))
