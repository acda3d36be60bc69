# SPDX-License-Identifier: GPL-2.0-or-later
"""The three kinds of trace files: the same recording read from each gives the same events; damage is told."""

import gzip
import io
import re
import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import DATA, RUNS, run_id, unpacked

from shadowmmu.trace import dat_file, formats, layouts, ring
from shadowmmu.trace.dat_reader import DatReader
from shadowmmu.trace.errors import TraceError
from shadowmmu.trace.reader import detect_text, make_reader, open_trace
from shadowmmu.trace.rebuild import Forest
from shadowmmu.trace.text_reader import TextReader


def without_pointer(text):
    return re.sub(r"sptep:? ?\S+", "sptep", text)


@pytest.mark.parametrize("run", RUNS, ids=run_id)
def test_binary_and_text_tell_the_same(run):
    text = list(TextReader(io.BytesIO(unpacked(run / "trace.txt.gz"))))
    reader = DatReader(io.BytesIO(unpacked(run / "trace.dat.gz")))
    binary = list(reader)
    assert len(text) == len(binary) and reader.stopped is None and not reader.notes
    for a, b in zip(text, binary, strict=True):
        assert (a.event, a.cpu, a.pid, a.task) == (b.event, b.cpu, b.pid, b.task)
        assert abs(a.time - b.time) <= 500            # text is rounded to microseconds
        assert without_pointer(a.body) == without_pointer(b.body)
        assert a.understood and a.fields


@pytest.mark.parametrize("name", ["v7-none-6.12-g3.dat.gz", "v7-zstd-6.12-g3.dat"])
def test_version_7(name):
    if "zstd" in name:
        pytest.importorskip("zstandard")
    with open_trace(DATA / name) as reader:
        assert reader.file.version == 7 and reader.roles.layout.kernel == "6.12"
        seven = [record.text for record in reader]
    with open_trace(DATA / "logs/6.12/g3/trace.dat.gz") as reader:
        assert seven == [record.text for record in reader]


def section(number, data, compressed=False):
    """A section of a version 7 file."""
    if compressed:
        packed = zlib.compress(data)
        data = struct.pack("<II", len(packed), len(data)) + packed
    return struct.pack("<HHIQ", number, int(compressed), 0, len(data)) + data


def make_v7(compressed, cpus=2):
    """A version 7 file of our own, with zlib, from the recording's pages split over two CPUs."""
    source = unpacked(DATA / "logs/6.12/g3/trace.dat.gz")
    dat = dat_file.read_dat(io.BytesIO(source))
    cpu = dat.cpus[0]
    pages = source[cpu.offset:cpu.offset + cpu.size]
    half = len(pages) // 8192 * 4096
    parts = [pages[:half], pages[half:]] if cpus == 2 else [pages]
    texts = [event.text.encode() for event in dat.formats.values() if event.system != "ftrace"]
    marker = next(event.text.encode() for event in dat.formats.values() if event.name == "print")
    page = b"\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\tfield: local_t commit;\toffset:8;\tsize:8;\t" \
           b"signed:1;\n\tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n"
    head = b"header_page\0" + struct.pack("<Q", len(page)) + page + b"header_event\0" + struct.pack("<Q", 1) + b"\n"
    events = struct.pack("<I", 1) + b"kvm\0" + struct.pack("<I", len(texts))
    events += b"".join(struct.pack("<Q", len(text)) + text for text in texts)
    lines = "\n".join(f"{pid} {name}" for pid, name in dat.cmdlines.items()).encode()
    out = bytearray(dat_file.MAGIC + b"7\0\0\x08" + struct.pack("<I", 4096) + b"zlib\0" + b"1.2\0")
    first = len(out)
    out += bytes(8)
    places = {}
    for number, data in ((16, head), (17, struct.pack("<IQ", 1, len(marker)) + marker), (18, events),
                         (21, struct.pack("<Q", len(lines)) + lines)):
        places[number] = len(out)
        out += section(number, data, compressed and number != 16)
    buffer_at = len(out)
    out += struct.pack("<HHIQ", 3, int(compressed), 0, 0)
    table = b""
    for i, part in enumerate(parts):
        at = len(out)
        if compressed:
            chunks = [part[k:k + 8192] for k in range(0, len(part), 8192)]
            out += struct.pack("<I", len(chunks))
            for chunk in chunks:
                packed = zlib.compress(chunk)
                out += struct.pack("<II", len(packed), len(chunk)) + packed
        else:
            out += part
        table += struct.pack("<IQQ", i, at, len(out) - at)
    option = struct.pack("<Q", buffer_at) + b"\0local\0" + struct.pack("<II", 4096, len(parts)) + table
    options = b"".join(struct.pack("<HIQ", number, 8, at) for number, at in places.items())
    options += struct.pack("<HI", 3, len(option)) + option + struct.pack("<HIQ", 0, 8, 0)
    out[first:first + 8] = struct.pack("<Q", len(out))
    out += section(0, options, compressed)
    return bytes(out)


