# SPDX-License-Identifier: GPL-2.0-or-later
"""Which stores the engine watches: those to pages that code was fetched from, through whatever mapping."""

import ctypes
import struct

import pytest

from shadowmmu.engines.unicorn_svm import exits as ex
from shadowmmu.engines.unicorn_svm import offsets as o

from .test_hardware_harness import CODE, NX, RAM, RAM_SIZE, Machine, P, U, W, code

FUNCTION, ALIAS = 0x5000, 0x20000


def machine(watch=True):
    out = Machine()
    if watch:
        out.hardware.watch_code(RAM, RAM_SIZE)
    out.poke(FUNCTION, code("b0 00 | mov al, 0 \n c3"))
    return out


def program(*parts):
    """Bytes and targets of calls, one after the other, then HLT."""
    out = b""
    for part in parts:
        out += part if isinstance(part, bytes) else b"\xe8" + struct.pack("<i", part - (CODE + len(out) + 5))
    return out + b"\xf4"


def store(address, value):
    return b"\xc6\x04\x25" + struct.pack("<IB", address, value)


KEEP = code("88 c3 | mov bl, al")


@pytest.mark.parametrize(("watch", "last"), [(True, 2), (False, 1)])
def test_code_written_through_a_second_mapping(watch, last):
    """The engine by itself misses the second store: its second mapping is not executable."""
    m = machine(watch)
    m.map(ALIAS, FUNCTION, P | W | U | NX)
    m.run(program(store(ALIAS + 1, 1), FUNCTION, KEEP, store(ALIAS + 1, 2), FUNCTION))
    assert m.exits == [ex.HLT]
    assert m.hardware.gpr[3] & 0xFF == 1
    assert m.hardware.gpr[0] & 0xFF == last


@pytest.mark.parametrize("alias", [FUNCTION, ALIAS])
def test_code_written_through_executable_mappings(alias):
    m = machine()
    m.map(ALIAS, FUNCTION)
    m.run(program(store(alias + 1, 1), store(alias + 1, 1), FUNCTION, KEEP, store(alias + 1, 2), store(alias + 1, 3), FUNCTION))
    assert m.exits == [ex.HLT]
    assert m.hardware.gpr[3] & 0xFF == 1
    assert m.hardware.gpr[0] & 0xFF == 3


def test_the_next_instruction_is_written():
    m = machine()
    m.run(store(CODE + 9, 0x2A) + code("b0 00 | mov al, 0 \n f4"))
    assert m.hardware.gpr[0] & 0xFF == 0x2A


@pytest.mark.parametrize(("watch", "slow"), [(True, 0), (False, o.TLB_NOTDIRTY)])
def test_stores_to_executable_pages_without_code_are_fast(watch, slow):
    m = machine(watch)
    m.run(store(FUNCTION, 1) + store(FUNCTION, 2) + b"\xf4")
    seen = set()
    for index in range(3):
        mask, table = (ctypes.c_uint64.from_address(m.hardware.cpu_address + o.CPU_TLB_FAST + 16 * index + at).value
                       for at in (0, 8))
        entry = table + (FUNCTION >> 12 << o.TLB_ENTRY_BITS & mask)
        write = ctypes.c_uint64.from_address(entry + o.TLB_WRITE).value
        if write & -0x1000 == FUNCTION:
            seen.add(write & 0xFFF)
    assert seen == {slow}


def test_a_page_with_code_is_not_executable_through_a_mapping_that_says_so():
    m = machine()
    m.map(ALIAS, FUNCTION, P | W | U | NX)
    m.run(program(FUNCTION, store(ALIAS + 1, 1), ALIAS))
    assert m.exits == [ex.PAGE_FAULT]
    assert m.faults[0][:2] == (ALIAS, 0x11)


def test_forgetting_code_takes_the_marks_back():
    m = machine()
    m.run(program(FUNCTION))
    marks = m.hardware._code_pages.marks
    assert marks.nonzero()[0].tolist() == [CODE >> 12, FUNCTION >> 12]
    m.hardware.forget_code()
    assert not marks.any()
