# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowmmu museum --score`: every exhibit hunted, its fix searched in the same way, two processes at a time.

    all exhibits in one patch (combined.py), compiled once
    broken, seed 1:  A1 | A2 | ...        bugs not found:  broken, seed 2           a minute each, one core
    mended, seed s:  once for each set of rules, as far as the exhibit that was found latest there       --> table

Two minutes of one core are a minute of two.  The plan counts operations and depends on rules and seed only, so a search of a set
of rules repeats what the hunt for every exhibit on these rules did: an exhibit's fix is clean if nothing was found up to the
operation at which the exhibit was, and if no script of the exhibit finds anything.

Answers go into a ledger in the cache folder as they come, keyed by all sources and by the exhibit: an interrupted score
goes on where it stopped, a change of the core or of an exhibit starts over what it concerns.
"""

import hashlib
import json
import time

from ..state import cache
from . import combined
from . import exhibit as exhibits
from .worker import Job, finish, start

AT_ONCE = 2
SEEDS = (1, 2)
#: After the first finding: this share of its time for a shorter one.
MORE = 0.5
NONE_IN_FORCE = 1 << 20
#: A worker that has not ended after so many seconds is ended; what it had found counts.
LIMIT = 600
#: `breaks` of a change that is said to be harmless.
NOTHING = ("nothing",)


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
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:
                continue        # killed while it was written
            self.answers[entry["key"]] = entry["answer"]

    def add(self, key, answer):
        self.answers[key] = answer
        if "error" not in answer:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "answer": answer}) + "\n")


def _hash(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _broken_key(x, seconds, seed):
    return f"broken {x.id} {_hash(exhibits.code_of(x) + str(sorted(x.broken_rules.items())))} {seconds} seed {seed}"


def _rules_name(x):
    return " ".join([x.rules, *(f"{name}={value}" for name, value in sorted(x.with_fields.items()))])


def _combined(show):
    """File of the combined patch, already compiled, and the numbers of the exhibits in it."""
    text, numbers = combined.combine(exhibits.every())
    path = _folder() / f"combined-{_hash(text + _sources())}.py"
    if not path.exists():
        show("compiling all exhibits")
        path.write_text(text)
        answer = finish(start(Job("A1", "broken", 0.01, patch=str(path), number=NONE_IN_FORCE)))
        if "error" in answer:
            path.unlink()
            raise exhibits.ExhibitError(f"the exhibits cannot be compiled: {answer['error']}")
    return str(path), numbers


def _run(jobs, ledger, show, done):
    """jobs: (key, label, Job); those that the ledger knows are left out."""
    waiting = [job for job in jobs if job[0] not in ledger.answers]
    running, total = [], len(waiting)
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                key, label, job = waiting.pop(0)
                running.append((key, label, start(job), time.monotonic()))
            show(f"{total - len(waiting) - len(running)} of {total} done; running {', '.join(r[1] for r in running)}")
            time.sleep(0.1)
            for _, _, process, since in running:
                if time.monotonic() - since > LIMIT:
                    process.kill()
            for job in [r for r in running if r[2].poll() is not None]:
                running.remove(job)
                answer = finish(job[2])
                ledger.add(job[0], answer)
                done(f"[{total - len(waiting) - len(running)}/{total}] {job[1]}: {_told(answer)}")
    finally:
        for _, _, process, _ in running:
            process.kill()


def _told(answer):
    """An answer in some words."""
    if "error" in answer:
        return f"error: {answer['error']}"
    found = f"{answer['kind']}, {answer['length']} operations, after" if answer["found"] else "nothing found in"
    return f"{found} {answer['searched']:,} operations, {answer['seconds']:.1f} s"


def _hunt(chosen, seconds, ledger, show, done):
    """Id -> (answer, seed) of the broken side."""
    broken, left = {}, list(chosen)
    path, numbers = None, {}
    for seed in SEEDS:
        if path is None and any(_broken_key(x, seconds, seed) not in ledger.answers for x in left):
            path, numbers = _combined(show)
        jobs = []
        for x in left:
            number = numbers.get(x.id, 0) if x.functions else NONE_IN_FORCE
            patch = path if number else str(x.path)
            jobs.append((_broken_key(x, seconds, seed), f"{x.id}, seed {seed}",
                         Job(x.id, "broken", seconds, more=MORE, seed=seed, patch=patch, number=number)))
        _run(jobs, ledger, show, done)
        broken |= {x.id: (ledger.answers[_broken_key(x, seconds, seed)], seed) for x in left}
        left = [x for x in left if x.breaks != NOTHING and not broken[x.id][0].get("found") and "error" not in broken[x.id][0]]
    return broken


def _mend(chosen, broken, ledger, show, done):
    """(rules, seed) -> answer of the mended side, as far as the hunts on these rules went."""
    groups = {}
    for x in chosen:
        groups.setdefault((_rules_name(x), broken[x.id][1]), []).append(x)
    jobs, keys = [], {}
    for (name, seed), group in groups.items():
        needed = max([broken[x.id][0]["searched"] for x in group if broken[x.id][0].get("found")], default=1)
        scripts = {}
        for x in group:
            scripts |= {f"{x.id} stored": x.script} if x.script else {}
            scripts |= {f"{x.id} found": broken[x.id][0]["script"]} if broken[x.id][0].get("found") else {}
        question = _hash(str((sorted(group[0].mended_rules.items()), sorted(scripts.items()))))
        key = f"mended {question} {needed} seed {seed}"
        keys[name, seed] = key
        jobs.append((key, f"fixed, {name}, seed {seed}", Job(group[0].id, "mended", 0, needed, seed=seed, scripts=scripts)))
    _run(jobs, ledger, show, done)
    return {which: ledger.answers[key] for which, key in keys.items()}


def _row(x, b, seed, m):
    """One exhibit's row of the table."""
    clean = "error" not in m and (not m["found"] or b.get("searched", 0) < m["searched"]) \
        and all(m["clean"].get(f"{x.id} {which}", True) for which in ("stored", "found"))
    return {"id": x.id, "title": x.title, "expected": "nothing" if x.breaks == NOTHING else "a finding",
            "found": b.get("found", False), "kind": b.get("kind", ""), "fixed_clean": clean,
            "seconds": round(b.get("seconds", 0.0), 1), "operations": b.get("length", 0), "searched": b.get("searched", 0),
            "states": b.get("states", 0), "seed": seed, "fixed_searched": m.get("searched", 0), "script": b.get("script"),
            "error": b.get("error") or m.get("error")}


