/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * user.c - the user program: init and eight kinds of worker.
 *
 * Every worker's checksum depends only on its number and the number of rounds, not on scheduling,
 * frames or the CPU: tests/guests/demo_model.py computes the same from the descriptions here.
 */
#include "syscalls.h"

typedef unsigned long u64;

#define PAGE 4096UL
#define WORDS 512UL             /* per page */

u64 call_int80(u64 number, u64 a, u64 b, u64 c);
u64 call_syscall(u64 number, u64 a, u64 b, u64 c);
u64 probe_read(u64 address), probe_write(u64 address, u64 value), probe_call(u64 address), probe_halt(void);
void probe_failed(void);

static u64 cells[1024];                                 /* two pages of bss */
static u64 salt[8] = { 3, 1, 4, 1, 5, 9, 2, 6 };        /* a page of data */
static u64 calls, state, hash;

static u64 call(u64 number, u64 a, u64 b, u64 c)
{
    return calls++ & 1 ? call_syscall(number, a, b, c) : call_int80(number, a, b, c);
}

static u64 next(void)
{
    state = state * 6364136223846793005UL + 1442695040888963407UL;
    return state >> 33;
}

static u64 mixed(u64 h, u64 v) { return (h ^ v) * 0x100000001b3UL; }
static void mix(u64 v) { hash = mixed(hash, v); }
static void yield(void) { call(SYS_YIELD, 0, 0, 0); }
static volatile u64 *word(u64 address) { return (volatile u64 *)address; }

static u64 fork_surely(void)
{
    u64 pid;

    while ((pid = call(SYS_FORK, 0, 0, 0)) == -1UL)
        yield();
    return pid;
}

/* The heap grows to 24 pages, is written at random, shrinks to 12: what returns must be zero. */
static void heap(u64 worker, u64 rounds)
{
    u64 base = call(SYS_HEAP, 0, 0, 0);

    (void)worker;
    for (u64 r = 0; r < rounds; r++) {
        call(SYS_HEAP, base + 24 * PAGE, 0, 0);
        for (int i = 0; i < 64; i++) {
            u64 page = next() % 24, index = next() % WORDS;
            volatile u64 *p = word(base + page * PAGE + index * 8);

            *p += next();
            mix(*p);
        }
        call(SYS_HEAP, base + 12 * PAGE, 0, 0);
        call(SYS_HEAP, base + 24 * PAGE, 0, 0);
        for (u64 page = 0; page < 24; page++) {
            u64 sum = 0;

            for (u64 i = 0; i < WORDS; i++)
                sum += *word(base + page * PAGE + i * 8);
            mix(sum);
        }
        yield();
    }
}

/* A node of the fork tree changes its own copy of `cells`, forks two children, waits for both. */
static u64 tree(u64 depth, u64 path)
{
    u64 sum = path, pids[2];

    for (u64 i = 0; i < 8; i++) {
        volatile u64 *cell = &cells[(path * 37 + i * 129) % 1024];

        *cell = *cell * 3 + path + i;
        sum = mixed(sum, *cell);
    }
    if (!depth)
        return sum;
    for (u64 c = 0; c < 2; c++) {
        pids[c] = fork_surely();
        if (!pids[c])
            call(SYS_EXIT, tree(depth - 1, path * 2 + c + 1), 0, 0);
    }
    for (u64 c = 0; c < 2; c++)
        sum = mixed(sum, call(SYS_WAIT, pids[c], 0, 0));
    for (u64 i = 0; i < 1024; i++)
        sum += cells[i] * (i + 1);      /* the children must not have changed it */
    return sum;
}

static void fork_tree(u64 worker, u64 rounds)
{
    for (u64 r = 0; r < rounds; r++)
        mix(tree(3, worker + r));
}

/* Map, fill, unmap by halves: a new mapping at the same address must be zero, an old one a #PF. */
static void reuse(u64 worker, u64 rounds)
{
    (void)worker;
    for (u64 r = 0; r < rounds; r++) {
        u64 pages = 1 + next() % 6, sum = 0;
        u64 base = call(SYS_MAP, pages * PAGE, MAP_WRITE, 0);

        for (u64 p = 0; p < pages; p++) {
            mix(*word(base + p * PAGE));
            for (u64 i = 0; i < WORDS; i += 64)
                *word(base + p * PAGE + i * 8) = next();
        }
        for (u64 i = 0; i < pages * WORDS; i += 8)
            sum += *word(base + i * 8);
        mix(sum);
        if (pages / 2)
            call(SYS_UNMAP, base + (pages - pages / 2) * PAGE, pages / 2 * PAGE, 0);
        mix(*word(base));
        call(SYS_UNMAP, base, (pages - pages / 2) * PAGE, 0);
        mix(probe_read(base));
        yield();
    }
}

/* Two processes hand a value back and forth through a shared page and log it in another. */
static void shared(u64 worker, u64 rounds)
{
    u64 base = call(SYS_MAP, 2 * PAGE, MAP_WRITE | MAP_SHARED, worker + 1), child;
    volatile u64 *turn = word(base), *value = word(base + 8), *journal = word(base + PAGE);

    child = fork_surely();
    if (!child) {
        u64 sum = 0;

        for (u64 r = 0; r < rounds; r++) {
            while (*turn != 2 * r + 1)
                yield();
            *value = *value * 7 + r;
            journal[r % WORDS] = *value;
            sum = mixed(sum, *value);
            *turn = 2 * r + 2;
        }
        call(SYS_EXIT, sum, 0, 0);
    }
    for (u64 r = 0; r < rounds; r++) {
        *value = next();
        *turn = 2 * r + 1;
        while (*turn != 2 * r + 2)
            yield();
        mix(*value);
    }
    mix(call(SYS_WAIT, child, 0, 0));
    for (u64 i = 0; i < WORDS; i++)
        mix(journal[i]);
}

