# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots: a restored guest ends as the one that went on did; files that do not fit are refused in one line."""

import json
import zlib

import pytest

from shadowmmu.engines.unicorn_svm import snapshot
from shadowmmu.engines.unicorn_svm.errors import EngineError
from shadowmmu.guests import session
from shadowmmu.guests.demo import IMAGE

AT = 2_000_000


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(file, outcome of the run that went on, its output, output up to the snapshot)"""
    path = tmp_path_factory.mktemp("snapshot") / "demo.snap"
    out, before = [], []
    original = snapshot.save

    def save(*arguments):
        before.append(len(b"".join(out)))
        original(*arguments)

    snapshot.save = save
    try:
        outcome = session.run(session.load(IMAGE, memory_size=32 << 20), on_output=out.append, save_to=path, snapshot_at=AT)
    finally:
        snapshot.save = original
    return path, outcome, b"".join(out), before[0]


def test_restored_guest_ends_alike(saved):
    path, first, text, before = saved
    out = []
    second = session.resume(path, on_output=out.append)
    assert first.report.exit_code == second.report.exit_code == 0
    assert before > 0 and b"".join(out) == text[before:]
    assert second.report.instructions == first.report.instructions
    assert second.report.exits == first.report.exits
    assert second.registers == first.registers
    assert second.vm.store.hash() == first.vm.store.hash()
    assert second.vm.stat.items() == first.vm.stat.items()


@pytest.mark.parametrize(("mmu", "at"), [("shadow", 300_000), ("shadow", 1_000_000), ("none", 1_000_000), ("tdp", 2_500_000),
                                         ("tdp-legacy", 1_000_000)])
def test_anywhere_and_with_every_mmu(tmp_path, mmu, at):
    """1,000,000 lies behind the delivery of a page fault, which must not come twice."""
    path = tmp_path / "demo.snap"
    first = session.run(session.load(IMAGE, memory_size=32 << 20), mmu=mmu, save_to=path, snapshot_at=at)
    second = session.resume(path)
    assert (second.report.instructions, second.report.exits) == (first.report.instructions, first.report.exits)
    assert second.registers == first.registers
    assert second.vm.store.hash() == first.vm.store.hash()


def damaged(path, folder, change):
    lines = path.read_bytes().split(b"\n", 2)
    header = json.loads(lines[1])
    copy = folder / "copy.snap"
    data = change(lines[0], header, lines[2])
    copy.write_bytes(data)
    return copy


def joined(first, header, rest):
    return first + b"\n" + json.dumps(header).encode() + b"\n" + rest


@pytest.mark.parametrize("change, words", [
    (lambda a, h, r: joined(b"SHADOWMMU-SNAPSHOT 1", h, r), "format 1"),
    (lambda a, h, r: joined(b"SOMETHING 1", h, r), "not a snapshot"),
    (lambda a, h, r: a + b"\n{\n" + r, "header"),
    (lambda a, h, r: joined(a, h | {"fingerprint": "0"}, r), "laid out differently"),
    (lambda a, h, r: joined(a, h | {"parts": h["parts"][:2]}, r), "parts"),
    (lambda a, h, r: joined(a, h, r[:-10]), "cut off"),
    (lambda a, h, r: joined(a, h, r[:1000] + b"\0\0\0\0" + r[1004:]), "damaged"),
    (lambda a, h, r: joined(a, h | {"parts": [[n, p, 1 << 60, c] for n, p, s, c in h["parts"]]}, r),
     "of 1152921504606846976 bytes"),
])
def test_a_file_that_does_not_fit_is_refused(saved, tmp_path, change, words):
    with pytest.raises(EngineError, match=words) as caught:
        session.resume(damaged(saved[0], tmp_path, change))
    assert "\n" not in str(caught.value)


def test_a_small_blob_that_unpacks_to_much_is_cut(saved, tmp_path):
    bomb = zlib.compress(bytes(64 << 20), 9)

    def change(first, header, rest):
        header["parts"][0] = ["state", len(bomb), 1000, 0]
        return joined(first, header, bomb)

    with pytest.raises(EngineError, match="damaged"):
        session.resume(damaged(saved[0], tmp_path, change))
