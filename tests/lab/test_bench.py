# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark: compiled, interpreted and C do the same work; wrong options and a missing compiler are told in one
line."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from shadowmmu.lab import bench, checking, guest, limit, report
from shadowmmu.lab.errors import BenchError, LimitMissing
from shadowmmu.lab.measured import Measured, bits_set, compare
from shadowmmu.lab.operations import OPERATIONS
from shadowmmu.lab.worker import Worker
from shadowmmu.state import JIT

SMALL = bench.CHECK_SIZE
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler")
SOURCE = str(pathlib.Path(bench.__file__).resolve().parents[2])


def bench_process(*arguments, **environment):
    """Run the benchmark as a program."""
    return subprocess.run([sys.executable, "-m", "shadowmmu.lab.bench", *arguments], capture_output=True, text=True,
                          check=False, env=os.environ | {"PYTHONPATH": SOURCE} | environment)


@pytest.fixture(scope="module")
def interpreter():
    """The interpreted side."""
    with Worker(jit=False) as side:
        yield side


@pytest.fixture(scope="module")
def functions():
    """The C side."""
    return limit.functions({operation.driver for operation in OPERATIONS.values()} | {"grow", "zap"})


@needs_gcc
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_all_three_leave_the_same_machine(operation, functions, interpreter):
    n = bench.CHECK_N[operation.driver]
    mask = 0xFFFFFFFF if operation.events else 0
    here, c = Measured(operation, SMALL, mask), Measured(operation, SMALL, mask, functions)
    interpreter.prepare(operation, SMALL, mask)
    results = [side.run(n)[1] for side in (here, c, interpreter)]
    outcomes = [side.outcome() for side in (here, c, interpreter)]
    assert results[0] == results[1] == results[2] != -1
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0]["warnings"] == 0


@needs_gcc
@pytest.mark.parametrize("record", [0, 0xFFFFFFFF])
def test_c_records_the_same_events(functions, record):
    operation = OPERATIONS["fault-events"]
    here, c = Measured(operation, SMALL, record), Measured(operation, SMALL, record, functions)
    here.run(1)
    c.run(1)
    rows = here.store.events()
    assert rows == c.store.events()
    assert bool(rows[0]) == bool(record)


@pytest.mark.parametrize("driver, counter, value", [
    ("fault", "mmu_page_created", 2 * 4 * 7), ("ptewrite", "mmu_pte_write", 200), ("unsync", "mmu_synced", 12),
    ("invlpg", "invlpg", 100), ("cr3", "root_miss", 3)])
def test_operations_do_what_they_are_named_after(driver, counter, value):
    operation = OPERATIONS[driver]
    machine = Measured(operation, SMALL)
    machine.run(bench.CHECK_N[operation.driver])
    assert machine.outcome()[counter] == value


def test_a_fault_sets_accessed_and_dirty_bits():
    machine = Measured(OPERATIONS["fault"], SMALL)
    before = machine.outcome()
    machine.run(1)
    after = machine.outcome()
    # per process: 64 leaves, 6 tables above them; every other leaf is written
    assert after["accessed_bits"] - before["accessed_bits"] == 4 * (64 + 6)
    assert after["dirty_bits"] - before["dirty_bits"] == 4 * 32


def test_disagreement_is_told_in_one_line():
    good = {"result": 1, "warnings": 0, "last_warning": 0, "mmu_page_created": 7}
    with pytest.raises(BenchError, match="fault: compiled and C disagree: mmu_page_created 7 and 8"):
        compare("fault", {"compiled": good, "C": good | {"mmu_page_created": 8}})
    with pytest.raises(BenchError, match=r"the run failed .* out of pte_list descriptors"):
        compare("fault", {"compiled": good | {"warnings": 3, "last_warning": 12}})