@pytest.mark.parametrize("compressed", [False, True])
def test_version_7_zlib_and_several_cpus(compressed):
    reader = DatReader(io.BytesIO(make_v7(compressed)))
    records = list(reader)
    with open_trace(DATA / "logs/6.12/g3/trace.dat.gz") as one:
        assert [record.text for record in records] == [record.text for record in one]
    assert {record.cpu for record in records} == {0, 1}
    assert [record.time for record in records] == sorted(record.time for record in records)


def test_merge_of_interleaved_cpus():
    """Two CPUs with the same pages: every event twice, in time order, in bounded pieces."""
    data = bytearray(make_v7(False, cpus=1))
    reader = DatReader(io.BytesIO(bytes(data)))
    cpu = reader.file.cpus[0]
    reader.file.cpus.append(dat_file.CpuData(5, cpu.offset, cpu.size))
    records = list(reader)
    assert len(records) == 2 * sum(record.cpu == 5 for record in records)
    times = [record.time for record in records]
    assert times == sorted(times)


@pytest.mark.parametrize(("name", "kernel", "run"), [
    ("report-6.12-g3", "6.12", "6.12/g3"), ("report-7.2-g10", "7.2", "7.2/g10"),
    ("report-N-6.12-g3", "6.12", "6.12/g3"), ("report-N-7.2-g10", "7.2", "7.2/g10")])
def test_trace_cmd_report(name, kernel, run):
    """Roles that the plugin printed wrongly are those of the kernel's own text after the correction."""
    with open_trace(DATA / f"{name}.txt.gz") as reader:
        records = list(reader)
        assert all(record.understood for record in records)
        if "-N-" not in name:
            assert reader.roles.layout.kernel == kernel
            assert "role layout of 2018" in reader.notes[0]
    with open_trace(DATA / "logs" / run / "trace.txt.gz") as reader:
        theirs = list(reader)
    assert len(records) == len(theirs)
    pages = 0
    for a, b in zip(records, theirs, strict=True):
        if a.event.startswith("kvm_mmu_") and "level" in a.fields and "unsync" in a.fields:
            pages += 1
            if "-N-" in name and kernel == "7.2":
                continue                              # no kernel in such a file, see below
            for field in ("level", "gpte_bytes", "quadrant", "direct", "access", "invalid", "nx", "unsync"):
                assert a.fields[field] == b.fields[field], (field, a, b)
            if a.event == "kvm_mmu_get_page":
                assert a.fields["gfn"] == b.fields["gfn"] and a.fields["created"] == b.fields["created"]
        elif a.event == "kvm_mmu_set_spte":
            assert a.fields == b.fields
    assert pages > 20


def test_detection_of_the_layout():
    assert detect_text("new sp gfn 10 4 q0 wux pae nxe wp root 0 sync") == "5.15"
    assert detect_text("nothing of ours") is None
    dat = dat_file.read_dat(io.BytesIO(unpacked(DATA / "logs/7.2/g3/trace.dat.gz")))
    assert dat.kernel == "7.2"
    old = formats.parse_format("name: kvm_mmu_get_page\nID: 1\nprint fmt: role.gpte_is_8_bytes ? 8 : 4")
    assert formats.kernel_of([old]) == "5.15"
    assert layouts.layout_of(dat.kernel).kernel == "7.2"


def test_text_oddities():
    line = "  my task-7-12 (  12) [003] d..1.   5.000001: kvm_entry: vcpu 0, rip 0x10\n"
    data = ("# tracer: nop\n" + line + "CPU:3 [LOST 17 EVENTS]\n" + line.replace("d..1. ", "")  # no flags column
            + "<...>-3 [000] ..... 6.5: tracing_mark_write: one\ntwo\n" + line[:30]).encode()
    reader = TextReader(io.BytesIO(data))
    records = list(reader)
    assert [r.task for r in records] == ["my task-7", "my task-7", "<...>"]
    assert records[0].pid == 12 and records[0].time == 5000001000 and records[2].time == 6500000000
    assert records[2].body == "one\ntwo\n" + line[:30]
    assert reader.lost == 17 and "lost" in reader.notes[-1]


