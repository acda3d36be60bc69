# SPDX-License-Identifier: GPL-2.0-or-later
"""Making, copying and hashing machine states.

    Store(config) --> one anonymous mapping, tables laid out by `plan`, header filled in
    store.vm          what entry points of the core take (an address when compiled, else the same as `view`)
    store.view        the records as Python objects, in both modes, for looking
    store.clone()     one copy of the used bytes
    store.hash()      128-bit BLAKE2 of the machine's part (not the scratch records, not the event ring)

Untouched pages of the mapping cost no memory, so capacities may be generous.
"""

import array
import ctypes
import hashlib
import mmap
from dataclasses import dataclass, replace

from . import JIT, interpreted, layout

PAGE = 4096


@dataclass(frozen=True)
class Config:
    """Sizes of a machine.  Addresses and capacities in units of the field's name.

    page_shift, level_bits: 12 and 9 on x86; smaller for search (level_bits + 3 == page_shift).
    memory_pages: host pages that userspace has for guest memory (hva 0..memory_pages-1); spare_pages: further RAM
    frames for pages that come back after a hole.  shadow_pages: capacity of the shadow page cache (not the quota).
    slot_pages: sum of all memslots' sizes that can exist at once.  events: rows in the event ring.
    """

    page_shift: int = 12
    level_bits: int = 9
    prefetch_num: int = 8
    vcpus: int = 1
    memory_pages: int = 4096
    spare_pages: int = 64
    shadow_pages: int = 4096
    slots: int = 16
    slot_pages: int = 0
    descs: int = 0
    hash_buckets: int = 4096
    events: int = 65536
    ram_pfn: int = 0x1000000
    shadow_pfn: int = 0x10000
    host_level: int = 1

    def complete(self):
        """The same with derived defaults filled in."""
        slot_pages = self.slot_pages or self.memory_pages * 2
        descs = self.descs or max(64, self.shadow_pages * 32)
        return replace(self, slot_pages=slot_pages, descs=descs)


_WORDS = {name: layout.record_words(fields) for name, fields in layout.RECORDS.items()}


