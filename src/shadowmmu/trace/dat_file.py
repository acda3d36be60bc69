# SPDX-License-Identifier: GPL-2.0-or-later
"""The container of trace-cmd: trace.dat of version 6 and 7, without trace-cmd.

    v6  magic | header_page | header_event | ftrace formats | formats by system | kallsyms | printk | cmdlines
        | cpus | options | "flyrecord" | offset and size of each CPU's pages | ... pages ...
    v7  magic | compression | offset of the first options section
        sections: | id, flags, description, size | contents, perhaps compressed |
        options name the offsets of the other sections, and of the pages of each CPU

Everything is read through `_Cursor`, which knows where it is: a truncated or damaged file gives one line that names
the part and the offset.  Layouts are those of the manual pages trace-cmd.dat.v6(5) and v7(5).
"""

import os
import struct
import zlib
from dataclasses import dataclass, field

from . import formats
from .errors import TraceError
from .ring import PageFormat

MAGIC = b"\x17\x08\x44tracing"
#: A part of the file's head larger than this is called damaged (kallsyms of a distribution kernel is 12 MB).
LARGEST_PART = 1 << 28
LARGEST_COUNT = 1 << 16

# v7 section ids and option ids
(_OPTIONS, _BUFFER, _STRINGS, _HEADERS, _FTRACE, _EVENTS, _KALLSYMS, _PRINTK, _CMDLINES, _BUFFER_TEXT) = (
    0, 3, 15, 16, 17, 18, 19, 20, 21, 22)
_O_DONE, _O_BUFFER, _O_CLOCK, _O_UNAME, _O_CPUCOUNT, _O_TSC2NSEC = 0, 3, 4, 5, 8, 14
_COMPRESSED = 1


@dataclass
class CpuData:
    """Where one CPU's pages lie.  compressed: as a list of chunks with a count in front."""

    cpu: int
    offset: int
    size: int
    compressed: bool = False


@dataclass
class DatFile:
    """What the head of a trace.dat says.

    formats   event id -> EventFormat
    page      PageFormat of the ring pages
    cpus      CpuData in order;  buffers  names of further trace instances, which are not read
    cmdlines  pid -> task name
    clock     name of the trace clock; to_ns  (multiplier, shift, offset) for raw TSC stamps, or None
    uname     of the traced machine, "" if unknown
    """

    version: int
    name: str
    page: PageFormat
    formats: dict = field(default_factory=dict)
    cpus: list = field(default_factory=list)
    buffers: list = field(default_factory=list)
    cmdlines: dict = field(default_factory=dict)
    clock: str = "local"
    to_ns: tuple | None = None
    uname: str = ""
    compression: str = "none"
    notes: list = field(default_factory=list)

    @property
    def kernel(self):
        """Version for role layouts: from the formats, else from uname; None if neither tells."""
        known = formats.kernel_of(self.formats.values())
        if known == "6.12" or known is None:
            words = self.uname.split()
            release = words[2] if len(words) > 2 else ""
            if release[:1].isdigit():
                return release
        return known


class _Cursor:
    """Numbers and strings from a file or a decompressed section, with its place for messages."""

    def __init__(self, stream, name, size, big_endian=False, part="header"):
        self.stream = stream
        self.name = name
        self.size = size
        self.order = ">" if big_endian else "<"
        self.part = part

    def fail(self, what):
        raise TraceError(f"{self.part}: {what}", self.name)

    def tell(self):
        return self.stream.tell()

    def seek(self, offset):
        if offset > self.size or offset < 0:
            self.fail(f"points to byte {offset} of a file of {self.size}")
        self.stream.seek(offset)

    def take(self, n, limit=LARGEST_PART):
        """Exactly n bytes."""
        if n < 0 or n > limit:
            self.fail(f"a length of {n} bytes at byte {self.tell()} cannot be right")
        data = self.stream.read(n)
        if len(data) != n:
            self.fail(f"the file ends at byte {self.size} ({n - len(data)} bytes missing)")
        return data

    def number(self, kind):
        return struct.unpack(self.order + kind, self.take(struct.calcsize(kind)))[0]

    def u2(self):
        return self.number("H")

    def u4(self):
        return self.number("I")

    def u8(self):
        return self.number("Q")

    def count(self, what):
        """A 32-bit count of things that cannot be very many."""
        n = self.u4()
        if n > LARGEST_COUNT:
            self.fail(f"{n} {what} cannot be right")
        return n

    def string(self, limit=4096):
        """A string up to its zero byte."""
        out = bytearray()
        while len(out) <= limit:
            c = self.stream.read(1)
            if not c:
                self.fail(f"the file ends inside a string (byte {self.size})")
            if c == b"\0":
                return out.decode("utf-8", "replace")
            out += c
        self.fail(f"a string of more than {limit} bytes")


