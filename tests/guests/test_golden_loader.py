# SPDX-License-Identifier: GPL-2.0-or-later
"""The recorded guests' configuration files: the good one exactly, the bad ones by one clear line."""

import pytest

from shadowmmu.guests import golden
from shadowmmu.guests.image import GuestImageError

GOOD = {
    "name": "g2b", "image": "g.bin", "mem": "0x1000000", "load": "0", "mode": "lm64", "rip": "0x8000", "rsp": "0x5000",
    "cr0": "0x80010011", "cr3": "0x20000", "cr4": "0x20", "efer": "0xd00", "pcid": "1",
}  # fmt: skip


def _write(folder, text=None, contents=b"\xf4" * 100, **changes):
    if text is None:
        text = "".join(f"{k} {v}\n" for k, v in {**GOOD, **changes}.items() if v is not None)
    path = folder / "g.cfg"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "g.bin").write_bytes(contents)
    return path


def test_long_mode_entry_state(tmp_path):
    guest = golden.load(_write(tmp_path))
    entry = guest.entry
    assert (guest.name, guest.memory_size, guest.platform) == ("g2b", 16 << 20, "golden")
    assert guest.segments == ((0, b"\xf4" * 100),)
    assert (entry.rip, entry.rsp, entry.rflags, entry.gprs) == (0x8000, 0x5000, 2, {})
    assert (entry.cr0, entry.cr3, entry.cr4, entry.efer, entry.pcid) == (0x80010011, 0x20000, 0x20, 0xD00, True)
    assert (entry.cs.selector, entry.cs.long, entry.cs.default_big, entry.cs.type) == (0x18, True, False, 11)
    assert (entry.ss.selector, entry.ss.long, entry.ss.default_big, entry.ss.type) == (0x10, False, True, 3)
    assert (entry.gdtr.base, entry.gdtr.limit, entry.idtr.base, entry.idtr.limit) == (0x1000, 0xFF, 0x1400, 0x1FF)


def test_protected_mode_entry_state(tmp_path):
    entry = golden.load(_write(tmp_path, mode="pm32")).entry
    assert (entry.cs.selector, entry.cs.long, entry.cs.default_big) == (0x08, False, True)
    assert (entry.idtr.base, entry.idtr.limit) == (0x1200, 0xFF)


def test_comments_and_blank_lines(tmp_path):
    text = "# a comment\n\n" + "".join(f"{k}   {v}\n" for k, v in GOOD.items())
    assert golden.load(_write(tmp_path, text)).name == "g2b"


def test_image_may_fill_memory_exactly(tmp_path):
    guest = golden.load(_write(tmp_path, mem="0x2000", load="0x1000", contents=b"x" * 4096))
    memory = bytearray(guest.memory_size)
    guest.load_into(memory)
    assert memory == bytes(4096) + b"x" * 4096


BAD = [
    ({"cr0": None}, "missing cr0"),
    ({"name": None, "pcid": None}, "missing name, pcid"),
    ({"cr5": "1"}, "line 13: unknown key 'cr5'"),
    ({"rip": "0x80zz"}, "line 6: rip has a bad number"),
    ({"rip": "8000h"}, "line 6: rip has a bad number"),
    ({"rip": "-1"}, "line 6: rip '-1' is not in"),
    ({"rip": "1_000"}, "line 6: rip"),
    ({"rip": "9" * 5000}, "line 6: rip"),
    ({"cr3": "0x10000000000000000"}, "line 9: cr3"),
    ({"cr0": "0x100000000"}, "line 8: cr0"),
    ({"pcid": "2"}, "line 12: pcid"),
    ({"mode": "rm16"}, "line 5: mode 'rm16' is not one of pm32, lm64"),
    ({"mode": ""}, "line 5: mode needs exactly one value"),
    ({"rsp": "1 2"}, "line 7: rsp needs exactly one value"),
    ({"mem": "0"}, "line 3: memory size"),
    ({"mem": "4097"}, "line 3: memory size"),
    ({"mem": "0xfffffffffffff000"}, "line 3: memory size"),
    ({"load": "0x1000000"}, "line 4: load address"),
    ({"image": "none.bin"}, "cannot read the image"),
    ({"image": "."}, "cannot read the image"),
    ({"image": "a\0b"}, "not a file name"),
    ({"mem": "0x1000", "image_size": 4097}, "larger than 4096 bytes"),
    ({"load": "0xffffff"}, "larger than 1 bytes"),
    ({"text": ""}, "missing name"),
    ({"text": b"\xff\xfe"}, "line 1: not ASCII"),
    ({"text": "name a\nname b\n"}, "line 2: name is given again (first in line 1)"),
    ({"text": "x" * 70000}, "larger than 65536 bytes"),
]


@pytest.mark.parametrize("changes, message", BAD, ids=[m for _, m in BAD])
def test_bad_files(tmp_path, changes, message):
    changes = dict(changes)
    contents = b"x" * changes.pop("image_size", 100)
    with pytest.raises(GuestImageError) as error:
        golden.load(_write(tmp_path, changes.pop("text", None), contents, **changes))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_no_such_file(tmp_path):
    with pytest.raises(GuestImageError, match="cannot read the configuration: No such file"):
        golden.load(tmp_path / "none.cfg")
