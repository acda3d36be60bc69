/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * trap.c - descriptor tables, exceptions, system calls, the timer.
 */
#include "kernel.h"

extern u8 trap_stubs[], stub_int80[], stub_shootdown[], entry_syscall[];
extern u64 gdt[];
extern u32 keep_lock;

#define MSR_STAR        0xc0000081
#define MSR_LSTAR       0xc0000082
#define MSR_SFMASK      0xc0000084
#define VECTOR_SYSCALL  0x100
#define IST_DOUBLE_FAULT 1
#define PIC1            0x20
#define PIC2            0xa0

struct gate { u16 low; u16 selector; u8 ist; u8 type; u16 middle; u32 high, zero; };

struct tss tss[MAX_CPUS];
static struct gate idt[256] __attribute__((aligned(4096)));
static u8 double_fault_stack[MAX_CPUS][1024] __attribute__((aligned(16)));

static void gate_set(int vector, void *handler, int dpl, int ist)
{
    u64 to = (u64)handler;

    idt[vector] = (struct gate){ .low = to, .selector = 0x08, .ist = ist, .type = 0x8e | dpl << 5,
                                 .middle = to >> 16, .high = to >> 32 };
}

void kernel_stack_set(u64 top)
{
    tss[cpu_number()].rsp[0] = top;
}

/* Descriptor tables and SYSCALL's registers of this CPU; `n` is its number, which TR tells from now on. */
static void registers_start(u32 n)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) pointer = { sizeof(idt) - 1, (u64)idt };
    u64 base = (u64)&tss[n];

    tss[n].ist[IST_DOUBLE_FAULT - 1] = (u64)(double_fault_stack[n] + sizeof(double_fault_stack[n]));
    tss[n].io_map = sizeof(tss[n]);
    gdt[6 + 2 * n] = (sizeof(tss[n]) - 1) | (base & 0xffffff) << 16 | 0x89UL << 40 | (base >> 24 & 0xff) << 56;
    gdt[7 + 2 * n] = base >> 32;
    __asm__ volatile("lidt %0" : : "m"(pointer));
    __asm__ volatile("ltr %w0" : : "r"(TSS_SELECTOR + 16 * n));
    /* SYSRET: CS = [63:48] + 16 = 0x2b, SS = [63:48] + 8 = 0x23. SYSCALL: CS = 8, SS = 0x10. */
    write_msr(MSR_STAR, 0x001bUL << 48 | 0x0008UL << 32);
    write_msr(MSR_LSTAR, (u64)entry_syscall + 64 * n);
    write_msr(MSR_SFMASK, 0x47700);     /* AC NT IOPL DF IF TF */
}

/* A further CPU. */
void cpu_traps_start(void)
{
    static u32 started;

    registers_start(++started);
}

void traps_start(void)
{
    for (int i = 0; i < 48; i++)
        gate_set(i, trap_stubs + 16 * i, 0, i == 8 ? IST_DOUBLE_FAULT : 0);
    gate_set(0x80, stub_int80, 3, 0);
    gate_set(VECTOR_SHOOTDOWN, stub_shootdown, 0, 0);
    registers_start(0);
    outb(PIC1 + 1, 0xff);
    outb(PIC2 + 1, 0xff);
}

/* 8259 pair at vectors 32-47, only IRQ 0 open; 8254 channel 0, mode 2, 1 kHz. */
void timer_start(void)
{
    outb(PIC1, 0x11);
    outb(PIC2, 0x11);
    outb(PIC1 + 1, 32);
    outb(PIC2 + 1, 40);
    outb(PIC1 + 1, 4);
    outb(PIC2 + 1, 2);
    outb(PIC1 + 1, 1);
    outb(PIC2 + 1, 1);
    outb(PIC1 + 1, 0xfe);
    outb(PIC2 + 1, 0xff);
    outb(0x43, 0x34);
    outb(0x40, 1193 & 255);
    outb(0x40, 1193 >> 8);
}