@pytest.mark.parametrize("arguments, message", [
    (["--only", "teleport"], "no operation 'teleport'; there are: fault"),
    (["--rounds", "0"], "--rounds 0 is outside 1..1000"),
    (["--seconds", "-1"], "--seconds -1 is outside 0..60"),
    (["--rounds", "many"], "invalid int value: 'many'"),
    (["--growth", "1e5"], "invalid literal for int"),
    (["--growth", "9000000"], "--growth 9000000 is outside"),
    (["--fast"], "no option --fast"),
])
def test_bad_options_give_one_line(arguments, message, capsys):
    assert bench.command(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("shadowmmu bench: ") and message in err and err.count("\n") == 1


def test_without_compiled_code_there_is_nothing_to_measure():
    done = bench_process("--only", "cr3", SHADOWMMU_JIT="0")
    assert done.returncode == 2
    assert done.stderr == "shadowmmu bench: SHADOWMMU_JIT=0 is set: there is no compiled code to measure\n"


def test_without_gcc_the_c_side_says_so(monkeypatch):
    monkeypatch.setattr(limit.shutil, "which", lambda name: None)
    with pytest.raises(LimitMissing, match="no C compiler"):
        limit.functions(["faults"])


def test_a_failing_compiler_is_told(monkeypatch, tmp_path):
    source = tmp_path / "limit.c"
    source.write_text("int broken(")
    monkeypatch.setattr(limit, "SOURCE", source)
    monkeypatch.setenv("SHADOWMMU_CACHE", str(tmp_path))
    if shutil.which("gcc"):
        with pytest.raises(LimitMissing, match="gcc failed: "):
            limit.functions(["faults"])


@pytest.fixture(scope="module")
def results():
    """A short run."""
    if not JIT:
        pytest.skip("interpreted")
    return bench.run(bench.Options(seconds=0.001, rounds=1, only=("cr3", "ptewrite"), interpreted=False,
                                   growth=(300,)))


def test_results_are_complete(results):
    assert [row.name for row in results.rows] == ["cr3", "ptewrite"] == results.agree
    assert all(row.compiled > 0 and row.interpreted is None for row in results.rows)
    assert 290 <= results.growth[0].pages <= 310
    assert 4096 < results.growth[0].state_bytes < 8192


def test_the_report_fits_a_mail(results):
    text = report.text(results)
    assert max(map(len, text.splitlines())) <= 76
    assert "cached CR3 switch" in text and results.machine["cpu"][:10] in text


def test_the_report_names_the_reason_for_a_missing_c_column(results):
    bare = bench.Results(results.machine, results.options, "no C compiler", [
        bench.Row("cr3", "cached CR3 switch", 0.5, 1e6, None, None, None)], [], results.page_bytes, ["cr3"])
    assert "no C compiler" in report.text(bare)


def test_json(capsys, results, monkeypatch):
    monkeypatch.setattr(bench, "run", lambda options, progress: results)
    assert bench.main(bench.Options(json=True)) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["name"] == "cr3"


def test_a_worker_that_dies_is_told(capfd):
    with Worker(jit=False) as side, pytest.raises(BenchError, match="ended early"):
        side.prepare(OPERATIONS["cr3"], guest.Size(processes=-1), 0)


def test_bits_are_counted_per_entry():
    words = [1 << 5, 1 << 6, 3 << 5, 1 << 37]
    octets = b"".join(word.to_bytes(8, "little") for word in words)
    assert bits_set(octets, 1 << 5) == 2
    assert bits_set(octets, 1 << 6) == 2


def test_checked_operations_are_a_table_of_the_report():
    rows = [checking.Checked("4-level, 1 vCPU, random", 250_000.0, [250_000.0]), checking.Checked("x", 1000.0, [1000.0])]
    results = bench.Results({"cpu": "", "cpus": 1, "load": 0, "system": "", "python": "", "llvmlite": "", "gcc": "", "flags": ""},
                            bench.Options(), "none", [], [], {}, [], [], rows)
    lines = report.text(results).splitlines()
    assert [line.split()[-1] for line in lines[-2:]] == ["ok", "missed"] and "250 k" in lines[-2]
