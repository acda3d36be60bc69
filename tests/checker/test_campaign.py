# SPDX-License-Identifier: GPL-2.0-or-later
"""Campaigns: the ledger survives kill -9 of a worker and of everything; one cause is one finding; a patch reaches workers."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from front import BROKEN, check, environment

#: A child process with tasks of a few hundred operations instead of ten seconds.
PROGRAM = """
import sys
from shadowmmu.checker import tasks
tasks.OPERATIONS = int(sys.argv[1])
sys.argv[:] = ["shadowmmu", "check", *sys.argv[2:]]
from shadowmmu.cli.main import main
main()
"""
ARGUMENTS = ("--machine", "4-level", "--vcpus", "1")


def start(tmp_path, operations, *arguments):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(operations), *map(str, arguments)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=environment(tmp_path), start_new_session=True)


def finish(process, code=0, timeout=240):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == code, (process.returncode, out[-1500:], err[-1500:])
    return out


def rows(ledger):
    if not ledger.exists():
        return []
    db = sqlite3.connect(ledger)
    try:
        return db.execute("SELECT strategy, seed, operations, states FROM searched ORDER BY strategy, seed").fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        db.close()


def children(pid):
    """Processes below `pid` that run our code as dask workers."""
    out = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    tree = [line.split(None, 2) for line in out.splitlines()[1:]]
    below, todo = [], [str(pid)]
    while todo:
        parent = todo.pop()
        for child, its_parent, args in tree:
            if its_parent == parent:
                todo.append(child)
                if "spawn_main" in args:
                    below.append(int(child))
    return below


def test_killing_workers_and_the_campaign_loses_nothing(tmp_path):
    ledger, other = tmp_path / "a.db", tmp_path / "b.db"
    first = start(tmp_path, 250, *ARGUMENTS, "--operations", 10**6, "--workers", 2, "--ledger", ledger)
    while not rows(ledger):
        time.sleep(0.2)
        assert first.poll() is None, first.communicate()
    os.kill(children(first.pid)[0], signal.SIGKILL)          # a worker: its task is done again elsewhere
    while len(rows(ledger)) < 3:
        time.sleep(0.2)
        assert first.poll() is None, first.communicate()
    os.killpg(first.pid, signal.SIGKILL)                     # and now everything
    first.wait()
    kept = rows(ledger)
    assert len(kept) >= 3
    finish(start(tmp_path, 250, *ARGUMENTS, "--operations", 500, "--json", "--workers", 2, "--ledger", ledger))
    finish(start(tmp_path, 250, *ARGUMENTS, "--operations", 1250, "--json", "--workers", 2, "--ledger", other))
    whole = {row[:2]: row for row in rows(other)}
    assert set(kept) <= set(rows(ledger))
    assert all(whole[row[:2]] == row for row in rows(ledger) if row[:2] in whole)     # each task gives what it always gives
    seeds = [row[1] for row in rows(ledger) if row[0] == "random"]
    assert seeds == sorted(set(seeds)) and len(seeds) >= 4
    shown = json.loads(check(tmp_path, "--ledger", ledger, "--json").stdout)
    assert shown["operations"] == sum(row[2] for row in rows(ledger))


def test_a_patched_campaign_finds_one_cause_once(tmp_path):
    patch, ledger = tmp_path / "broken.py", tmp_path / "a.db"
    patch.write_text(BROKEN)
    process = start(tmp_path, 300, *ARGUMENTS, "--operations", 600, "--workers", 1, "--ledger", ledger, "--json")
    assert json.loads(finish(process))["findings"] == []
    # --patch starts the command line again, without the small tasks of this test: the environment does the same
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, "300", *ARGUMENTS, "--operations", "100", "--workers", "1",
                                "--ledger", str(ledger), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=environment(tmp_path, SHADOWMMU_PATCH=str(patch)))
    result = json.loads(finish(process, 1))
    causes = [finding["shape"] for finding in result["findings"]]
    assert causes and len(causes) == len(set(causes))
    assert all(finding["patched"] for finding in result["findings"])
    text = check(tmp_path, "--ledger", ledger, code=1).stdout
    assert "no patch" in text and "patch " in text and "causes of findings" in text


def test_a_worker_without_the_patch_does_the_task_in_a_child(tmp_path, monkeypatch):
    """A worker on another machine has the sources and not the patch."""
    from shadowmmu.checker import campaign, tasks
    from shadowmmu.state.patch import Patch
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    monkeypatch.setenv("SHADOWMMU_JIT", "0")
    task = tasks.Task("4-level", 1, "random", 1, 300, 40, 0)
    document = campaign.order(tasks.Settings(), task) | {"patch": Patch(str(path)).text}
    result = campaign.result_of(campaign.do(document))
    assert result.finding["patched"] and result.finding["rule"] == "translation"
    # a child never starts another one
    with pytest.raises(campaign.CampaignError, match="reads differently"):
        campaign.do(document, in_child=True)


def test_a_ledger_of_another_version_or_program(tmp_path):
    ledger = tmp_path / "a.db"
    with sqlite3.connect(ledger) as db:
        db.execute("CREATE TABLE x (y)")
    assert "a database of something else" in check(tmp_path, "--ledger", ledger, code=2).stderr
    with sqlite3.connect(ledger) as db:
        db.execute(f"PRAGMA application_id={0x736D6D75}")
        db.execute("PRAGMA user_version=99")
    assert "ledger of version 99" in check(tmp_path, "--ledger", ledger, code=2).stderr
