/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * syscalls.h - the numbers and flags both halves agree on. Number in RAX, arguments in RDI RSI RDX,
 * result in RAX; by `int $0x80` or SYSCALL alike.
 */
#ifndef DEMO_SYSCALLS_H
#define DEMO_SYSCALLS_H

#define SYS_EXIT        0       /* (value) */
#define SYS_YIELD       1       /* () */
#define SYS_FORK        2       /* () -> child's pid, 0 in the child, -1 no slot */
#define SYS_WAIT        3       /* (pid) -> that child's exit value */
#define SYS_HEAP        4       /* (end, or 0) -> end of the heap */
#define SYS_MAP         5       /* (length, flags, key) -> address */
#define SYS_UNMAP       6       /* (address, length) */
#define SYS_PROTECT     7       /* (address, length, protection) */
#define SYS_HARVEST     8       /* (address, length) -> dirty << 32 | accessed; clears both */
#define SYS_ROLE        9       /* (role) names the process in the log */
#define SYS_ON_FAULT    10      /* (handler) */
#define SYS_LOG         11      /* (string) */
#define SYS_TABLE       12      /* () prints the process table */
#define SYS_COUNTERS    13      /* (u64[2]) <- this process's syscalls, pid: the kernel writes user memory */
#define SYS_DONE        14      /* (checksum) ends the run */

#define MAP_WRITE       1
#define MAP_EXEC        2
#define MAP_SHARED      4       /* with a key: every process naming it sees the same pages */
#define MAP_LARGE       8       /* 2 MiB pages where possible */

#define HEAP_START      0x10000000UL
#define MAP_START       0x40000000UL
#define STACK_TOP       0x7ffffff00000UL
#define STACK_SIZE      0x10000UL

#endif
