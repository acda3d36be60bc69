/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * @title@
 *
 * Written by `shadowmmu check --reproducer`.  The script, on a machine with four entries to a table:
 *   @script@
 * then
 *   @ask@
 *
 * On hardware, and on an MMU that is right (rules of @vendor@ where the vendors differ), the last access gives
 *   @expected@
 * which is PASS.  The MMU that was searched gives
 *   @broken@
 * which is FAIL.@host@
 *
 * Manual: @manual@.  Bugs like it: @commits@.
 *
 * Copy into x86/ of kvm-unit-tests, add the .flat to tests in x86/Makefile.common, and run it on a host with shadow
 * paging: kvm_intel.ept=0 or kvm_amd.npt=0.  At least 64M of memory; @cpus@ vCPU(s).
 */
#include "libcflat.h"
#include "processor.h"
#include "vm.h"
#include "desc.h"
#include "smp.h"
#include "alloc_page.h"
#include "usermode.h"

#define CR3_NOFLUSH	(1ull << 63)
#define SHIFT		@shift@		/* entry 0 of the script's tables is this one */
#define NO_GFN		-1
#define MMIO_GPA	0xfd000000ull
#define TAG_OFFSET	0xfe0		/* the page's gfn, as an entry that is not present */
#define STAMP_OFFSET	0xfd8		/* what a write leaves */
#define RET_OFFSET	0xff1		/* a RET, for fetches */
#define ALL_CR4		(X86_CR4_PGE | X86_CR4_PCIDE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PSE)

enum kind { READ, WRITE, FETCH };
enum who { SUPERVISOR, SUPERVISOR_AC, USER };

struct outcome {
	unsigned vector, error;
	int gfn;
};

static char *world;
static struct { ulong cr0, cr3, cr4, efer; } saved[2];
static struct outcome outcome;
static pgd_t *root;
static u64 stamp;	/* a new one for each write; even: it may land in a page table, as an entry that is not present */

static void *va(ulong address)
{
	return (void *)address;
}

/* Page of the world that is gfn in the script. */
static char *page(int gfn)
{
	return world + (gfn / 4) * (2ul << 20) + (gfn % 4 + SHIFT) * PAGE_SIZE;
}

static u64 gpa(u64 gfn)
{
	if ((gfn & 15) >= 14)
		return MMIO_GPA + (gfn & 1) * PAGE_SIZE + ((gfn & ~15ull) << PAGE_SHIFT);
	return virt_to_phys(page(gfn & 15)) + ((gfn & ~15ull) << PAGE_SHIFT);
}

static pteval_t *entry_at(int gfn, int i)
{
	return (pteval_t *)page(gfn) + i + SHIFT;
}

static pteval_t entry(u64 gfn, u64 flags)
{
	u64 address = gpa(gfn);

	if (flags & PT_PAGE_SIZE_MASK)
		address &= ~((2ull << 20) - 1);
	return address | flags;
}

/* run_in_user, and GS as it was: IRET to CPL 3 may clear its base, which per-CPU data needs. */
static uint64_t in_user(usermode_func function, ulong address, u64 value, bool *raised)
{
	u64 gs = rdmsr(MSR_GS_BASE);
	uint64_t result = run_in_user(function, PF_VECTOR, address, value, 0, 0, raised);
	unsigned error = *raised ? exception_error_code() : 0;

	wrmsr(MSR_GS_BASE, gs);
	outcome.error = error;
	return result;
}

/* Runs at CPL 3; a #PF is left to the caller. */
static uint64_t touch(uint64_t address, uint64_t kind)
{
	switch (kind) {
	case READ:
		return *(volatile u64 *)(address + TAG_OFFSET);
	case WRITE:
		*(volatile u64 *)(address + STAMP_OFFSET) = stamp;
		return 0;
	default:
		((void (*)(void))(address + RET_OFFSET))();
		return 0;
	}
}

static uint64_t touch_supervisor(ulong address, enum kind kind)
{
	uint64_t value = 0;

	switch (kind) {
	case READ:
		asm volatile(ASM_TRY("1f") "mov (%1), %0\n\t1:" : "+r"(value) : "r"(address + TAG_OFFSET) : "memory");
		break;
	case WRITE:
		asm volatile(ASM_TRY("1f") "mov %0, (%1)\n\t1:" : : "r"(stamp), "r"(address + STAMP_OFFSET) : "memory");
		break;
	case FETCH:
		/* the fault is at the target: the handler returns to the caller of it */
		asm volatile("movl $0, %%gs:4\n\tcall *%0" : : "r"(address + RET_OFFSET) : "memory", "cc");
		break;
	}
	return value;
}

static void fetch_fault(struct ex_regs *regs)
{
	ulong cr2 = read_cr2();

	if (regs->rip != cr2)
		unhandled_exception(regs, false);
	asm volatile("movl %0, %%gs:4" : : "r"((u32)PF_VECTOR));
	outcome.error = regs->error_code;
	regs->rip = *(ulong *)regs->rsp;
	regs->rsp += 8;
}

static struct outcome access_as(void *address, enum kind kind, enum who who)
{
	struct outcome o = { 0 };
	uint64_t value;
	bool raised = false;
	handler old = NULL;
	int gfn;

