# SPDX-License-Identifier: GPL-2.0-or-later
"""rebuild, doctor, diff, export and the command line, on recorded traces and on lines made for the purpose."""

import io
import json

import polars
import pytest
from recorded import DATA, RUNS, run_id, unpacked
from typer.testing import CliRunner

from shadowmmu.trace import commands, dump, runs
from shadowmmu.trace.diff import diff
from shadowmmu.trace.doctor import examine
from shadowmmu.trace.export import write_parquet
from shadowmmu.trace.reader import open_trace
from shadowmmu.trace.rebuild import Forest, rebuild
from shadowmmu.trace.text_reader import TextReader

LOG = DATA / "logs/6.12/g3/trace.txt.gz"
PAGE = "sp gen 0 gfn {gfn} l{level} 8-byte q0 wux nxe ad root {root} {flag}"


def lines(*events):
    """A text trace from (event, gfn, level, root_count, flag, tail)."""
    out = []
    for i, (event, gfn, level, root, flag, tail) in enumerate(events):
        body = PAGE.format(gfn=gfn, level=level, root=root, flag=flag)
        out.append(f" t-1 [000] ..... 1.{i:06}: kvm_mmu_{event}: {body}{tail}\n")
    return TextReader(io.BytesIO("".join(out).encode()))


NEW = ("get_page", "10", 4, 0, "sync", " new")


@pytest.mark.parametrize(("events", "rule", "severity"), [
    ([NEW, ("prepare_zap_page", "10", 4, 0, "sync", ""), ("prepare_zap_page", "10", 4, 0, "sync", "")],
     "zap-of-unknown", "impossible"),
    ([NEW, ("prepare_zap_page", "99", 1, 0, "sync", "")], "zap-of-unknown", "suspicious"),
    ([("get_page", "11", 1, 0, "sync", " new"), ("sync_page", "11", 1, 0, "unsync", "")], "sync-of-sync", "impossible"),
    ([("get_page", "11", 1, 0, "sync", " new"), *[("unsync_page", "11", 1, 0, "sync", "")] * 2],
     "unsync-of-unsync", "impossible"),
    ([NEW, ("prepare_zap_page", "10", 4, 0, "sync", ""), ("get_page", "10", 4, 0, "sync", " existing")],
     "found-after-zap", "impossible"),
    ([("get_page", "11", 1, 0, "sync", " new"), ("get_page", "11", 1, 0, "unsync", " existing")],
     "unsync-flag", "suspicious"),
])
def test_doctor_finds(events, rule, severity):
    result = examine(lines(*events))
    assert [(f.rule, f.severity, f.line) for f in result.findings] == [(rule, severity, len(events))]
    assert result.healthy == (severity != "impossible")


def test_doctor_two_pages_and_root_with_role_words():
    forest = Forest()
    for number, record in enumerate(lines(NEW, NEW, ("get_page", "10", 4, 1, "sync", " existing")), 1):
        record.role = 0x3704
        forest.feed(record)
        assert len(forest.findings) == number - 1
    assert [f.rule for f in forest.findings] == ["two-pages-one-key", "root-should-have-hit"]


@pytest.mark.parametrize("run", RUNS, ids=run_id)
@pytest.mark.parametrize("name", ["trace.txt.gz", "trace.dat.gz"])
def test_real_logs_are_healthy(run, name):
    with open_trace(run / name) as reader:
        result = examine(reader)
    assert result.healthy and not result.unparsed and result.records > 1000
    assert all(f.rule == "root-should-have-hit" for f in result.findings)


@pytest.mark.parametrize("run", [run for run in RUNS if not run.parent.name.endswith("npt1")], ids=run_id)
def test_rebuilt_pages_are_those_of_the_dump(run):
    """At the moment of each dump, the rebuilt forest has the pages that the kernel had, with their flags."""
    recording = runs.RecordedRun(run)
    for file in sorted(run.glob("sp_*_mark*.txt.gz")):
        want = dump.parse_raw(unpacked(file).decode(), recording.guest_frames)
        mark = file.name.split("_mark")[1].split(".")[0]
        with open_trace(run / "trace.dat.gz") as reader:
            forest = Forest()
            for record in reader:
                forest.feed(record)
                if record.event == "tracing_mark_write" and record.body == f"MARK {mark}":
                    break
        ours = sorted((p.fields["gfn"], p.fields["role"], int(p.unsync)) for p in forest.alive() if not p.invalid)
        assert ours == sorted((p.gfn, p.role, p.unsync) for p in want.pages)
        known = {(p.fields["gfn"], p.fields["role"]): forest.tables.get(p.frame, {}) for p in forest.alive() if p.frame}
        assert known


