/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * main.c - start and end of the demo kernel.
 *
 * Command-line words (after the program's name): procs=N (6 to 24, default 8), rounds=N (1 to 1000,
 * default 4), pcid (use PCIDs if the CPU has them), pcid=force (without asking), la57 (boot.S),
 * timer (preemption by the PIT), verbose (every fault and fork), noshootdown (the trial of several CPUs leaves
 * the interrupt out: stale reads). All CPUs that the machine has are used, at most 4.
 */
#include "kernel.h"

extern u32 multiboot_info;
extern int paging_levels;

struct options options = { .processes = 8, .rounds = 4 };
struct totals totals;

static const char *const role_names[] = {
    "init        ", "heap        ", "fork-tree   ", "reuse       ", "shared      ",
    "large-page  ", "protection  ", "working-set ", "stack       ",
};

const char *role_name(u32 role)
{
    return role < sizeof(role_names) / sizeof(*role_names) ? role_names[role] : "?           ";
}

/* Does `text` start with `word`, ended by a blank or NUL (or, for "name=", by a value)? */
static const char *word_at(const char *text, const char *word)
{
    int value = 0;

    for (; *word; text++, word++) {
        if (*text != *word)
            return 0;
        value = *word == '=';
    }
    return value || !*text || *text == ' ' ? text : 0;
}

static u32 number_at(const char *text, u32 low, u32 high)
{
    u32 value = 0;

    for (; *text >= '0' && *text <= '9' && value <= high; text++)
        value = value * 10 + (*text - '0');
    return value < low ? low : value > high ? high : value;
}

static int cpu_has_pcid(void)
{
    u32 a = 1, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return c >> 17 & 1;
}

static void options_read(const char *text)
{
    const char *value;

    while (*text) {
        if (word_at(text, "pcid=force"))
            options.pcid = 1;
        else if (word_at(text, "pcid"))
            options.pcid = cpu_has_pcid();
        else if (word_at(text, "timer"))
            options.timer = 1;
        else if (word_at(text, "noshootdown"))
            options.no_shootdown = 1;
        else if (word_at(text, "verbose"))
            options.verbose = 1;
        else if ((value = word_at(text, "procs=")))
            options.processes = number_at(value, 6, 24);
        else if ((value = word_at(text, "rounds=")))
            options.rounds = number_at(value, 1, 1000);
        while (*text && *text != ' ')
            text++;
        while (*text == ' ')
            text++;
    }
}

void finish(u64 checksum)
{
    u32 left;

    process_exit(current, checksum);
    left = frames_in_use();
    print("total faults %u filled %u copied %u reused %u large %u splits %u forks %u\n", totals.faults,
          totals.filled, totals.copied, totals.reused, totals.large, totals.splits, totals.forks);
    print("total tables %u (recycled %u) invlpg %u cr3 %u (noflush %u) spurious %u ticks %u\n",
          totals.tables_made, totals.tables_recycled, totals.invlpg, totals.cr3_loads,
          totals.cr3_noflush, totals.spurious, totals.ticks);
    if (options.cpus > 1) {
        print("total cpus %u shootdowns %u, switches", (u64)options.cpus, totals.shootdowns);
        for (u32 i = 0; i < options.cpus; i++)
            print(" %u", (u64)cpus[i].switches);
        print("\n");
    }
    if (left)
        panic("frames leaked");
    print("DEMO OK %016x\n", checksum);
    leave_machine(0);
}

void kmain(void)
{
    const u32 *info = direct(multiboot_info);

    console_start();
    if (info[0] & 4)
        options_read(direct(info[4]));
    frames_start((info[2] + 1024UL) * 1024);
    traps_start();
    paging_start();
    print("demo kernel: %u-level paging, pcid %s, timer %s, procs %u, rounds %u, memory %u KiB\n",
          (u64)paging_levels, options.pcid ? "on" : "off", options.timer ? "on" : "off",
          (u64)options.processes, (u64)options.rounds, info[2] + 1024UL);
    cpus_start();
    if (options.cpus > 1)
        shootdown_trial();
    kernel_lock();
    processes_start();
    if (options.timer)
        timer_start();
    leave(schedule());
}
