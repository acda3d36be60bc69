# SPDX-License-Identifier: GPL-2.0-or-later
"""What has been searched, in one SQLite file: survives kill -9 of anything at any time.

    searched   one row per finished task: what it was (its identity) and what came of it
    findings   one row per cause: the first minimal script, how often it was met

A task is identified by rules, patch, sources, set-aside deviations, machine, vCPUs, strategy, seed and sizes.  A row is written
when its task has ended, in one transaction (WAL); a task without a row is done again.
"""

import json
import os
import socket
import sqlite3
import time

from .saved import SavedError
from .tasks import patch_key, source_key

#: "smmu": tells our files from other SQLite files.
APPLICATION, VERSION = 0x736D6D75, 1

SCHEMA = """
CREATE TABLE searched (
    identity TEXT PRIMARY KEY, rules TEXT, patch TEXT, source TEXT, aside TEXT, machine TEXT, vcpus INTEGER, strategy TEXT,
    seed INTEGER, wanted INTEGER, length INTEGER, wanted_depth INTEGER,
    operations INTEGER, states INTEGER, depth INTEGER, skipped INTEGER, abandoned INTEGER, complete_depth INTEGER,
    exhausted INTEGER, seconds REAL, result TEXT, finding INTEGER REFERENCES findings(id), worker TEXT, ended REAL);
CREATE TABLE findings (
    id INTEGER PRIMARY KEY, cause TEXT UNIQUE, rules TEXT, patch TEXT, source TEXT, machine TEXT, vcpus INTEGER, rule TEXT,
    deviation TEXT, script TEXT, text TEXT, document TEXT, met INTEGER, first REAL);
"""


class LedgerError(SavedError):
    """A ledger that cannot be used; the message says which and why."""


def identity(settings, task, patch=None, source=None):
    """The text by which a task is known."""
    patch = patch_key() if patch is None else patch
    source = source_key() if source is None else source
    return "|".join(map(str, (settings.rules, patch, source, ",".join(settings.aside), task.machine, task.vcpus, task.strategy,
                              task.seed, task.operations, task.length, task.depth)))


class Ledger:
    """The file.  create: make it if it is not there."""

    def __init__(self, path, create=True):
        self.path = str(path)
        if os.path.isdir(path):
            raise LedgerError(f"{path}: is a directory")
        if not create and not os.path.exists(path):
            raise LedgerError(f"{path}: no such file")
        try:
            self.db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            application = self.db.execute("PRAGMA application_id").fetchone()[0]
            version = self.db.execute("PRAGMA user_version").fetchone()[0]
            empty = not self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if not empty and application != APPLICATION:
                raise LedgerError(f"{path}: a database of something else")
            if not empty and version != VERSION:
                raise LedgerError(f"{path}: ledger of version {version}, this program reads {VERSION}")
            if not empty and self.db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise LedgerError(f"{path}: damaged")
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=FULL")
            if empty:
                self.db.executescript(f"BEGIN; PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION}; {SCHEMA} "
                                      "COMMIT;")
        except sqlite3.Error as error:
            raise LedgerError(f"{path}: {error}") from None

    def close(self):
        """Done with it."""
        self.db.close()

    def done(self, settings, task):
        """Has this task ended before?"""
        return self._one("SELECT 1 FROM searched WHERE identity=?", identity(settings, task)) is not None

    def _one(self, *query):
        try:
            return self.db.execute(query[0], query[1:]).fetchone()
        except sqlite3.Error as error:
            raise LedgerError(f"{self.path}: {error}") from None

    def record(self, settings, result, worker=""):
        """Enter a Result (its finding, if any, as a dictionary) and return True if its cause is new."""
        finding, new, number = result.finding, False, None
        task = result.task
        row = (identity(settings, task), settings.rules, patch_key(), source_key(), ",".join(settings.aside), task.machine,
               task.vcpus, task.strategy, task.seed, task.operations, task.length, task.depth, result.operations, result.states,
               result.depth, result.skipped, result.abandoned, result.complete_depth, int(result.exhausted), result.seconds,
               "finding" if finding else "exhausted" if result.exhausted else "nothing")
        try:
            self.db.execute("BEGIN IMMEDIATE")
            if finding:
                number, new = self._enter(settings, task, finding)
            self.db.execute("INSERT OR REPLACE INTO searched VALUES (" + ",".join("?" * 24) + ")",
                            (*row, number, worker or socket.gethostname(), time.time()))
            self.db.execute("COMMIT")
        except sqlite3.Error as error:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise LedgerError(f"{self.path}: {error}") from None
        return new

    def _enter(self, settings, task, finding):
        known = finding["deviation"] if finding.get("withheld") else None
        cause = f"{settings.rules}|{patch_key()}|{known or finding['shape']}"
        row = self.db.execute("SELECT id FROM findings WHERE cause=?", (cause,)).fetchone()
        if row:
            self.db.execute("UPDATE findings SET met=met+1 WHERE id=?", row)
            return row[0], False
        text = finding.pop("text", "")
        cursor = self.db.execute(
            "INSERT INTO findings VALUES (NULL," + ",".join("?" * 13) + ")",
            (cause, settings.rules, patch_key(), source_key(), task.machine, task.vcpus, finding.get("rule"),
             finding.get("deviation"), finding.get("script"), text, json.dumps(finding), 1, time.time()))
        return cursor.lastrowid, True

    def totals(self):
        """Sums: a list of dictionaries, one for each rules, patch, sources, set-aside set, machine, vCPUs and strategy."""
        return self._rows("""SELECT rules, patch, source, aside, machine, vcpus, strategy, count(*) AS tasks,
            sum(operations) AS operations, sum(states) AS states, max(depth) AS depth, max(complete_depth) AS complete_depth,
            max(exhausted) AS exhausted, min(seed) AS first_seed, max(seed) AS last_seed, sum(seconds) AS seconds,
            sum(skipped) AS skipped, sum(abandoned) AS abandoned, sum(result = 'finding') AS findings
            FROM searched GROUP BY rules, patch, source, aside, machine, vcpus, strategy
            ORDER BY rules, patch, source, aside, strategy, machine, vcpus""")

    def findings(self):
        """Causes, the most frequent first."""
        return self._rows("SELECT * FROM findings ORDER BY met DESC, id")

    def _rows(self, query):
        try:
            cursor = self.db.execute(query)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor]
        except sqlite3.Error as error:
            raise LedgerError(f"{self.path}: {error}") from None