def test_rebuild_at_a_line():
    with open_trace(LOG) as reader:
        early = rebuild(reader, 30)
    assert len(early.alive()) == 5 and "(inferred" in early.text()
    assert json.loads(json.dumps(early.to_dict()))["roots_inferred"]


def test_diff_of_kinds_and_kernels():
    with open_trace(LOG) as a, open_trace(DATA / "logs/6.12/g3/trace.dat.gz") as b:
        assert not diff(a, b).different
    with open_trace(LOG) as a, open_trace(DATA / "logs/6.1/g3/trace.txt.gz") as b:
        result = diff(a, b)
    assert result.equal > 1000 or result.different
    with open_trace(LOG) as a, open_trace(DATA / "logs/7.2/g3/trace.dat.gz") as b:
        folded = diff(a, b, fold=True)
    with open_trace(LOG) as a, open_trace(DATA / "logs/7.2/g3/trace.dat.gz") as b:
        plain = diff(a, b)
    assert plain.different and plain.equal < 5 < folded.equal
    assert "wux in A, rwux in B" in plain.words


def test_diff_of_different_lengths():
    result = diff(lines(NEW, NEW), lines(NEW))
    assert result.different and result.line_b is None and "B has no more events" in result.words


def test_tables(tmp_path):
    with open_trace(DATA / "logs/7.2/g10/trace.dat.gz") as reader:
        records = list(reader)
    count, paths = write_parquet(iter(records), tmp_path / "one.parquet")
    table = polars.read_parquet(paths[0])
    assert count == len(records) == len(table)
    sptes = [r.fields["spte"] for r in records if r.event == "kvm_mmu_set_spte"]
    assert table.filter(polars.col("event") == "kvm_mmu_set_spte")["spte"].to_list() == sptes
    count, paths = write_parquet(iter(records), tmp_path / "many", rows=500)
    assert len(paths) == -(-count // 500)
    assert sum(len(polars.read_parquet(path)) for path in paths) == count


def invoke(*arguments):
    result = CliRunner().invoke(commands.app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_command_line(tmp_path):
    code, out = invoke("show", LOG, "--event", "get_page", "--limit", "2")
    assert code == 0 and out.count("kvm_mmu_get_page: sp gen 0") == 2
    code, out = invoke("show", LOG, "--json", "--gfn", "8", "--limit", "1")
    assert code == 0 and json.loads(out)["gfn"] == 8
    code, out = invoke("show", LOG, "--count", "--json")
    assert code == 0 and json.loads(out)["kvm_exit"] > 100
    code, out = invoke("show", LOG, "--parquet", tmp_path / "x.parquet")
    assert code == 0 and (tmp_path / "x.parquet").exists()
    code, out = invoke("rebuild", LOG, "--line", "100", "--json")
    assert code == 0 and json.loads(out)["pages"]
    code, out = invoke("rebuild", LOG)
    assert code == 0 and "shadow pages" in out
    code, out = invoke("diff", LOG, LOG)
    assert code == 0 and "no difference" in out
    code, out = invoke("diff", LOG, DATA / "logs/7.2/g3/trace.txt.gz", "--json")
    assert code == 1 and json.loads(out)["different"]
    code, out = invoke("doctor", DATA / "logs/6.12/g2b/trace.dat.gz")
    assert code == 0 and max(map(len, out.splitlines())) <= commands.WIDTH
    code, out = invoke("doctor", LOG, "--json")
    assert code == 0 and json.loads(out)["healthy"]
    assert invoke("doctor", tmp_path / "none")[0] == 2
    (tmp_path / "foreign").write_text("hello\n")
    code, out = invoke("show", tmp_path / "foreign")
    assert code == 2 and "no trace events" in out
    assert invoke("show", LOG, "--kernel", "penguin")[0] == 2
    assert invoke("show", LOG, "--gfn", "xyz")[0] == 2


def test_doctor_exit_code(tmp_path):
    body = PAGE.format(gfn="11", level=1, root=0, flag="sync")
    path = tmp_path / "log"
    path.write_text(f" t-1 [000] ..... 1.000001: kvm_mmu_get_page: {body} new\n"
                    + f" t-1 [000] ..... 1.000002: kvm_mmu_unsync_page: {body}\n" * 2)
    code, out = invoke("doctor", path)
    assert code == 1 and "line 3: impossible: unsync-of-unsync" in out


def test_doctor_on_plugin_text_says_what_it_cannot_place():
    with open_trace(DATA / "report-6.12-g3.txt.gz") as reader:
        result = examine(reader)
    assert result.unplaced > 0 and result.healthy
