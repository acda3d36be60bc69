# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening a trace of whatever kind: tracefs text, trace-cmd report, trace.dat, each plain or gzipped.

    open_trace(path) --> TextReader or DatReader; iterate for `Record`s, then look at .notes and .stopped

The kernel version decides how role words are read; where nobody says it, the trace itself is asked: the formats in a
trace.dat, the number of access letters in text, or which layout makes the printed roles possible (`detect_text`).
"""

import io
import re
import shutil
import tempfile
import zlib
from contextlib import contextmanager

from . import dat_file
from .dat_reader import DatReader
from .errors import TraceError
from .text_reader import TextReader

_GZIP = b"\x1f\x8b"
#: Beginnings of files that people hand over by mistake.
_FOREIGN = {b"\x7fELF": "an ELF file", b"PK\x03\x04": "a zip archive",
            b"\x28\xb5\x2f\xfd": "zstd data: unpack it first",
            b"\xfd7zXZ": "xz data: unpack it first", b"PAR1": "a Parquet file", b"PERFILE2": "a perf.data file"}
_PROBE = 1 << 18
#: A gzipped trace.dat is unpacked into memory up to this size, into a temporary file beyond.
_IN_MEMORY = 1 << 26

_WIDE = re.compile(r"sp gen \w+ gfn \w+ l\d [48]-byte q\d (?:direct )?[r-][w-][u-][x-] |level \d access [0-9a-f]+$"
                   r"|requests 0x", re.MULTILINE)
_NARROW = re.compile(r"sp gen \w+ gfn \w+ l\d [48]-byte")
_PLUGIN_NEW = re.compile(r"new sp gfn \w+ (\d) q\d(?: direct)? [wux-]{3}( invalid)? (!?)pae")


class _Peeked(io.RawIOBase):
    """A stream with its first bytes given back."""

    def __init__(self, head, stream):
        self.head, self.stream = head, stream

    def read(self, n=-1):
        if self.head:
            out, self.head = (self.head, b"") if n < 0 else (self.head[:n], self.head[n:])
            return out
        return self.stream.read(n)


class _Gunzip(io.RawIOBase):
    """A gzip stream that gives all that can be unpacked before it says that the end is missing."""

    def __init__(self, stream):
        self.stream = stream
        self.inflate = zlib.decompressobj(31)
        self.packed = b""
        self.whole = False

    def read(self, n=-1):
        limit = n if n > 0 else _PROBE
        while True:
            if not self.packed:
                self.packed = self.stream.read(_PROBE)
                if not self.packed:
                    if self.inflate.eof or self.whole:
                        return b""
                    raise EOFError("the gzip data ends early")
            if self.inflate.eof:
                self.inflate = zlib.decompressobj(31)  # a further member
            try:
                out = self.inflate.decompress(self.packed, limit)
            except zlib.error:
                if self.whole:
                    self.packed = b""                 # padding after the last member
                    continue
                raise
            self.whole = self.inflate.eof
            self.packed = self.inflate.unused_data if self.inflate.eof else self.inflate.unconsumed_tail
            if out:
                return out


def detect_text(sample):
    """Kernel whose role layout fits the beginning of a text trace: "5.15", "6.12", "7.2", or None.

    The plugin's text is judged by consistency: a new page is never invalid, so `invalid` on new pages is the fourth
    access bit of 7.2; a level 4 page never has 4-byte entries, so `pae` there is 5.15's inverted bit.
    """
    if _WIDE.search(sample):
        return "7.2"
    if _NARROW.search(sample):
        return "6.12"
    new = _PLUGIN_NEW.findall(sample)
    if not new:
        return None
    if sum(bool(invalid) for _level, invalid, _no in new) * 2 > len(new):
        return "7.2"
    if any(int(level) >= 4 and not no for level, _invalid, no in new):
        return "5.15"
    return "6.12"


@contextmanager
def open_trace(path, kernel=None, progress=None):
    """Context manager: a reader for the file at `path` ("-" for standard input is the caller's: pass a stream).

    path      str, Path, or a binary stream
    kernel    version for role layouts; None: detected
    progress  function(bytes read)

    Raises TraceError for a file that cannot be read or is no trace.
    """
    name = str(path) if not hasattr(path, "read") else getattr(path, "name", "standard input")
    try:
        stream = path if hasattr(path, "read") else open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise TraceError(error.strerror or str(error), name) from None
    try:
        yield make_reader(stream, name, kernel, progress)
    except BrokenPipeError:  # the caller's output, not the file
        raise
    except (OSError, zlib.error) as error:
        raise TraceError(f"cannot be read: {error}", name) from None
    finally:
        if stream is not path:
            stream.close()


def make_reader(stream, name, kernel=None, progress=None):
    """Reader for a binary stream, by its first bytes."""
    head = stream.read(16)
    if head[:2] == _GZIP:
        stream = _Gunzip(_Peeked(head, stream))
        try:
            head = stream.read(16)
        except (OSError, EOFError, zlib.error) as error:
            raise TraceError(f"gzip data is damaged: {error}", name) from None
    if not head:
        raise TraceError("the file is empty", name)
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise TraceError(f"{what}, not a trace", name)
    stream = _Peeked(head, stream)
    if head.startswith(dat_file.MAGIC):
        return DatReader(_seekable(stream, name), name, kernel, progress)
    if head[:3] == dat_file.MAGIC[:3]:
        raise TraceError("the beginning of a trace.dat, cut off or damaged", name)
    sample = b""
    try:
        while len(sample) < _PROBE and (block := stream.read(_PROBE - len(sample))):
            sample += block
    except (OSError, EOFError, zlib.error) as error:
        if not sample:
            raise TraceError(f"cannot be read: {error}", name) from None
    if b"\0" in sample[:4096]:
        raise TraceError("binary data, but no trace.dat", name)
    detected = kernel or detect_text(sample.decode("utf-8", "replace"))
    return TextReader(_Peeked(sample, stream), name, detected or "6.12", progress)


def _seekable(stream, name):
    """The same contents in a stream that can seek (a plain file as it is)."""
    inner = stream.stream
    if not isinstance(inner, (_Peeked, _Gunzip)) and hasattr(inner, "seekable") and inner.seekable():
        return inner
    out = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
    try:
        shutil.copyfileobj(stream, out, 1 << 20)
    except (OSError, EOFError, zlib.error) as error:
        if out.tell() < 4096:
            raise TraceError(f"gzip data is damaged: {error}", name) from None
        # what was unpacked is read; the missing end shows as a truncated file
    out.seek(0)
    return out
