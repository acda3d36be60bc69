# SPDX-License-Identifier: GPL-2.0-or-later
"""Record what a score came to: lengths.json and differences.json from the exhibits, the figures in docs/museum.md from the score.

    shadowmmu museum --score --save --json > score.json
    PYTHONPATH=src python tests/museum/record.py [score.json "what machine, what load"]

`pytest tests/museum` then replays and shrinks every script; read what has changed before it is committed.
"""

import json
import pathlib
import sys
import time

import test_drift

from shadowmmu.museum import exhibit, score

HERE = pathlib.Path(__file__).parent
DOCS = HERE.parent.parent / "docs" / "museum.md"
START, END = "<!-- score -->\n", "<!-- end of score -->\n"


def lengths():
    found = {x.id: x.length for x in exhibit.every() if x.script}
    (HERE / "lengths.json").write_text("{\n" + ",\n".join(f' "{id}": {n}' for id, n in found.items()) + "\n}\n")
    return found


def figures(path, where):
    """The block of docs/museum.md."""
    answer = json.loads(pathlib.Path(path).read_text())
    rows = answer["exhibits"] + answer["harmless"]
    day = time.strftime("%Y-%m-%d")
    block = (f"`shadowmmu museum --score --json`, {day}, {where}, {answer['seconds']:.0f} s in all:\n\n```\n"
             + score.text(rows, answer["fixed"]) + "\n```\n")
    before, rest = DOCS.read_text().split(START)
    DOCS.write_text(before + START + block + END + rest.split(END)[1])


if __name__ == "__main__":
    lengths()
    found = {x.id: test_drift.differences(x) for x in test_drift.WITH_FUNCTIONS}
    test_drift.RECORD.write_text(json.dumps(found, indent=1) + "\n")
    if sys.argv[1:]:
        figures(*sys.argv[1:])
