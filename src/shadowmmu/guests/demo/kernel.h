/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * kernel.h - what the demo kernel's files share.
 */
#ifndef DEMO_KERNEL_H
#define DEMO_KERNEL_H

#include "syscalls.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define PAGE            4096UL
#define LARGE_PAGE      (512 * PAGE)
#define KERNEL_BASE     0xffffffff80000000UL
#define DIRECT_MAP      0xffff800000000000UL
#define USER_END        0x0000800000000000UL

/* Paging-structure entry bits (SDM vol. 3, 4.5). */
#define P_PRESENT       (1UL << 0)
#define P_WRITE         (1UL << 1)
#define P_USER          (1UL << 2)
#define P_UNCACHED      (1UL << 4)
#define P_ACCESSED      (1UL << 5)
#define P_DIRTY         (1UL << 6)
#define P_LARGE         (1UL << 7)
#define P_GLOBAL        (1UL << 8)
#define P_NX            (1UL << 63)
#define P_FRAME         0x000ffffffffff000UL

#define CR3_NOFLUSH     (1UL << 63)
#define CR4_PGE         (1UL << 7)
#define CR4_PCIDE       (1UL << 17)

/* #PF error code bits. */
#define PF_WRITE        2
#define PF_FETCH        16

/* What entry.S pushes; the CPU pushes from rip on. */
struct frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    u64 vector, error, rip, cs, rflags, rsp, ss;
};

/* One address space: a tree of paging structures and the PCID its translations are tagged with. */
struct space {
    u64 root;                   /* physical address of the PML4 (PML5 with la57) */
    u32 tables;                 /* pages spent on paging structures */
    u16 pcid;                   /* 0: the kernel's own */
    u8 stale;                   /* CPUs (bits) whose next load must flush this PCID */
};

enum area_kind { AREA_ANONYMOUS, AREA_IMAGE, AREA_SHARED, AREA_LARGE };

struct area {
    u64 start, end;             /* [start, end), page aligned */
    u8 protection;              /* MAP_WRITE | MAP_EXEC; readable always */
    u8 kind;
    u8 object;                  /* AREA_SHARED: index of the object */
    u64 base;                   /* AREA_IMAGE: physical, AREA_SHARED: byte offset, of `start` */
};

#define MAX_AREAS 16
#define MAX_PROCESSES 128
#define MAX_CPUS 4
#define TSS_SELECTOR    0x30    /* of CPU 0; 16 further for each CPU */
#define IDLE_VECTOR     0x101   /* in the frame of a CPU that found nothing to run */
#define VECTOR_SHOOTDOWN 0x50

enum process_state { FREE, RUNNABLE, WAITING, ZOMBIE };

struct process {
    u32 pid, parent;
    u8 state;
    u8 running;                 /* some CPU has it */
    u8 role;
    u8 area_count;
    u32 waits_for;              /* pid, while WAITING */
    u64 value;                  /* exit value, while ZOMBIE */
    u64 heap_end;
    u64 fault_handler;          /* user address that unresolvable faults jump to, or 0 */
    struct frame *frame;        /* user state, top of the kernel stack */
    struct space space;
    struct area areas[MAX_AREAS];
    u32 faults, filled, copied, reused, syscalls, switches;
};

struct options { u32 processes, rounds, pcid, timer, verbose, cpus, no_shootdown; };

struct totals {
    u64 faults, filled, copied, reused, spurious, invlpg, cr3_loads, cr3_noflush, splits, large,
        tables_made, tables_recycled, forks, ticks, shootdowns;
};

struct tss { u32 zero; u64 rsp[3], zero1, ist[7], zero2; u16 zero3, io_map; } __attribute__((packed));

struct cpu {
    struct process *process;     /* which it runs */
    struct frame *idle;         /* where it goes when nothing is runnable */
    struct space *loaded;       /* 0: the kernel's own */
    u32 switches;
    volatile u32 online;
    void (*volatile task)(void);        /* what an idle CPU is to do once, without the lock */
};

extern struct options options;
extern struct totals totals;
extern struct process processes[MAX_PROCESSES];
extern struct cpu cpus[MAX_CPUS];
extern struct tss tss[MAX_CPUS];
extern u64 *const zero_page;

