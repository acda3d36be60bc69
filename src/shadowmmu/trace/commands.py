# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowmmu trace show | rebuild | diff | doctor`: the tools of this room at the command line.

    exit code  0 done, nothing found      1 a difference or an impossible transition      2 the file cannot be read

Each command is a plain function of paths, options and an output stream; the typer objects below only translate.
Output is at most `WIDTH` columns where it is prose, so that it can go into a mail; --json is for programs.
"""

import json
import sys
import textwrap
from collections import Counter
from typing import Annotated, Optional

import typer

from . import export
from .diff import diff as compare_traces
from .doctor import examine
from .errors import TraceError
from .reader import open_trace
from .rebuild import rebuild as rebuild_forest

WIDTH = 100
OK, FOUND, BAD_FILE = 0, 1, 2


def source(path):
    """What `open_trace` opens for a path of the command line: - is standard input."""
    return sys.stdin.buffer if path == "-" else path


def _wrapped(text, indent=""):
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")


def _say_notes(reader, out):
    for note in reader.notes:
        print(_wrapped(f"note: {note}"), file=out)
    if reader.stopped:
        print(_wrapped(f"stopped: {reader.stopped}; what came before is shown"), file=out)


def _selected(reader, events, cpu, pid, first, last, gfn):
    """Records that pass the filters.  first, last: line numbers."""
    for record in reader:
        if last is not None and record.line > last:
            return
        if first is not None and record.line < first:
            continue
        if events and not any(record.event == name or record.event.endswith("_" + name) for name in events):
            continue
        if cpu not in (None, record.cpu) or pid not in (None, record.pid):
            continue
        if gfn is not None and record.fields.get("gfn") != gfn:
            continue
        yield record


def show(path, out, *, events=(), cpu=None, pid=None, first=None, last=None, gfn=None, limit=None, count=False,
         as_json=False, parquet=None, kernel=None, progress=None, err=None):
    """Print records, a table of counts, JSON lines, or write Parquet.  Returns the exit code.

    events  names, or their ends ("set_spte"); cpu, pid, first, last (lines), gfn restrict further
    limit   at most so many records;  count  a table of events instead;  parquet  path to write
    err     stream for notes when `out` carries JSON
    """
    err = err or sys.stderr
    with open_trace(path, kernel, progress) as reader:
        records = _selected(reader, events, cpu, pid, first, last, gfn)
        if limit is not None:
            records = (record for _i, record in zip(range(limit), records, strict=False))
        if count:
            counts = Counter(record.event for record in records)
            if as_json:
                print(json.dumps(dict(counts.most_common())), file=out)
            else:
                for name, number in counts.most_common():
                    print(f"{number:>12}  {name}", file=out)
        elif parquet:
            number, paths = export.write_parquet(records, parquet)
            where = paths[0] if len(paths) == 1 else f"{len(paths)} files of {parquet}"
            print(f"{number} records in {where}", file=out)
        elif as_json:
            export.write_json_lines(records, out)
        else:
            for record in records:
                time = "" if record.time is None else f"{record.time / 1e9:.6f}"
                print(f"{record.line:>8} {time:>14} [{record.cpu:03}] {record.text}", file=out)
        _say_notes(reader, err if as_json else out)
        return OK


def rebuild(path, out, *, line=None, pid=None, as_json=False, kernel=None, progress=None, err=None):
    """Print the shadow pages that exist after `line` (None: at the end).  Returns the exit code."""
    with open_trace(path, kernel, progress) as reader:
        forest = rebuild_forest(reader, line, pid)
        if as_json:
            print(json.dumps(forest.to_dict()), file=out)
        else:
            print(forest.text(), file=out)
            for at, text, _page in forest.switches[-4:]:
                print(f"line {at}: {text} (inferred)", file=out)
        _say_notes(reader, (err or sys.stderr) if as_json else out)
    return OK


def diff(path_a, path_b, out, *, events=None, fold=False, as_json=False, kernel=None, progress=None, err=None):
    """Print the first difference of two traces.  Returns 1 if there is one."""
    with open_trace(path_a, kernel, progress) as a, open_trace(path_b, kernel, progress) as b:
        result = compare_traces(a, b, set(events) if events else None, fold)
        if as_json:
            print(json.dumps(vars(result)), file=out)
        else:
            for name, path in (("A", path_a), ("B", path_b)):
                print(f"{name}: {path}", file=out)
            print(result.text(), file=out)
        for reader in (a, b):
            _say_notes(reader, (err or sys.stderr) if as_json else out)
    return FOUND if result.different else OK


def doctor(path, out, *, pid=None, as_json=False, kernel=None, progress=None):
    """Print impossible and suspicious transitions.  Returns 1 if something impossible was seen."""
    with open_trace(path, kernel, progress) as reader:
        result = examine(reader, pid)
    if as_json:
        print(json.dumps(result.to_dict()), file=out)
        return OK if result.healthy else FOUND
    for finding in result.findings:
        print(_wrapped(f"line {finding.line}: {finding.severity}: {finding.rule}: {finding.text}"), file=out)
    if result.more:
        print(f"and {result.more} more", file=out)
    print(f"{result.records} events, {len(result.findings) + result.more} findings"
          f"{'' if result.healthy else ', some impossible'}", file=out)
    if result.unparsed:
        print(f"{result.unparsed} lines of known events have an unknown form", file=out)
    if result.unplaced:
        print(f"{result.unplaced} lines could not be placed (no gfn in them)", file=out)
    for note in result.notes:
        print(_wrapped(f"note: {note}"), file=out)
    if result.stopped:
        print(_wrapped(f"stopped: {result.stopped}; what came before was examined"), file=out)
    return OK if result.healthy else FOUND


# -- typer

app = typer.Typer(help="Read real kernels' kvmmmu traces.", no_args_is_help=True)

File = Annotated[str, typer.Argument(help="trace text, trace-cmd report, or trace.dat; may be gzipped; - is stdin")]
Kernel = Annotated[Optional[str], typer.Option(help="kernel version for roles (detected)")]  # noqa: UP045
Json = Annotated[bool, typer.Option("--json", help="for programs")]
Pid = Annotated[Optional[int], typer.Option(help="only this thread")]  # noqa: UP045
Number = Annotated[Optional[int], typer.Option()]  # noqa: UP045


class Progress:
    """Bytes read so far on standard error, if that is a terminal."""

    STEP = 1 << 25

    def __init__(self):
        self.next = self.STEP
        self.on = sys.stderr.isatty()

    def __call__(self, done):
        if self.on and done >= self.next:
            self.next = done + self.STEP
            print(f"\r{done >> 20} MB", end="", file=sys.stderr, flush=True)


def finish(function, *arguments, **options):
    """Run a command, turn a TraceError into one line and exit code 2, a closed pipe into silence."""
    try:
        code = function(*arguments, **options)
        sys.stdout.flush()
    except TraceError as error:
        print(f"error: {error}", file=sys.stderr)
        code = BAD_FILE
    except BrokenPipeError:
        sys.stderr.close()
        code = OK
    raise typer.Exit(code)


@app.command("show")
def _show(path: File, event: Annotated[Optional[list[str]], typer.Option(help="event name; repeatable")] = None,  # noqa: UP045
          cpu: Number = None, pid: Pid = None, first: Number = None, last: Number = None,
          gfn: Annotated[Optional[str], typer.Option(help="hex")] = None,  # noqa: UP045
          limit: Number = None, count: Annotated[bool, typer.Option(help="a table of events")] = False,
          as_json: Json = False, parquet: Annotated[Optional[str], typer.Option(help="write a Parquet file")] = None,  # noqa: UP045
          kernel: Kernel = None):
    """Print events, filtered; or count them, or write them as JSON lines or Parquet."""
    try:
        number = None if gfn is None else int(gfn, 16)
    except ValueError:
        raise typer.BadParameter(f"{gfn!r} is no hex number") from None
    finish(show, source(path), sys.stdout, events=tuple(event or ()), cpu=cpu, pid=pid, first=first, last=last,
           gfn=number, limit=limit, count=count, as_json=as_json, parquet=parquet, kernel=_known(kernel),
           progress=Progress())


@app.command("rebuild")
def _rebuild(path: File, line: Annotated[Optional[int], typer.Option(help="stop after this line")] = None,  # noqa: UP045
             pid: Pid = None, as_json: Json = False, kernel: Kernel = None):
    """Show the shadow pages at a line."""
    finish(rebuild, source(path), sys.stdout, line=line, pid=pid, as_json=as_json, kernel=_known(kernel),
           progress=Progress())


@app.command("diff")
def _diff(a: File, b: File, event: Annotated[Optional[list[str]], typer.Option(help="only these")] = None,  # noqa: UP045
          fold: Annotated[bool, typer.Option(help="7.x print formats as 6.x")] = False, as_json: Json = False,
          kernel: Kernel = None):
    """The first difference of two traces, both sides in words."""
    finish(diff, source(a), source(b), sys.stdout, events=event, fold=fold, as_json=as_json, kernel=_known(kernel),
           progress=Progress())


@app.command("doctor")
def _doctor(path: File, pid: Pid = None, as_json: Json = False, kernel: Kernel = None):
    """Impossible transitions, with line numbers."""
    finish(doctor, source(path), sys.stdout, pid=pid, as_json=as_json, kernel=_known(kernel), progress=Progress())


def _known(kernel):
    """A kernel option that names a version, or a usage error."""
    from .layouts import layout_of

    if kernel is not None:
        try:
            layout_of(kernel)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    return kernel
