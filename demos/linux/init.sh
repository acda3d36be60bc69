#!/bin/busybox sh
# First process of the demo guest: forks, execs, maps, unmaps, switches contexts, checksums files, switches off.
# Lines with "MARK" are timed by the host; the last one says how it went.  FORKS comes from the kernel command line.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
echo "MARK init $(uname -r)"
failed() {
	echo "MARK failed: $1"
	reboot -f
}
forks=$(sed -n 's/.*FORKS=\([0-9]*\).*/\1/p' /proc/cmdline)
forks=${forks:-100}

echo "MARK forks begin"
i=0
while [ $i -lt "$forks" ]; do
	/bin/busybox true || failed "exec $i"
	i=$((i + 1))
done
echo "MARK forks end $forks"

# context switches: three processes and two pipes, 4 MiB
n=$(dd if=/dev/zero bs=4k count=1024 2>/dev/null | cat | wc -c)
[ "$n" = 4194304 ] || failed "pipes gave $n bytes"

# maps and unmaps: a file on tmpfs grows, is read and goes; a sort takes memory and gives it back
dd if=/dev/zero of=/tmp/file bs=64k count=64 2>/dev/null || failed "tmpfs"
rm /tmp/file
n=$(seq 20000 -1 1 | sort -n | head -n 1)
[ "$n" = 1 ] || failed "sort gave $n"

# copy on write between parent and children
(x=child; echo "$x" > /tmp/a) & (x=other; echo "$x" > /tmp/b) & wait
[ "$(cat /tmp/a /tmp/b | tr '\n' ' ')" = "child other " ] || failed "children"

cd / && sha256sum -c /sums > /tmp/checked || failed "checksums: $(cat /tmp/checked)"
echo "MARK checksums $(wc -l < /tmp/checked) equal the host's"
echo "MARK done"
poweroff -f