	stamp += 1ull << 32;
	if (who == USER) {
		value = in_user((usermode_func)touch, (ulong)address, kind, &raised);
		o.vector = raised ? PF_VECTOR : 0;
		o.error = outcome.error;
	} else {
		if (kind == FETCH)
			old = handle_exception(PF_VECTOR, fetch_fault);
		if (who == SUPERVISOR_AC)
			write_rflags(read_rflags() | X86_EFLAGS_AC);
		value = touch_supervisor((ulong)address, kind);
		o.vector = exception_vector();
		o.error = o.vector ? (kind == FETCH ? outcome.error : exception_error_code()) : 0;
		if (who == SUPERVISOR_AC)
			write_rflags(read_rflags() & ~X86_EFLAGS_AC);
		if (kind == FETCH)
			handle_exception(PF_VECTOR, old);
	}
	o.gfn = NO_GFN;
	if (o.vector)
		return o;
	for (gfn = 0; gfn < 14; gfn++)
		if (kind == READ ? value == (u64)gfn << 32 : kind == WRITE ? *(u64 *)(page(gfn) + STAMP_OFFSET) == stamp : false)
			o.gfn = gfn;
	return o;
}

#define DEFINE_STORE(bits, suffix)								\
static uint64_t user_store##bits(uint64_t address, uint64_t value)				\
{												\
	*(volatile u##bits *)address = value;							\
	return 0;										\
}												\
static void __attribute__((unused)) store##bits(void *address, u##bits value, enum who who)	\
{												\
	bool raised;										\
												\
	if (who == USER)									\
		in_user((usermode_func)user_store##bits, (ulong)address, value, &raised);	\
	else											\
		asm volatile(ASM_TRY("1f") "mov" suffix " %0, (%1)\n\t1:"				\
			     : : "r"(value), "r"(address) : "memory");				\
}
DEFINE_STORE(64, "q")
DEFINE_STORE(32, "l")
DEFINE_STORE(16, "w")
static uint64_t user_store8(uint64_t address, uint64_t value)
{
	*(volatile u8 *)address = value;
	return 0;
}
static void __attribute__((unused)) store8(void *address, u8 value, enum who who)
{
	bool raised;

	if (who == USER)
		in_user((usermode_func)user_store8, (ulong)address, value, &raised);
	else
		asm volatile(ASM_TRY("1f") "movb %0, (%1)\n\t1:" : : "q"(value), "r"(address) : "memory");
}

static void __attribute__((unused)) set_cr0(ulong value)
{
	write_cr0((read_cr0() & ~X86_CR0_WP) | value);
}

static void set_cr4(ulong value)
{
	write_cr4((read_cr4() & ~ALL_CR4) | value);
}

static void set_nx(int on)
{
	wrmsr(MSR_EFER, (rdmsr(MSR_EFER) & ~EFER_NX) | (on ? EFER_NX : 0));
}

static void __attribute__((unused)) do_invpcid(ulong type, ulong pcid, void *address)
{
	struct invpcid_desc desc = { .pcid = pcid, .addr = type ? 0 : (ulong)address };

	invpcid_safe(type, &desc);
}

static void begin(void *unused)
{
	int i = smp_id();

	saved[i].cr0 = read_cr0();
	saved[i].cr3 = read_cr3();
	saved[i].cr4 = read_cr4();
	saved[i].efer = rdmsr(MSR_EFER);
	set_nx(@nx@);
	write_cr0(read_cr0() | X86_CR0_WP);
	write_cr3(gpa(1));
	@cr4@
}

static void end(void *unused)
{
	int i = smp_id();

	write_cr4(saved[i].cr4);
	write_cr0(saved[i].cr0);
	wrmsr(MSR_EFER, saved[i].efer);
	write_cr3(saved[i].cr3);
}

static void run_on(int cpu, void (*function)(void *))
{
	if (cpu == 0)
		function(NULL);
	else
		on_cpu(cpu, function, NULL);
}

static void build(void)
{
	int gfn;

	for (gfn = 0; gfn < 14; gfn++) {
		if (gfn == 1 || gfn == 6)	/* the roots keep the test's own mappings */
			memcpy(page(gfn), phys_to_virt(read_cr3()), PAGE_SIZE);
		*(u64 *)(page(gfn) + TAG_OFFSET) = (u64)gfn << 32;
		*(u64 *)(page(gfn) + STAMP_OFFSET) = 0;
		*(u64 *)(page(gfn) + (RET_OFFSET & ~7)) = 0xc3ull << (8 * (RET_OFFSET & 7));
	}
@tables@
}

@functions@
static void ask(void *unused)
{
	@question@
	root = phys_to_virt(read_cr3() & PT_ADDR_MASK);
}

int main(void)
{
	pteval_t supervisor_only = 0;
	pteval_t *own;
	bool permitted;
	int cpu;

	(void)supervisor_only;
	@setup@
@skip@	if (cpu_count() < @cpus@) {
		report_skip("needs @cpus@ vCPUs");
		return report_summary();
	}
	world = alloc_pages(11);
	memset(world, 0, 8ul << 20);
	build();
	for (cpu = 0; cpu < @cpus@; cpu++)
		run_on(cpu, begin);

@calls@

	run_on(@cpu@, ask);
	for (cpu = 0; cpu < @cpus@; cpu++)
		run_on(cpu, end);

	permitted = @checks@;
	own = get_pte(root, va(@address@));
	printf("the guest's own entry: %lx\n", own ? *own : 0);
	printf("last access: vector %u, error code %x, page %d\n", outcome.vector, outcome.error, outcome.gfn);
	report(permitted, "the last access does what the architecture permits");
	return report_summary();
}
