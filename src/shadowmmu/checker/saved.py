# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a search has come, in a file: written atomically every few seconds, read by `check --resume FILE`.

    {"format": "shadowmmu check", "version": 1, "source": ..., "patch": ..., "settings": {...}, "next": 17, "totals": [...]}

Tasks before `next` are done and counted.  The task that was interrupted is done again from its start, so the continued search
does exactly what an uninterrupted one does.
"""

import json
import os
import pathlib
import tempfile
from dataclasses import dataclass, field

from .. import __version__
from .tasks import Settings, SettingsError, patch_key, source_key

FORMAT, VERSION = "shadowmmu check", 1
#: No file of ours comes near this.
MAX_BYTES = 1 << 20


class SavedError(Exception):
    """A file that cannot be continued from; the message says which and why."""


@dataclass
class Totals:
    """Sums over the tasks of one machine and number of vCPUs.  depth: the longest script; complete_depth: of the exhaustive
    task, -1 without one."""

    machine: str
    vcpus: int
    operations: int = 0
    states: int = 0
    depth: int = 0
    seconds: float = 0.0
    skipped: int = 0
    abandoned: int = 0
    complete_depth: int = -1
    exhausted: bool = False

    def add(self, result):
        """Count a Result."""
        for name in ("operations", "states", "seconds", "skipped", "abandoned"):
            setattr(self, name, getattr(self, name) + getattr(result, name))
        self.depth = max(self.depth, result.depth)
        self.complete_depth = max(self.complete_depth, result.complete_depth)
        self.exhausted |= result.exhausted


@dataclass
class Saved:
    """A search so far."""

    settings: Settings
    next: int = 0
    totals: dict = field(default_factory=dict)

    def count(self, result):
        """A task is done."""
        at = result.task.machine, result.task.vcpus
        self.totals.setdefault(at, Totals(*at)).add(result)
        self.next += 1

    def with_partial(self, result):
        """Totals including a task that is under way."""
        copy = Saved(self.settings, self.next, {at: Totals(**vars(t)) for at, t in self.totals.items()})
        if result is not None:
            copy.count(result)
        return copy


def default_path(settings):
    """Where a search without --resume is kept: one file for each combination of settings, rules and patch."""
    import hashlib
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    text = json.dumps([settings.as_dict(), patch_key()])
    return os.path.join(base, "shadowmmu", f"check-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json")


def save(path, saved):
    """Replace the file as a whole: it is either the old one or the new one.  Raises SavedError."""
    document = {"format": FORMAT, "version": VERSION, "shadowmmu": __version__, "source": source_key(), "patch": patch_key(),
                "settings": saved.settings.as_dict(), "next": saved.next, "totals": [vars(t) for t in saved.totals.values()]}
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, suffix=".new", delete=False) as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)
    except OSError as error:
        raise SavedError(f"cannot write {path}: {error.strerror}") from None


def read_text(path, limit=MAX_BYTES):
    """A small text file; SavedError in one line for everything that is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise SavedError(f"{path}: {error.strerror}") from None
    if len(data) > limit:
        raise SavedError(f"{path}: larger than {limit >> 10} KiB, not a file of this kind")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise SavedError(f"{path}: not a text file") from None
    if "\0" in text:
        raise SavedError(f"{path}: not a text file")
    return text


def load(path):
    """The search in a file.  SavedError if it is damaged or belongs to other sources, rules or another patch."""
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError):
        raise SavedError(f"{path}: not a saved search, or damaged") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise SavedError(f"{path}: not a saved search")
    if document.get("version") != VERSION:
        raise SavedError(f"{path}: version {document.get('version')}, this program reads {VERSION}")
    if document.get("patch") != patch_key():
        raise SavedError(f"{path}: was searched with {'another' if document.get('patch') else 'no'} patch "
                         f"(now {patch_key() or 'none'}, then {document.get('patch') or 'none'})")
    if document.get("source") != source_key():
        raise SavedError(f"{path}: was made by other sources ({document.get('source')}, now {source_key()}); start again")
    try:
        saved = Saved(Settings.from_dict(document["settings"]), document["next"],
                      {(t["machine"], t["vcpus"]): Totals(**t) for t in document["totals"]})
        if type(saved.next) is not int or saved.next < 0:
            raise ValueError
    except SettingsError as error:
        raise SavedError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError):
        raise SavedError(f"{path}: damaged") from None
    return saved
