# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowmmu museum --score`: every exhibit hunted, its fix searched in the same way, two processes at a time.

    all exhibits in one patch (combined.py), compiled once
    broken A1 | broken A2 | ... | mended linux-6.12 | mended linux-7.2 ...      --> ledger (a line of JSON each) --> table

The ledger lies in the cache folder and is keyed by all sources and by the exhibit, so an interrupted score goes on where it
stopped, and a change of the core or of an exhibit starts over what it concerns.
"""

import hashlib
import json
import time

from ..state import cache
from . import combined, worker
from . import exhibit as exhibits

AT_ONCE = 2
NONE_IN_FORCE = 1 << 20


def _folder():
    folder = cache.folder() / "museum"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _sources():
    """Hash of everything that decides what a search does."""
    digest = hashlib.sha256()
    for room in ("state", "x86", "mmu", "rules", "vm", "oracle", "checker"):
        for path in sorted((exhibits.HERE.parent / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Ledger:
    """Answers of workers by key, on disk as soon as they are there."""

    def __init__(self, fresh=False):
        self.path = _folder() / f"score-{_sources()}.jsonl"
        self.answers = {}
        if fresh:
            self.path.unlink(missing_ok=True)
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                entry = json.loads(line)
                self.answers[entry["key"]] = entry["answer"]

    def add(self, key, answer):
        self.answers[key] = answer
        if "error" not in answer:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "answer": answer}) + "\n")


def _key(x, side, seconds):
    if side == "mended":
        return f"mended {sorted(x.mended_rules.items())} {seconds}"
    code = "" if not x.functions else exhibits.code_of(x)
    return f"broken {x.id} {sorted(x.broken_rules.items())} {hashlib.sha256(code.encode()).hexdigest()[:16]} {seconds}"


def _combined(show):
    """File of the combined patch, already compiled, and the numbers of the exhibits in it."""
    text, numbers = combined.combine(exhibits.every())
    path = _folder() / f"combined-{hashlib.sha256((text + _sources()).encode()).hexdigest()[:16]}.py"
    if not path.exists():
        show("compiling all exhibits")
        path.write_text(text)
        x = next(x for x in exhibits.every() if x.id in numbers)
        answer = worker.finish(worker.start(x, "broken", 0.01, 1_500, 0, path, NONE_IN_FORCE))
        if "error" in answer:
            path.unlink()
            raise exhibits.ExhibitError(f"the exhibits cannot be compiled: {answer['error']}")
    return path, numbers


def _number(x, numbers):
    """Value of the rule `exhibit`: 0 where the exhibit has to go alone."""
    return numbers.get(x.id, 0) if x.functions else NONE_IN_FORCE


def _run(jobs, ledger, show):
    """jobs: (key, label, arguments of worker.start); those that the ledger knows are left out."""
    waiting = [job for job in jobs if job[0] not in ledger.answers]
    running, total = [], len(waiting)
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                key, label, arguments = waiting.pop(0)
                running.append((key, label, worker.start(*arguments)))
            show(f"{total - len(waiting) - len(running)} of {total} done; running {', '.join(r[1] for r in running)}")
            time.sleep(0.2)
            for job in [r for r in running if r[2].poll() is not None]:
                running.remove(job)
                ledger.add(job[0], worker.finish(job[2]))
    finally:
        for _, _, process in running:
            process.kill()


def score(chosen, seconds=60.0, fresh=False, show=lambda text: None):
    """Rows (dictionaries) of the table for the exhibits `chosen`."""
    ledger = Ledger(fresh)
    if any(_key(x, "broken", seconds) not in ledger.answers for x in chosen):
        path, numbers = _combined(show)
        _run([(_key(x, "broken", seconds), x.id, (x, "broken", seconds, 0, 0.5, path, _number(x, numbers))) for x in chosen],
             ledger, show)
    broken = {x.id: ledger.answers[_key(x, "broken", seconds)] for x in chosen}
    mended = {}
    for x in chosen:
        needed = broken[x.id].get("searched", 0) if broken[x.id].get("found") else 0
        key = _key(x, "mended", seconds)
        if key not in mended or needed > mended[key][1]:
            mended[key] = (x, needed)
    for key, (_, needed) in mended.items():
        if key in ledger.answers and not ledger.answers[key].get("found") and ledger.answers[key].get("searched", 0) < needed:
            del ledger.answers[key]
    _run([(key, f"fixed, {x.rules}", (x, "mended", seconds, needed, 0)) for key, (x, needed) in mended.items()], ledger, show)
    rows = []
    for x in chosen:
        b, m = broken[x.id], ledger.answers[_key(x, "mended", seconds)]
        rows.append({
            "id": x.id, "title": x.title, "expected": "nothing" if x.breaks == ("nothing",) else "a finding",
            "found": b.get("found", False), "kind": b.get("kind", ""),
            "fixed_clean": not m.get("found", True), "seconds": round(b.get("seconds", 0.0), 1),
            "operations": b.get("length", 0), "searched": b.get("searched", 0), "states": b.get("states", 0),
            "fixed_searched": m.get("searched", 0), "script": b.get("script"), "error": b.get("error") or m.get("error")})
    return rows


def table(rows):
    """The rows as text."""
    out = [f"{'id':<14}{'found':<13}{'fix':<8}{'s':>6}{'length':>8}{'searched':>12}{'states':>10}"]
    for r in rows:
        found = r["error"] and "error" or (r["kind"] if r["found"] else "-")
        out.append(f"{r['id']:<14}{found:<13}{'clean' if r['fixed_clean'] else 'FOUND':<8}{r['seconds']:>6}"
                   f"{r['operations'] or '-':>8}{r['searched']:>12,}{r['states']:>10,}")
    return "\n".join(out)


def text(rows):
    """Bugs, claims, and a last line that says it all."""
    bugs = [r for r in rows if r["expected"] == "a finding"]
    claims = [r for r in rows if r["expected"] == "nothing"]
    out = [table(bugs)]
    if claims:
        out += ["", "Changes that are said to be harmless (nothing should be found):", table(claims)]
    missed = [r["id"] for r in bugs if not r["found"]]
    out += ["", f"{len(bugs) - len(missed)} of {len(bugs)} bugs found; survivors: {', '.join(missed) or 'none'}"]
    wrong = [r["id"] for r in claims if r["found"]]
    if claims:
        out.append(f"{len(claims) - len(wrong)} of {len(claims)} harmless changes held; broken: {', '.join(wrong) or 'none'}")
    out += [f"{r['id']}: {r['error']}" for r in rows if r["error"]]
    return "\n".join(out)


def save(rows):
    """Keep scripts that are shorter than the stored ones: ids that changed."""
    changed = []
    for r in rows:
        x = exhibits.named(r["id"])
        if r["script"] and (x.length is None or r["operations"] < x.length):
            exhibits.store(x, r["script"], r["operations"], r["kind"])
            changed.append(x.id)
    return changed
