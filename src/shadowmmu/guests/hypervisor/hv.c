/* SPDX-License-Identifier: GPL-2.0-or-later
 * The demo hypervisor (L1): runs a 64-bit and a 32-bit PAE guest (L2), each with shadow paging of its own and, where the
 * CPU has it, with nested paging.
 *
 *   L1 physical   0 .. 2M  this program      4M .. 6M  shadow and nested tables      8M .. 12M  L2's memory (4 MiB)
 *
 * Shadow paging here is a software TLB: a tree of 4K entries filled at #PF from L2's own tables (with A and D bits set as
 * a CPU does), emptied at MOV CR3 and mode changes, one entry dropped at INVLPG.  L2's writes to its tables are not seen
 * and need not be.
 *
 * Output: port 0xE1, per run: 0x11110000 + case, what L2 says, the checksum of L2's memory, the number of exits.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define L2_BASE 0x800000ull
#define L2_SIZE 0x400000ull
#define POOL 0x400000ull
#define POOL_PAGES 512
#define P 1
#define W 2
#define U 4
#define A 0x20
#define D 0x40
#define PS 0x80
#define NX (1ull << 63)
#define FRAME 0xFFFFFFFFFF000ull
#define EFER 0xC0000080
#define LME (1 << 8)
#define LMA (1 << 10)
#define NXE (1 << 11)
#define SVME (1 << 12)
#define PG (1u << 31)

extern u8 vmcb[], host_save[], io_map[], msr_map[], image_64[], image_64_end[], image_pae[], image_pae_end[];
struct registers { u64 rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15; };
extern void run(void *vmcb, struct registers *);

#define V8(o) (*(volatile u8 *)(vmcb + (o)))
#define V16(o) (*(volatile u16 *)(vmcb + (o)))
#define V32(o) (*(volatile u32 *)(vmcb + (o)))
#define V64(o) (*(volatile u64 *)(vmcb + (o)))
enum { CR_READ = 0x0, CR_WRITE = 0x2, EXCEPTIONS = 0x8, MISC1 = 0xC, MISC2 = 0x10, IOPM = 0x40, MSRPM = 0x48, ASID = 0x58,
       TLB_CONTROL = 0x5C, EXITCODE = 0x70, EXITINFO1 = 0x78, EXITINFO2 = 0x80, EXITINTINFO = 0x88, NP = 0x90,
       EVENTINJ = 0xA8, EVENTINJ_ERROR = 0xAC, NCR3 = 0xB0, S_EFER = 0x4D0, S_CR4 = 0x548, S_CR3 = 0x550, S_CR0 = 0x558,
       S_DR7 = 0x560, S_DR6 = 0x568, S_RFLAGS = 0x570, S_RIP = 0x578, S_RSP = 0x5D8, S_RAX = 0x5F8, S_CR2 = 0x640 };
enum { EXIT_IOIO = 0x7B, EXIT_PF = 0x4E, EXIT_INVLPG = 0x79, EXIT_MSR = 0x7C };

static struct registers gpr;
static u64 cr0, cr3, cr4, efer;         /* L2's own values while its paging is shadowed */
static u64 pdptr[4];
static u64 root, next_table;
static u32 exits;

static void out(u32 port, u32 value) { asm volatile("outl %0, %w1" :: "a"(value), "d"(port) : "memory"); }
static void wrmsr(u32 n, u64 v) { asm volatile("wrmsr" :: "c"(n), "a"((u32)v), "d"((u32)(v >> 32)) : "memory"); }
static u64 rdmsr(u32 n) { u32 a, d; asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(n)); return a | (u64)d << 32; }
static void value(u32 v) { out(0xE1, v); }
static void die(u32 why, u32 more) { value(0xDEAD0000 | why); value(more); out(0xF4, why); for (;;) asm volatile("hlt"); }
static volatile u64 *table(u64 pa) { return (volatile u64 *)pa; }

