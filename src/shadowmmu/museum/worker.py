# SPDX-License-Identifier: GPL-2.0-or-later
"""One side of one exhibit in a process of its own (a process has one variant of the core).

    python -m shadowmmu.museum.worker ID broken|mended SECONDS OPERATIONS MORE NUMBER        --> a line of JSON

NUMBER: of the exhibit in a combined patch (combined.py); 0: the patch in force is the exhibit's own.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict


def start(exhibit, side, seconds, operations=0, more=0.0, combined=None, number=0):
    """Start a worker; `finish` waits for it.  combined, number: file of a combined patch, and which of its exhibits."""
    environment = dict(os.environ)
    environment.pop("SHADOWMMU_PATCH", None)
    if side == "broken" and (number or exhibit.functions):
        environment["SHADOWMMU_PATCH"] = str(combined if number else exhibit.path)
    arguments = [sys.executable, "-m", "shadowmmu.museum.worker", exhibit.id, side, str(seconds), str(operations), str(more),
                 str(number)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    """The worker's answer as a dictionary; `error` in it if it failed."""
    out, err = process.communicate()
    if process.returncode:
        return {"error": (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]}
    return json.loads(out.splitlines()[-1])


def main(arguments):
    from . import exhibit, hunt
    name, side, seconds, operations, more, number = arguments
    x = exhibit.named(name)
    rules = x.broken_rules | {"exhibit": int(number)} if side == "broken" else x.mended_rules
    found = hunt.hunt(rules, float(seconds), int(operations), float(more))
    answer = asdict(found) | {"found": found.found}
    if side == "mended" and x.script:
        answer["script_clean"] = hunt.replay(rules, x.script)[0] == 0
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