/* 4 MiB in large pages; one page write-protected and one unmapped in the middle of the first. */
static void large_page(u64 worker, u64 rounds)
{
    (void)worker;
    for (u64 r = 0; r < rounds; r++) {
        u64 base = call(SYS_MAP, 4UL << 20, MAP_WRITE | MAP_LARGE, 0), page, other, sum = 0;

        for (int i = 0; i < 32; i++) {
            volatile u64 *p = word(base + next() % (1UL << 19) * 8);

            *p ^= next();
            mix(*p);
        }
        page = base + next() % 512 * PAGE;
        other = page + PAGE;
        *word(page) = r;
        call(SYS_PROTECT, page, PAGE, 0);
        mix(probe_write(page, 99));
        mix(*word(page));
        call(SYS_UNMAP, other, PAGE, 0);
        mix(probe_read(other));
        call(SYS_PROTECT, page, PAGE, MAP_WRITE);
        mix(probe_write(page, r + 1));
        mix(*word(page));
        for (u64 at = base; at < base + (4UL << 20); at += 16 * PAGE)
            if (at != other)
                sum += *word(at);
        mix(sum);
        call(SYS_UNMAP, base, 4UL << 20, 0);
        yield();
    }
}

/* Everything a process must not do, and the error code it must get. */
static void protection(u64 worker, u64 rounds)
{
    const u64 kernel = 0xffffffff80101000UL, nowhere = 0x50000000UL;
    u64 base = call(SYS_MAP, PAGE, MAP_WRITE, 0);

    (void)worker;
    *word(base) = 0xc3;                 /* RET */
    for (u64 r = 0; r < rounds; r++) {
        mix(probe_write((u64)probe_read, 0));
        mix(probe_call(base));
        call(SYS_PROTECT, base, PAGE, MAP_EXEC);
        mix(probe_call(base));
        mix(probe_write(base, 0));
        call(SYS_PROTECT, base, PAGE, MAP_WRITE);
        mix(probe_call(base));
        mix(probe_write(base, 0xc3));
        mix(probe_read(kernel));
        mix(probe_write(kernel, 0));
        mix(probe_call(kernel));
        mix(probe_read(nowhere));
        mix(probe_write(nowhere, 0));
        mix(probe_call(nowhere));
        mix(probe_halt());
        mix(probe_read(1UL << 47));     /* not canonical (4-level): #GP; unmapped with la57 */
        yield();
    }
}

/* Dirty bits between two harvests are exactly the pages written. (Accessed bits may be set by
 * speculation, so they are not mixed in.) */
static void working_set(u64 worker, u64 rounds)
{
    u64 base = call(SYS_HEAP, 0, 0, 0), counters[2];

    (void)worker;
    call(SYS_HEAP, base + 16 * PAGE, 0, 0);
    for (u64 p = 0; p < 16; p++)
        *word(base + p * PAGE) = p;
    mix(call(SYS_HARVEST, base, 16 * PAGE, 0) >> 32);
    for (u64 r = 0; r < rounds; r++) {
        for (int i = 0; i < 6; i++)
            mix(*word(base + next() % 16 * PAGE));
        for (int i = 0; i < 5; i++)
            *word(base + next() % 16 * PAGE) += r;
        yield();
        mix(call(SYS_HARVEST, base, 16 * PAGE, 0) >> 32);
    }
    call(SYS_COUNTERS, (u64)counters, 0, 0);
    mix(counters[0] != 0);
}

/* Deep recursion: the stack grows by faults, and other processes run in between. */
static u64 recurse(u64 depth)
{
    volatile u64 local[256];
    u64 sum = depth;

    for (int i = 0; i < 256; i += 16)
        local[i] = next();
    yield();
    if (depth)
        sum = mixed(sum, recurse(depth - 1));
    for (int i = 0; i < 256; i += 16)
        sum = mixed(sum, local[i]);
    return sum;
}

static void stack(u64 worker, u64 rounds)
{
    (void)worker;
    for (u64 r = 0; r < rounds; r++)
        mix(recurse(10 + r % 8));
}

static void (*const roles[8])(u64, u64) = {
    heap, fork_tree, reuse, shared, large_page, protection, working_set, stack,
};

void user_main(u64 processes, u64 rounds)
{
    u64 pids[24], total = 0xcbf29ce484222325UL;

    call(SYS_ON_FAULT, (u64)probe_failed, 0, 0);
    call(SYS_LOG, (u64)"init: forking the workers\n", 0, 0);
    for (u64 worker = 0; worker < processes; worker++) {
        pids[worker] = fork_surely();
        if (!pids[worker]) {
            call(SYS_ROLE, worker % 8 + 1, 0, 0);
            state = worker * 0x9e3779b97f4a7c15UL + salt[worker % 8];
            salt[worker % 8]++;
            hash = mixed(0xcbf29ce484222325UL, worker);
            roles[worker % 8](worker, rounds);
            call(SYS_EXIT, hash, 0, 0);
        }
    }
    call(SYS_TABLE, 0, 0, 0);
    yield();
    call(SYS_TABLE, 0, 0, 0);
    for (u64 worker = 0; worker < processes; worker++)
        total = mixed(total, call(SYS_WAIT, pids[worker], 0, 0));
    call(SYS_LOG, (u64)"init: all workers done\n", 0, 0);
    call(SYS_DONE, total, 0, 0);
}