/* L2-physical to L1-physical */
static u64 real(u64 gpa)
{
    if (gpa >= L2_SIZE)
        die(1, gpa);
    return L2_BASE + gpa;
}

static u64 new_table(void)
{
    u64 t = POOL + 4096 * next_table++;
    if (next_table > POOL_PAGES)
        die(2, next_table);
    for (int i = 0; i < 512; i++)
        table(t)[i] = 0;
    return t;
}

static void empty_shadow(void)
{
    next_table = 0;
    root = new_table();
    if (!(efer & LMA)) {                        /* PAE: the root is a page of four entries without permission bits */
        for (int i = 0; i < 4; i++)
            table(root)[i] = new_table() | P;
    }
    V64(S_CR3) = root;
    V8(TLB_CONTROL) = 1;
}

/* The shadow entry of a linear page; tables above it are made. */
static volatile u64 *shadow_entry(u64 va)
{
    u64 t = root;
    int level = efer & LMA ? 4 : 3;
    for (; level > 1; level--) {
        volatile u64 *e = &table(t)[va >> (12 + 9 * (level - 1)) & (level == 3 && !(efer & LMA) ? 3 : 511)];
        if (!(*e & P))
            *e = new_table() | P | W | U;
        t = *e & FRAME;
    }
    return &table(t)[va >> 12 & 511];
}

static void inject_page_fault(u64 va, u32 error)
{
    V64(S_CR2) = va;
    V64(S_RFLAGS) |= 1 << 16;                   /* a fault pushes RF; EVENTINJ does not set it */
    V32(EVENTINJ) = 14 | 3 << 8 | 1 << 11 | 1u << 31;
    V32(EVENTINJ_ERROR) = error;
}

/* Walk L2's tables: 0 and the fault is injected, or the leaf entry with A (and D) set; *pa is the page. */
static int walk(u64 va, u32 error, u64 *pa, int *writable)
{
    u32 access = error & (2 | 4 | 16);
    *writable = 1;
    if (!(cr0 & PG)) {
        *pa = va & ~0xFFFull;
        return 1;
    }
    int level = efer & LMA ? 4 : 2, user = 1, nx = 0;
    u64 entry = cr3;
    if (level == 2) {
        entry = pdptr[va >> 30 & 3];
        if (!(entry & P))
            return inject_page_fault(va, access), 0;
    }
    for (;; level--) {
        volatile u64 *e = &table(real(entry & FRAME))[va >> (12 + 9 * (level - 1)) & 511];
        entry = *e;
        if (!(entry & P))
            return inject_page_fault(va, access), 0;
        *writable &= entry >> 1 & 1;
        user &= entry >> 2 & 1;
        nx |= entry >> 63;
        int last = level == 1 || entry & PS;
        if (last && ((access & 2 && !*writable) || (access & 4 && !user) || (access & 16 && nx)))
            return inject_page_fault(va, access | P), 0;
        u64 bits = A | (last && access & 2 ? D : 0);
        if ((entry & bits) != bits)
            *e = entry |= bits;
        if (last)
            break;
    }
    u64 size = 1ull << (12 + 9 * (level - 1));
    *pa = ((entry & FRAME & -size) | (va & (size - 1))) & ~0xFFFull;
    if (!(entry & D))
        *writable = 0;                          /* the first write must come back to set D */
    return 1;
}

static void page_fault(u64 va, u32 error)
{
    u64 pa;
    int writable;
    if (V32(EXITINTINFO) >> 31) {               /* the delivery of an event ended here: deliver it again */
        V32(EVENTINJ) = V32(EXITINTINFO);
        V32(EVENTINJ_ERROR) = V32(EXITINTINFO + 4);
    }
    if (walk(va, error, &pa, &writable))
        *shadow_entry(va) = real(pa) | P | U | (writable ? W : 0);
}

/* -- instructions that are intercepted while L2's paging is shadowed */

