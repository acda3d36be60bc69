# SPDX-License-Identifier: GPL-2.0-or-later
"""Interpreted storage: the same bytes as the compiled one, reached through plain Python objects.

Needs no compiler.  pdb, coverage and tracebacks work line by line; an index outside its table raises
IndexError at the line that computed it.  A record object is a pair (64-bit view of the buffer, first word).
"""

from . import layout
from .patch import PATCH

U64 = (1 << 64) - 1


def core(function):
    """Mark a function of the core; interpreted, it stays what it is, unless a patch replaces it."""
    return PATCH.apply(function)


#: Entry points are ordinary functions here.
entry_point = core


def _wrap(value):
    """Two's complement: what a 64-bit register would hold."""
    value &= U64
    return value - (1 << 64) if value >> 63 else value


class Words:
    """A table of 64-bit words starting at word `at`."""

    __slots__ = ("view", "at")

    def __init__(self, view, at):
        self.view, self.at = view, at

    def __getitem__(self, i):
        if i < 0:
            raise IndexError(f"negative index {i} into a table")
        return self.view[self.at + i]

    def __setitem__(self, i, value):
        if i < 0:
            raise IndexError(f"negative index {i} into a table")
        self.view[self.at + i] = _wrap(value)


class Words32:
    """A table of unsigned 32-bit words starting at 32-bit word `at`."""

    __slots__ = ("view", "at")

    def __init__(self, view, at):
        self.view, self.at = view, at

    def __getitem__(self, i):
        if i < 0:
            raise IndexError(f"negative index {i} into a table")
        return self.view[self.at + i]

    def __setitem__(self, i, value):
        if i < 0:
            raise IndexError(f"negative index {i} into a table")
        self.view[self.at + i] = value & 0xFFFFFFFF


class Octets(Words32):
    """A table of bytes."""

    __slots__ = ()

    def __setitem__(self, i, value):
        if i < 0:
            raise IndexError(f"negative index {i} into a table")
        self.view[self.at + i] = value & 0xFF


class Array(Words):
    """An array field of a record; knows its length."""

    __slots__ = ("length",)

    def __init__(self, view, at, length):
        self.view, self.at, self.length = view, at, length

    def __getitem__(self, i):
        if not 0 <= i < self.length:
            raise IndexError(f"index {i} outside an array of {self.length}")
        return self.view[self.at + i]

    def __setitem__(self, i, value):
        if not 0 <= i < self.length:
            raise IndexError(f"index {i} outside an array of {self.length}")
        self.view[self.at + i] = _wrap(value)

    def __len__(self):
        return self.length


def _scalar(at):
    def get(self):
        return self.view[self.at + at]

    def put(self, value):
        try:
            self.view[self.at + at] = value
        except (ValueError, OverflowError):     # wider than 64 bits, or a bool from numpy
            self.view[self.at + at] = _wrap(int(value))

    return property(get, put)


def _array(at, length):
    return property(lambda self: Array(self.view, self.at + at, length))


def _record(name, fields):
    namespace = {"__slots__": ("view", "at", "memory")}
    at = 0
    for field, count in fields.items():
        namespace[field] = _scalar(at) if count == 1 else _array(at, count)
        at += count

    def init(self, view, at, memory=None):
        self.view, self.at, self.memory = view, at, memory

    namespace["__init__"] = init
    namespace["__repr__"] = lambda self: name + "(" + ", ".join(
        f"{f}={getattr(self, f):#x}" for f, c in fields.items() if c == 1) + ")"
    return type(name.title(), (), namespace)


Header = _record("HEADER", layout.HEADER)
_CLASSES = {name: _record(name, fields) for name, fields in layout.RECORDS.items()}
_SIZE = {name: layout.record_words(fields) for name, fields in layout.RECORDS.items()}


def header(memory):
    """The `vm` that core functions take, over a writable buffer (`bytearray`, `mmap`)."""
    octets = memoryview(memory)
    vm = Header(octets.cast("q"), 0, (octets, octets.cast("I")))
    return vm


def attach(handle):
    """First statement of an entry point: the `vm` behind what Python passed."""
    return handle


def define_rules(fields):
    """Declare the rules record (its fields belong to the room `rules`)."""
    _CLASSES["RULES"] = _record("RULES", fields)


def _accessor(table, name):
    cls, size = _CLASSES[name], _SIZE[name]
    count = dict(pages="n_pages", slots="n_slots", descs="n_descs", meta="n_meta", meta2="n_meta2",
                 meta3="n_meta3").get(table)

    def access(vm, i):
        if i < 0 or (count and i >= getattr(vm, count)):
            raise IndexError(f"{name} {i} does not exist")
        return cls(vm.view, (getattr(vm, table) >> 3) + i * size)

    access.__name__ = name.lower()
    return access


page = _accessor("pages", "PAGE")
vcpu = _accessor("vcpus", "VCPU")
context = _accessor("contexts", "CONTEXT")
slot = _accessor("slots", "SLOT")
desc = _accessor("descs", "DESC")
meta = _accessor("meta", "META")
meta2 = _accessor("meta2", "META_LARGE")
meta3 = _accessor("meta3", "META_LARGE")
walker = _accessor("walkers", "WALKER")
fault = _accessor("faults", "FAULT")


def sync_vector(vm):
    """The one vector of gathered unsync pages."""
    return _CLASSES["SYNC"](vm.view, vm.sync >> 3)


def tdp_iter(vm):
    """The iterator over trees of the TDP MMU."""
    return _CLASSES["TDP_ITER"](vm.view, vm.iter >> 3)


def hw_walk(vm):
    """The record of the hardware's two-dimensional walk."""
    return _CLASSES["HW_WALK"](vm.view, vm.hw_walk >> 3)


def rules(vm):
    """The rules record: what differs between kernel versions."""
    return _CLASSES["RULES"](vm.view, vm.rules >> 3)


def words(vm, offset):
    """Table of 64-bit words at byte `offset` of the state."""
    return Words(vm.view, offset >> 3)


def words32(vm, offset):
    """Table of unsigned 32-bit words at byte `offset` of the state."""
    return Words32(vm.memory[1], offset >> 2)


def octets(vm, offset):
    """Table of bytes at byte `offset` of the state."""
    return Octets(vm.memory[0], offset)