def finding_of(row):
    """A finding of the ledger as JSON has it, with its text."""
    return json.loads(row["document"]) | {"text": row["text"], "met": row["met"]}


def show(path, as_json=False, out=None):
    """Body of `check --ledger FILE`: print the totals; 1 if there is a finding."""
    import sys
    out = out or sys.stdout
    book = Ledger(path, create=False)
    totals, findings = book.totals(), book.findings()
    book.close()
    if as_json:
        print(json.dumps({"totals": totals, "operations": sum(t["operations"] for t in totals),
                          "states": sum(t["states"] for t in totals), "seconds": sum(t["seconds"] for t in totals),
                          "findings": [finding_of(f) for f in findings]}, indent=2), file=out)
        return 1 if findings else 0
    group = None
    for t in totals:
        this = t["rules"], t["patch"], t["source"], t["aside"]
        if this != group:
            group = this
            aside = "nothing" if not t["aside"] else f"{t['aside'].count(',') + 1} deviations"
            print(f"{t['rules']}, {'patch ' + t['patch'] if t['patch'] else 'no patch'}, sources {t['source']}, {aside} set "
                  "aside", file=out)
            print(f"  {'machine':<10}{'vcpus':>5}  {'strategy':<11}{'tasks':>6}{'operations':>16}{'states':>14}{'depth':>6}  "
                  "seeds", file=out)
        seeds = f"{t['first_seed']}..{t['last_seed']}" if t["strategy"] != "exhaustive" else f"all of {t['complete_depth']}"
        print(f"  {t['machine']:<10}{t['vcpus']:>5}  {t['strategy']:<11}{t['tasks']:>6}{t['operations']:>16,}{t['states']:>14,}"
              f"{t['depth']:>6}  {seeds}", file=out)
    seconds = sum(t["seconds"] for t in totals)
    operations = sum(t["operations"] for t in totals)
    print(f"{operations:,} operations in {sum(t['tasks'] for t in totals):,} tasks, {seconds:,.0f} s of work"
          + (f", {operations / seconds:,.0f}/s each worker" if seconds else ""), file=out)
    print(f"{len(findings)} causes of findings" if findings else "nothing found", file=out)
    for f in findings:
        print(f"\n[{f['id']}] met {f['met']} times: {f['cause'].split('|')[-1]}", file=out)
        if f["script"]:
            print(*("    " + line for line in f["script"].rstrip().splitlines()), sep="\n", file=out)
    return 1 if findings else 0