static u64 page_down(u64 v) { return v & ~(PAGE - 1); }
static u64 page_up(u64 v) { return (v + PAGE - 1) & ~(PAGE - 1); }

/* A range the process may name: its own half of the address space, at most 128 MiB. */
static int range_good(u64 start, u64 length)
{
    return start < USER_END && length && length <= 64 * LARGE_PAGE && start + length <= USER_END;
}

static struct frame *system_call(struct process *process, struct frame *f)
{
    u64 a = f->rdi, b = f->rsi, c = f->rdx;

    process->syscalls++;
    switch (f->rax) {
    case SYS_EXIT:
        process_exit(process, a);
        return schedule();
    case SYS_YIELD:
        return schedule();
    case SYS_FORK:
        f->rax = process_fork(process);
        return f;
    case SYS_WAIT:
        switch (process_wait(process, a)) {
        case -1:
            return schedule();
        case -2:
            f->rax = -1UL;
        }
        return f;
    case SYS_HEAP:
        f->rax = a ? heap_set(process, a) : process->heap_end;
        return f;
    case SYS_MAP:
        f->rax = map_area(process, a, b, c);
        return f;
    case SYS_UNMAP:
    case SYS_PROTECT:
    case SYS_HARVEST:
        if (!range_good(a, b)) {
            f->rax = -1UL;
            return f;
        }
        b = page_up(a + b);
        a = page_down(a);
        if (f->rax == SYS_UNMAP)
            unmap_range(process, a, b);
        else if (f->rax == SYS_PROTECT)
            protect_range(process, a, b, c);
        f->rax = f->rax == SYS_HARVEST ? harvest(process, a, b) : 0;
        return f;
    case SYS_ROLE:
        process->role = a;
        return f;
    case SYS_ON_FAULT:
        process->fault_handler = a;
        return f;
    case SYS_LOG:
        for (const char *s = (const char *)a; (u64)s < USER_END && *s; s++)
            put_char(*s);       /* may fault: demand paging serves the kernel's reads too */
        return f;
    case SYS_TABLE:
        processes_print();
        return f;
    case SYS_COUNTERS:
        if (a + 16 <= USER_END) {
            ((volatile u64 *)a)[0] = process->syscalls; /* CR0.WP=1: a write here can break COW */
            ((volatile u64 *)a)[1] = process->pid;
        }
        return f;
    case SYS_DONE:
        finish(a);
    }
    f->rax = -1UL;
    return f;
}

/* An exception the kernel cannot make go away: back to the user's handler with
 * RAX = vector << 8 | error code, or the end. */
static struct frame *user_error(struct process *process, struct frame *f, u64 address)
{
    if (f->cs & 3 && process->fault_handler) {
        f->rax = f->vector << 8 | (f->error & 0xff);
        f->rip = process->fault_handler;
        return f;
    }
    print("exception %u error 0x%x rip 0x%x address 0x%x\n", f->vector, f->error, f->rip, address);
    panic("unexpected exception");
}

static struct frame *trap_locked(struct frame *f)
{
    struct process *process = current;
    u64 address = 0;

    switch (f->vector) {
    case 0x80:
    case VECTOR_SYSCALL:
        return system_call(process, f);
    case 14:
        address = read_cr2();
        if (process && fault_resolve(process, address, f->error))
            return f;
        return user_error(process, f, address);
    case 32:
        totals.ticks++;
        outb(PIC1, 0x20);       /* EOI */
        return f->cs & 3 ? schedule() : f;
    default:
        return user_error(process, f, address);
    }
}

/* With the lock held, unless it is an exception of a kernel that has it already. */
struct frame *trap(struct frame *f)
{
    int nested = kernel_locked();

    if (!nested)
        kernel_lock();
    f = trap_locked(f);
    keep_lock = nested;
    return f;
}