def score(chosen, seconds=60.0, fresh=False, show=lambda text: None, done=lambda text: None):
    """(rows of the table, one dictionary an exhibit; what the searches of the fixed rules came to) for the exhibits `chosen`.

    show: told what is going on; done: told each search that has ended."""
    ledger = Ledger(fresh)
    broken = _hunt(chosen, seconds, ledger, show, done)
    mended = _mend(chosen, broken, ledger, show, done)
    rows = [_row(x, *broken[x.id], mended[_rules_name(x), broken[x.id][1]]) for x in chosen]
    fixed = [{"rules": name, "seed": seed, "found": m.get("found", False), "searched": m.get("searched", 0),
              "states": m.get("states", 0), "seconds": round(m.get("seconds", 0.0), 1), "script": m.get("script"),
              "error": m.get("error")} for (name, seed), m in mended.items()]
    return rows, fixed


def table(rows):
    """The rows as text."""
    out = [f"{'id':<18}{'found':<18}{'fix':<8}{'s':>6}{'length':>8}{'searched':>12}{'states':>12}{'seed':>6}"]
    for r in rows:
        found = r["error"] and "error" or (r["kind"] if r["found"] else "-")
        out.append(f"{r['id']:<18}{found:<18}{'clean' if r['fixed_clean'] else 'FOUND':<8}{r['seconds']:>6}"
                   f"{r['operations'] or '-':>8}{r['searched']:>12,}{r['states']:>12,}{r['seed']:>6}")
    return "\n".join(out)


def text(rows, fixed):
    """Bugs, claims, the fixed rules, and last lines that say it all."""
    bugs = [r for r in rows if r["expected"] == "a finding"]
    claims = [r for r in rows if r["expected"] == "nothing"]
    out = [table(bugs)] if bugs else []
    if claims:
        out += ["", "Changes that show nothing to a guest, as far as is known (nothing should be found):", table(claims)]
    out += ["", "The rules with every fix, searched by the same plan as far as the latest finding on them:"]
    out += [f"  {f['rules']}, seed {f['seed']}: " + (f["error"] or ("FOUND something" if f["found"] else "nothing")
            + f" in {f['searched']:,} operations, {f['states']:,} states, {f['seconds']} s") for f in fixed]
    missed = [r["id"] for r in bugs if not r["found"]]
    out.append("")
    if bugs:
        out.append(f"{len(bugs) - len(missed)} of {len(bugs)} bugs found; survivors: {', '.join(missed) or 'none'}")
    if claims:
        wrong = [r["id"] for r in claims if r["found"]]
        out.append(f"{len(claims) - len(wrong)} of {len(claims)} harmless changes held; broken: {', '.join(wrong) or 'none'}")
    dirty = [r["id"] for r in rows if not r["fixed_clean"]]
    out.append(f"{len(rows) - len(dirty)} of {len(rows)} fixes clean; not: {', '.join(dirty) or 'none'}")
    out += [f"{r['id']}: {r['error']}" for r in rows if r["error"]]
    return "\n".join(out).strip()


def save(rows):
    """Keep scripts that find nothing with the fix and are shorter than the stored ones, or as short as one that a person wrote:
    ids that changed."""
    changed = []
    for r in rows:
        x = exhibits.named(r["id"])
        if r["script"] and r["fixed_clean"] and r["expected"] == "a finding" and (
                x.length is None or r["operations"] < x.length + x.script.startswith("#")):
            exhibits.store(x, r["script"], r["operations"], r["kind"])
            changed.append(x.id)
    return changed
