# SPDX-License-Identifier: GPL-2.0-or-later
"""A search by many processes, on this machine or on a cluster, that a crash of any of them does not set back.

    tasks (plan) --submit--> dask workers --Result--> ledger (SQLite, this process only)
                                 |
                                 one variant a process: a worker with other sources or another patch starts a child
                                 with the patch in its environment

Two tasks for each worker are under way; when one ends its row is written, then the next is sent.  kill -9 of a worker: dask
gives its tasks to another (or to the one that the nanny starts).  kill -9 of the campaign: the next run with this ledger
skips what has a row and does the rest.  Ctrl-C: tasks under way are dropped, the ledger stays.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from ..state import PATCH
from . import report, saved, search, tasks
from .finding import minimal
from .ledger import Ledger, finding_of
from .saved import SavedError, Totals
from .tasks import Result, Settings, Task, patch_key, source_key

#: Seconds that a campaign searches when nothing else is said.
DEFAULT_SECONDS = 60.0
#: Tasks under way for each worker: the next one is there when one ends.
AHEAD = 2
CONNECT_TIMEOUT = "10s"


class CampaignError(SavedError):
    """A campaign that cannot start; the message says why."""


# ---- on a worker

def do(document, in_child=False):
    """Do one task.  document, and what is returned: plain data (`order`, `answer`)."""
    if document["source"] != source_key():
        raise CampaignError(f"the worker has other sources of shadowmmu ({source_key()}, the campaign {document['source']})")
    if patch_key(document["patch"]) != patch_key():
        if in_child:
            raise CampaignError(PATCH.problem or "the campaign's patch reads differently here")
        return do_in_child(document)
    settings = Settings.from_dict(document["settings"])
    runner = tasks.Runner(settings)
    result = runner.run(Task(**document["task"]))
    if result.found:
        finding = minimal(runner.finder.arena, search.Found(*result.found))
        result.finding = finding.as_dict() | {"text": finding.text()}
    return answer(result)


def do_in_child(document):
    """The same in a process of its own that has the patch; it dies with this one."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as patch:
        patch.write(document["patch"])
        patch.flush()
        environment = dict(os.environ, SHADOWMMU_PATCH=patch.name if document["patch"] else "")
        done = subprocess.run([sys.executable, "-m", "shadowmmu.checker.campaign"], input=json.dumps(document), text=True,
                              capture_output=True, env=environment)
    if done.returncode:
        raise CampaignError((done.stderr.strip().splitlines() or ["the worker's child died"])[-1])
    return json.loads(done.stdout)


def die_with_parent():
    """Linux: this process is killed when its parent is."""
    import ctypes
    import signal
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def order(settings, task):
    """A task as plain data."""
    return {"settings": settings.as_dict(), "task": vars(task), "patch": PATCH.text, "source": source_key()}


def answer(result):
    """A Result as plain data."""
    out = dict(vars(result), task=vars(result.task))
    out.pop("found")
    return out


def result_of(document):
    """The inverse of `answer`."""
    return Result(**dict(document, task=Task(**document["task"])))


# ---- the campaign

class Campaign:
    """Hands out tasks until the budget is used up, and keeps the ledger."""

    def __init__(self, settings, ledger, client, seconds, operations, progress):
        self.settings, self.ledger, self.client = settings, ledger, client
        self.seconds, self.operations, self.progress = seconds, operations, progress
        self.next, self.skipped, self.lost = 0, 0, 0
        self.totals, self.new = {}, []
        self.started = time.monotonic()

    def next_task(self):
        """The next task that has no row, or None."""
        while True:
            task = tasks.task(self.settings, self.next)
            self.next += 1
            if task is None or not self.ledger.done(self.settings, task):
                return task
            self.skipped += 1

    def workers(self):
        """Workers there are now."""
        return max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))

    def over(self):
        """Is the budget used up?"""
        done = sum(t.operations for t in self.totals.values())
        spent = time.monotonic() - self.started
        return bool(self.seconds and spent >= self.seconds or self.operations and done >= self.operations)

    def count(self, result, worker=""):
        """A task has ended: the ledger first."""
        if self.ledger.record(self.settings, result, worker):
            self.new.append(result.finding)
        at = result.task.machine, result.task.vcpus
        self.totals.setdefault(at, Totals(*at)).add(result)

    def run(self):
        """"done", "budget" or "interrupted"."""
        from distributed import as_completed
        waiting = as_completed([])
        under_way, ended = 0, False
        try:
            while True:
                while not ended and not self.over() and under_way < AHEAD * self.workers():
                    task = self.next_task()
                    if task is None:
                        ended = True
                        break
                    waiting.add(self.client.submit(do, order(self.settings, task), pure=False, retries=2))
                    under_way += 1
                if not under_way:
                    return "done" if ended else "budget"
                self.show(under_way)
                future = self._wait(waiting)
                if future is None:
                    continue
                under_way -= 1
                if future.status == "error":
                    raise CampaignError(f"a task failed on its worker: {future.exception()}")
                self.count(result_of(future.result()))
        except KeyboardInterrupt:
            return "interrupted"

    def _wait(self, waiting):
        """The next future that has ended, or None after half a second."""
        if waiting.is_empty():
            time.sleep(0.1)
            return None
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            if waiting.has_ready():
                return next(waiting)
            time.sleep(0.05)
        return None

    def covered(self):
        """The marks that were reached."""
        marks = 0
        for t in self.totals.values():
            marks |= t.covered
        return marks

    def show(self, under_way):
        """The progress line."""
        done = sum(t.operations for t in self.totals.values())
        self.progress.show(f"{self.workers()} workers, {under_way} tasks under way", done,
                           sum(t.states for t in self.totals.values()), max((t.depth for t in self.totals.values()), default=0),
                           self.covered(), time.monotonic() - self.started, self.seconds)


