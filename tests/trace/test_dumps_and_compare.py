# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps, normal logs and comparisons: against the recordings, and with differences put in by hand."""

import copy

import pytest
from recorded import GOLDEN, RUNS, run_id, unpacked

from shadowmmu.trace import align, compare, dump, layouts, normalise, runs
from shadowmmu.trace.errors import TraceError

ALL = sorted(path.parent for path in GOLDEN.glob("*/*/result.txt"))


@pytest.mark.parametrize("run", RUNS, ids=run_id)
def test_normal_log_is_the_recorded_one(run):
    recording = runs.RecordedRun(run)
    raw = unpacked(run / "trace.txt.gz").decode()
    lines = list(normalise.Normaliser(recording.guest_frames).lines(raw.split("\n")))
    assert lines == unpacked(run / "norm.txt.gz").decode().rstrip("\n").split("\n")
    assert set(recording.events()[1]) <= set(normalise.RULES)


@pytest.mark.parametrize("run", RUNS, ids=run_id)
def test_raw_dumps_become_the_normal_ones(run):
    recording = runs.RecordedRun(run)
    files = sorted(run.glob("sp_*.txt.gz"))
    assert files
    for raw in files:
        want = unpacked(run / "spn" / raw.name).decode()
        from_raw = dump.parse_raw(unpacked(raw).decode(), recording.guest_frames)
        parsed = dump.parse(want)
        assert from_raw.text() == parsed.text() == want
        assert dump.difference(parsed, from_raw) is None


@pytest.mark.parametrize("run", ALL, ids=run_id)
def test_all_golden_runs_are_read_and_equal_themselves(run):
    recording = runs.RecordedRun(run)
    lines, _touched = recording.events()
    result = compare.RunResult(lines, copy.deepcopy(recording.dumps()), recording.result, recording.memory(),
                               recording.stats(), recording.registers())
    report = compare.compare_run(recording, result)
    assert report.equal, report.first_difference
    assert report.events_equal == report.events_total > 500
    assert report.states_equal == report.states_total > 2
    for _tag, one in recording.dumps()[:3]:
        assert dump.parse(one.text()) == one


def state_dump():
    """A small state of ours: a root, a table, a guest page."""
    role = layouts.role_from_kernel(0x3704, "6.12")
    pages = [dump.ShadowPage(0x13, role - 3, 0x801, parents=1, sptes={1: 0x2B52A25, 2: -(1 << 63)}),
             dump.ShadowPage(0x10, role, 0x800, root_count=1, sptes={0: 0x801827})]
    mmu = dump.MmuState(root=dump.Root(0x800000, 0x10000), prev=[dump.Root()] * 3, cpu_role=role, ext=0x81,
                        root_role=role, tables=[(f"PAEROOT{i}", 0) for i in range(4)])
    return dump.StateDump(contexts=[mmu], registers={"cr0": 0x80010011, "cr3": 0x10000, "cr4": 0x20, "efer": 0xD00},
                          gen=0, n_used=2, n_max=81, indirect=2, pages=pages, guest_frames={0x2B52: 1},
                          nonpresent=-(1 << 63))


def test_our_state_in_the_kernels_words():
    text = state_dump().normal("6.12").text()
    assert text.startswith("ROOT hpa P10/3704 pgd 10000 cpu_role 8100003704 root_role 3704 mmu root_mmu\nPREV0 hpa -")
    assert ("SP gfn 13 role 3701 unsync 0 gen 0 root_count 0 unsync_children 0 wflood 0 parents 1 n 1\n"
            " 1:G1|a25\n") in text
    assert "ROOT hpa P10/6f04 pgd 10000 cpu_role c100006f04 root_role 6f04" in state_dump().normal("7.2").text()
    assert dump.parse(text).text() == text


@pytest.mark.parametrize(("change", "words"), [
    (lambda d: d.pages.reverse(), "both have both, the order differs"),
    (lambda d: d.pages.pop(0), "the model does not have the kernel's"),
    (lambda d: d.pages[0].sptes.update({1: 0x2B52A27}), "entry 1: kernel G1|a25 (guest page 1: user, accessed"),
    (lambda d: setattr(d.pages[0], "unsync", 1), "unsync flag: kernel 0, model 1"),
    (lambda d: setattr(d.pages[0], "role", d.pages[0].role ^ 1 << 13), "roles differ in efer_nx 1 and 0"),
    (lambda d: d.registers.update(cr4=0), "guest register cr4: kernel 20, model 0"),
    (lambda d: setattr(d, "gen", 1), "mmu_valid_gen: kernel 0, model 1"),
    (lambda d: d.contexts[0].prev.__setitem__(0, dump.Root(0x800000, 0)), "cached root 0: kernel - for pgd"),
    (lambda d: setattr(d.contexts[0].root, "hpa", -1), "current root: kernel P10/3704"),
])
def test_differences_of_states_in_words(change, words):
    ours = state_dump()
    change(ours)
    assert words in dump.difference(state_dump().normal("6.12"), ours.normal("6.12"), "6.12")


@pytest.mark.parametrize("text", ["", "hello", "ROOT hpa x", "SP gfn", " 0:G1|a25",
                                  "ROOT hpa - pgd 0 cpu_role 0 root_role 0"])
def test_bad_dumps(text):
    with pytest.raises(TraceError):
        dump.parse(text)


def test_event_differences():
    run = runs.RecordedRun(next(path for path in RUNS if path.parent.name == "6.12" and path.name == "g3"))
    lines, _ = run.events()
    ours = list(lines)
    ours[50] = ours[50] + "1"
    del ours[100:105]
    ours.insert(700, "kvm_mmu_paging_element: pte 0 level 9")
    report = compare.compare_run(run, compare.RunResult(ours, run.dumps(), run.result, b"x"))
    assert report.events_total == len(lines)
    assert report.events_equal == len(lines) - 6
    assert report.first_difference.startswith("events differ from line 51 on")
    assert report.values_equal and report.counters_equal is None


def test_value_memory_counter_differences():
    run = runs.RecordedRun(GOLDEN / "6.12" / "g1")
    lines, _ = run.events()
    memory = bytearray(run.memory())
    memory[0x1234] ^= 1
    stats = run.stats()
    stats["vm"]["mmu_flooded"] += 1
    values = [line.replace("VAL 000001e4", "VAL 0") for line in run.result]
    report = compare.compare_run(run, compare.RunResult(lines, run.dumps(), values, bytes(memory), stats, {"rip": 0}))
    assert not report.values_equal and not report.memory_equal and not report.counters_equal
    assert "memory at 1230" in report.differences["memory"]
    assert "vm mmu_flooded" in report.differences["counters"]
    assert "VAL 000001e4" in report.differences["values"]
    assert "rip" in report.differences["registers"]


def test_not_a_run(tmp_path):
    with pytest.raises(TraceError, match=r"no result\.txt"):
        runs.RecordedRun(tmp_path)
    with pytest.raises(TraceError, match="no such directory"):
        runs.RecordedRun(tmp_path / "x")


def test_alignment_is_bounded_and_covers():
    a = [f"line {i % 97} {i}" for i in range(20000)]
    b = a[:5000] + ["new"] * 300 + a[5100:]
    blocks = list(align.blocks(a, b))
    assert blocks == [("equal", 0, 5000, 0, 5000), ("differ", 5000, 5100, 5000, 5300),
                      ("equal", 5100, 20000, 5300, 20200)]
    assert align.equal_items(a, list(reversed(a))) < len(a)
    assert align.equal_items([], a) == 0
