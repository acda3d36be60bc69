# SPDX-License-Identifier: GPL-2.0-or-later
"""The score: who is searched again, how far the fixed side goes, what counts as clean, what an interruption leaves."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from shadowmmu.museum import exhibit, role_audit, score, worker

FOUND = {"found": True, "script": "machine 4-level\nv0 load 0x0\n", "length": 1, "kind": "warning", "seconds": 1.0, "states": 1}
NOT = {"found": False, "script": None, "length": 0, "kind": "", "seconds": 2.0, "states": 1}
CLEAN = NOT | {"clean": {}}


class Fake:
    """Workers that answer at once.  searched: (id, seed) -> operations until the finding; those not there find nothing."""

    def __init__(self, monkeypatch, tmp_path, searched, mended=CLEAN):
        self.jobs, self.searched, self.mended = [], searched, mended
        monkeypatch.setattr(score, "_folder", lambda: tmp_path)
        monkeypatch.setattr(score, "_combined", lambda show: ("all.py", {"A8": 1}))
        monkeypatch.setattr(score, "start", self.start)
        monkeypatch.setattr(score, "finish", self.finish)

    def start(self, job):
        self.jobs.append(job)
        return SimpleNamespace(job=job, poll=lambda: 0, kill=lambda: None)

    def finish(self, process):
        job = process.job
        if job.side == "mended":
            return self.mended | {"searched": job.operations}
        n = self.searched.get((job.exhibit, job.seed))
        return FOUND | {"searched": n} if n else NOT | {"searched": 9_000}


def run(monkeypatch, tmp_path, ids, searched, mended=CLEAN):
    monkeypatch.setattr(score, "AT_ONCE", 1)
    fake = Fake(monkeypatch, tmp_path, searched, mended)
    rows, fixed = score.score([exhibit.named(id) for id in ids], 60.0)
    return fake, {r["id"]: r for r in rows}, fixed


def test_bugs_get_a_second_seed_and_the_fix_is_searched_once_for_each(monkeypatch, tmp_path):
    fake, rows, fixed = run(monkeypatch, tmp_path, ["A1", "A2", "A3", "C25", "A8"],
                            {("A1", 1): 500, ("A2", 2): 700, ("A3", 1): 3_000, ("A8", 1): 40})
    broken = [(j.exhibit, j.seed) for j in fake.jobs if j.side == "broken"]
    # C25 is said to show nothing: once is enough
    assert sorted(broken) == [("A1", 1), ("A2", 1), ("A2", 2), ("A3", 1), ("A8", 1), ("C25", 1)]
    mended = sorted((j.exhibit, j.seed, j.operations) for j in fake.jobs if j.side == "mended")
    assert mended == [("A1", 1, 3_000), ("A2", 2, 700), ("A8", 1, 40)]
    assert [(f["rules"], f["seed"]) for f in fixed] == [("linux-6.12", 1), ("linux-6.12", 2), ("linux-7.2", 1)]
    assert all(r["fixed_clean"] for r in rows.values())
    assert (rows["A2"]["seed"], rows["A2"]["found"], rows["C25"]["expected"]) == (2, True, "nothing")
    # the exhibit's stored script, and the one that was found
    scripts = next(j.scripts for j in fake.jobs if j.side == "mended" and j.exhibit == "A1")
    assert {"A1 stored", "A1 found", "A3 found"} <= set(scripts) and "A2 found" not in scripts


def test_what_the_ledger_knows_is_not_searched_again(monkeypatch, tmp_path):
    searched = {("A1", 1): 500}
    first, rows, _ = run(monkeypatch, tmp_path, ["A1", "C25"], searched)
    path = next(tmp_path.glob("score-*.jsonl"))
    # killed while it wrote
    path.write_text(path.read_text() + '{"key": "bro')
    again, same, _ = run(monkeypatch, tmp_path, ["A1", "C25"], searched)
    assert first.jobs and not again.jobs and same == rows


@pytest.mark.parametrize("mended, clean", [
    (CLEAN, True),
    (FOUND | {"clean": {}, "searched": 900}, True),             # later than the exhibit was found
    (FOUND | {"clean": {}, "searched": 500}, False),
    (CLEAN | {"clean": {"A1 stored": False}}, False),
    (CLEAN | {"clean": {"A2 stored": False}}, True),            # another's script
    ({"error": "no"}, False),
])
def test_what_clean_means(mended, clean):
    row = score._row(exhibit.named("A1"), FOUND | {"searched": 500}, 1, {"searched": 1_000} | mended)
    assert row["fixed_clean"] is clean


def test_a_first_finding_outlives_a_crash():
    def answer(code):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.said = process.communicate()
        process.reader = SimpleNamespace(join=lambda: None)
        return worker.finish(process)

    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    told = json.dumps(FOUND)
    assert answer(f"print({told!r}, flush=True); {crash}") == FOUND
    assert answer(crash) == {"error": "exit code -11"}
    assert answer("raise ValueError('why')") == {"error": "ValueError: why"}


def test_the_role_audit_shows_the_shortest_that_a_guest_sees():
    x = exhibit.named("R.efer_nx")
    nothing = NOT | {"searched": 9_000, "seed": 2}
    head = "efer_nx: translation, 5 operations, stored\n    machine npt-legacy\n    vcpus 2\n"
    assert role_audit.told(x, nothing).startswith(head)
    shorter = FOUND | {"kind": "fault", "seed": 1}
    assert role_audit.told(x, shorter) == "efer_nx: fault, 1 operation\n    machine 4-level\n    v0 load 0x0\n"
    # what only the MMU's books tell is no difference that a guest sees
    told = role_audit.told(exhibit.named("R.smap_andnot_wp"), nothing)
    assert told == "smap_andnot_wp: no guest sees it in 9,000 operations (seed 2) (with invariants: warning, 3)\n"