def connect(workers, scheduler):
    """A dask client: of the scheduler at an address, or of a cluster of processes here."""
    import logging

    import dask
    from distributed import Client, LocalCluster
    logging.getLogger("distributed").setLevel(logging.ERROR)
    if scheduler is not None:
        if workers is not None:
            raise CampaignError("--workers and --scheduler exclude each other: the scheduler has its own workers")
        try:
            client = Client(scheduler, timeout=CONNECT_TIMEOUT)
        except (OSError, ValueError, TimeoutError) as error:
            raise CampaignError(f"--scheduler {scheduler}: {str(error).splitlines()[0] if str(error) else 'no answer'}") from None
        if not client.scheduler_info()["workers"]:
            client.close()
            raise CampaignError(f"--scheduler {scheduler}: it has no workers")
        return client, None
    if workers is not None and not 1 <= workers <= 1024:
        raise CampaignError(f"--workers {workers}: 1 to 1024")
    # a worker that dies is started again by its nanny; a task that kills workers is given up after some
    dask.config.set({"distributed.worker.daemon": True, "distributed.scheduler.allowed-failures": 20})
    cluster = LocalCluster(n_workers=workers or 1, threads_per_worker=1, processes=True, dashboard_address=None,
                           silence_logs=logging.CRITICAL)
    return Client(cluster), cluster


def warm(settings):
    """Have the core compiled once, before workers that share the cache begin."""
    machine, vcpus = settings.pairs[0]
    for strategy, depth in (("random", 0), ("exhaustive", 1)):
        tasks.Runner(settings).run(Task(machine, vcpus, strategy, 1, 1, 2, depth))


def command(settings, *, seconds=0, operations=0, workers=None, scheduler=None, ledger=None, as_json=False, reproducer=None,
            out=None, err=None):
    """Body of `check --workers/--scheduler`, and of a search with --ledger."""
    out, err = out or sys.stdout, err or sys.stderr
    if not seconds and not operations and not settings.depth:
        seconds = DEFAULT_SECONDS
    path = ledger or saved.default_path(settings).removesuffix(".plan") + ".ledger"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    book = Ledger(path)
    if scheduler is None:
        warm(settings)
    client, cluster = connect(workers, scheduler)
    campaign = Campaign(settings, book, client, seconds, operations, report.Progress(err))
    try:
        how = campaign.run()
    finally:
        campaign.progress.clear()
        client.close()
        if cluster is not None:
            cluster.close()
    spent = time.monotonic() - campaign.started
    total = book.totals()
    met = [finding_of(f) for f in book.findings() if f["rules"] == settings.rules and f["patch"] == patch_key()]
    book.close()
    report.result(settings, list(campaign.totals.values()), met, spent, as_json, out)
    if not as_json:
        print(f"ledger {path}: {sum(t['operations'] for t in total):,} operations in {sum(t['tasks'] for t in total):,} tasks"
              + (f"; {campaign.skipped:,} of them were there already" if campaign.skipped else ""), file=out)
    if met and reproducer:
        print("no reproducer from a campaign: --replay the script with --reproducer", file=err)
    if how == "interrupted":
        print(f"interrupted; finished tasks are kept; continue with the same command and --ledger {path}", file=err)
        return 130
    return 1 if met else 0


def child():
    """A worker's child: one order on standard input, the answer on standard output."""
    die_with_parent()
    print(json.dumps(do(json.load(sys.stdin), in_child=True)))


if __name__ == "__main__":
    child()
