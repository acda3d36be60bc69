# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands behind `shadowmmu check`: the command's options in, its output and exit code out.

    0  nothing found; how much was searched is printed       1  a finding       2  the question cannot be answered
    130  interrupted; the state is saved

    options --> judge | replay | ledger | campaign | search in this process
"""

import os
import sys
import time

from . import blackbox, crash, known, ops, report, saved, search, tasks
from .finding import explain, minimal
from .geometry import MACHINES, Arena
from .saved import SavedError, Totals
from .tasks import Settings, SettingsError

#: Seconds between two writes of the state, and how much longer than a write they are at least.
SAVE_EVERY, SAVE_SHARE = 10.0, 20
#: A script is a page of text, not a log.
MAX_SCRIPT = 1 << 18


class CheckError(Exception):
    """The options do not make sense; the message says which and why."""


USER_ERRORS = (CheckError, SettingsError, SavedError, ops.ScriptError)


def aside_names(aside, sought):
    """Deviations to set aside: all, without those of --with, with those of --aside."""
    for name in (*aside, *sought):
        if name not in (*known.DEVIATIONS, "all"):
            raise CheckError(f"no known deviation {name!r}; there is all, {', '.join(known.DEVIATIONS)}")
    names = set() if "all" in sought else set(known.DEVIATIONS) - set(sought)
    names |= set(known.DEVIATIONS) if "all" in aside else set(aside)
    return tuple(name for name in known.DEVIATIONS if name in names)


def read_script(path):
    """A script file; one line of error for everything that is none."""
    text = saved.read_text(path, MAX_SCRIPT)
    try:
        script = ops.parse(text)
        Settings(script.rules, (script.machine,), (script.vcpus,)).check()
    except (ops.ScriptError, SettingsError) as error:
        raise CheckError(f"{path}: {str(error).replace('--', '')}") from None
    if not script.rows:
        raise CheckError(f"{path}: no operations")
    return script


def write_reproducer(path, finding, err):
    """The C program for a finding, if there may be one."""
    from . import reproducer
    try:
        text = reproducer.program(finding)
    except reproducer.NotForGuests as error:
        print(f"no reproducer: {error}", file=err)
        return
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        raise CheckError(f"cannot write {path}: {error.strerror}") from None
    print(f"reproducer in the style of kvm-unit-tests: {path}", file=err)


def replayed(script, aside=None):
    """The Finding of a script, or None.  aside: names, or None: first with all known deviations set aside, then with none."""
    return _replay(script, aside)[0]


def _replay(script, aside):
    """(Finding or None, operations done, names that were set aside)."""
    for names in ((tuple(known.DEVIATIONS), ()) if aside is None else (tuple(aside),)):
        arena = Arena(MACHINES[script.machine], script.rules, script.vcpus, copies=2, aside=known.mask(names))
        blackbox.note_rows(arena, script.rows)
        failure, done = search.replay(arena, script.rows)
        blackbox.rest()
        if failure:
            return explain(arena, script.rows[:done], failure), done, names
    return None, done, names


def replay(path, *, aside=None, as_json=False, reproducer=None, out=sys.stdout, err=sys.stderr):
    """Run a script.  aside: names, or None: first with all known deviations set aside, then with none."""
    script = read_script(path)
    started = time.monotonic()
    finding, done, names = _replay(script, aside)
    p = Totals(script.machine, script.vcpus, done, done, done, time.monotonic() - started)
    settings = Settings(script.rules, (script.machine,), (script.vcpus,), tuple(names))
    report.result(settings, [p], [finding] if finding else [], p.seconds, as_json, out,
                  title=f"replay of {path}")
    if finding and reproducer:
        write_reproducer(reproducer, finding, err)
    return 1 if finding else 0


def totals_of(plan):
    """Totals of a plan, both ways of searching a machine together."""
    out = {}
    for row, lane, seconds in zip(plan.bounds(), plan.lanes, plan.spent):
        if lane is None:
            continue
        t = out.setdefault((row["machine"], row["vcpus"]), Totals(row["machine"], row["vcpus"]))
        p = search.Progress()
        p.take(lane)
        t.operations, t.states, t.depth = t.operations + p.operations, t.states + p.states, max(t.depth, p.depth)
        t.skipped, t.abandoned = t.skipped + p.skipped, t.abandoned + p.abandoned
        t.covered |= p.covered
        t.seconds += seconds
        if row["mode"] == "exhaustive":
            t.complete_depth, t.exhausted = row["complete_depth"], row["exhausted"]
    return list(out.values())


class _Planned:
    """A search in this process that goes through the portfolio's plan."""

    def __init__(self, settings, resume, seconds, operations, err):
        self.path, self.seconds, self.operations = resume or saved.default_path(settings), seconds, operations
        self.progress, self.writing = report.Progress(err), 0.0
        if resume and os.path.exists(resume):
            self.settings, self.plan = saved.load(resume, self.step)
        else:
            self.settings, self.plan = settings, saved.new_plan(settings, self.step)
            if resume:
                self.save()
        self.before = self.plan.progress().operations
        self.started = self.written = time.monotonic()

    def spent(self):
        """Seconds so far."""
        return time.monotonic() - self.started

    def step(self, p):
        """After each slice."""
        machine, vcpus, mode = self.plan.names[self.plan.turn]
        self.progress.show(f"{machine} {vcpus} {mode}", p.operations - self.before, p.states, p.depth, p.covered, self.spent(),
                           self.seconds)
        if time.monotonic() - self.written > max(SAVE_EVERY, SAVE_SHARE * self.writing):
            self.save()

    def save(self):
        """Write the state."""
        started = time.monotonic()
        saved.save(self.path, self.settings, self.plan)
        self.written = time.monotonic()
        self.writing = self.written - started

    def run(self):
        """(findings, "found" | "budget" | "done" | "interrupted")."""
        warm(self.plan)
        self.started = time.monotonic()
        try:
            leads = self.plan.run(self.seconds, self.operations)
        except KeyboardInterrupt:
            return [], "interrupted"
        if leads:
            return [self.plan.explain(lead) for lead in leads], "found"
        return [], "done" if len(self.plan.closed) == len(self.plan.names) else "budget"


