# SPDX-License-Identifier: GPL-2.0-or-later
"""State: copies are independent, hashes tell states apart, geometry is data, bad indices are caught.

DESIGN section 3 (one buffer, relocatable; geometry is data; cache keyed by the sources).
"""

import pytest
from guest_tables import PAGE, TABLE, Guest

from shadowmmu import rules
from shadowmmu.rules.fields import FIELDS
from shadowmmu.state import attach, cache, core, interpreted, layout, octets, page, words, words32
from shadowmmu.state.store import Config, Store, plan
from shadowmmu.vm import Vm, calls


def small(**changes):
    return Config(**({"memory_pages": 16, "shadow_pages": 8, "slots": 2, "hash_buckets": 16, "events": 64} | changes))


def test_clone_is_independent():
    """A write to either copy is not seen in the other, in every table."""
    one = Store(small(), len(FIELDS))
    two = one.clone()
    for name, (offset, length) in one.tables.items():
        if offset < one.used and length:
            before = bytes(one._view[offset:offset + 8])
            two._view[offset:offset + 8] = bytes(x ^ 0xFF for x in before)
            assert bytes(one._view[offset:offset + 8]) == before, name
    assert one.hash() != two.hash()


def test_clone_of_a_running_machine(machine):
    """A clone goes on exactly as the original does: same hash after the same steps."""
    vm = machine(0x900 << 12, config=Config(memory_pages=0x900))
    g = Guest(vm)
    g.map(0x400000, 0x800000)
    g.start()
    g.cpu.read(0x400000)
    twin = vm.store.clone()
    assert twin.hash() == vm.store.hash()
    calls.load(twin.vm, 0, 0x400000, 8, 0)
    calls.store(twin.vm, 0, 0x400000, 7, 8)
    assert twin.hash() != vm.store.hash()
    g.cpu.read(0x400000)
    g.cpu.write(0x400000, 7)
    assert twin.hash() == vm.store.hash()


def test_clone_starts_with_an_empty_ring(machine):
    """Events are not part of the machine."""
    vm = machine(0x900 << 12, config=Config(memory_pages=0x900))
    g = Guest(vm)
    g.map(0x400000, 0x800000)
    g.start()
    g.cpu.read(0x400000)
    assert vm.store.event_count() > 0
    assert vm.store.clone().events() == ([], 0)


def test_hash_sees_every_byte_of_the_machine_and_no_scratch():
    one = Store(small(), len(FIELDS))
    before = one.hash()
    for name, (offset, length) in one.tables.items():
        if not length:
            continue
        one._view[offset + length - 1] ^= 1
        assert (one.hash() != before) == (offset < one.used), name
        one._view[offset + length - 1] ^= 1
    assert one.hash() == before


def test_tables_do_not_overlap_and_lie_in_the_plan():
    tables, length = plan(small().complete(), len(FIELDS))
    end = 0
    for offset, size in tables.values():
        assert offset >= end
        end = offset + size
    assert end <= length
    assert set(layout.HEADER) >= {name for name in tables if name not in ("header", "end")}


@pytest.mark.parametrize("page_shift, level_bits", [(5, 2), (6, 3), (12, 9)])
def test_geometry_scales(machine, page_shift, level_bits):
    """The same guest, scaled: a 4-level walk takes four tables in every geometry, a neighbour none, and the last
    index of each level is reached."""
    config = Config(page_shift=page_shift, level_bits=level_bits, memory_pages=64, shadow_pages=32, slots=2,
                    hash_buckets=16, events=4096)
    n = 1 << page_shift
    vm = machine(64 * n, config=config)
    cpu = vm.vcpus[0]

    def put(page, index, entry):
        vm.write_gpa(page * n + 8 * index, entry.to_bytes(8, "little"))

    last = (1 << level_bits) - 1
    for level in (4, 3, 2):
        put(level, last, (level - 1) << 12 | TABLE)
    put(1, last, 40 << 12 | PAGE)
    put(1, 0, 41 << 12 | PAGE)
    vm.write_gpa(40 * n, b"\x44")
    vm.write_gpa(41 * n, b"\x45")
    # CR3's frame field starts at bit 12 in every geometry
    cpu.set_sregs(cr0=0x80010011, cr3=4 << 12, cr4=0x20, efer=0xD00)
    bits = page_shift + 4 * level_bits
    top = ((1 << bits) - n) | (-(1 << bits))          # the last page, canonical
    assert cpu.read(top, 1) == 0x44
    assert sorted(sp.level for sp in vm.shadow_pages) == [1, 2, 3, 4]
    assert cpu.read(top - last * n, 1) == 0x45
    assert len(vm.shadow_pages) == 4
    assert all(len(sp.sptes) <= 1 << level_bits for sp in vm.shadow_pages)


def test_scaled_hash_is_as_strict():
    """Two scaled machines that differ in one guest byte have different hashes; equal ones have equal hashes."""
    config = Config(page_shift=5, level_bits=2, memory_pages=16, shadow_pages=8, slots=2, hash_buckets=16, events=64)
    a, b = Vm(512, config=config), Vm(512, config=config)
    assert a.store.hash() == b.store.hash()
    b.write_gpa(511, b"\1")
    assert a.store.hash() != b.store.hash()