/* console.c */
void console_start(void);
void print(const char *format, ...);
void panic(const char *why) __attribute__((noreturn));
void leave_machine(u32 code) __attribute__((noreturn));
void put_char(char c);

/* frames.c */
void frames_start(u64 memory_end);
u64 frame_take(void);
u64 large_frame_take(void);
void frame_share(u64 pa);
void frame_drop(u64 pa);
u32 frame_users(u64 pa);
u32 frames_in_use(void);

/* paging.c */
void paging_start(void);
u64 *entry_of(struct space *space, u64 va, int level, int make);
void split_large(struct space *space, u64 va);
void tables_trim(struct space *space, u64 va);
void space_make(struct space *space, u16 pcid);
void space_destroy(struct space *space);
void space_load(struct space *space);
void space_flush(struct space *space);
void kernel_space_load(void);
void page_flush(u64 va);
void *window_map(u64 pa);
void window_fix(u64 va, u64 pa);
u64 identity_map(int on);

/* memory.c */
struct area *area_find(struct process *process, u64 va);
struct area *area_add(struct process *process, u64 start, u64 end, int protection, int kind);
int fault_resolve(struct process *process, u64 va, u64 error);
void areas_copy(struct process *parent, struct process *child);
void areas_drop(struct process *process);
void unmap_range(struct process *process, u64 start, u64 end);
void protect_range(struct process *process, u64 start, u64 end, int protection);
u64 map_area(struct process *process, u64 length, int flags, u64 key);
u64 heap_set(struct process *process, u64 end);
u64 harvest(struct process *process, u64 start, u64 end);
void accessed_scan(struct process *process, u32 *resident, u32 *accessed);

/* process.c */
void processes_start(void);
struct frame *schedule(void);
long process_fork(struct process *parent);
void process_exit(struct process *process, u64 value);
long process_wait(struct process *process, u32 pid);
void processes_print(void);
void leave(struct frame *frame) __attribute__((noreturn));

/* trap.c */
void traps_start(void);
void timer_start(void);
void kernel_stack_set(u64 top);

void cpu_traps_start(void);

/* smp.c */
void cpus_start(void);
void kernel_lock(void);
int kernel_locked(void);
void shootdown(struct space *space);
void shootdown_trial(void);

/* main.c */
const char *role_name(u32 role);
void finish(u64 checksum) __attribute__((noreturn));

/* Which CPU this is: each has a task state segment of its own. */
static inline u32 cpu_number(void)
{
    u16 selector;

    __asm__ volatile("str %0" : "=r"(selector));
    return selector ? (selector - TSS_SELECTOR) / 16 : 0;
}

#define this_cpu (&cpus[cpu_number()])
#define current (this_cpu->process)

static inline void *direct(u64 pa) { return (void *)(DIRECT_MAP + pa); }
static inline void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static inline void outl(u16 port, u32 v) { __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port)); }
static inline u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u64 read_cr2(void) { u64 v; __asm__ volatile("movq %%cr2, %0" : "=r"(v)); return v; }
static inline void pause(void) { __asm__ volatile("pause" : : : "memory"); }
static inline u64 read_cr3(void) { u64 v; __asm__ volatile("movq %%cr3, %0" : "=r"(v)); return v; }
static inline u64 read_cr4(void) { u64 v; __asm__ volatile("movq %%cr4, %0" : "=r"(v)); return v; }
/* "memory": the compiler must not move table accesses across the instruction that publishes them. */
static inline void write_cr3(u64 v) { __asm__ volatile("movq %0, %%cr3" : : "r"(v) : "memory"); }
static inline void write_cr4(u64 v) { __asm__ volatile("movq %0, %%cr4" : : "r"(v) : "memory"); }
static inline void invlpg(u64 va) { __asm__ volatile("invlpg (%0)" : : "r"(va) : "memory"); }
static inline void write_msr(u32 msr, u64 v)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)));
}
static inline void fill_words(void *where, u64 value, u64 words)
{
    __asm__ volatile("rep stosq" : "+D"(where), "+c"(words) : "a"(value) : "memory");
}
static inline void copy_words(void *to, const void *from, u64 words)
{
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
}

#endif
