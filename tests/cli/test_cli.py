# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands as a user runs them: exit codes, one-line errors, JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
G3 = GOLDEN / "logs" / "6.12" / "g3"


def shadowmmu(*arguments, code=0, **options):
    done = subprocess.run([sys.executable, "-m", "shadowmmu", *map(str, arguments)], capture_output=True, text=True,
                          timeout=300, **options)
    assert done.returncode == code, done.stderr[-2000:]
    return done


def test_help_names_every_command():
    text = shadowmmu("--help").stdout
    assert all(name in text for name in ("run", "trace", "bench"))
    text = shadowmmu("trace", "--help").stdout
    assert all(name in text for name in ("show", "rebuild", "diff", "doctor", "compare-run", "function-parity"))


def test_run_as_json_with_events(tmp_path):
    log = tmp_path / "events.txt"
    done = shadowmmu("run", "--append", "procs=5 rounds=1", "--memory", 32, "--json", "--events", log)
    data = json.loads(done.stdout)
    assert "DEMO OK" in done.stderr
    assert data["reason"] == "exit" and data["exit_code"] == 0
    assert data["counters"]["mmu_page_created"] > 10
    lines = [line for line in log.read_text().splitlines() if not line.startswith("#")]
    assert data["events"] == len(lines) > 1000
    counts = json.loads(shadowmmu("trace", "show", "--count", "--json", log).stdout)
    made = sum(1 for line in lines if "kvm_mmu_get_page:" in line and line.rstrip().endswith("new"))
    assert made == data["counters"]["mmu_page_created"] and counts["kvm_mmu_get_page"] >= made
    # our own log must hold nothing that a correct MMU cannot do
    assert json.loads(shadowmmu("trace", "doctor", "--json", log).stdout)["findings"] == []


def test_a_guest_that_does_not_end(tmp_path):
    done = shadowmmu("run", "--max-instructions", 1000, "--quiet", code=1)
    assert "stopped after 1000 instructions" in done.stdout


def test_compare_run_as_json():
    data = json.loads(shadowmmu("trace", "compare-run", "--json", G3).stdout)
    assert data["events_total"] == data["events_equal"] > 1000
    assert data["states_total"] == data["states_equal"]
    assert data["values_equal"] and data["memory_equal"] and data["counters_equal"]
    assert data["first_difference"] is None and isinstance(data["normalised"], dict)


@pytest.mark.parametrize(("arguments", "message"), [
    (["run", "/nonexistent"], "/nonexistent: no such file"),
    (["run", __file__], "multiboot"),
    (["run", "--rules", "linux-9"], "--rules 'linux-9': there is linux-6.1"),
    (["run", "--mmu", "ept"], "--mmu 'ept': there is shadow, none, tdp, tdp-legacy"),
    (["run", "--profile", "intel"], "--profile 'intel': there is amd, tcg"),
    (["run", "--timeout", "-1"], "--timeout -1.0: must be positive"),
    (["run", "--events", "/nonexistent/x"], "cannot write /nonexistent/x: No such file or directory"),
    (["run", "--events", "x", "--mmu", "none"], "--events needs a --mmu other than none"),
    (["run", "--patch", "/nonexistent.py"], "/nonexistent.py: No such file or directory"),
    (["trace", "compare-run", "/nonexistent"], "/nonexistent"),
    (["trace", "show", "/nonexistent"], "/nonexistent"),
    (["trace", "doctor", sys.executable], "ELF"),
    (["bench", "--only", "teleport"], "no operation 'teleport'"),
])
def test_bad_input_is_one_line_and_exit_code_2(arguments, message):
    done = shadowmmu(*arguments, code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_damaged_guest_configuration_names_the_line(tmp_path):
    text = (GOLDEN / "guests" / "g3.cfg").read_text().replace("mem 0x", "mem zz", 1)
    (tmp_path / "g3.cfg").write_text(text)
    done = shadowmmu("run", tmp_path / "g3.cfg", code=2)
    assert "line 3" in done.stderr and done.stderr.count("\n") == 1


def test_an_interrupt_ends_a_run_with_a_report():
    import signal
    process = subprocess.Popen([sys.executable, "-m", "shadowmmu", "run", "--append", "rounds=4000"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline()        # the guest has begun to speak
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode in (1, 130), err
    assert "interrupted" in out + err and "Traceback" not in err