static u64 *operand(int n)
{
    static u64 *const order[] = { 0, &gpr.rcx, &gpr.rdx, &gpr.rbx, 0, &gpr.rbp, &gpr.rsi, &gpr.rdi };
    return n == 0 ? (u64 *)(vmcb + S_RAX) : n == 4 ? (u64 *)(vmcb + S_RSP) : order[n];
}

/* Bytes at RIP: 0F opcode ModRM, all that L2 uses (no prefixes). */
static void fetch(u8 *bytes, int count)
{
    for (int i = 0; i < count; i++) {
        u64 pa;
        int writable;
        if (!walk(V64(S_RIP) + i, 16, &pa, &writable))
            die(3, V64(S_RIP));
        bytes[i] = *(u8 *)(real(pa) + (V64(S_RIP) + i) % 4096);
    }
}

static void set_hardware_mode(void)
{
    V64(S_CR0) = cr0 | PG | 1 << 16;
    V64(S_CR4) = cr4 | 1 << 5;
    V64(S_EFER) = (efer & LMA ? efer : efer & ~(u64)LME) | NXE | SVME;
}

static void load_pdptes(void)
{
    if (cr0 & PG && !(efer & LMA))
        for (int i = 0; i < 4; i++)
            pdptr[i] = table(real(cr3 & ~31ull))[i];
}

static void control_register(int number, int write)
{
    u8 code[3];
    fetch(code, 3);
    if (code[0] != 0x0F || (code[1] != 0x22 && code[1] != 0x20))
        die(4, code[0] << 16 | code[1] << 8 | code[2]);
    u64 *r = operand(code[2] & 7);
    if (!write) {
        *r = number == 0 ? cr0 : number == 3 ? cr3 : cr4;
    } else if (number == 3) {
        cr3 = *r;
        load_pdptes();
        empty_shadow();
    } else {
        if (number == 0)
            cr0 = *r;
        else
            cr4 = *r;
        efer = efer & LME && cr0 & PG ? efer | LMA : efer & ~(u64)LMA;
        load_pdptes();
        set_hardware_mode();
        empty_shadow();
    }
    V64(S_RIP) += 3;
}

static void invlpg(void)
{
    u8 code[3];
    fetch(code, 3);
    if (code[0] != 0x0F || code[1] != 1 || code[2] >> 6 || (code[2] >> 3 & 7) != 7)
        die(5, code[0] << 16 | code[1] << 8 | code[2]);
    *shadow_entry(*operand(code[2] & 7)) = 0;
    V8(TLB_CONTROL) = 1;
    V64(S_RIP) += 3;
}

static void msr(int write)
{
    if ((u32)gpr.rcx != EFER)
        die(6, gpr.rcx);
    if (write) {
        efer = ((u32)V64(S_RAX) | gpr.rdx << 32) & ~(u64)LMA;
        set_hardware_mode();
    } else {
        V64(S_RAX) = (u32)efer;
        gpr.rdx = efer >> 32;
    }
    V64(S_RIP) += 2;
}

/* -- a run */

static void segment(u32 at, u16 selector, u16 attributes, u32 limit)
{
    V16(at) = selector;
    V16(at + 2) = attributes;
    V32(at + 4) = limit;
    V64(at + 8) = 0;
}