def warm(plan):
    """Have the core compiled (or read from the cache) before the clock runs: no time of the budget goes to it."""
    for mode in range(2):
        machine, vcpus, _ = plan.names[mode]
        small = search.Search(MACHINES[machine], plan.rules, vcpus)
        small.exhaustive(1, operations=1) if mode else small.random(operations=1)


def check(settings, *, seconds=0, operations=0, resume=None, as_json=False, reproducer=None, out=sys.stdout, err=sys.stderr):
    """Search in this process.  resume: file to continue from and to save to."""
    if not seconds and not operations:
        seconds = 10
    finder = _Planned(settings, resume, seconds, operations, err)
    findings, how = finder.run()
    spent = finder.spent()
    finder.progress.clear()
    finder.save()
    totals = totals_of(finder.plan)
    report.result(finder.settings, totals, findings, spent, as_json, out,
                  operations_now=sum(t.operations for t in totals) - finder.before)
    if findings and reproducer:
        write_reproducer(reproducer, findings[0], err)
    if how == "interrupted":
        print(f"interrupted; state saved; continue with: shadowmmu check --resume {finder.path}", file=err)
        return 130
    if not as_json:
        print(f"state saved; continue with: shadowmmu check --resume {finder.path}", file=out)
    return 1 if findings else 0


