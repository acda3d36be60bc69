#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock Debian kernel on the shadow MMU: fetch it with the package manager, build an initramfs, run, check.

    apt-get download --> build/linux/*.deb --dpkg-deb -x--> vmlinuz, busybox --> initrd-*.cpio --> shadowmmu run

    make linux-demo        the cloud kernel, once                  python demos/linux/run.py
    make test-linux        all variants                            python demos/linux/run.py --all
                           twenty runs                             python demos/linux/run.py --runs 20

Nothing that is fetched is kept outside build/.  The checksums in the initramfs are computed here; the guest
compares.  Times are wall-clock seconds since the start of the command.
"""

import argparse
import hashlib
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import time

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
    "pae": ("i386", PAE, "", ()),
}
UNPACKED = ("vmlinux", "pvh")
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


def one_run(variant, kernel, initrd, forks, extra, show, timeout):
    """Run one guest; {mark: seconds}.  Exits with a message if the guest did not end as it should."""
    _, _, append, options = VARIANTS[variant]
    command = [sys.executable, "-m", "shadowmmu", "run", str(kernel), "--initrd", str(initrd), "--append",
               f"console=ttyS0 FORKS={forks} {append}", "--timeout", str(timeout), *options, *extra]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace", env=environment)
    started, marks, lines = time.monotonic(), {}, []
    for line in process.stdout:
        lines.append(line)
        if show:
            print(line, end="", flush=True)
        mark = re.search(r"MARK (\w+(?: begin| end)?)(.*)", line)
        if mark:
            marks[mark.group(1)] = time.monotonic() - started
            if mark.group(1).startswith("failed"):
                print(line, end="")
    code = process.wait()
    if code or "done" not in marks:
        sys.stdout.write("".join(lines[-40:]))
        sys.exit(f"linux-demo: variant {variant}: the guest did not end as it should (exit code {code})")
    return marks


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--all", action="store_true", help="every variant")
    parser.add_argument("--runs", type=int, default=1, help="how often")
    parser.add_argument("--forks", type=int, default=100, help="fork+exec pairs in the guest")
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--quiet", action="store_true", help="no guest console")
    parser.add_argument("--extra", default="", help="more options for shadowmmu run")
    options = parser.parse_args()
    for variant in list(VARIANTS) if options.all else options.variants or ["plain"]:
        if variant not in VARIANTS:
            parser.error(f"no variant {variant!r}")
        architecture, package, _, _ = VARIANTS[variant]
        kernel, busybox = fetch(architecture, package)
        kernel = unpack(kernel) if variant in UNPACKED else kernel
        initrd = BUILD / f"initrd-{architecture}.cpio"
        initrd.write_bytes(archive(busybox))
        for number in range(options.runs):
            marks = one_run(variant, kernel, initrd, options.forks, options.extra.split(), not options.quiet, options.timeout)
            forking = marks["forks end"] - marks["forks begin"]
            print(f"{variant:<9} run {number + 1}: init after {marks['init']:.1f} s, {options.forks / forking:.0f} "
                  f"fork+exec/s, checksums equal, off after {marks['done']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