@pytest.mark.parametrize(("data", "words"), [
    (b"", "empty"), (b"\x7fELF" + bytes(60), "ELF"), (b"root:x:0:0:root\n" * 20, "no trace events"),
    (bytes(100), "binary data"), (b"\x1f\x8b\x08\x00junk", "damaged"), (dat_file.MAGIC, "ends inside a string"),
    (dat_file.MAGIC + b"9\0", "version '9'"), (b"\x17\x08\x44xx", "cut off or damaged"),
    (b"x" * (1 << 21), "not a text trace"),
    (dat_file.MAGIC + b"6\0\0\x08" + struct.pack("<I", 4095), "page size 4095")])
def test_foreign_files(data, words):
    with pytest.raises(TraceError, match=words):
        list(make_reader(io.BytesIO(data), "file"))


def test_truncated_binary_gives_what_is_there():
    data = unpacked(DATA / "logs/6.12/g3/trace.dat.gz")
    reader = DatReader(io.BytesIO(data[:-6000]))
    records = list(reader)
    assert 1000 < len(records) < 1370
    assert "ends 6000 bytes early" in reader.stopped


def test_truncated_gzip_gives_what_is_there(tmp_path):
    for name in ("trace.txt.gz", "trace.dat.gz"):
        whole = (DATA / "logs/6.12/g1" / name).read_bytes()
        path = tmp_path / name
        path.write_bytes(whole[:len(whole) * 9 // 10])
        with open_trace(path) as reader:
            assert len(list(reader)) > 100
            assert reader.stopped


def consume(data):
    """Read everything; a TraceError is an answer, anything else is a bug."""
    try:
        reader = make_reader(io.BytesIO(data), "fuzz")
        forest = Forest()
        for n, record in enumerate(reader):
            forest.feed(record)
            assert isinstance(record.text, str)
            assert isinstance(record.to_dict(), dict)
            if n > 3000:
                break
        assert forest.text() and all(isinstance(note, str) for note in reader.notes)
    except TraceError as error:
        assert "\n" not in str(error)


SMALL = {"text": unpacked(DATA / "logs/7.2/g3/trace.txt.gz")[:20000],
         "report": unpacked(DATA / "report-6.12-g3.txt.gz")[:20000],
         "v6": unpacked(DATA / "logs/6.12/g3/trace.dat.gz"), "v7": make_v7(True)}


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(SMALL)), st.data())
def test_mutated_files_never_end_in_a_traceback(kind, data):
    blob = bytearray(SMALL[kind])
    near_head = kind in ("v6", "v7") and data.draw(st.booleans())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, (4000 if near_head else len(blob)) - 1))
        blob[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(blob))))
    consume(bytes(blob[:cut]))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=4096))
def test_random_bytes(data):
    consume(data)
    consume(dat_file.MAGIC + b"6\0\0\x08\0\x10\0\0" + data)
    consume(dat_file.MAGIC + b"7\0\0\x08\0\x10\0\0zlib\0001\0" + data)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(min_size=4096, max_size=4096 * 3), st.booleans())
def test_random_pages(data, big_endian):
    form = ring.PageFormat(big_endian=big_endian)
    found = ring.walk(data, form)
    assert (found.length >= 0).all() and (found.start + found.length <= len(data)).all()


def test_ring_page_by_hand():
    """Each kind of record: data, long data, time extend, time stamp, padding, in both byte orders."""
    for order, big in (("<", False), (">", True)):
        def word(kind, delta, order=order, big=big):
            return struct.pack(order + "I", kind << 27 | delta if big else delta << 5 | kind)
        body = word(2, 10) + b"ABCDEFGH"                               # at 1010
        body += word(30, 3) + struct.pack(order + "I", 1)              # + (1 << 27) + 3
        body += word(0, 1) + struct.pack(order + "I", 4 + 200) + bytes(200)
        body += word(29, 5) + struct.pack(order + "I", 4 + 4) + bytes(4)  # discarded, 8 bytes after its header
        body += word(31, 7) + struct.pack(order + "I", 99)             # absolute
        body += word(1, 0) + b"ijkl"
        body += word(29, 0)
        page = struct.pack(order + "QQ", 1000, len(body)) + body
        found = ring.walk(page.ljust(4096, b"\xff"), ring.PageFormat(big_endian=big))
        assert found.length.tolist() == [8, 200, 4]
        assert found.time.tolist() == [1010, 1010 + (1 << 27) + 4, (99 << 27) + 7]
        assert not found.damaged


def test_gzip_of_a_plain_stream_is_read_without_seeking():
    class Pipe(io.RawIOBase):
        def __init__(self, data):
            self.inner = io.BytesIO(data)

        def read(self, n=-1):
            return self.inner.read(min(n, 100) if n > 0 else n)

    for data in (SMALL["v6"], SMALL["text"]):
        assert len(list(make_reader(Pipe(gzip.compress(data)), "pipe"))) > 100
        assert len(list(make_reader(Pipe(data), "pipe"))) > 100