class _Memory:
    """A bytes object as `_Cursor` wants a stream."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def read(self, n):
        out = self.data[self.at:self.at + n]
        self.at += len(out)
        return out

    def tell(self):
        return self.at

    def seek(self, at):
        self.at = at


def read_dat(stream, name="trace.dat"):
    """`DatFile` of a seekable binary stream.  TraceError if it is damaged, truncated, or no trace.dat."""
    stream.seek(0, os.SEEK_END)
    c = _Cursor(stream, name, stream.tell())
    c.seek(0)
    if stream.read(len(MAGIC)) != MAGIC:
        raise TraceError("not a trace.dat file (magic 17 08 44 tracing is missing)", name)
    version = c.string(16)
    if version not in ("6", "7"):
        raise TraceError(f"trace.dat version {version!r} (6 and 7 are known)", name)
    big_endian = c.take(1) == b"\1"
    c.order = ">" if big_endian else "<"
    c.take(1)                                         # size of long of the recording user space
    page_size = c.u4()
    if page_size & (page_size - 1) or not 512 <= page_size <= 1 << 22:
        c.fail(f"page size {page_size}")
    dat = DatFile(int(version), name, PageFormat(page_size, big_endian))
    (_read_v6 if version == "6" else _read_v7)(c, dat)
    if not dat.formats:
        raise TraceError("no event formats in this file", name)
    return dat


# -- parts that both versions have

def _headers(c, dat):
    c.part = "header page"
    if c.take(12) != b"header_page\0":
        c.fail("the name header_page is missing")
    text = c.take(c.u8(), 1 << 20).decode("utf-8", "replace")
    dat.page.commit_offset, dat.page.commit_size, dat.page.data_offset = formats.header_page(text)
    if dat.page.commit_size not in (4, 8) or dat.page.data_offset >= dat.page.size or dat.page.commit_offset > 64:
        c.fail("impossible places in the page header")
    c.part = "header event"
    if c.take(13) != b"header_event\0":
        c.fail("the name header_event is missing")
    c.take(c.u8(), 1 << 20)


def _formats(c, dat, system, count):
    for _ in range(count):
        text = c.take(c.u8(), 1 << 22).decode("utf-8", "replace")
        event = formats.parse_format(text, system, dat.page.big_endian)
        dat.formats[event.id] = event


def _systems(c, dat):
    for _ in range(c.count("event systems")):
        system = c.string()
        _formats(c, dat, system, c.count("events"))


def _cmdlines(c, dat):
    text = c.take(c.u8()).decode("utf-8", "replace")
    for line in text.split("\n"):
        pid, _, name = line.partition(" ")
        if pid.isdigit():
            dat.cmdlines[int(pid)] = name


# -- version 6

def _read_v6(c, dat):
    _headers(c, dat)
    c.part = "ftrace formats"
    _formats(c, dat, "ftrace", c.count("ftrace events"))
    c.part = "event formats"
    _systems(c, dat)
    c.part = "kallsyms"
    c.take(c.u4())
    c.part = "printk formats"
    c.take(c.u4())
    c.part = "command lines"
    _cmdlines(c, dat)
    c.part = "number of CPUs"
    cpus = c.count("CPUs")
    c.part = "options"
    kind = c.take(10)
    if kind == b"options  \0":
        _options_v6(c, dat)
        kind = c.take(10)
    if kind == b"latency  \0":
        c.fail("holds a latency trace (text), no ring pages")
    if kind != b"flyrecord\0":
        c.fail(f"expected flyrecord, found {kind!r}")
    c.part = "places of the CPU data"
    for cpu in range(cpus):
        dat.cpus.append(CpuData(cpu, c.u8(), c.u8()))


def _options_v6(c, dat):
    while True:
        option = c.u2()
        if option == _O_DONE:
            return
        data = c.take(c.u4())
        _option(c, dat, option, data)
        if option == _O_BUFFER:
            dat.buffers.append(data[8:].split(b"\0")[0].decode("utf-8", "replace"))


def _option(c, dat, option, data):
    """Options with the same contents in both versions."""
    if option == _O_UNAME:
        dat.uname = data.split(b"\0")[0].decode("utf-8", "replace")
    elif option == _O_CLOCK:
        text = data.split(b"\0")[0].decode("utf-8", "replace")
        dat.clock = text.partition("[")[2].partition("]")[0] or text.strip()
    elif option == _O_TSC2NSEC and len(data) >= 16:
        dat.to_ns = struct.unpack(c.order + "IIQ", data[:16])


# -- version 7

def _read_v7(c, dat):
    c.part = "compression"
    dat.compression = c.string(64)
    c.string(64)
    places = {}
    buffers = []
    offset = c.u8()
    seen = set()
    while offset:
        if offset in seen:
            c.part = "options"
            c.fail("sections form a circle")
        seen.add(offset)
        section, _flags = _section(c, dat, offset, "options", _OPTIONS)
        offset = _options_v7(section, dat, places, buffers)
    for option, part, reader in ((_HEADERS, "headers", _headers), (_FTRACE, "ftrace formats", _ftrace_v7),
                                 (_EVENTS, "event formats", _systems), (_CMDLINES, "command lines", _cmdlines)):
        if option in places:
            section, _flags = _section(c, dat, places[option], part, option)
            reader(section, dat)
    for data in buffers:
        _buffer_v7(c, dat, data)


def _ftrace_v7(c, dat):
    _formats(c, dat, "ftrace", c.count("ftrace events"))


def _section(c, dat, offset, part, expected):
    """(cursor over the section's plain contents, its flags)."""
    c.part = part
    c.seek(offset)
    number, flags = c.u2(), c.u2()
    c.u4()
    size = c.u8()
    if number != expected:
        c.fail(f"section {expected} expected at byte {offset}, found {number}")
    data = c.take(size)
    if flags & _COMPRESSED:
        if len(data) < 8:
            c.fail("a compressed section of less than 8 bytes")
        packed, plain = struct.unpack(c.order + "II", data[:8])
        data = decompress(data[8:8 + packed], plain, dat.compression, f"{dat.name}: {part}")
    inner = _Cursor(_Memory(data), dat.name, len(data), dat.page.big_endian, part)
    return inner, flags


def _options_v7(c, dat, places, buffers):
    """Read one options section; returns the offset of the next, or 0."""
    while c.tell() < c.size:
        option, size = c.u2(), c.u4()
        data = c.take(size)
        if option == _O_DONE:
            return struct.unpack(c.order + "Q", data[:8])[0] if size >= 8 else 0
        if option == _O_BUFFER:
            buffers.append(data)
        elif option in (_HEADERS, _FTRACE, _EVENTS, _CMDLINES):
            if size < 8:
                c.fail(f"option {option} of {size} bytes")
            places[option] = struct.unpack(c.order + "Q", data[:8])[0]
        elif option == _BUFFER_TEXT:
            dat.notes.append("a latency trace (text) in the file is not read")
        else:
            _option(c, dat, option, data)
    return 0


def _buffer_v7(c, dat, data):
    option = _Cursor(_Memory(data), dat.name, len(data), dat.page.big_endian, "buffer option")
    offset, name, clock = option.u8(), option.string(), option.string()
    page_size, cpus = option.u4(), option.count("CPUs")
    if name:
        dat.buffers.append(name)
        return
    dat.clock = clock or dat.clock
    if page_size & (page_size - 1) or not 512 <= page_size <= 1 << 22:
        option.fail(f"page size {page_size}")
    dat.page.size = page_size
    c.part = "buffer"
    c.seek(offset)
    number, flags = c.u2(), c.u2()
    if number != _BUFFER:
        c.fail(f"section {_BUFFER} expected at byte {offset}, found {number}")
    for _ in range(cpus):
        dat.cpus.append(CpuData(option.u4(), option.u8(), option.u8(), bool(flags & _COMPRESSED)))


# -- decompression

def decompress(data, size, algorithm, where):
    """Plain bytes of one compressed piece.  TraceError if it is damaged or the algorithm is not available."""
    if size > LARGEST_PART:
        raise TraceError(f"a piece of {size} bytes cannot be right", where)
    try:
        if algorithm == "zlib":
            plain = zlib.decompressobj().decompress(data, size + 1)
        elif algorithm == "zstd":
            plain = _zstd(data, size, where)
        else:
            raise TraceError(f"compression {algorithm!r} is not known", where)
    except TraceError:
        raise
    except Exception as error:                        # each library has its own error class
        raise TraceError(f"compressed data is damaged ({error})", where) from None
    if len(plain) != size:
        raise TraceError(f"compressed data gives {len(plain)} bytes instead of {size}", where)
    return plain


def _zstd(data, size, where):
    try:
        import zstandard
    except ImportError:
        raise TraceError("compressed with zstd: install the Python package zstandard", where) from None
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)


