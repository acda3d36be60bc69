# SPDX-License-Identifier: GPL-2.0-or-later
"""One search in a process of its own (a process has one variant of the core).

    python -m shadowmmu.museum.worker  < a Job as JSON        --> the answer as a line of JSON

broken: the rules and functions of an exhibit.  mended: the rules alone; scripts that must find nothing there are replayed, too.
"""

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, field


@dataclass
class Job:
    """What a worker does.  exhibit: its id; number: of the exhibit in a combined patch (combined.py), whose file is `patch`;
    operations: the search goes on to at least so many; scripts: name -> text, for the mended side."""

    exhibit: str
    side: str
    seconds: float
    operations: int = 0
    more: float = 0.0
    seed: int = 1
    patch: str | None = None
    number: int = 0
    scripts: dict = field(default_factory=dict)


def start(job):
    """Start a worker; `finish` waits for it."""
    environment = dict(os.environ)
    environment.pop("SHADOWMMU_PATCH", None)
    if job.patch:
        environment["SHADOWMMU_PATCH"] = job.patch
    process = subprocess.Popen([sys.executable, "-m", "shadowmmu.museum.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env=environment)
    process.stdin.write(json.dumps(asdict(job)))
    process.stdin.close()
    process.stdin = None
    # whatever it says is read while it runs, so that it never waits for a reader
    process.said = []
    process.reader = threading.Thread(target=lambda: process.said.extend(process.communicate()), daemon=True)
    process.reader.start()
    return process


def finish(process):
    """The worker's answer as a dictionary; `error` in it if it failed."""
    process.reader.join()
    out, err = process.said
    lines = out.splitlines()
    if len(lines) > 1 and json.loads(lines[-1]).get("kind") in ("crash", "hang"):
        return json.loads(lines[-2])        # it had found something, and went while it looked for something shorter
    if process.returncode < 0 and lines:
        return json.loads(lines[-1])
    if process.returncode:
        return {"error": (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]}
    return json.loads(lines[-1])


def main():
    from ..checker import crash
    job = Job(**json.load(sys.stdin))
    crash.guarded(lambda: work(job), lost)


def lost(finding):
    """The broken MMU has taken the search with it: that is the answer, if none was given before."""
    from . import hunt
    script = finding.script.replace("rules custom", "rules linux-6.12")
    tell(hunt.Hunt(script, finding.operations, finding.rule, 0.0, 0, 0, []))


def work(job):
    """Do it."""
    from . import exhibit, hunt
    x = exhibit.named(job.exhibit)
    rules = x.broken_rules | {"exhibit": job.number} if job.side == "broken" else x.mended_rules
    parent = os.getppid()

    def orphaned(progress):
        if os.getppid() != parent:
            sys.exit(1)

    found = hunt.hunt(rules, job.seconds, job.operations, job.more, job.seed, orphaned, tell)
    answer = asdict(found) | {"found": found.found}
    answer["clean"] = {name: hunt.replay(rules, script)[0] == 0 for name, script in job.scripts.items()}
    print(json.dumps(answer))


def tell(found):
    """An answer that holds if no better one comes."""
    print(json.dumps(asdict(found) | {"found": found.found, "clean": {}}), flush=True)


if __name__ == "__main__":
    main()
