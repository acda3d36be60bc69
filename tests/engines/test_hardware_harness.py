# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine small enough to check by eye: RAM, hand-made page tables, and SvmHardware on top.

    host-physical   0x100000  tables, filled from the bottom; the root is the first page
                    0x800000  guest RAM; guest-physical 0 is here

`Machine.run(code)` puts code at guest address 0x1000 and runs it. Pages in `lazy` appear at their first page
fault; every exit is recorded.
"""

import mmap
import struct

import numpy as np
import pytest

from shadowmmu.engines.unicorn_svm import exits as ex
from shadowmmu.engines.unicorn_svm.hardware import CS, SvmHardware

TABLES, TABLES_SIZE = 0x100000, 0x100000
RAM, RAM_SIZE = 0x800000, 0x400000
CODE, STACK_TOP, IDT, GDT, TSS = 0x1000, 0x9000, 0x10000, 0x11000, 0x12000
P, W, U, NX = 1, 2, 4, 1 << 63

LEVELS = {"long": (39, 30, 21, 12), "la57": (48, 39, 30, 21, 12), "pae": (30, 21, 12)}


class Machine:
    def __init__(self, mode="long", *, identity=True, **options):
        """`mode`: long, la57, compat, pae (32-bit paged), unpaged32, real."""
        self.hardware = hw = SvmHardware(**options)
        self.mode = mode
        self._memory = []
        self.tables = self._map(TABLES, TABLES_SIZE)
        self.ram = self._map(RAM, RAM_SIZE)
        self.next_table = TABLES + 0x1000
        self.lazy = {}
        self.exits = []
        self.faults = []
        self.handlers = {}
        self._set_mode()
        hw.load_root(TABLES)
        if identity:
            for page in range(0, 0x40000, 0x1000):
                self.map(page, page)
        hw.gpr[4] = STACK_TOP
        hw.gdtr = GDT, 0x7F
        hw.idtr = IDT, 0xFFF
        self.write_gdt()

    def _map(self, hpa, size):
        memory = mmap.mmap(-1, size)
        array = np.frombuffer(memory, np.uint8)
        self._memory.append(memory)
        self.hardware.map_ram(hpa, array.ctypes.data, size)
        return array

    def _set_mode(self):
        hw = self.hardware
        paging, pae = 0x80010000, 0x620
        code, data = {"long": (0xA09B00, 0xC09300), "la57": (0xA09B00, 0xC09300),
                      "compat": (0xC09B00, 0xC09300), "pae": (0xC09B00, 0xC09300),
                      "unpaged32": (0xC09B00, 0xC09300), "real": (0x9B00, 0x9300)}[self.mode]
        long = self.mode in ("long", "la57", "compat")
        self.shape = LEVELS["la57" if self.mode == "la57" else "long" if long else "pae"]
        hw.set_mode(paging | (0x10 if self.mode == "real" else 0x11), pae | (0x1000 if self.mode == "la57" else 0),
                    0xD01 if long else 0x801)
        limit = 0xFFFF if self.mode == "real" else 0xFFFFFFFF
        for number in range(6):
            selector = 0 if self.mode == "real" else 8 if number == CS else 0x10
            hw.set_segment(number, selector, 0, limit, code if number == CS else data)

    def write_gdt(self):
        """null, code, data, user code, user data, TSS (two slots), a 32-bit code and a 64-bit code segment."""
        code = 0x00AF9B000000FFFF if self.mode in ("long", "la57") else 0x00CF9B000000FFFF
        ucode = 0x00AFFB000000FFFF if self.mode in ("long", "la57") else 0x00CFFB000000FFFF
        tss = 0x67 | (TSS & 0xFFFFFF) << 16 | 0x89 << 40
        self.poke(GDT, struct.pack("<7Q", 0, code, 0x00CF93000000FFFF, 0x00CFF3000000FFFF, ucode, tss, 0))
        self.hardware.tr = 0x28, TSS, 0x67, 0x8B00

    def poke(self, gpa, data):
        self.ram[gpa:gpa + len(data)] = np.frombuffer(bytes(data), np.uint8)

    def peek(self, gpa, size):
        return self.ram[gpa:gpa + size].tobytes()

    def word(self, gpa, size=8):
        return int.from_bytes(self.peek(gpa, size), "little")

    def entry(self, gva):
        """Index into `tables` (as u64) of the leaf entry of gva; tables are made on the way."""
        words = self.tables.view(np.uint64)
        table = TABLES
        for shift in self.shape[:-1]:
            index = (table - TABLES) // 8 + (gva >> shift & 0x1FF)
            if not int(words[index]) & P:
                # A PAE directory pointer has no W and U bits.
                words[index] = self.next_table | (P if len(self.shape) == 3 and shift == 30 else P | W | U)
                self.next_table += 0x1000
            table = int(words[index]) & 0xFFFFFF000
        return (table - TABLES) // 8 + (gva >> 12 & 0x1FF)

    def map(self, gva, gpa, flags=P | W | U):
        self.tables.view(np.uint64)[self.entry(gva)] = RAM + gpa | flags

    def unmap(self, gva, *, lazily=True):
        if lazily:
            self.lazy[gva] = gva
        self.tables.view(np.uint64)[self.entry(gva)] = 0
        self.hardware.flush_page(gva)

    def gate(self, vector, offset, *, ist=0, dpl=0, selector=8, kind=14):
        low = offset & 0xFFFF | selector << 16 | (offset >> 16 & 0xFFFF) << 48
        low |= (0x80 | dpl << 5 | kind) << 40
        if self.mode == "real":
            self.poke(IDT + 4 * vector, struct.pack("<HH", offset, 0))
        elif self.mode in ("long", "la57", "compat"):
            self.poke(IDT + 16 * vector, struct.pack("<QQ", low | ist << 32, offset >> 32))
        else:
            self.poke(IDT + 8 * vector, struct.pack("<Q", low))

    def user(self):
        """Go to CPL 3 with the selectors a guest would have."""
        hw = self.hardware
        code = 0xA0FB00 if self.mode in ("long", "la57") else 0xC0FB00
        hw.set_segment(CS, 0x23, 0, 0xFFFFFFFF, code)
        for number in (0, 2, 3):
            hw.set_segment(number, 0x1B, 0, 0xFFFFFFFF, 0xC0F300)

    def on_exit(self, code):
        hw = self.hardware
        self.exits.append(code)
        if code == ex.PAGE_FAULT:
            gva = hw.fault_address
            self.faults.append((gva, hw.error_code, hw.interrupted_event))
            page = gva & ~0xFFF
            if page in self.lazy:
                self.map(page, self.lazy.pop(page))
                event = hw.interrupted_event
                if event:
                    hw.queue_event(event.vector, event.kind, event.error_code, event.instruction_length)
                return True
        if code in self.handlers:
            return self.handlers[code]()
        return False

    def run(self, code=None, **options):
        """Run `code` (bytes, or None to continue) until a HLT or any exit without handler."""
        if code is not None:
            self.poke(CODE, code)
            self.hardware.invalidate_code(RAM + CODE, len(code))
            self.hardware.rip = CODE
        return self.hardware.run(self.on_exit, **options)


def code(text):
    """Bytes from hex with `|` comments at line ends."""
    return bytes.fromhex("".join(line.split("|")[0] for line in text.splitlines()))


@pytest.mark.parametrize("mode", ["long", "la57", "compat", "pae", "unpaged32", "real"])
def test_machine_runs_to_hlt_in_every_mode(mode):
    machine = Machine(mode)
    machine.run(code("b0 2a | mov al, 0x2a\n f4 | hlt"))
    assert machine.exits == [ex.HLT]
    assert machine.hardware.gpr[0] & 0xFF == 0x2A
    assert machine.hardware.rip == CODE + 2
    assert machine.hardware.cpl == 0