def pages(stream, dat, cpu, block):
    """Yield blocks of whole pages of one CPU, each of about `block` bytes; the last word of a damaged file is a
    TraceError after the whole pages before the damage."""
    where = f"{dat.name}: CPU {cpu.cpu}"
    size = dat.page.size
    per_block = max(1, block // size) * size
    at, end = cpu.offset, cpu.offset + cpu.size
    if not cpu.compressed:
        while at < end:
            stream.seek(at)
            data = stream.read(min(per_block, end - at))
            whole = len(data) // size * size
            if whole:
                yield data[:whole]
            if len(data) < min(per_block, end - at):
                raise TraceError(f"the file ends {end - at - len(data)} bytes early", where)
            if whole < len(data):
                raise TraceError(f"{len(data) - whole} bytes after the last whole page", where)
            at += whole
        return
    if not cpu.size:
        return
    stream.seek(at)
    cursor = _Cursor(stream, dat.name, end, dat.page.big_endian, f"CPU {cpu.cpu}")
    for _ in range(cursor.count("chunks")):
        if at == cpu.offset:
            at += 4
        stream.seek(at)                               # other CPUs are read in between
        packed, plain = cursor.u4(), cursor.u4()
        at += 8 + packed
        data = decompress(cursor.take(packed), plain, dat.compression, where)
        for start in range(0, len(data) // size * size, per_block):
            yield data[start:start + per_block][:(len(data) - start) // size * size]
