/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * process.c - processes and the scheduler.
 *
 * All state of a process that does not run is its frame at the top of its kernel stack, so a
 * switch is: pick a process, load its space, leave through its frame. Round robin.
 */
#include "kernel.h"

extern char user_text_pa[], user_text_end[], user_data_pa[], user_data_end[], user_bss_end[];

#define USER_TEXT 0x400000UL
#define USER_DATA 0x600000UL

static u8 kernel_stacks[MAX_PROCESSES][4096] __attribute__((aligned(4096)));
static const char *const state_names[] = { "free", "runnable", "waiting", "zombie" };
static u32 last_pid;

struct process processes[MAX_PROCESSES];
struct cpu cpus[MAX_CPUS];

static struct process *process_make(u32 parent)
{
    for (int i = 0; i < MAX_PROCESSES; i++) {
        struct process *process = &processes[i];

        if (process->state != FREE)
            continue;
        *process = (struct process){ .pid = ++last_pid, .parent = parent, .state = RUNNABLE };
        process->frame = (struct frame *)(kernel_stacks[i] + sizeof(kernel_stacks[i])) - 1;
        space_make(&process->space, i + 1);
        return process;
    }
    return 0;
}

/* Process 1, from the image: RDI and RSI carry the work-load's size. */
void processes_start(void)
{
    struct process *first = process_make(0);

    area_add(first, USER_TEXT, (u64)user_text_end, MAP_EXEC, AREA_IMAGE)->base = (u64)user_text_pa;
    area_add(first, USER_DATA, (u64)user_data_end, MAP_WRITE, AREA_IMAGE)->base = (u64)user_data_pa;
    area_add(first, (u64)user_data_end, (u64)user_bss_end, MAP_WRITE, AREA_ANONYMOUS);
    area_add(first, STACK_TOP - STACK_SIZE, STACK_TOP, MAP_WRITE, AREA_ANONYMOUS);
    first->heap_end = HEAP_START;
    *first->frame = (struct frame){ .rip = USER_TEXT, .cs = 0x2b, .ss = 0x23, .rsp = STACK_TOP - 8,
        .rflags = options.timer || options.cpus > 1 ? 0x202 : 2, .rdi = options.processes, .rsi = options.rounds };
}

/* The next runnable process after the current one that no other CPU has; loads its space if it is another.
 * Nothing to do: back to the CPU's idle loop. */
struct frame *schedule(void)
{
    struct cpu *cpu = this_cpu;
    struct process *old = cpu->process;
    int from = old ? old - processes : 0;

    for (int i = 1; i <= MAX_PROCESSES; i++) {
        struct process *next = &processes[(from + i) % MAX_PROCESSES];

        if (next->state != RUNNABLE || (next->running && next != old))
            continue;
        if (next != old) {
            if (old)
                old->running = 0;
            cpu->process = next;
            next->running = 1;
            next->switches++;
            cpu->switches++;
            space_load(&next->space);
        }
        kernel_stack_set((u64)(next->frame + 1));
        return next->frame;
    }
    if (options.cpus == 1)
        panic("every process waits");
    if (old) {
        old->running = 0;
        cpu->process = 0;
        kernel_space_load();
    }
    return cpu->idle;
}

long process_fork(struct process *parent)
{
    struct process *child = process_make(parent->pid);

    if (!child)
        return -1;
    child->role = parent->role;
    child->fault_handler = parent->fault_handler;
    areas_copy(parent, child);
    *child->frame = *parent->frame;
    child->frame->rax = 0;
    totals.forks++;
    if (options.verbose)
        print("fork pid %u -> %u\n", (u64)parent->pid, (u64)child->pid);
    return child->pid;
}

static void reap(struct process *parent, struct process *child)
{
    parent->frame->rax = child->value;
    parent->state = RUNNABLE;
    child->state = FREE;
}

static struct process *find(u32 pid)
{
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (processes[i].state != FREE && processes[i].pid == pid)
            return &processes[i];
    return 0;
}

void process_exit(struct process *process, u64 value)
{
    struct process *parent = find(process->parent);

    print("exit  pid %3u parent %3u %s faults %4u filled %4u copied %3u reused %3u tables %2u value %016x\n",
          (u64)process->pid, (u64)process->parent, role_name(process->role), (u64)process->faults,
          (u64)process->filled, (u64)process->copied, (u64)process->reused,
          (u64)process->space.tables, value);
    kernel_space_load();        /* its tables are about to become other pages */
    current = 0;
    process->running = 0;
    areas_drop(process);
    space_destroy(&process->space);
    process->state = ZOMBIE;
    process->value = value;
    if (parent && parent->state == WAITING && parent->waits_for == process->pid)
        reap(parent, process);
}

/* 0: the exit value is in the frame; -1: the caller now waits; -2: no such child. */
long process_wait(struct process *process, u32 pid)
{
    struct process *child = find(pid);

    if (!child || child->parent != process->pid)
        return -2;
    if (child->state == ZOMBIE) {
        reap(process, child);
        return 0;
    }
    process->state = WAITING;
    process->waits_for = pid;
    return -1;
}

void processes_print(void)
{
    print("  pid parent state    role         root     pcid tables resident accessed\n");
    for (int i = 0; i < MAX_PROCESSES; i++) {
        struct process *process = &processes[i];
        u32 resident, accessed;

        if (process->state == FREE || process->state == ZOMBIE)
            continue;
        accessed_scan(process, &resident, &accessed);
        print("  %3u %6u %8s %s %8x %4u %6u %8u %8u\n", (u64)process->pid, (u64)process->parent,
              state_names[process->state], role_name(process->role), process->space.root,
              (u64)(options.pcid ? process->space.pcid : 0), (u64)process->space.tables,
              (u64)resident, (u64)accessed);
    }
}
