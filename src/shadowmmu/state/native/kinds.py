# SPDX-License-Identifier: GPL-2.0-or-later
"""What a value of the core can be, and of which machine values it consists.

    INT            one i64; every variable that holds a number is one
    BOOL           one i1: a comparison that has not been stored yet
    Table(bits)    pointer to a table of 64-bit (signed), 32-bit or 8-bit (unsigned) elements
    Array          a table from outside (numpy, array, ctypes) with its length: pointer, i64
    Field(n)       an array field of a record: a table of n words
    Record(name)   pointer to a record of `state.layout`
    Group          a tuple, or a named tuple: the values of its items, one after the other
    Static(x)      a thing known while compiling: an integer, a tuple of integers, a function, a module; no machine value
    VOID           what a function without a result returns
"""

from dataclasses import dataclass, field

from llvmlite import ir

I64, I32, I8, I1, POINTER = ir.IntType(64), ir.IntType(32), ir.IntType(8), ir.IntType(1), ir.PointerType()


@dataclass(frozen=True)
class Kind:
    """One sort of value; `parts` are the machine types it consists of."""

    name: str
    parts: tuple = ()


INT, BOOL, VOID = Kind("int", (I64,)), Kind("bool", (I1,)), Kind("void")


@dataclass(frozen=True)
class Table(Kind):
    """Pointer to elements of so many bits."""

    bits: int = 64


WORDS, WORDS32, OCTETS = (Table(f"table{bits}", (POINTER,), bits) for bits in (64, 32, 8))
ARRAYS = {bits: Table(f"array{bits}", (POINTER, I64), bits) for bits in (64, 32, 8)}


@dataclass(frozen=True)
class Field(Table):
    """An array field of a record."""

    length: int = 0


@dataclass(frozen=True)
class Record(Kind):
    """Pointer to a record; fields: name -> (offset in bytes, number of words)."""

    fields: dict = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Group(Kind):
    """A tuple; `shape`: the named tuple's class, or None."""

    items: tuple = ()
    shape: object = None


@dataclass(frozen=True)
class Static(Kind):
    """Known while compiling."""

    value: object = None

    def __hash__(self):
        return hash((self.name, id(self.value)))


def group(items, shape=None):
    """The kind of a tuple of these kinds."""
    return Group("(" + ",".join(item.name for item in items) + ")", tuple(p for item in items for p in item.parts),
                 tuple(items), shape)


def static(value):
    """The kind of something known while compiling."""
    return Static(f"static:{value!r}" if isinstance(value, (int, tuple)) else f"static:{id(value)}", (), value)


def record(name, fields):
    """The kind of a record with these fields (name -> number of words), and its size in bytes."""
    places, at = {}, 0
    for name_of_field, count in fields.items():
        places[name_of_field] = at, count
        at += 8 * count
    return Record(name, (POINTER,), places), at


@dataclass(frozen=True)
class Value:
    """A kind and the machine values of its parts."""

    kind: Kind
    parts: tuple = ()


def plain(kind):
    """The kind that a variable, argument or result of this kind is kept in."""
    if kind is BOOL:
        return INT
    if isinstance(kind, Static):
        if isinstance(kind.value, int):
            return INT
        if isinstance(kind.value, tuple):
            return group([plain(static(v)) for v in kind.value])
        return kind
    if isinstance(kind, Field):
        return Table("table64", kind.parts, 64)
    if isinstance(kind, Group):
        return group([plain(item) for item in kind.items], kind.shape)
    return kind


def scalar(kind):
    return kind is INT or kind is BOOL or isinstance(kind, Static) and isinstance(kind.value, int)


def number(value):
    """An LLVM constant, wrapped to 64 bits."""
    value &= (1 << 64) - 1
    return ir.Constant(I64, value - (1 << 64) if value >> 63 else value)


def static_int(value):
    return Value(static(value))
