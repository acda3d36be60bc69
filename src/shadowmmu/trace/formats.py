# SPDX-License-Identifier: GPL-2.0-or-later
"""Event formats as the kernel describes them (`events/<system>/<event>/format`), read into numpy record types.

    name: kvm_mmu_set_spte
    ID: 1564                                               -> EventFormat(name, id, dtype, ...)
    field:u64 gfn;  offset:8;  size:8;  signed:0;          -> ("gfn", "<u8") at 8

The print format is not interpreted: events of KVM's MMU are printed by `text.Formatter`, others as name=value pairs.
It is looked at for one thing, the role layout (`kernel_of`).
"""

import re
from dataclasses import dataclass, field

import numpy as np

from .errors import TraceError

_NAME = re.compile(r"^name:\s*(\S+)", re.MULTILINE)
_ID = re.compile(r"^ID:\s*(\d+)", re.MULTILINE)
_FIELD = re.compile(r"^\s*field:\s*(.+?);\s*offset:(\d+);\s*size:(\d+);\s*(?:signed:(\d);)?", re.MULTILINE)
_ARRAY = re.compile(r"(\w+)\s*\[\s*(\w*)\s*\]$")


@dataclass
class EventFormat:
    """One event's layout.

    fields  (name, offset, size, signed, elements, dynamic): elements 0 for no array; dynamic for __data_loc strings
    dtype   numpy structure of the fixed part, little or big endian as asked for
    tail    offset of a `char buf[]` that runs to the end of the record, or None
    """

    name: str
    id: int
    system: str
    fields: list
    dtype: np.dtype
    tail: int | None
    text: str = field(repr=False, default="")


def parse_format(text, system="", big_endian=False):
    """`EventFormat` of one format file.  TraceError if it is not one."""
    name, number = _NAME.search(text), _ID.search(text)
    if not name or not number:
        raise TraceError(f"not an event format: {text[:40]!r}")
    fields, tail = [], None
    for declaration, offset, size, signed in _FIELD.findall(text):
        offset, size = int(offset), int(size)
        array = _ARRAY.search(declaration)
        field_name = array[1] if array else declaration.split()[-1].lstrip("*")
        dynamic = "__data_loc" in declaration or "__rel_loc" in declaration
        if size == 0:
            tail = offset
            continue
        elements = 0
        if array and not dynamic:
            elements = int(array[2]) if array[2].isdigit() and size % int(array[2]) == 0 and int(array[2]) else size
        fields.append((field_name, offset, size, signed == "1", elements, dynamic))
    return EventFormat(name[1], int(number[1]), system, fields, _dtype(fields, big_endian), tail, text)


def _dtype(fields, big_endian):
    order = ">" if big_endian else "<"
    names, kinds, offsets, end = [], [], [], 0
    for name, offset, size, signed, elements, _dynamic in fields:
        if name in names:
            continue
        width = size // elements if elements else size
        if width in (1, 2, 4, 8):
            kind = np.dtype(f"{order}{'i' if signed else 'u'}{width}")
            if elements:
                kind = np.dtype((kind, (elements,)))
        else:
            kind = np.dtype(("u1", (size,)))
        names.append(name)
        kinds.append(kind)
        offsets.append(offset)
        end = max(end, offset + size)
    return np.dtype({"names": names, "formats": kinds, "offsets": offsets, "itemsize": max(end, 1)})


def header_page(text):
    """(offset of `commit`, its size, offset of `data`) from the header_page file."""
    places = {}
    for declaration, offset, size, _signed in _FIELD.findall(text):
        places[declaration.split()[-1]] = int(offset), int(size)
    try:
        return (*places["commit"], places["data"][0])
    except KeyError:
        raise TraceError("header_page without commit or data") from None


def kernel_of(formats):
    """Role layout by the print formats in the trace: "7.2", "6.12", "5.15"; None if none of them tells.

    formats  iterable of EventFormat
    """
    for event in formats:
        if event.name in ("kvm_mmu_get_page", "kvm_mmu_prepare_zap_page"):
            if "rwux" in event.text:
                return "7.2"
            if "has_4_byte_gpte" in event.text:
                return "6.12"
            if "gpte_is_8_bytes" in event.text:
                return "5.15"
    return None
