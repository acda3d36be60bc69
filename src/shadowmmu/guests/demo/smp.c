/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * smp.c - further CPUs: start, the kernel lock, TLB shootdown.
 *
 *   shootdown(space)     for each CPU that has the space loaded: pending[cpu] = 1, interrupt
 *                        wait until all pending[] are 0
 *   the other CPU        in user mode or idle: interrupt -> reload CR3 -> pending = 0
 *                        waiting for the lock, interrupts off: looks itself
 */
#include "kernel.h"

#define FW_CFG          0x510
#define FW_CFG_CPUS     5
#define TRAMPOLINE      0x8000
#define APIC_BASE       0xfee00000UL
#define APIC_WINDOW     (KERNEL_BASE + 2 * LARGE_PAGE - 2 * PAGE)
#define APIC_EOI        0xb0
#define APIC_SPURIOUS   0xf0
#define APIC_ICR        0x300
#define APIC_ICR_HIGH   0x310
#define ICR_INIT        0x4500
#define ICR_STARTUP     (0x4600 | TRAMPOLINE / PAGE)
#define ICR_ASSERT      0x4000
#define IDLE_STACK      4096

extern u8 ap_trampoline[], ap_trampoline_end[];
extern u32 ap_cr3, ap_cr4;
extern u64 ap_stack;

volatile u32 kernel_lock_owner;        /* number + 1 */
u32 keep_lock;          /* entry.S: the lock survives the way out */
static volatile u8 pending[MAX_CPUS];
static volatile u32 identity_gone;
static u8 idle_stacks[MAX_CPUS][IDLE_STACK] __attribute__((aligned(16)));

static volatile u32 *apic(u32 offset) { return (volatile u32 *)(APIC_WINDOW + offset); }

/* What the interrupt and a CPU that waits for the lock do alike. */
static void shootdown_serve(void)
{
    u32 self = cpu_number();

    if (!pending[self])
        return;
    write_cr3(read_cr3());      /* without NOFLUSH: all of this PCID; the kernel's global pages do not change */
    pending[self] = 0;
}

void shootdown_interrupt(void)
{
    shootdown_serve();
    *apic(APIC_EOI) = 0;
}

int kernel_locked(void) { return kernel_lock_owner == cpu_number() + 1; }

void kernel_lock(void)
{
    u32 self = cpu_number() + 1, free = 0;

    while (!__atomic_compare_exchange_n(&kernel_lock_owner, &free, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        free = 0;
        shootdown_serve();      /* its owner may wait for this CPU */
        pause();
    }
    keep_lock = 0;
}

/* Every other CPU that has `space` loaded drops what it cached of it before this returns. */
void shootdown(struct space *space)
{
    u32 self = cpu_number();

    for (u32 i = 0; i < options.cpus; i++) {
        if (i == self || cpus[i].loaded != space)
            continue;
        pending[i] = 1;
        *apic(APIC_ICR_HIGH) = i << 24;
        *apic(APIC_ICR) = ICR_ASSERT | VECTOR_SHOOTDOWN;
        totals.shootdowns++;
    }
    for (u32 i = 0; i < options.cpus; i++)
        while (pending[i])
            pause();
}

/* Interrupts on, without the lock: tasks, and processes as they become runnable. */
static void idle(void)
{
    struct cpu *cpu = this_cpu;

    for (;;) {
        __asm__ volatile("sti");
        pause();
        __asm__ volatile("cli");
        if (cpu->task) {
            cpu->task();
            cpu->task = 0;
        }
        kernel_lock();
        leave(schedule());      /* to this function's start, when there is nothing */
    }
}

static void idle_frame_make(u32 n)
{
    u64 top = (u64)(idle_stacks[n] + IDLE_STACK);

    cpus[n].idle = (struct frame *)top - 1;
    *cpus[n].idle = (struct frame){ .rip = (u64)idle, .cs = 0x08, .ss = 0x10, .rsp = top - sizeof(struct frame) - 8,
                                    .rflags = 2, .vector = IDLE_VECTOR };
}

void ap_main(void)
{
    cpu_traps_start();
    this_cpu->online = 1;
    while (!identity_gone)
        pause();
    write_cr4(read_cr4() | CR4_PGE);    /* R2: drops what was cached of the identity map */
    if (options.pcid)
        write_cr4(read_cr4() | CR4_PCIDE);
    *apic(APIC_SPURIOUS) = 0x1ff;
    kernel_lock();
    leave(this_cpu->idle);
}

static u32 cpus_in_machine(void)
{
    u32 count;

    __asm__ volatile("outw %w0, %w1" : : "a"(FW_CFG_CPUS), "Nd"(FW_CFG));
    count = inb(FW_CFG + 1);
    count |= inb(FW_CFG + 1) << 8;
    return count > MAX_CPUS ? 1 : count ? count : 1;
}

/* One CPU after the other comes up through the trampoline, then all wait until the identity map is gone. */
void cpus_start(void)
{
    options.cpus = cpus_in_machine();
    idle_frame_make(0);
    if (options.cpus == 1)
        return;
    window_fix(APIC_WINDOW, APIC_BASE);
    *apic(APIC_SPURIOUS) = 0x1ff;
    ap_cr3 = identity_map(1);
    ap_cr4 = read_cr4() & ~(CR4_PCIDE | CR4_PGE);
    for (u32 n = 1; n < options.cpus; n++) {
        idle_frame_make(n);
        ap_stack = (u64)cpus[n].idle;
        copy_words(direct(TRAMPOLINE), ap_trampoline, (ap_trampoline_end - ap_trampoline + 7) / 8);
        *apic(APIC_ICR_HIGH) = n << 24;
        *apic(APIC_ICR) = ICR_INIT;
        *apic(APIC_ICR) = ICR_STARTUP;
        while (!cpus[n].online)
            pause();
    }
    identity_map(0);
    identity_gone = 1;
    print("smp: %u CPUs\n", (u64)options.cpus);
}

/* The trial: CPU 1 reads one address over and over, CPU 0 gives it one frame after another. */
#define ROUNDS          24
static struct space trial_space;
static volatile u64 published, reads, stale, stop;

static void trial_reader(void)
{
    volatile u64 *word = (volatile u64 *)MAP_START;

    space_load(&trial_space);
    while (!stop) {
        u64 expected = published;

        if (*word < expected)
            stale++;
        reads++;
        __asm__ volatile("sti; nop; cli");
    }
    kernel_space_load();
}

void shootdown_trial(void)
{
    u64 frames[2], *pte;

    space_make(&trial_space, 0xfff);
    for (int i = 0; i < 2; i++) {
        frames[i] = frame_take();
        fill_words(direct(frames[i]), 0, 512);
    }
    pte = entry_of(&trial_space, MAP_START, 1, 1);
    *pte = frames[0] | P_PRESENT | P_USER | P_NX;
    cpus[1].task = trial_reader;
    for (u64 round = 1; round <= ROUNDS; round++) {
        u64 before = reads;

        while (reads < before + 2)
            pause();
        *(u64 *)direct(frames[round & 1]) = round;
        *pte = frames[round & 1] | P_PRESENT | P_USER | P_NX;
        if (!options.no_shootdown)
            shootdown(&trial_space);
        published = round;
    }
    for (u64 before = reads; reads < before + 2;)
        pause();
    stop = 1;
    while (cpus[1].task)
        pause();
    print("smp: %u rounds of another frame at one address, %u stale reads\n", (u64)ROUNDS, stale);
    frame_drop(frames[0]);
    frame_drop(frames[1]);
    space_destroy(&trial_space);
    if (stale && !options.no_shootdown)
        panic("stale read after a shootdown");
}
