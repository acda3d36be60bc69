#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock Debian kernel on the shadow MMU: fetch it with the package manager, build an initramfs, run, check.

    apt-get download --> build/linux/*.deb --dpkg-deb -x--> vmlinuz, busybox --> initrd-*.cpio --> shadowmmu run

    make linux-demo        the cloud kernel, once                  python demos/linux/run.py
    make test-linux        all variants                            python demos/linux/run.py --all
                           twenty runs, with a summary             python demos/linux/run.py plain --times 20 --quiet

Nothing that is fetched is kept outside build/.  The checksums in the initramfs are computed here; the guest
compares.  Times are wall-clock seconds since the start of the command.  The guest's clock is virtual and nobody types:
all runs of a variant write the same console and execute the same number of instructions.
"""

import argparse
import hashlib
import os
import pathlib
import random
import re
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import time
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "linux"
HERE = pathlib.Path(__file__).resolve().parent

#: variant: (architecture, kernel package, command line, options of `shadowmmu run`)
CLOUD, PAE = "linux-image-cloud-amd64", "linux-image-686-pae"
VARIANTS = {
    "plain": ("amd64", CLOUD, "", ()),
    "pti": ("amd64", CLOUD, "pti=on", ()),
    "nopti": ("amd64", CLOUD, "nopti", ()),
    "pcid": ("amd64", CLOUD, "", ("--pcid",)),
    "pti-pcid": ("amd64", CLOUD, "pti=on", ("--pcid",)),
    "entry32": ("amd64", CLOUD, "", ("--entry", "linux32")),
    "vmlinux": ("amd64", CLOUD, "", ("--entry", "linux64")),
    "pvh": ("amd64", CLOUD, "", ("--entry", "pvh")),
    "smp": ("amd64", CLOUD, "", ("--vcpus", "2")),
    "pae": ("i386", PAE, "", ()),
}
UNPACKED = ("vmlinux", "pvh")
#: The line behind the guest's last.
END = "the guest switched the machine off"
MAGIC = {b"\x28\xb5\x2f\xfd": ("zstd", "-dcq"), b"\x02\x21\x4c\x18": ("lz4", "-dcq"), b"\xfd7zX": ("xz", "-dcq"),
         b"\x1f\x8b\x08\x00": ("gzip", "-dcq")}


def run(*command, **options):
    """Run a command; its failure ends the program with one line."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout
    except FileNotFoundError:
        sys.exit(f"linux-demo: {command[0]} is not installed")
    except subprocess.CalledProcessError as error:
        sys.exit(f"linux-demo: {' '.join(command)}: {(error.stderr.strip() or 'failed').splitlines()[-1]}")


def apt_environment(architecture):
    """An apt of its own for a foreign architecture, so that the system's configuration stays as it is."""
    native = run("dpkg", "--print-architecture").strip()
    if architecture == native:
        return os.environ
    state = BUILD / f"apt-{architecture}"
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "state/status").touch()
    (state / "apt.conf").write_text(
        f'APT::Architecture "{architecture}";\nAPT::Architectures {{"{architecture}";}};\n'
        f'Dir::State "{state}/state";\nDir::State::status "{state}/state/status";\nDir::Cache "{state}/cache";\n')
    return {**os.environ, "APT_CONFIG": str(state / "apt.conf")}


def fetch(architecture, package):
    """(kernel file, busybox file), fetched once."""
    place = BUILD / architecture
    kernels, busybox = sorted(place.glob("boot/vmlinuz-*")), place / "bin/busybox"
    if not kernels or not busybox.exists():
        place.mkdir(parents=True, exist_ok=True)
        environment = apt_environment(architecture)
        print(f"fetching {package} and busybox-static ({architecture}) ...", flush=True)
        subprocess.run(["apt-get", "update"], env=environment, capture_output=True)
        depends = run("apt-cache", "depends", package, env=environment)
        real = re.search(r"Depends: (linux-image-\S+)", depends)
        run("apt-get", "download", real.group(1) if real else package, "busybox-static", cwd=place, env=environment)
        for deb in place.glob("*.deb"):
            run("dpkg-deb", "-x", str(deb), str(place))
            deb.unlink()
        shutil.rmtree(place / "lib", ignore_errors=True)
        kernels = sorted(place.glob("boot/vmlinuz-*"))
    return kernels[-1], busybox


def unpack(kernel):
    """The vmlinux inside a bzImage, by its header's payload fields."""
    out = kernel.with_name(kernel.name.replace("vmlinuz", "vmlinux"))
    if not out.exists():
        data = kernel.read_bytes()
        offset, length = struct.unpack_from("<II", data, 0x248)
        start = (data[0x1F1] + 1) * 512 + offset
        payload = data[start:start + length]
        tool = MAGIC.get(payload[:4])
        if tool is None:
            sys.exit(f"linux-demo: {kernel.name}: payload of unknown compression {payload[:4].hex()}")
        # the last four bytes are the unpacked size, which the legacy formats do not know
        unpacked = subprocess.run(tool, input=payload[:-4], capture_output=True)
        if unpacked.stdout[:4] != b"\x7fELF":
            sys.exit(f"linux-demo: {tool[0]} did not unpack {kernel.name} (is it installed?)")
        out.write_bytes(unpacked.stdout)
    return out


def archive(busybox):
    """The initramfs: busybox, init, files of random bytes and their checksums (newc format)."""
    chance = random.Random(2007)
    files = {f"data/{n}": chance.randbytes(chance.randrange(1 << 20)) for n in range(4)}
    files["bin/busybox"] = busybox.read_bytes()
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    files |= {"sums": sums.encode(), "init": (HERE / "init.sh").read_bytes()}
    out, number = b"", 0

    def entry(name, mode, data=b"", device=(0, 0)):
        nonlocal out, number
        number += 1
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        out += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    for folder in ("bin", "data", "dev", "proc", "tmp"):
        entry(folder, 0o40755)
    entry("dev/console", 0o20600, device=(5, 1))
    for name, data in files.items():
        entry(name, 0o100755, data)
    entry("TRAILER!!!", 0)
    return out


class Failed(Exception):
    """The guest did not end as it should."""


@dataclass
class Result:
    """marks: {mark: wall-clock seconds}; cpu: seconds of the process; instructions; console: all that the guest wrote."""

    marks: dict
    cpu: float
    instructions: int
    console: str


def one_run(variant, kernel, initrd, forks, extra, show, timeout):
    """Run one guest.  Raises Failed."""
    _, _, append, options = VARIANTS[variant]
    command = [sys.executable, "-m", "shadowmmu", "run", str(kernel), "--initrd", str(initrd), "--append",
               f"console=ttyS0 FORKS={forks} {append}", "--timeout", str(timeout), *options, *extra]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace",
                               env=environment)
    started, marks, lines = time.monotonic(), {}, []
    for line in process.stdout:
        lines.append(line)
        if show:
            print(line, end="", flush=True)
        mark = re.search(r"MARK (\w+(?: begin| end)?)(.*)", line)
        if mark:
            marks[mark.group(1)] = time.monotonic() - started
    code = process.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code or "done" not in marks:
        raise Failed(f"{''.join(lines[-40:])}linux-demo: {variant}: the guest did not end as it should (exit code {code})")
    text = "".join(lines)
    console, _, report = text.partition(END)
    count = re.search(r"guest instructions +([0-9,]+)", report)
    return Result(marks, used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
                  int(count.group(1).replace(",", "")) if count else 0, console)


def line_about(variant, number, result, forks):
    marks = result.marks
    forking = marks["forks end"] - marks["forks begin"]
    return (f"{variant:<9} run {number}: init after {marks['init']:.1f} s, {forks / forking:.0f} fork+exec/s, checksums equal, "
            f"off after {marks['done']:.1f} s, {result.cpu:.1f} s CPU, {result.instructions:,} instructions")


def summary(variant, results, times, forks):
    """What several runs have in common; True when all ended well and alike."""
    if not results:
        print(f"{variant}: 0 of {times} runs ended right")
        return False
    init, cpu = [r.marks["init"] for r in results], [r.cpu for r in results]
    rate = [forks / (r.marks["forks end"] - r.marks["forks begin"]) for r in results]
    alike = len({(r.instructions, r.console) for r in results}) == 1
    print(f"{variant}: {len(results)} of {times} runs ended right, checksums equal; init after {min(init):.1f} to "
          f"{max(init):.1f} s (median {statistics.median(init):.1f}), fork+exec/s {min(rate):.0f} to {max(rate):.0f} (median "
          f"{statistics.median(rate):.0f}), {statistics.median(cpu):.1f} s CPU each")
    print(f"{variant}: console and instruction count {'equal in all runs' if alike else 'DIFFER between runs'}")
    return len(results) == times and alike


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--all", action="store_true", help="every variant")
    parser.add_argument("--times", type=int, default=1, help="how often; with a summary, which also says whether all were alike")
    parser.add_argument("--forks", type=int, default=100, help="fork+exec pairs in the guest")
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--quiet", action="store_true", help="no guest console")
    parser.add_argument("--extra", default="", help="more options for shadowmmu run")
    options = parser.parse_args()
    if options.times < 1 or options.forks < 1:
        parser.error("--times and --forks begin at 1")
    good = True
    for variant in list(VARIANTS) if options.all else options.variants or ["plain"]:
        if variant not in VARIANTS:
            parser.error(f"no variant {variant!r}")
        architecture, package, _, _ = VARIANTS[variant]
        kernel, busybox = fetch(architecture, package)
        kernel = unpack(kernel) if variant in UNPACKED else kernel
        initrd = BUILD / f"initrd-{architecture}.cpio"
        initrd.write_bytes(archive(busybox))
        results = []
        for number in range(1, options.times + 1):
            try:
                result = one_run(variant, kernel, initrd, options.forks, options.extra.split(), not options.quiet,
                                 options.timeout)
            except Failed as failure:
                print(failure, flush=True)
                good = False
                continue
            results.append(result)
            print(line_about(variant, number, result, options.forks), flush=True)
        if options.times > 1:
            good &= summary(variant, results, options.times, options.forks)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
