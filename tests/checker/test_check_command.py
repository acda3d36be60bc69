# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowmmu check` as its user meets it: exit codes, JSON, findings, reproducers, resuming, one-line errors."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from front import BROKEN, check, environment

from shadowmmu.checker import known, main

SMALL = ("--machine", "4-level", "--vcpus", 1)


@pytest.fixture
def patch(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    return path


def test_nothing_found_states_the_bound(tmp_path):
    done = check(tmp_path, *SMALL, "--operations", 1500, "--json")
    result = json.loads(done.stdout)
    assert result["operations"] >= 1500 and result["states"] > 100 and result["depth"] > 10
    assert result["operations_per_second"] > 0 and result["seconds"] > 0 and result["findings"] == []
    assert result["aside"] == list(known.DEVIATIONS)
    assert [m["machine"] for m in result["machines"]] == ["4-level"]


def test_the_text_names_what_was_set_aside(tmp_path):
    text = check(tmp_path, *SMALL, "--operations", 600).stdout
    assert "nothing found" in text and "other-pcids" in text and "--resume" in text
    assert max(map(len, text.splitlines()[:-1])) <= 100


def test_a_broken_mmu_is_a_finding_with_a_script_that_replays(tmp_path, patch):
    program = tmp_path / "test.c"
    done = check(tmp_path, *SMALL, "--operations", 4000, "--patch", patch, "--reproducer", program, "--json", code=1)
    finding, = json.loads(done.stdout)["findings"]
    assert finding["operations"] == 2 and finding["rule"] == "translation" and finding["patched"]
    assert "b1bd5cba3306" in finding["commits"] and "SDM" in finding["manual"] and finding["deviation"] is None
    assert any(line.startswith("+ sp") for line in finding["change"])
    script = tmp_path / "script.txt"
    script.write_text(finding["script"])
    replayed = check(tmp_path, "--replay", script, "--patch", patch, code=1).stdout
    assert "FINDING  translation, after 2 operations on the patched MMU" in replayed
    assert max(len(line) for line in replayed.splitlines() if str(tmp_path) not in line) <= 100
    assert "nothing found" in check(tmp_path, "--replay", script).stdout
    text = program.read_text()
    assert "report(permitted" in text and "@" not in text.replace("security@", "") and "#PF 0x" in text


def test_exhaustive_search_says_how_deep(tmp_path):
    result = json.loads(check(tmp_path, *SMALL, "--depth", 1, "--json").stdout)
    assert result["exhausted"] and result["exhaustive_depth"] == 1 and result["machines"][0]["complete_depth"] == 1


@pytest.mark.parametrize("name", ["other-pcids", "pse-role"])
def test_known_deviations_are_recognised(tmp_path, name):
    script = tmp_path / "script.txt"
    script.write_text(known.DEVIATIONS[name].script)
    finding, = json.loads(check(tmp_path, "--replay", script, "--json", code=1).stdout)["findings"]
    assert finding["deviation"] == name and known.DEVIATIONS[name].story == finding["story"]
    assert "nothing found" in check(tmp_path, "--replay", script, "--aside", name).stdout


WITHHELD = """
from shadowmmu.checker import finding, geometry, known, ops, search
script = ops.parse(known.DEVIATIONS["pse-role"].script)
known.DEVIATIONS["pse-role"] = known.DEVIATIONS["pse-role"]._replace(script=None)
arena = geometry.Arena(geometry.MACHINES[script.machine], script.rules, script.vcpus, copies=2)
f = finding.explain(arena, script.rows, search.replay(arena, script.rows)[0])
print(f.text(), f.as_dict())
from shadowmmu.checker import reproducer
try:
    reproducer.program(f)
except reproducer.NotForGuests as error:
    print("NO PROGRAM:", error)
"""


def test_a_withheld_deviation_is_told_without_its_script(tmp_path):
    done = subprocess.run([sys.executable, "-c", WITHHELD], capture_output=True, text=True, env=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "FINDING  known deviation pse-role (withheld)" in done.stdout and "NO PROGRAM: pse-role is withheld" in done.stdout
    assert "v0 load" not in done.stdout and "mov cr4" not in done.stdout and "0x200" not in done.stdout


def test_resuming_goes_on_exactly(tmp_path):
    """Two halves are one whole: same operations, same states."""
    arguments = ("--machine", "pcid", "--vcpus", 1, "--json")
    one, two = tmp_path / "one.plan", tmp_path / "two.plan"
    whole = json.loads(check(tmp_path, *arguments, "--operations", 3000, "--resume", one).stdout)
    check(tmp_path, *arguments, "--operations", 1000, "--resume", two)
    rest = json.loads(check(tmp_path, "--resume", two, "--operations", 2000, "--json").stdout)
    assert (whole["operations"], whole["states"], whole["depth"]) == (rest["operations"], rest["states"], rest["depth"])


def test_an_interrupt_saves_the_state(tmp_path):
    plan = tmp_path / "x.plan"
    process = subprocess.Popen([sys.executable, "-m", "shadowmmu", "check", "--machine", "4-level", "--seconds", "100",
                                "--resume", str(plan)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=environment(tmp_path))
    while not plan.exists():
        time.sleep(0.2)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"continue with: shadowmmu check --resume {plan}" in err and "Traceback" not in err
    assert json.loads(check(tmp_path, "--resume", plan, "--operations", 200, "--json").stdout)["operations"] >= 200


@pytest.mark.parametrize("options, message", [
    (dict(machine=["x"]), "--machine x: there is 4-level"),
    (dict(rules="linux-9"), "--rules linux-9: there is linux-6.1"),
    (dict(vcpus=[3]), "--vcpus 3"),
    (dict(sought=["x"]), "no known deviation 'x'"),
    (dict(length=0), "--length 0"),
    (dict(depth=-1), "--depth -1: must be positive"),
    (dict(seconds=-1.0), "--seconds -1"),
    (dict(replay_file="/nonexistent"), "/nonexistent: No such file"),
    (dict(replay_file="/"), "/: Is a directory"),
    (dict(replay_file=sys.executable), "not a"),
    (dict(judge_file="x", replay_file="y"), "exclude each other"),
    (dict(replay_file="x", seconds=3), "--seconds has no meaning with --replay"),
    (dict(ledger="/nonexistent.db"), "/nonexistent.db: no such file"),
    (dict(ledger="/"), "/: is a directory"),
    (dict(workers=0), "--workers 0"),
    (dict(workers=1, scheduler="x"), "--workers and --scheduler exclude each other"),
    (dict(workers=1, resume="x"), "--resume is for a search in this process"),
    (dict(depth=2, resume="x"), "--resume is for the search without --depth"),
])
def test_wrong_options_are_one_line(tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(main.USER_ERRORS) as refused:
        main.command(**options)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_the_command_line_prints_that_line(tmp_path):
    for arguments, message in ((["--machine", "x"], "--machine x: there is"), (["--patch", "/nonexistent.py"], "No such file"),
                               (["--scheduler", "nowhere"], "--scheduler nowhere")):
        done = check(tmp_path, *arguments, code=2)
        assert message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


DAMAGED = {"empty": b"", "text": b"hello\n", "binary": bytes(range(256)) * 16, "other": b'{"format": "x"}\n',
           "version": b'{"format": "shadowmmu check", "version": 99}\n', "list": b"[]\n", "deep": b"[" * 100_000}


@pytest.mark.parametrize("option", ["resume", "ledger", "replay_file"])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_one_line(tmp_path, option, name):
    path = tmp_path / f"{name}.bin"
    path.write_bytes(DAMAGED[name])
    if option == "ledger" and name == "empty":
        pytest.skip("an empty file is an empty ledger")
    with pytest.raises(main.USER_ERRORS) as refused:
        main.command(**{option: str(path)})
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_truncated_plan_and_one_of_other_sources(tmp_path):
    plan = tmp_path / "x.plan"
    check(tmp_path, *SMALL, "--operations", 300, "--resume", plan)
    data = plan.read_bytes()
    head, _, body = data.partition(b"\n")
    for bad in (data[:len(data) // 2], head + b"\n", head.replace(b'"source": "', b'"source": "0') + b"\n" + body):
        plan.write_bytes(bad)
        with pytest.raises(main.USER_ERRORS, match="x.plan"):
            main.command(resume=str(plan))


def test_a_reproducer_that_cannot_be_written(tmp_path, patch):
    done = check(tmp_path, *SMALL, "--operations", 4000, "--patch", patch, "--reproducer", "/nonexistent/x.c", code=2)
    assert "cannot write /nonexistent/x.c" in done.stderr and os.path.exists(patch)