static void prepare(u8 *image, u8 *end, int nested)
{
    volatile u64 *to = table(L2_BASE);
    for (u64 i = 0; i < L2_SIZE / 8; i++)
        to[i] = 0;
    for (u64 i = 0; i < (u64)(end - image) / 8; i++)
        to[i] = ((u64 *)image)[i];
    for (int i = 0; i < 4096; i++)
        vmcb[i] = 0;
    gpr = (struct registers){ 0 };
    V32(MISC1) = 1u << 27 | 1u << 31;           /* IOIO, SHUTDOWN */
    V32(MISC2) = 1;                             /* VMRUN */
    V64(IOPM) = (u64)io_map;
    V64(MSRPM) = (u64)msr_map;
    V32(ASID) = 1;
    for (int at = 0x400; at <= 0x450; at += 0x10)
        segment(at, 0x10, 0xC93, 0xFFFFFFFF);
    segment(0x410, 0x08, 0xC9B, 0xFFFFFFFF);
    V32(0x464) = 0xFF, V64(0x468) = 0x1000;     /* GDTR */
    V32(0x484) = 0xFF, V64(0x488) = 0x1200;     /* IDTR */
    V64(S_RIP) = 0x8000;
    V64(S_RSP) = 0x5000;
    V64(S_RFLAGS) = 2;
    V64(S_DR6) = 0xFFFF0FF0;
    V64(S_DR7) = 0x400;
    V64(0x668) = 0x0007040600070406ull;
    cr0 = 0x11, cr3 = 0, cr4 = 0, efer = 0;
    next_table = 0;
    if (nested) {
        V64(NP) = 1;
        u64 top = new_table(), pdpt = new_table(), pd = new_table();
        table(top)[0] = pdpt | P | W | U;
        table(pdpt)[0] = pd | P | W | U;
        table(pd)[0] = (L2_BASE) | P | W | U | PS;
        u64 pt = new_table();                   /* the upper half by 4K pages */
        table(pd)[1] = pt | P | W | U;
        for (u64 i = 0; i < 512; i++)
            table(pt)[i] = (L2_BASE + 0x200000 + i * 4096) | P | W | U;
        V64(NCR3) = top;
        V64(S_CR0) = cr0;
        V64(S_EFER) = SVME;
    } else {
        V16(CR_READ) = V16(CR_WRITE) = 1 << 0 | 1 << 3 | 1 << 4;
        V32(EXCEPTIONS) = 1 << 14;
        V32(MISC1) |= 1u << 25 | 1u << 28;      /* INVLPG, MSR */
        set_hardware_mode();
        empty_shadow();
    }
}

static u32 checksum(void)
{
    u32 h = 2166136261u;
    for (u64 i = 0; i < L2_SIZE / 4; i++)
        h = (h ^ ((volatile u32 *)L2_BASE)[i]) * 16777619;
    return h;
}

static void guest(u32 number, u8 *image, u8 *end, int nested)
{
    value(0x11110000 + number);
    prepare(image, end, nested);
    for (exits = 0;; exits++) {
        run(vmcb, &gpr);
        V8(TLB_CONTROL) = 0;
        V32(EVENTINJ) = 0;
        u64 code = V64(EXITCODE);
        if (code == EXIT_IOIO)
            break;                              /* only port 0xF4 exits */
        if (nested || exits > 100000)
            die(7, code);
        if (code == EXIT_PF)
            page_fault(V64(EXITINFO2), V64(EXITINFO1));
        else if (code == EXIT_INVLPG)
            invlpg();
        else if (code == EXIT_MSR)
            msr(V64(EXITINFO1) & 1);
        else if (code < 0x20)
            control_register(code & 15, code >> 4);
        else
            die(8, code);
    }
    value((u32)V64(S_RAX));
    value(checksum());
    out(0xE0, number);
}

int main(void)
{
    u32 a = 0x8000000A, b, c, d;
    asm("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
    wrmsr(EFER, rdmsr(EFER) | SVME);
    wrmsr(0xC0010117, (u64)host_save);
    io_map[0xF4 / 8] = 1 << (0xF4 % 8);
    /* EFER is bits 0x100.. of the second quarter: read and write */
    msr_map[0x800 + 2 * 0x80 / 8] = 3;
    guest(1, image_64, image_64_end, 0);
    guest(2, image_pae, image_pae_end, 0);
    if (d & 1) {
        guest(3, image_64, image_64_end, 1);
        guest(4, image_pae, image_pae_end, 1);
    }
    return 0;
}