def exhaustive(settings, *, seconds=0, operations=0, as_json=False, reproducer=None, out=sys.stdout, err=sys.stderr):
    """`--depth N`: one task after the other, until one finds something or all are done."""
    progress, totals, findings, interrupted = report.Progress(err), [], [], False
    started = time.monotonic()

    def step(task, p):
        progress.show(task.name, p.operations, p.states, p.depth, p.covered, time.monotonic() - started, seconds)

    runner = tasks.Runner(settings, step)
    for i in range(len(settings.pairs)):
        left = seconds - (time.monotonic() - started) if seconds else 0
        if seconds and left <= 0 or operations and sum(t.operations for t in totals) >= operations:
            break
        task = tasks.task(settings, i)
        try:
            result = runner.run(task, left, operations and operations - sum(t.operations for t in totals))
        except KeyboardInterrupt:
            result, interrupted = runner.result(), True
        totals.append(Totals(task.machine, task.vcpus))
        totals[-1].add(result)
        if result.found:
            findings.append(minimal(runner.finder.arena, search.Found(*result.found)))
        if findings or interrupted:
            break
    progress.clear()
    report.result(settings, totals, findings, time.monotonic() - started, as_json, out)
    if findings and reproducer:
        write_reproducer(reproducer, findings[0], err)
    if interrupted:
        print("interrupted; an exhaustive search of this kind is not kept: use --ledger for one that is", file=err)
        return 130
    return 1 if findings else 0


def command(*, rules=None, machine=(), vcpus=(), seconds=0.0, operations=0, depth=0, seed=None, length=None, aside=(), sought=(),
            replay_file=None, judge_file=None, resume=None, workers=None, scheduler=None, ledger=None, as_json=False,
            reproducer=None):
    """Body of the command; returns the exit code, raises one of USER_ERRORS."""
    modes = [name for name, value in (("--replay", replay_file), ("--judge", judge_file)) if value]
    chosen = [name for name, value in (("--rules", rules), ("--machine", machine), ("--vcpus", vcpus), ("--depth", depth),
                                       ("--seed", seed), ("--length", length)) if value]
    budget = [name for name, value in (("--seconds", seconds), ("--operations", operations)) if value]
    campaign = workers is not None or scheduler is not None
    if len(modes) > 1:
        raise CheckError("--replay and --judge exclude each other")
    if modes and (chosen or budget or campaign or resume or ledger):
        wrong = (chosen + budget + ["--workers or --scheduler"] * campaign + ["--resume"] * bool(resume)
                 + ["--ledger"] * bool(ledger))[0]
        raise CheckError(f"{wrong} has no meaning with {modes[0]}: the script says what it runs on")
    for name, value in (("--seconds", seconds), ("--operations", operations), ("--depth", depth)):
        if value < 0:
            raise CheckError(f"{name} {value}: must be positive")
    if campaign and resume:
        raise CheckError("--resume is for a search in this process; a campaign continues from its --ledger")
    if judge_file:
        from . import judge_command
        return judge_command.command(judge_file, as_json=as_json)
    names = aside_names(aside, sought)
    if replay_file:
        return crash.guarded(
            lambda: replay(replay_file, aside=names if aside or sought else None, as_json=as_json, reproducer=reproducer),
            lambda found: report.lost(f"replay of {replay_file}", found, as_json))
    if ledger and not campaign and not chosen and not budget and not aside and not sought:
        from . import ledger as ledgers
        return ledgers.show(ledger, as_json)
    settings = Settings(rules or Settings.rules, tuple(machine) or Settings.machines, tuple(vcpus) or Settings.vcpus, names,
                        Settings.seed if seed is None else seed, Settings.length if length is None else length, depth)
    settings.check()
    if campaign or ledger:
        from . import campaign as campaigns
        return campaigns.command(settings, seconds=seconds, operations=operations, workers=workers, scheduler=scheduler,
                                 ledger=ledger, as_json=as_json, reproducer=reproducer)
    if resume and (chosen or aside or sought) and os.path.exists(resume):
        raise CheckError(f"--resume {resume}: the file says what is searched; leave out {(chosen or ['--aside/--with'])[0]}")
    if depth:
        if resume:
            raise CheckError("--resume is for the search without --depth; a campaign (--ledger FILE) keeps exhaustive tasks")
        return crash.guarded(
            lambda: exhaustive(settings, seconds=seconds, operations=operations, as_json=as_json, reproducer=reproducer),
            lambda found: report.lost("the search", found, as_json))
    return crash.guarded(
        lambda: check(settings, seconds=seconds, operations=operations, resume=resume, as_json=as_json, reproducer=reproducer),
        lambda found: report.lost("the search", found, as_json))