# ---- the cache of compiled code

def test_cache_key_follows_the_sources(tmp_path, monkeypatch):
    """One changed character in a room that a unit may reach is another key; elsewhere it is not."""
    for room in (*cache.EVERYTHING, "cli"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(cache, "ROOT", tmp_path)

    def key(room):
        cache._digest.cache_clear()
        return cache.key(tmp_path / room / "a.py")

    first = {room: key(room) for room in cache.EVERYTHING}
    for changed in (*cache.EVERYTHING, "cli"):
        (tmp_path / changed / "a.py").write_text(f"x = {changed!r}\n")
        now = {room: key(room) for room in cache.EVERYTHING}
        for room in cache.EVERYTHING:
            assert (now[room] != first[room]) == (changed in cache.REACHES[room]), (changed, room)
        first = now
    (tmp_path / "mmu" / "a.py").rename(tmp_path / "mmu" / "b.py")
    assert key("vm") != first["vm"] and key("oracle") == first["oracle"]
    cache._digest.cache_clear()


def test_cache_key_follows_the_patch_and_the_host():
    path = cache.ROOT / "vm" / "calls.py"
    keys = {cache.key(path, patch, host) for patch in ("", "def f(): return 1") for host in ("", "another CPU")}
    assert len(keys) == 4


# ---- the interpreted storage

def test_negative_indices_are_caught():
    """A negative index would silently be the end of a Python list; in the kernel it is somebody else's memory."""
    vm = Vm(0, config=small())
    spt = interpreted.words(vm.view, vm.view.spt)
    table32 = interpreted.words32(vm.view, vm.view.translation)
    octets = interpreted.octets(vm.view, vm.view.ram)
    for table in (spt, table32, octets):
        with pytest.raises(IndexError):
            table[-1]
        with pytest.raises(IndexError):
            table[-1] = 0
    array = vm.view.stat
    for i in (-1, len(array)):
        with pytest.raises(IndexError):
            array[i]
        with pytest.raises(IndexError):
            array[i] = 0


@pytest.mark.parametrize("name, table", [("page", "n_pages"), ("slot", "n_slots"), ("desc", "n_descs"),
                                         ("meta", "n_meta"), ("meta2", "n_meta2"), ("meta3", "n_meta3")])
def test_records_outside_their_table_do_not_exist(name, table):
    vm = Vm(0, config=small())
    get = getattr(interpreted, name)
    get(vm.view, getattr(vm.view, table) - 1)
    for i in (-1, getattr(vm.view, table)):
        with pytest.raises(IndexError):
            get(vm.view, i)


def test_values_wrap_as_registers_do():
    vm = Vm(0, config=small())
    sp = interpreted.page(vm.view, 0)
    sp.gfn = 1 << 63
    assert sp.gfn == -(1 << 63)
    sp.gfn = -1 - (1 << 63)
    assert sp.gfn == (1 << 63) - 1
    words = interpreted.words32(vm.view, vm.view.translation)
    words[0] = -1
    assert words[0] == 0xFFFFFFFF


def test_records_are_views_of_one_state():
    vm = Vm(0, config=small())
    interpreted.page(vm.view, 3).gfn = 0x123
    assert interpreted.page(vm.view, 3).gfn == 0x123
    assert interpreted.page(vm.view, 2).gfn == 0 and interpreted.page(vm.view, 4).gfn == 0


# ---- both storages

@core
def _touch(handle):
    """Write through every kind of accessor."""
    from_ = attach(handle)
    sp = page(from_, 2)
    sp.gfn = 0x123456789
    sp.unsync_child_bitmap[3] = 1 << 31
    sp.role = -1
    words(from_, from_.spt)[7] = -(1 << 63) | 5
    words32(from_, from_.translation)[5] = 0xDEADBEEF
    octets(from_, from_.ram)[9] = 0xAB
    from_.stat[2] += 3
    return words32(from_, from_.translation)[5] + 0


def test_both_storages_put_the_same_bytes_at_the_same_place(machine):
    """Compiled or not, the interpreted view reads what the core wrote, byte for byte."""
    vm, twin = machine(0, config=small()), machine(0, config=small())
    machine.do_not_check(vm)
    machine.do_not_check(twin)
    assert _touch(vm.handle) == 0xDEADBEEF
    sp = interpreted.page(twin.view, 2)
    sp.gfn, sp.role = 0x123456789, -1
    sp.unsync_child_bitmap[3] = 1 << 31
    interpreted.words(twin.view, twin.view.spt)[7] = -(1 << 63) | 5
    interpreted.words32(twin.view, twin.view.translation)[5] = 0xDEADBEEF
    interpreted.octets(twin.view, twin.view.ram)[9] = 0xAB
    twin.view.stat[2] += 3
    assert vm.store.hash() == twin.store.hash()


def test_rules_are_part_of_the_state():
    a, b = Vm(0, config=small(), rules="linux-6.1"), Vm(0, config=small(), rules="linux-7.2")
    assert a.store.hash() != b.store.hash()
    record = interpreted.rules(a.view)
    assert {f: getattr(record, f) for f in FIELDS} == {f: int(rules.RULES["linux-6.1"][f]) for f in FIELDS}