def plan(config, rules_words):
    """Table name -> (byte offset, byte length), and the total length.  Page-aligned tables: spt, ram."""
    c = config
    frames = c.shadow_pages + 1 + c.vcpus * layout.SPECIAL_PER_VCPU
    page_bytes = 1 << c.page_shift
    table_bytes = 8 << c.level_bits
    sizes = [
        ("header", _WORDS["HEADER"] * 8, 8), ("rules", rules_words * 8, 8), ("vcpus", c.vcpus * _WORDS["VCPU"] * 8, 8),
        ("contexts", c.vcpus * layout.CONTEXTS_PER_VCPU * _WORDS["CONTEXT"] * 8, 8),
        ("slots", c.slots * _WORDS["SLOT"] * 8, 8), ("hash", c.hash_buckets * 8, 8), ("hva", c.memory_pages * 8, 8),
        ("free_ram", (c.memory_pages + c.spare_pages) * 8, 8), ("free_pages", c.shadow_pages * 8, 8),
        ("pages", c.shadow_pages * _WORDS["PAGE"] * 8, 8), ("descs", c.descs * _WORDS["DESC"] * 8, 8),
        ("meta", c.slot_pages * _WORDS["META"] * 8, 8),
        ("meta2", _large(c, 1) * _WORDS["META_LARGE"] * 8, 8), ("meta3", _large(c, 2) * _WORDS["META_LARGE"] * 8, 8),
        ("translation", frames * table_bytes // 2, 8),
        ("spt", frames * table_bytes, PAGE if table_bytes >= PAGE else 8),
        ("ram", (c.memory_pages + c.spare_pages) * page_bytes, PAGE if page_bytes >= PAGE else 8),
        ("end", 0, 8),
        ("walkers", c.vcpus * layout.WALKERS_PER_VCPU * _WORDS["WALKER"] * 8, 8),
        ("faults", c.vcpus * 2 * _WORDS["FAULT"] * 8, 8),
        ("sync", _WORDS["SYNC"] * 8, 8), ("iter", _WORDS["TDP_ITER"] * 8, 8),
        ("hw_walk", _WORDS["HW_WALK"] * 8, 8),
        ("events", 8 * (2 + c.events * layout.EVENT_WORDS), 8),
    ]
    at, tables = 0, {}
    for name, length, align in sizes:
        at = -(-at // align) * align
        tables[name] = (at, length)
        at += length
    return tables, -(-at // PAGE) * PAGE


def _large(config, steps):
    """Entries needed at 2M (steps 1) or 1G (steps 2): every slot may waste one at each end."""
    return (config.slot_pages >> (config.level_bits * steps)) + 2 * config.slots + 2


class Store:
    """One machine state; `tables` maps table names to (offset, length)."""

    def __init__(self, config, rules_words, memory=None):
        self.config = config.complete()
        self.rules_words = rules_words
        self.tables, self.length = plan(self.config, rules_words)
        self.memory = memory if memory is not None else mmap.mmap(-1, self.length)
        self.used = self.tables["end"][0]
        self._view = memoryview(self.memory)
        self.view = interpreted.header(self.memory)
        self.vm = self.view
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        if JIT:
            self.vm = self.address
        if memory is None:
            self._fill_header()

    def _words(self):
        return self._view.cast("q")

    def _fill_header(self):
        """Constants and empty lists; everything else starts as zero."""
        c, words = self.config, self._words()
        place, at = {}, 0
        for name, count in layout.HEADER.items():
            place[name] = at
            at += count

        def put(name, value, i=0):
            words[place[name] + i] = value

        for name, (offset, _) in self.tables.items():
            if name in place:
                put(name, offset)
        special = 1 + c.vcpus * layout.SPECIAL_PER_VCPU
        for name, value in dict(
                page_shift=c.page_shift, level_bits=c.level_bits, prefetch_num=min(c.prefetch_num, 1 << c.level_bits),
                n_vcpus=c.vcpus, n_pages=c.shadow_pages, n_slots=c.slots, n_descs=c.descs, n_meta=c.slot_pages,
                n_meta2=_large(c, 1), n_meta3=_large(c, 2), n_hash=c.hash_buckets,
                n_ram=c.memory_pages + c.spare_pages, n_hva=c.memory_pages, special_frames=special,
                scaled=int(c.page_shift != 12), ram_pfn=c.ram_pfn, shadow_pfn=c.shadow_pfn, n_free_ram=c.spare_pages,
                n_free_pages=c.shadow_pages, desc_free=-1, desc_next=0, nx_head=-1, nx_tail=-1,
                event_capacity=c.events).items():
            put(name, value)
        put("mmio_generation", 1, 1)
        for i in range(layout.HEADER["list_head"]):
            put("list_head", -1, i)
            put("list_tail", -1, i)
        self._fill("hash", [-1] * c.hash_buckets)
        self._fill("hva", [c.host_level << 56 | c.ram_pfn + i for i in range(c.memory_pages)])
        self._fill("free_ram", [c.ram_pfn + c.memory_pages + i for i in range(c.spare_pages)])
        self._fill("free_pages", range(c.shadow_pages - 1, -1, -1))
        size, start = _WORDS["PAGE"], self.tables["pages"][0] // 8
        offsets, n = {}, 0
        for name, count in layout.PAGE.items():
            offsets[name] = n
            n += count
        for i in range(c.shadow_pages):
            base = start + i * size
            words[base + offsets["id"]] = i
            for name in ("list", "next", "prev", "hash_next", "hash_prev", "nx_next", "nx_prev"):
                words[base + offsets[name]] = -1

    def _fill(self, table, values):
        data = array.array("q", values).tobytes()
        offset = self.tables[table][0]
        self._view[offset:offset + len(data)] = data

    def clone(self):
        """An independent copy of the machine (the event ring starts empty)."""
        other = Store(self.config, self.rules_words, mmap.mmap(-1, self.length))
        other._view[:self.used] = self._view[:self.used]
        return other

    def hash(self):
        """Digest of the machine's part of the state (16 bytes)."""
        return hashlib.blake2b(self._view[:self.used], digest_size=16).digest()

    def used_bytes(self):
        """Writable view of the machine's part of the state: everything but scratch records and the event ring."""
        return self._view[:self.used]

    def ram(self):
        """Writable view of all RAM frames."""
        offset, length = self.tables["ram"]
        return self._view[offset:offset + length]

    def events(self):
        """The events in the ring as lists of integers; the ring is emptied.  Second result: events lost."""
        offset = self.tables["events"][0]
        words = self._view[offset:offset + self.tables["events"][1]].cast("q")
        count, lost = words[0], words[1]
        size = layout.EVENT_WORDS
        rows = [words[2 + i * size:2 + (i + 1) * size].tolist() for i in range(count)]
        words[0] = words[1] = 0
        return rows, lost

    def event_count(self):
        """Events waiting in the ring."""
        offset = self.tables["events"][0]
        return int.from_bytes(self._view[offset:offset + 8], "little")

