# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands behind `shadowmmu museum`: the list, one exhibit told and run, the score.

    0  done      1  an exhibit was not found, or its fix is not clean      2  the question cannot be answered
"""

import json
import os
import subprocess
import sys
import textwrap
import time

from . import exhibit as exhibits
from . import rows as catalogue
from . import score as scores

FIXED_CLEAN = ("with the same seed the plan finds nothing on the rules with the fix, as far as the exhibit was found, nor do the "
               "exhibit's scripts; searched once for each set of rules and seed, for a plan depends on nothing else")
#: Columns of a line that changes.
TERMINAL = 100
#: Columns of what is told.
WIDTH = 76


def _line(x):
    length = "harmless" if x.breaks == ("nothing",) else f"{x.length} ops" if x.length else "no script"
    return _hanging(f"{x.id:<18}{x.year:<6}{length:<11}", x.title)


def _hanging(head, text):
    """A row of a list: the text beside its head, in as many lines as it takes."""
    return textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)


def list_all(as_json=False, out=sys.stdout):
    """Every exhibit and every row that is none."""
    found = exhibits.every()
    waiting = {id: why for id, why in catalogue.WAITING.items() if id not in {x.id for x in found}}
    if as_json:
        print(json.dumps({
            "exhibits": [{"id": x.id, "title": x.title, "year": x.year, "commits": list(x.commits), "cve": x.cve,
                          "needs": list(x.needs), "kind": ", ".join(x.breaks), "operations": x.length} for x in found],
            "waiting": [{"id": id, "what": what, "reason": why} for id, (what, why) in waiting.items()]}, indent=2), file=out)
        return 0
    for x in found:
        print(_line(x), file=out)
    print(f"\nrows that are no exhibits yet ({len(waiting)} of {len(catalogue.ROWS)}):", file=out)
    for id, (what, why) in waiting.items():
        print(_hanging(f"{id:<6}", f"{what}: {why}"), file=out)
    return 0


def _story(x):
    head = [f"{x.id}  {x.title}", ""]
    for name, value in (("year", x.year), ("commits", ", ".join(x.commits)), ("CVE", x.cve), ("rules", x.rules),
                        ("changed rules", ", ".join(f"{k}={v:#x}" if v > 9 else f"{k}={v}" for k, v in x.change.items())),
                        ("changed functions", ", ".join(x.functions)), ("needs", ", ".join(x.needs)), ("file", str(x.path)),
                        ("differs from", x.base)):
        if value and value != "-":
            head.append(f"{name}: {value}")
    # what is indented is a table
    paragraphs = [p if p.startswith("  ") else textwrap.fill(" ".join(p.split()), WIDTH) for p in x.story.split("\n\n")]
    return "\n".join(head + [""] + ["\n\n".join(paragraphs), ""])


def tell(ids, seconds=60.0, as_json=False, out=sys.stdout, err=sys.stderr):
    """One exhibit: the story, a search, the shortest script with what happened, the same under the fix.  Several: one by one."""
    chosen = [exhibits.named(id) for id in ids]
    if len(chosen) > 1:
        codes = []
        for x in chosen:
            arguments = [sys.executable, "-m", "shadowmmu", "museum", x.id, "--seconds", str(seconds)]
            codes.append(subprocess.run(arguments + ["--json"] * as_json, check=False).returncode)
        return max(codes)
    x = chosen[0]
    if x.functions and os.environ.get("SHADOWMMU_PATCH") != str(x.path):
        # a process has one variant
        environment = dict(os.environ, SHADOWMMU_PATCH=str(x.path))
        os.execve(sys.executable, [sys.executable, "-m", "shadowmmu", *sys.argv[1:]], environment)
    from ..checker import crash, report
    if not as_json:
        print(_story(x), file=out, flush=True)
    return crash.guarded(lambda: _run(x, seconds, as_json, out, err), lambda found: report.lost(x.id, found, as_json))


def _run(x, seconds, as_json, out, err):
    """Search, and look at the fix."""
    from . import hunt, worker
    harmless = x.breaks == scores.NOTHING
    for seed in scores.SEEDS[:1] if harmless else scores.SEEDS:
        found = hunt.hunt(x.broken_rules, seconds, more=scores.MORE, seed=seed, progress=_progress(err))
        if found.found:
            break
    _progress(err)("looking at the fix")
    script = found.script
    if x.script and (script is None or x.length < found.length):
        script = x.script
    finding = hunt.explained(x.broken_rules, script, x.id) if script else None
    scripts = {name: text for name, text in (("stored", x.script), ("found", found.script)) if text}
    mended = worker.finish(worker.start(worker.Job(x.id, "mended", 0, max(found.searched, 1), seed=seed, scripts=scripts)))
    clean = "error" not in mended and not mended["found"] and all(mended["clean"].values())
    _clear(err)
    if as_json:
        print(json.dumps({"id": x.id, "title": x.title, "story": x.story, "expected": "nothing" if harmless else "a finding",
                          "found": found.found, "fixed_clean": clean, "seconds": round(found.seconds, 1), "seed": seed,
                          "operations": found.length, "searched": found.searched, "states": found.states,
                          "finding": finding.as_dict() if finding else None, "error": mended.get("error")}, indent=2), file=out)
        return 0 if clean and found.found != harmless else 1
    head = "Found" if found.found else "Nothing found"
    print(f"{head} in {found.seconds:.1f} s, {found.searched:,} operations, {found.states:,} states (seed {seed}).", file=out)
    if not found.found:
        print("\n".join(_bounds(found.bounds)), file=out)
    if finding:
        stored = "" if script == found.script else " (stored; this search's is longer)" if found.found else " (stored)"
        print(f"\nThe shortest script{stored}:\n\n{finding.text()}\n", file=out)
    verdict = mended.get("error") or f"the same search finds {'nothing' if clean else 'something'}"
    print(textwrap.fill(f"With the fix {verdict}. " + " ".join(x.fix.split()), WIDTH), file=out)
    return 0 if clean and found.found != harmless else 1


def _bounds(bounds):
    return [f"  {b['machine']}, {b['vcpus']} vCPU: all sequences of up to {b['complete_depth']} operations" for b in bounds
            if b["mode"] == "exhaustive" and b["complete_depth"]]


def _progress(stream):
    """One line that changes, on a terminal; nothing elsewhere."""
    last = [0.0]

    def show(p):
        text = p if isinstance(p, str) else f"{p.operations:,} operations, {p.states:,} states"
        if stream.isatty() and time.monotonic() - last[0] > 0.3:
            last[0] = time.monotonic()
            stream.write(f"\r{text[:TERMINAL]}\x1b[K")
            stream.flush()

    return show


def _lines(stream):
    """What has ended, a line each."""
    def done(text):
        _clear(stream)
        print(text, file=stream, flush=True)

    return done


def _clear(stream):
    if stream.isatty():
        stream.write("\r\x1b[K")


def score(ids=(), seconds=60.0, as_json=False, fresh=False, save=False, out=sys.stdout, err=sys.stderr):
    """The table of all exhibits (or of `ids`).  `save` keeps scripts that are shorter than the stored ones."""
    chosen = [exhibits.named(id) for id in dict.fromkeys(ids)] or exhibits.every()
    started = time.monotonic()
    result, fixed = scores.score(chosen, seconds, fresh, _progress(err), _lines(err))
    _clear(err)
    changed = scores.save(result) if save else []
    if as_json:
        print(json.dumps({"exhibits": [r for r in result if r["expected"] == "a finding"],
                          "harmless": [r for r in result if r["expected"] == "nothing"], "fixed": fixed,
                          "fixed_clean_means": FIXED_CLEAN,
                          "stored": changed, "seconds": round(time.monotonic() - started, 1)}, indent=2), file=out)
    else:
        print(scores.text(result, fixed), file=out)
        if changed:
            print(f"stored: {', '.join(changed)}", file=out)
    good = all(r["found"] == (r["expected"] == "a finding") and r["fixed_clean"] for r in result) and not any(
        f["found"] or f["error"] for f in fixed)
    return 0 if good else 1
