// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The C limit: what the core of shadowmmu does, written in C, on the very same bytes.
 *
 *      state buffer made by shadowmmu  --copy-->  run here by C          \
 *                    |                                                     >  must end byte for byte equal
 *                    +---------------------------> run there by numba     /
 *
 * "layout.h" is generated from state/layout.py and rules/fields.py when `shadowmmu bench` compiles this file: one
 * int64_t per word of a record.  The rules, the order of steps and the lists are those of src/shadowmmu/mmu; the
 * code is not a translation by line, but every access, test and store that the state shows is made here, too.
 *
 * Not here, because no benchmark gets there: guests without paging (direct maps), MMIO, faults that the guest gets to
 * see, emulation of writes, NX huge pages, SMM.  Such a path ends in outside(), which counts a warning, and the bench
 * refuses a run with warnings.
 */
#include <stdint.h>
#include <string.h>
#include "layout.h"

typedef int64_t s64;
typedef struct header vm_t;
typedef struct vcpu vcpu_t;
typedef struct context ctx_t;
typedef struct page sp_t;
typedef struct fault fault_t;
typedef struct walker walker_t;

#define NX              INT64_MIN
#define FRAME_MASK      (((1LL << 52) - 1) & ~4095LL)
#define NO_PAGE         (-1)

enum { P = 1, W = 2, U = 4, A = 1 << 5, D = 1 << 6, PS = 1 << 7 };
enum { HOST_WRITABLE = 1 << 9, MMU_WRITABLE = 1 << 10, MMU_PRESENT = 1 << 11 };
enum { ACC_X = 1, ACC_W = 2, ACC_U = 4, ACC_ALL = 7 };
enum { PFERR_P = 1, PFERR_W = 2, PFERR_U = 4, PFERR_R = 8, PFERR_F = 16, PFERR_PK = 32 };
enum { ROLE_LEVEL = 15, ROLE_4BYTE = 16, ROLE_QUADRANT = 3 << 5, ROLE_DIRECT = 1 << 7, ROLE_ACCESS = 15 << 8,
       ROLE_INVALID = 1 << 12, ROLE_NX = 1 << 13, ROLE_WP = 1 << 14, ROLE_AD_DISABLED = 1 << 16,
       ROLE_PASSTHROUGH = 1 << 18, ROLE_SMM = 255 << 24 };
enum { REQ_FREE_OBSOLETE_ROOTS = 1, REQ_MMU_SYNC = 2, REQ_LOAD_MMU_PGD = 4, REQ_TLB_FLUSH = 8,
       REQ_TLB_FLUSH_CURRENT = 16, REQ_TLB_FLUSH_GUEST = 32, REQ_TRIPLE_FAULT = 64 };
enum { CONTINUE, RETRY, EMULATE, WRITE_PROTECTED, INVALID, FIXED, SPURIOUS };
enum { EV_PAGETABLE_WALK = 1, EV_PAGING_ELEMENT, EV_SET_ACCESSED, EV_SET_DIRTY, EV_WALKER_ERROR, EV_GET_PAGE,
       EV_SYNC_PAGE, EV_UNSYNC_PAGE, EV_PREPARE_ZAP, EV_ZAP_ALL_FAST = 13, EV_SET_SPTE = 15, EV_SPTE_REQUESTED,
       EV_PAGE_FAULT = 20, EV_ENTRY = 22 };
enum { ACTIVE, INVALID_LIST, NO_LIST = -1 };
enum { LOG_DIRTY = 1, READONLY = 2, SLOT_INVALID = 1 << 16 };
enum { FAULTED = -1, STUCK = -3, DEAD = -4, EMULATED = -5 };

static const s64 AD_TYPE_DISABLED = 1LL << 52, MMIO_VALUE = 1LL << 51 | 1, HVA_PFN = (1LL << 56) - 1;
static const s64 CR4_PAE = 1 << 5, CR4_LA57 = 1 << 12, CR4_PCIDE = 1 << 17, CR4_SMEP = 1 << 20, CR4_SMAP = 1 << 21,
	CR4_PKE = 1 << 22, CR0_PG = 1LL << 31, EFER_LMA = 1 << 10;

/* ---- tables of the state */

#define AT(vm, type, offset) ((type *)((char *)(vm) + (offset)))
#define SPT(vm)         AT(vm, s64, (vm)->spt)
#define RAM(vm)         AT(vm, s64, (vm)->ram)
#define HASH(vm)        AT(vm, s64, (vm)->hash)
#define RULES(vm)       AT(vm, struct rules, (vm)->rules)
#define PAGE(vm, i)     (AT(vm, sp_t, (vm)->pages) + (i))
#define DESC(vm, i)     (AT(vm, struct desc, (vm)->descs) + (i))
#define SLOT(vm, i)     (AT(vm, struct slot, (vm)->slots) + (i))
#define VCPU(vm, i)     (AT(vm, vcpu_t, (vm)->vcpus) + (i))
#define CTX(vm, i)      (AT(vm, ctx_t, (vm)->contexts) + (i))
#define FAULT_OF(vm, i) (AT(vm, fault_t, (vm)->faults) + (i))

static void outside(vm_t *vm)
{
	vm->warnings++;
	vm->last_warning = 99;
}

static void warn(vm_t *vm, int what)
{
	vm->warnings++;
	vm->last_warning = what;
}

/* ---- events */

static void __attribute__((noinline)) record(vm_t *vm, int kind, s64 a, s64 b, s64 c, s64 d, s64 e, s64 f)
{
	s64 *ring = AT(vm, s64, vm->events), *row;

	if (ring[0] >= vm->event_capacity) {
		ring[1]++;
		return;
	}
	row = ring + 2 + ring[0] * EVENT_WORDS;
	row[0] = kind, row[1] = a, row[2] = b, row[3] = c, row[4] = d, row[5] = e, row[6] = f, row[7] = 0, row[8] = 0;
	ring[0]++;
}

static inline void emit(vm_t *vm, int kind, s64 a, s64 b, s64 c, s64 d)
{
	if (__builtin_expect(vm->event_mask >> kind & 1, 0))
		record(vm, kind, a, b, c, d, 0, 0);
}

static inline void emit_sp(vm_t *vm, int kind, sp_t *sp, s64 created)
{
	if (__builtin_expect(vm->event_mask >> kind & 1, 0))
		record(vm, kind, sp->mmu_valid_gen, sp->gfn, sp->role, sp->root_count, sp->unsync, created);
}

/* ---- arithmetic */

static inline s64 entries(vm_t *vm) { return 1LL << vm->level_bits; }
static inline s64 frame_of(s64 entry) { return (entry & FRAME_MASK) >> 12; }
static inline s64 offset_in_page(vm_t *vm, s64 a) { return a & ((1LL << vm->page_shift) - 1); }
static inline s64 sptep_page(vm_t *vm, s64 at) { return (at >> vm->level_bits) - vm->special_frames; }
static inline s64 sptep_index(vm_t *vm, s64 at) { return at & (entries(vm) - 1); }
static inline s64 first_sptep(vm_t *vm, s64 i) { return (vm->special_frames + i) << vm->level_bits; }
static inline s64 frame_sptep(vm_t *vm, s64 pfn) { return (pfn - vm->shadow_pfn) << vm->level_bits; }
static inline s64 page_frame(vm_t *vm, s64 i) { return vm->shadow_pfn + vm->special_frames + i; }
static inline s64 hpage_pages(vm_t *vm, s64 level) { return 1LL << vm->level_bits * (level - 1); }
static inline s64 level_of(s64 role) { return role & ROLE_LEVEL; }
static inline s64 access_of(s64 role) { return (role & ROLE_ACCESS) >> 8; }
static inline int has_gptes(s64 role) { return !(role & (ROLE_DIRECT | ROLE_PASSTHROUGH)); }
static inline int is_present(s64 spte) { return (spte & MMU_PRESENT) != 0; }
static inline int is_large(s64 spte) { return (spte & PS) != 0; }
static inline int is_last(s64 spte, s64 level) { return level == 1 || spte & PS; }
static inline int is_mmio(s64 spte) { return (spte & MMIO_VALUE) == MMIO_VALUE && !(spte & MMU_PRESENT); }

static inline s64 frame_page(vm_t *vm, s64 pfn)
{
	s64 i = pfn - vm->shadow_pfn - vm->special_frames;

	return i >= 0 && i < vm->n_pages ? i : NO_PAGE;
}

static inline sp_t *child_of(vm_t *vm, s64 spte)
{
	return PAGE(vm, frame_page(vm, frame_of(spte)));
}

static inline s64 index_at(vm_t *vm, s64 addr, s64 level)
{
	return addr >> (vm->page_shift + vm->level_bits * (level - 1)) & (entries(vm) - 1);
}

/* ---- flushes and requests */

static int request_all(vm_t *vm, s64 request)
{
	int kicked = 0;

	for (s64 i = 0; i < vm->n_vcpus; i++) {
		vcpu_t *vcpu = VCPU(vm, i);

		vcpu->requests |= request;
		if (vcpu->in_guest) {
			vcpu->in_guest = 0;
			kicked = 1;
		}
	}
	return kicked;
}

static void flush_remote(vm_t *vm)
{
	vm->stat[REMOTE_TLB_FLUSH_REQUESTS]++;
	if (request_all(vm, REQ_TLB_FLUSH))
		vm->stat[REMOTE_TLB_FLUSH]++;
}

static inline void flush_hardware(vcpu_t *vcpu)
{
	vcpu->hw_flush = 1;
	vcpu->hw_flush_count = 0;
}

static void flush_gva(vcpu_t *vcpu, s64 gva)
{
	if (vcpu->hw_flush)
		return;
	if (vcpu->hw_flush_count == 16) {
		flush_hardware(vcpu);
		return;
	}
	vcpu->hw_flush_gva[vcpu->hw_flush_count++] = gva;
}

/* ---- memslots and host memory */

static inline s64 gfn_slot(vm_t *vm, s64 as_id, s64 gfn)
{
	for (s64 i = 0; i < vm->n_slots; i++) {
		struct slot *s = SLOT(vm, i);

		if (s->used && s->as_id == as_id && gfn >= s->base_gfn && gfn < s->base_gfn + s->npages)
			return i;
	}
	return -1;
}

static inline s64 vcpu_slot(vm_t *vm, vcpu_t *vcpu, s64 gfn)
{
	return gfn_slot(vm, vcpu->smm ? 1 : 0, gfn);
}

static inline s64 role_slot(vm_t *vm, s64 role, s64 gfn)
{
	return gfn_slot(vm, role & ROLE_SMM ? 1 : 0, gfn);
}

static inline int slot_visible(vm_t *vm, s64 i)
{
	return i >= 0 && !(SLOT(vm, i)->flags & SLOT_INVALID);
}

static inline struct meta *gfn_meta(vm_t *vm, s64 i, s64 gfn)
{
	struct slot *s = SLOT(vm, i);

	return AT(vm, struct meta, vm->meta) + s->meta + gfn - s->base_gfn;
}

static inline struct meta_large *large_meta(vm_t *vm, s64 i, s64 gfn, int level)
{
	struct slot *s = SLOT(vm, i);
	s64 shift = vm->level_bits * (level - 1), at = (gfn >> shift) - (s->base_gfn >> shift);

	if (level == 2)
		return AT(vm, struct meta_large, vm->meta2) + s->meta2 + at;
	return AT(vm, struct meta_large, vm->meta3) + s->meta3 + at;
}

static inline s64 *rmap_head(vm_t *vm, s64 i, s64 gfn, s64 level)
{
	return level == 1 ? &gfn_meta(vm, i, gfn)->rmap : &large_meta(vm, i, gfn, level)->rmap;
}

static inline s64 host_entry(vm_t *vm, s64 i, s64 gfn)
{
	struct slot *s = SLOT(vm, i);

	return AT(vm, s64, vm->hva)[s->hva + gfn - s->base_gfn];
}

static s64 fault_in(vm_t *vm, s64 i, s64 gfn)
{
	s64 entry = host_entry(vm, i, gfn);

	if (entry == -1) {
		outside(vm);
		return vm->ram_pfn;
	}
	return entry & HVA_PFN;
}

static s64 pfn_atomic(vm_t *vm, s64 i, s64 gfn)
{
	s64 entry;

	if (SLOT(vm, i)->flags & READONLY)
		return -3;
	entry = host_entry(vm, i, gfn);
	return entry == -1 ? -3 : entry & HVA_PFN;
}

static s64 gpa_frame(vm_t *vm, vcpu_t *vcpu, s64 gpa)
{
	s64 gfn = gpa >> vm->page_shift, i = vcpu_slot(vm, vcpu, gfn), entry;

	if (!slot_visible(vm, i))
		return -1;
	entry = host_entry(vm, i, gfn);
	return entry == -1 ? -1 : (entry & HVA_PFN) - vm->ram_pfn;
}

static inline s64 *frame_words(vm_t *vm, s64 frame)
{
	return AT(vm, s64, vm->ram + (frame << vm->page_shift));
}

static inline s64 read_entry(vm_t *vm, s64 frame, s64 offset, s64 size)
{
	if (size == 8)
		return frame_words(vm, frame)[offset >> 3];
	return ((uint32_t *)frame_words(vm, frame))[offset >> 2];
}

static inline void write_entry(vm_t *vm, s64 frame, s64 offset, s64 size, s64 value)
{
	if (size == 8)
		frame_words(vm, frame)[offset >> 3] = value;
	else
		((uint32_t *)frame_words(vm, frame))[offset >> 2] = value;
}

static void mark_dirty_in_slot(vm_t *vm, s64 i, s64 gfn)
{
	if (i >= 0 && SLOT(vm, i)->flags & LOG_DIRTY)
		gfn_meta(vm, i, gfn)->dirty = 1;
}

/* ---- lists of sptes */

static s64 alloc_desc(vm_t *vm)
{
	s64 d = vm->desc_free;

	if (d >= 0) {
		vm->desc_free = DESC(vm, d)->more;
		return d;
	}
	if (vm->desc_next < vm->n_descs)
		return vm->desc_next++;
	warn(vm, 12);
	return -1;
}

static void free_desc(vm_t *vm, s64 d)
{
	DESC(vm, d)->more = vm->desc_free;
	vm->desc_free = d;
}

static s64 pte_list_add(vm_t *vm, s64 head, s64 sptep)
{
	struct desc *desc, *new;
	s64 d;

	if (!head)
		return (sptep + 1) << 1;
	if (!(head & 1)) {
		d = alloc_desc(vm);
		if (d < 0)
			return head;
		desc = DESC(vm, d);
		desc->sptes[0] = (head >> 1) - 1;
		desc->sptes[1] = sptep;
		desc->spte_count = 2;
		desc->tail_count = 0;
		desc->more = -1;
		return (d + 1) << 1 | 1;
	}
	desc = DESC(vm, (head >> 1) - 1);
	if (desc->spte_count == PTE_LIST_EXT) {
		d = alloc_desc(vm);
		if (d < 0)
			return head;
		new = DESC(vm, d);
		new->more = (head >> 1) - 1;
		new->tail_count = desc->tail_count + desc->spte_count;
		new->spte_count = 1;
		new->sptes[0] = sptep;
		return (d + 1) << 1 | 1;
	}
	desc->sptes[desc->spte_count++] = sptep;
	return head;
}

static s64 pte_list_remove(vm_t *vm, s64 head, s64 sptep)
{
	s64 h, d;

	if (!(head & 1)) {
		if (head == (sptep + 1) << 1)
			return 0;
		warn(vm, 1);
		return head;
	}
	h = (head >> 1) - 1;
	for (d = h; d >= 0; d = DESC(vm, d)->more) {
		struct desc *desc = DESC(vm, d), *first = DESC(vm, h);

		for (s64 i = 0; i < desc->spte_count; i++) {
			s64 more;

			if (desc->sptes[i] != sptep)
				continue;
			desc->sptes[i] = first->sptes[--first->spte_count];
			if (first->spte_count)
				return head;
			more = first->more;
			free_desc(vm, h);
			return more < 0 ? 0 : (more + 1) << 1 | 1;
		}
	}
	warn(vm, 1);
	return head;
}

static s64 pte_list_count(vm_t *vm, s64 head)
{
	struct desc *desc;

	if (!(head & 1))
		return head != 0;
	desc = DESC(vm, (head >> 1) - 1);
	return desc->tail_count + desc->spte_count;
}

static s64 pte_list_first(vm_t *vm, s64 head)
{
	return head & 1 ? DESC(vm, (head >> 1) - 1)->sptes[0] : (head >> 1) - 1;
}

/* ---- rmap */

static s64 page_gfn(vm_t *vm, sp_t *sp, s64 index)
{
	if (sp->role & ROLE_PASSTHROUGH)
		return sp->gfn;
	if (sp->has_translation)
		return AT(vm, uint32_t, vm->translation)[first_sptep(vm, sp->id) + index] >> 4;
	return sp->gfn + (index << (level_of(sp->role) - 1) * vm->level_bits);
}

static s64 page_access(vm_t *vm, sp_t *sp, s64 index)
{
	if (sp->has_translation)
		return AT(vm, uint32_t, vm->translation)[first_sptep(vm, sp->id) + index] & 15;
	return access_of(sp->role);
}

static void page_set_translation(vm_t *vm, sp_t *sp, s64 index, s64 gfn, s64 access)
{
	if (sp->has_translation)
		AT(vm, uint32_t, vm->translation)[first_sptep(vm, sp->id) + index] = gfn << 4 | access;
	else if (page_gfn(vm, sp, index) != gfn)
		warn(vm, 21);
}

static void rmap_add(vm_t *vm, s64 slot, s64 sptep, s64 gfn, s64 access)
{
	sp_t *sp = PAGE(vm, sptep_page(vm, sptep));
	s64 level = level_of(sp->role), count, *head = rmap_head(vm, slot, gfn, level);

	page_set_translation(vm, sp, sptep_index(vm, sptep), gfn, access);
	vm->stat[PAGES_4K + level - 1]++;
	count = pte_list_count(vm, *head);
	*head = pte_list_add(vm, *head, sptep);
	if (count > vm->stat[MAX_MMU_RMAP_SIZE])
		vm->stat[MAX_MMU_RMAP_SIZE] = count;
	if (count > 1000)
		outside(vm);
}

static s64 clear_track_bits(vm_t *vm, s64 sptep)
{
	s64 old = SPT(vm)[sptep];

	SPT(vm)[sptep] = RULES(vm)->nonpresent_spte;
	if (is_present(old))
		vm->stat[PAGES_4K + level_of(PAGE(vm, sptep_page(vm, sptep))->role) - 1]--;
	return old;
}

static void drop_spte(vm_t *vm, s64 sptep)
{
	sp_t *sp;
	s64 gfn, slot, *head;

	if (!is_present(clear_track_bits(vm, sptep)))
		return;
	sp = PAGE(vm, sptep_page(vm, sptep));
	gfn = page_gfn(vm, sp, sptep_index(vm, sptep));
	slot = role_slot(vm, sp->role, gfn);
	if (slot < 0) {
		warn(vm, 17);
		return;
	}
	head = rmap_head(vm, slot, gfn, level_of(sp->role));
	*head = pte_list_remove(vm, *head, sptep);
}

static int spte_update(vm_t *vm, s64 sptep, s64 new)
{
	s64 old = SPT(vm)[sptep];
	s64 strict = RULES(vm)->flush_only_mmu_writable;

	SPT(vm)[sptep] = new;
	if (!is_present(old))
		return 0;
	if ((old ^ new) & FRAME_MASK)
		warn(vm, 20);
	if (old & MMU_WRITABLE && !(new & (strict ? MMU_WRITABLE : W)))
		return 1;
	if (strict)
		return 0;
	return (old & A && !(new & A)) || (old & D && !(new & D));
}

/* One spte loses its write permission for good (pt_protect): MMU-writable goes as well. */
static int spte_write_protect(vm_t *vm, s64 sptep)
{
	s64 spte = SPT(vm)[sptep];

	if (!(spte & W) && !(spte & MMU_WRITABLE))
		return 0;
	return spte_update(vm, sptep, spte & ~(W | MMU_WRITABLE));
}

static int list_write_protect(vm_t *vm, s64 head)
{
	int flush = 0;

	if (!head)
		return 0;
	if (!(head & 1))
		return spte_write_protect(vm, (head >> 1) - 1);
	for (s64 d = (head >> 1) - 1; d >= 0; d = DESC(vm, d)->more)
		for (s64 k = 0; k < DESC(vm, d)->spte_count; k++)
			flush |= spte_write_protect(vm, DESC(vm, d)->sptes[k]);
	return flush;
}

static int gfn_write_protect(vm_t *vm, s64 slot, s64 gfn)
{
	int flush = 0;

	for (int level = 1; level <= 3; level++)
		flush |= list_write_protect(vm, *rmap_head(vm, slot, gfn, level));
	return flush;
}

/* ---- write tracking */

static void update_disallow_lpage(vm_t *vm, s64 slot, s64 gfn, int change)
{
	struct meta_large *two = large_meta(vm, slot, gfn, 2), *one = large_meta(vm, slot, gfn, 3);

	two->disallow_lpage += change;
	one->disallow_lpage += change;
	if (two->disallow_lpage < 0 || one->disallow_lpage < 0)
		warn(vm, 16);
}

static void account_shadowed(vm_t *vm, sp_t *sp)
{
	s64 slot = role_slot(vm, sp->role, sp->gfn);

	vm->indirect_shadow_pages++;
	if (slot < 0) {
		warn(vm, 17);
		return;
	}
	update_disallow_lpage(vm, slot, sp->gfn, 1);
	if (level_of(sp->role) > 1)
		gfn_meta(vm, slot, sp->gfn)->write_track++;
	if (gfn_write_protect(vm, slot, sp->gfn))
		flush_remote(vm);
}

static void unaccount_shadowed(vm_t *vm, sp_t *sp)
{
	s64 slot = role_slot(vm, sp->role, sp->gfn);

	vm->indirect_shadow_pages--;
	if (slot < 0) {
		warn(vm, 17);
		return;
	}
	if (level_of(sp->role) > 1 && --gfn_meta(vm, slot, sp->gfn)->write_track < 0)
		warn(vm, 15);
	update_disallow_lpage(vm, slot, sp->gfn, -1);
}

static int write_tracked(vm_t *vm, s64 slot, s64 gfn)
{
	s64 other;

	if (slot < 0)
		return 0;
	if (gfn_meta(vm, slot, gfn)->write_track)
		return 1;
	if (!RULES(vm)->track_all_address_spaces)
		return 0;
	other = gfn_slot(vm, 1 - SLOT(vm, slot)->as_id, gfn);
	return other >= 0 && gfn_meta(vm, other, gfn)->write_track;
}

/* ---- the lists of shadow pages */

static void list_add(vm_t *vm, int which, sp_t *sp)
{
	s64 head = vm->list_head[which];

	sp->list = which;
	sp->prev = -1;
	sp->next = head;
	if (head >= 0)
		PAGE(vm, head)->prev = sp->id;
	else
		vm->list_tail[which] = sp->id;
	vm->list_head[which] = sp->id;
}

static void list_del(vm_t *vm, sp_t *sp)
{
	if (sp->prev >= 0)
		PAGE(vm, sp->prev)->next = sp->next;
	else
		vm->list_head[sp->list] = sp->next;
	if (sp->next >= 0)
		PAGE(vm, sp->next)->prev = sp->prev;
	else
		vm->list_tail[sp->list] = sp->prev;
	sp->list = NO_LIST;
	sp->next = sp->prev = -1;
}

static inline int is_obsolete(vm_t *vm, sp_t *sp)
{
	return sp->role & ROLE_INVALID || sp->mmu_valid_gen != vm->mmu_valid_gen;
}

static inline s64 bucket_of(vm_t *vm, s64 gfn)
{
	return (uint64_t)gfn * 0x61C8864680B583EBULL >> 52 & (vm->n_hash - 1);
}

/* ---- unsync */

static void mark_parents_unsync(vm_t *vm, sp_t *sp);

static void mark_unsync(vm_t *vm, s64 sptep)
{
	sp_t *sp = PAGE(vm, sptep_page(vm, sptep));
	s64 i = sptep_index(vm, sptep);

	if (sp->unsync_child_bitmap[i >> 5] >> (i & 31) & 1)
		return;
	sp->unsync_child_bitmap[i >> 5] |= 1LL << (i & 31);
	if (sp->unsync_children++ == 0)
		mark_parents_unsync(vm, sp);
}

static void mark_parents_unsync(vm_t *vm, sp_t *sp)
{
	s64 head = sp->parent_ptes;

	if (!head)
		return;
	if (!(head & 1)) {
		mark_unsync(vm, (head >> 1) - 1);
		return;
	}
	for (s64 d = (head >> 1) - 1; d >= 0; d = DESC(vm, d)->more)
		for (s64 k = 0; k < DESC(vm, d)->spte_count; k++)
			mark_unsync(vm, DESC(vm, d)->sptes[k]);
}

static void unlink_unsync_page(vm_t *vm, sp_t *sp)
{
	if (!sp->unsync)
		warn(vm, 2);
	emit_sp(vm, EV_SYNC_PAGE, sp, 0);
	sp->unsync = 0;
	vm->stat[MMU_UNSYNC]--;
	vm->stat[MMU_SYNCED]++;
}

/* Non-zero: the gfn must stay read-only. */
static int try_to_unsync(vm_t *vm, s64 slot, s64 gfn, int can_unsync, int prefetch)
{
	sp_t *sp;

	if (write_tracked(vm, slot, gfn))
		return -1;
	for (s64 i = HASH(vm)[bucket_of(vm, gfn)]; i >= 0; i = sp->hash_next) {
		sp = PAGE(vm, i);
		if (sp->gfn != gfn || !has_gptes(sp->role) || is_obsolete(vm, sp))
			continue;
		if (!can_unsync)
			return -1;
		if (sp->unsync)
			continue;
		if (prefetch)
			return -17;
		if (level_of(sp->role) != 1)
			warn(vm, 6);
		emit_sp(vm, EV_UNSYNC_PAGE, sp, 0);
		vm->stat[MMU_UNSYNC]++;
		vm->stat[MMU_UNSYNCED]++;
		sp->unsync = 1;
		mark_parents_unsync(vm, sp);
	}
	return 0;
}

static int vector_add(vm_t *vm, struct sync *v, s64 i, s64 index)
{
	if (PAGE(vm, i)->unsync)
		for (s64 k = 0; k < v->nr; k++)
			if (v->sp[k] == i)
				return 0;
	v->sp[v->nr] = i;
	v->idx[v->nr++] = index;
	return v->nr == PAGE_ARRAY_NR;
}

static void clear_child_bit(vm_t *vm, sp_t *sp, s64 i)
{
	if (--sp->unsync_children < 0)
		warn(vm, 3);
	sp->unsync_child_bitmap[i >> 5] &= ~(1LL << (i & 31));
}

static s64 walk_below(vm_t *vm, s64 i, struct sync *v)
{
	sp_t *sp = PAGE(vm, i);
	s64 leaves = 0, n, spte, c;

	for (s64 w = 0; w < (entries(vm) + 31) >> 5; w++) {
		for (uint64_t bits = sp->unsync_child_bitmap[w]; bits; bits &= bits - 1) {
			s64 index = (w << 5) + __builtin_ctzll(bits);
			sp_t *child;

			spte = SPT(vm)[first_sptep(vm, i) + index];
			if (!is_present(spte) || is_large(spte)) {
				clear_child_bit(vm, sp, index);
				continue;
			}
			c = frame_page(vm, frame_of(spte));
			child = PAGE(vm, c);
			if (child->unsync_children) {
				if (vector_add(vm, v, c, index))
					return -28;
				n = walk_below(vm, c, v);
				if (n < 0)
					return n;
				if (n == 0)
					clear_child_bit(vm, sp, index);
				leaves += n;
			} else if (child->unsync) {
				leaves++;
				if (vector_add(vm, v, c, index))
					return -28;
			} else {
				clear_child_bit(vm, sp, index);
			}
		}
	}
	return leaves;
}

static s64 unsync_walk(vm_t *vm, s64 i, struct sync *v)
{
	v->nr = 0;
	if (!PAGE(vm, i)->unsync_children)
		return 0;
	vector_add(vm, v, i, -1);
	return walk_below(vm, i, v);
}

static s64 vector_next(vm_t *vm, struct sync *v, s64 n)
{
	for (n++; n < v->nr; n++) {
		s64 level = level_of(PAGE(vm, v->sp[n])->role);

		v->path_idx[level - 1] = v->idx[n];
		if (level == 1)
			break;
		v->parent[level - 2] = v->sp[n];
	}
	return n;
}

static s64 vector_first(vm_t *vm, struct sync *v)
{
	s64 level;

	if (!v->nr)
		return 0;
	level = level_of(PAGE(vm, v->sp[0])->role);
	v->parent[level - 2] = v->sp[0];
	v->parent[level - 1] = -1;
	return vector_next(vm, v, 0);
}

static void clear_parents(vm_t *vm, struct sync *v)
{
	for (int level = 0; v->parent[level] >= 0; level++) {
		sp_t *sp = PAGE(vm, v->parent[level]);

		clear_child_bit(vm, sp, v->path_idx[level]);
		if (sp->unsync_children)
			return;
	}
}

/* ---- zapping */

static void drop_parent_pte(vm_t *vm, sp_t *sp, s64 sptep)
{
	sp->parent_ptes = pte_list_remove(vm, sp->parent_ptes, sptep);
	SPT(vm)[sptep] = RULES(vm)->nonpresent_spte;
}

static void zap_pte(vm_t *vm, sp_t *sp, s64 sptep)
{
	s64 spte = SPT(vm)[sptep];

	if (is_present(spte)) {
		if (is_last(spte, level_of(sp->role)))
			drop_spte(vm, sptep);
		else
			drop_parent_pte(vm, child_of(vm, spte), sptep);
	} else if (is_mmio(spte)) {
		SPT(vm)[sptep] = RULES(vm)->nonpresent_spte;
	}
}

static s64 unlink_page(vm_t *vm, sp_t *sp)
{
	s64 first = first_sptep(vm, sp->id), end = first + entries(vm), zapped = 0;
	int zapped_root = 0;

	for (s64 at = first; at < end; at++)
		zap_pte(vm, sp, at);
	while (sp->parent_ptes)
		drop_parent_pte(vm, sp, pte_list_first(vm, sp->parent_ptes));
	if (!(sp->role & ROLE_INVALID) && has_gptes(sp->role))
		unaccount_shadowed(vm, sp);
	if (sp->unsync)
		unlink_unsync_page(vm, sp);
	if (!sp->root_count) {
		zapped = 1;
		if (!(sp->role & ROLE_INVALID))
			list_del(vm, sp);
		list_add(vm, INVALID_LIST, sp);
		vm->n_used_mmu_pages--;
	} else {
		if (sp->list != NO_LIST)
			list_del(vm, sp);
		zapped_root = !is_obsolete(vm, sp);
	}
	if (sp->nx_huge_page_disallowed)
		outside(vm);
	sp->role |= ROLE_INVALID;
	if (zapped_root)
		request_all(vm, REQ_FREE_OBSOLETE_ROOTS);
	return zapped;
}

static void announce_zap(vm_t *vm, sp_t *sp)
{
	emit_sp(vm, EV_PREPARE_ZAP, sp, 0);
	vm->stat[MMU_SHADOW_ZAPPED]++;
}

/* Number of unsync descendants zapped, times two, plus pages on the invalid list ... as one pair. */
static s64 prepare_zap(vm_t *vm, sp_t *sp, s64 *children)
{
	struct sync *v = AT(vm, struct sync, vm->sync);
	s64 n;

	announce_zap(vm, sp);
	*children = 0;
	if (level_of(sp->role) > 1) {
		while (unsync_walk(vm, sp->id, v)) {
			for (n = vector_first(vm, v); n < v->nr; n = vector_next(vm, v, n)) {
				sp_t *leaf = PAGE(vm, v->sp[n]);

				announce_zap(vm, leaf);
				unlink_page(vm, leaf);
				clear_parents(vm, v);
				++*children;
			}
		}
	}
	return *children + unlink_page(vm, sp);
}

static s64 prepare_zap_page(vm_t *vm, sp_t *sp)
{
	s64 children;

	return prepare_zap(vm, sp, &children);
}

static void free_page(vm_t *vm, sp_t *sp)
{
	if (sp->hash_prev >= 0)
		PAGE(vm, sp->hash_prev)->hash_next = sp->hash_next;
	else
		HASH(vm)[bucket_of(vm, sp->gfn)] = sp->hash_next;
	if (sp->hash_next >= 0)
		PAGE(vm, sp->hash_next)->hash_prev = sp->hash_prev;
	list_del(vm, sp);
	sp->in_use = 0;
	sp->hash_next = sp->hash_prev = -1;
	sp->gfn = 0;
	sp->role = 0;
	AT(vm, s64, vm->free_pages)[vm->n_free_pages++] = sp->id;
}

static void commit_zap(vm_t *vm)
{
	if (vm->list_head[INVALID_LIST] < 0)
		return;
	flush_remote(vm);
	while (vm->list_head[INVALID_LIST] >= 0) {
		sp_t *sp = PAGE(vm, vm->list_head[INVALID_LIST]);

		if (!(sp->role & ROLE_INVALID) || sp->root_count)
			warn(vm, 9);
		free_page(vm, sp);
	}
}

static void remote_flush_or_zap(vm_t *vm, int flush)
{
	if (vm->list_head[INVALID_LIST] >= 0)
		commit_zap(vm);
	else if (flush)
		flush_remote(vm);
}

static void zap_all_fast(vm_t *vm)
{
	s64 i, before, children;

	emit(vm, EV_ZAP_ALL_FAST, vm->mmu_valid_gen, vm->n_used_mmu_pages, 0, 0);
	vm->mmu_valid_gen = !vm->mmu_valid_gen;
	request_all(vm, REQ_FREE_OBSOLETE_ROOTS);
	for (i = vm->list_tail[ACTIVE]; i >= 0;) {
		sp_t *sp = PAGE(vm, i);

		if (!is_obsolete(vm, sp))
			break;
		before = sp->prev;
		if (sp->role & ROLE_INVALID) {
			warn(vm, 14);
			i = before;
			continue;
		}
		prepare_zap(vm, sp, &children);
		i = children ? vm->list_tail[ACTIVE] : before;
	}
	commit_zap(vm);
}

/* ---- the guest's side of a context */

static inline int is_rsvd(ctx_t *ctx, s64 gpte, s64 level)
{
	return (gpte & ctx->rsvd[(gpte >> 7 & 1) * 5 + level - 1]) != 0;
}

static inline s64 gpte_size(ctx_t *ctx) { return ctx->kind == 32 ? 4 : 8; }

static inline s64 gpte_access(s64 gpte)
{
	s64 access = gpte & (ACC_X | ACC_W | ACC_U);

	return gpte & NX ? access ^ ACC_X : access;
}

static inline s64 protect_clean(s64 access, s64 gpte) { return gpte & D ? access : access & ~ACC_W; }

static s64 permission_fault(vcpu_t *vcpu, ctx_t *ctx, s64 pte_access, s64 pkey, s64 access)
{
	int not_smap = vcpu->ac && !(access & 1LL << 48);
	s64 index = (access & (PFERR_W | PFERR_U | PFERR_F)) | (not_smap ? PFERR_R : 0);
	s64 fault = ctx->permissions[index >> 1] >> (pte_access & 7) & 1, error = PFERR_P;

	if (ctx->pkru_mask) {
		s64 bits = vcpu->pkru >> pkey * 2 & 3, offset = access & (PFERR_W | PFERR_U | PFERR_F);

		if (pte_access & ACC_U)
			offset |= PFERR_R;
		bits &= ctx->pkru_mask >> offset;
		if (bits) {
			error |= PFERR_PK;
			fault = 1;
		}
	}
	return fault ? error : 0;
}

static int read_gpte(vm_t *vm, vcpu_t *vcpu, s64 gpa, s64 size, s64 *gpte)
{
	s64 frame = gpa_frame(vm, vcpu, gpa);

	if (frame < 0)
		return 0;
	*gpte = read_entry(vm, frame, offset_in_page(vm, gpa), size);
	return 1;
}

static int update_accessed_dirty(vm_t *vm, vcpu_t *vcpu, ctx_t *ctx, walker_t *w, s64 write)
{
	s64 size = gpte_size(ctx);

	for (s64 level = w->max_level; level >= w->level; level--) {
		s64 gpte = w->ptes[level - 1], new = gpte, gpa = w->pte_gpa[level - 1], frame, offset;

		if (!(new & A)) {
			emit(vm, EV_SET_ACCESSED, gpa, 0, 0, 0);
			new |= A;
		}
		if (level == w->level && write && !(new & D)) {
			emit(vm, EV_SET_DIRTY, gpa, 0, 0, 0);
			new |= D;
		}
		if (new == gpte || !w->pte_writable[level - 1])
			continue;
		frame = gpa_frame(vm, vcpu, gpa);
		offset = offset_in_page(vm, gpa);
		if (read_entry(vm, frame, offset, size) != gpte)
			return 1;
		write_entry(vm, frame, offset, size, new);
		mark_dirty_in_slot(vm, vcpu_slot(vm, vcpu, gpa >> vm->page_shift), gpa >> vm->page_shift);
		w->ptes[level - 1] = new;
	}
	return 0;
}

/* One attempt: 1 success, 0 the guest gets a fault, 2 an entry changed. */
static int walk_once(vm_t *vm, vcpu_t *vcpu, ctx_t *ctx, walker_t *w, s64 addr, s64 access)
{
	s64 size = gpte_size(ctx), nx = size == 8 ? NX : 0, gpte = vcpu->cr3, pte_access = -1, pt_access, bits;
	s64 accessed_dirty, pages, write = access & PFERR_W;

	bits = size == 4 ? vm->level_bits + 1 : vm->level_bits;
	w->level = level_of(ctx->cpu_role);
	if (w->level == 3) {
		gpte = ctx->pdptrs[addr >> (vm->page_shift + 2 * vm->level_bits) & 3];
		emit(vm, EV_PAGING_ELEMENT, gpte, 3, 0, 0);
		if (!(gpte & P))
			return 0;
		w->level = 2;
	}
	w->max_level = w->level;
	for (;;) {
		s64 level = w->level, gfn = frame_of(gpte), i, frame;
		s64 offset = (addr >> (vm->page_shift + bits * (level - 1)) & ((1LL << bits) - 1)) * size;

		pt_access = pte_access;
		w->table_gfn[level - 1] = gfn;
		w->pte_gpa[level - 1] = (gfn << vm->page_shift) + offset;
		i = vcpu_slot(vm, vcpu, gfn);
		if (!slot_visible(vm, i))
			return 0;
		w->pte_writable[level - 1] = !(SLOT(vm, i)->flags & READONLY);
		frame = fault_in(vm, i, gfn) - vm->ram_pfn;
		gpte = read_entry(vm, frame, offset, size);
		emit(vm, EV_PAGING_ELEMENT, gpte, level, 0, 0);
		pte_access = pt_access & (gpte ^ nx);
		if (!(gpte & P) || is_rsvd(ctx, gpte, level))
			return 0;
		w->ptes[level - 1] = gpte;
		w->pt_access[level - 1] = gpte_access(pt_access ^ nx);
		if (level == 1 || (gpte & PS && (size == 8 || (level == 2 && ctx->cpu_ext & 4))))
			break;
		w->level = level - 1;
	}
	accessed_dirty = pte_access & A;
	w->pte_access = gpte_access(pte_access ^ nx);
	if (permission_fault(vcpu, ctx, w->pte_access, size == 8 ? gpte >> 59 & 15 : 0, access))
		return 0;
	pages = 1LL << bits * (w->level - 1);
	w->gfn = (frame_of(gpte) & -pages) + (addr >> vm->page_shift & (pages - 1));
	if (w->level == 2 && size == 4 && vcpu->has_pse36)
		w->gfn += (gpte >> 13 & 15) << 20;
	if (!write)
		w->pte_access = protect_clean(w->pte_access, gpte);
	else if (!(gpte & D))
		accessed_dirty = 0;
	if (!accessed_dirty && update_accessed_dirty(vm, vcpu, ctx, w, write))
		return 2;
	return 1;
}

static int walk_addr(vm_t *vm, vcpu_t *vcpu, ctx_t *ctx, walker_t *w, s64 addr, s64 access)
{
	int result;

	emit(vm, EV_PAGETABLE_WALK, addr, access, 0, 0);
	do
		result = walk_once(vm, vcpu, ctx, w, addr, access);
	while (result == 2);
	return result;
}

static int gpte_changed(vm_t *vm, vcpu_t *vcpu, ctx_t *ctx, walker_t *w, s64 level)
{
	s64 size = gpte_size(ctx), gpa = w->pte_gpa[level - 1], gpte, base, frame, offset;

	if (level > 1)
		return !read_gpte(vm, vcpu, gpa, size, &gpte) || gpte != w->ptes[level - 1];
	base = gpa & -(vm->prefetch_num * size);
	frame = gpa_frame(vm, vcpu, base);
	if (frame < 0)
		return 1;
	offset = offset_in_page(vm, base);
	for (s64 i = 0; i < vm->prefetch_num; i++)
		w->prefetch_ptes[i] = read_entry(vm, frame, offset + i * size, size);
	return w->prefetch_ptes[(gpa - base) >> (size == 8 ? 3 : 2)] != w->ptes[0];
}

/* ---- the shadow walk */

static inline s64 read_pae_root(vm_t *vm, ctx_t *ctx, s64 i) { return SPT(vm)[frame_sptep(vm, ctx->pae_root) + i]; }

static inline void walk_init(vm_t *vm, vcpu_t *vcpu, fault_t *it, s64 root_hpa, s64 addr)
{
	ctx_t *ctx = CTX(vm, vcpu->mmu);

	it->it_addr = addr;
	it->it_frame = frame_of(root_hpa);
	it->it_level = level_of(ctx->root_role);
	if (it->it_level >= 4 && level_of(ctx->cpu_role) < 4 && !(ctx->root_role & ROLE_DIRECT))
		it->it_level = 3;
	if (it->it_level == 3) {
		it->it_frame = frame_of(read_pae_root(vm, ctx, addr >> (vm->page_shift + 2 * vm->level_bits) & 3));
		it->it_level = it->it_frame ? 2 : 0;
	}
}

static inline int walk_okay(vm_t *vm, fault_t *it)
{
	if (it->it_level < 1)
		return 0;
	it->it_index = index_at(vm, it->it_addr, it->it_level);
	it->it_sptep = frame_sptep(vm, it->it_frame) + it->it_index;
	return 1;
}

static inline void walk_next(vm_t *vm, fault_t *it)
{
	s64 spte = SPT(vm)[it->it_sptep];

	if (!is_present(spte) || is_last(spte, it->it_level)) {
		it->it_level = 0;
		return;
	}
	it->it_frame = frame_of(spte);
	it->it_level--;
}

/* ---- making an spte */

static s64 make_spte(vm_t *vm, sp_t *sp, s64 slot, s64 access, s64 gfn, s64 pfn, s64 old, int prefetch, int can_unsync,
		     int synchronizing, int host_writable)
{
	s64 level = level_of(sp->role), spte = MMU_PRESENT | P;

	if (sp->role & ROLE_AD_DISABLED)
		spte |= AD_TYPE_DISABLED;
	else if (!prefetch || (synchronizing && RULES(vm)->accessed_when_synchronizing))
		spte |= A;
	if (level > 1 && access & ACC_X && RULES(vm)->nx_huge_pages)
		access &= ~ACC_X;
	if (!(access & ACC_X))
		spte |= NX;
	if (access & ACC_U)
		spte |= U;
	if (level > 1)
		spte |= PS;
	if (host_writable)
		spte |= HOST_WRITABLE;
	else
		access &= ~ACC_W;
	spte |= pfn << 12;
	if (access & ACC_W) {
		spte |= W | MMU_WRITABLE;
		if (!(old & W)) {
			if (try_to_unsync(vm, slot, gfn, can_unsync, prefetch))
				spte &= ~(W | MMU_WRITABLE);
			else if (!(sp->role & ROLE_AD_DISABLED))
				spte |= D;
		}
	}
	if (spte & W && slot >= 0 && SLOT(vm, slot)->flags & LOG_DIRTY)
		mark_dirty_in_slot(vm, slot, gfn);
	return spte;
}

static int set_spte(vm_t *vm, s64 slot, s64 sptep, s64 access, s64 gfn, s64 pfn, int host_writable, int prefetch,
		    int write_fault)
{
	sp_t *sp = PAGE(vm, sptep_page(vm, sptep));
	s64 level = level_of(sp->role), old = SPT(vm)[sptep], spte;
	int was_rmapped = 0, flush = 0, result = FIXED, refused;

	if (pfn < 0) {
		outside(vm);
		return EMULATE;
	}
	if (is_present(old)) {
		if (RULES(vm)->prefetch_same_pfn_spurious && prefetch && is_last(old, level) && pfn == frame_of(old))
			return SPURIOUS;
		if (level > 1 && !is_large(old)) {
			drop_parent_pte(vm, child_of(vm, old), sptep);
			flush = 1;
		} else if (pfn != frame_of(old)) {
			drop_spte(vm, sptep);
			flush = 1;
		} else {
			was_rmapped = 1;
		}
	}
	old = SPT(vm)[sptep];
	spte = make_spte(vm, sp, slot, access, gfn, pfn, old, prefetch, 1, 0, host_writable);
	refused = access & ACC_W && host_writable && !(spte & W);
	if (old == spte) {
		result = SPURIOUS;
	} else {
		flush |= spte_update(vm, sptep, spte);
		emit(vm, EV_SET_SPTE, gfn, spte, level, sptep);
	}
	if (refused && write_fault)
		result = WRITE_PROTECTED;
	if (flush)
		flush_remote(vm);
	if (!was_rmapped) {
		if (result == SPURIOUS)
			warn(vm, 10);
		rmap_add(vm, slot, sptep, gfn, access);
	} else {
		page_set_translation(vm, sp, sptep_index(vm, sptep), page_gfn(vm, sp, sptep_index(vm, sptep)), access);
	}
	return result;
}

static inline int prefetch_invalid(vm_t *vm, ctx_t *ctx, s64 sptep, s64 gpte)
{
	if (gpte & P && gpte & A && !is_rsvd(ctx, gpte, 1))
		return 0;
	drop_spte(vm, sptep);
	return 1;
}

static int prefetch_gpte(vm_t *vm, vcpu_t *vcpu, sp_t *sp, s64 sptep, s64 gpte)
{
	s64 gfn, access, slot, pfn;

	if (prefetch_invalid(vm, CTX(vm, vcpu->mmu), sptep, gpte))
		return 0;
	gfn = frame_of(gpte);
	access = protect_clean(access_of(sp->role) & gpte_access(gpte), gpte);
	slot = vcpu_slot(vm, vcpu, gfn);
	if (!slot_visible(vm, slot) || (access & ACC_W && SLOT(vm, slot)->flags & LOG_DIRTY))
		return 0;
	pfn = pfn_atomic(vm, slot, gfn);
	if (pfn < 0)
		return 0;
	set_spte(vm, slot, sptep, access, gfn, pfn, 1, 1, 0);
	return 1;
}

static void pte_prefetch(vm_t *vm, vcpu_t *vcpu, walker_t *w, s64 sptep)
{
	sp_t *sp = PAGE(vm, sptep_page(vm, sptep));
	s64 first = sptep & -vm->prefetch_num;

	if (level_of(sp->role) > 1 || vm->invalidate_in_progress)
		return;
	if (sp->role & ROLE_DIRECT) {
		outside(vm);
		return;
	}
	for (s64 i = 0; i < vm->prefetch_num; i++) {
		if (first + i == sptep || is_present(SPT(vm)[first + i]))
			continue;
		if (!prefetch_gpte(vm, vcpu, sp, first + i, w->prefetch_ptes[i]))
			break;
	}
}

static int sync_spte(vm_t *vm, vcpu_t *vcpu, sp_t *sp, s64 i)
{
	ctx_t *ctx = CTX(vm, vcpu->mmu);
	s64 size = gpte_size(ctx), offset = size == 4 ? (sp->role & ROLE_QUADRANT) >> 5 << vm->level_bits : 0;
	s64 gpte, sptep = first_sptep(vm, sp->id) + i, gfn, access, old, spte;

	if (!read_gpte(vm, vcpu, (sp->gfn << vm->page_shift) + (offset + i) * size, size, &gpte))
		return -1;
	if (prefetch_invalid(vm, ctx, sptep, gpte))
		return 1;
	gfn = frame_of(gpte);
	access = protect_clean(access_of(sp->role) & gpte_access(gpte), gpte);
	old = SPT(vm)[sptep];
	if (is_mmio(old)) {
		outside(vm);
		return 0;
	}
	if (gfn != page_gfn(vm, sp, i)) {
		drop_spte(vm, sptep);
		return 1;
	}
	if (RULES(vm)->sync_skips_same_access && page_access(vm, sp, i) == access)
		return 0;
	page_set_translation(vm, sp, i, gfn, access);
	old = SPT(vm)[sptep];
	spte = make_spte(vm, sp, vcpu_slot(vm, vcpu, gfn), access, gfn, frame_of(old), old, 1, 0, 1,
			 (old & HOST_WRITABLE) != 0);
	return spte_update(vm, sptep, spte);
}

static int sync_page(vm_t *vm, vcpu_t *vcpu, sp_t *sp)
{
	ctx_t *ctx = CTX(vm, vcpu->mmu);
	s64 ignored = ROLE_LEVEL | ROLE_ACCESS | ROLE_QUADRANT | ROLE_PASSTHROUGH, empty = RULES(vm)->nonpresent_spte;
	s64 first = first_sptep(vm, sp->id), n = entries(vm);
	int flags = 0;

	if (sp->role & ROLE_DIRECT || !ctx->kind || (sp->role ^ ctx->root_role) & ~ignored) {
		warn(vm, 7);
		flags = -1;
	} else {
		for (s64 i = 0; i < n; i++)
			if (SPT(vm)[first + i] != empty)
				flags |= sync_spte(vm, vcpu, sp, i);
	}
	if (flags < 0)
		prepare_zap_page(vm, sp);
	return flags;
}

static void sync_children(vm_t *vm, vcpu_t *vcpu, s64 parent)
{
	struct sync *v = AT(vm, struct sync, vm->sync);
	int flush = 0;
	s64 n;

	while (unsync_walk(vm, parent, v)) {
		int protected = 0;

		for (n = vector_first(vm, v); n < v->nr; n = vector_next(vm, v, n)) {
			s64 gfn = PAGE(vm, v->sp[n])->gfn, slot = vcpu_slot(vm, vcpu, gfn);

			if (slot >= 0)
				protected |= gfn_write_protect(vm, slot, gfn);
		}
		if (protected) {
			remote_flush_or_zap(vm, 1);
			flush = 0;
		}
		for (n = vector_first(vm, v); n < v->nr; n = vector_next(vm, v, n)) {
			sp_t *sp = PAGE(vm, v->sp[n]);

			unlink_unsync_page(vm, sp);
			flush |= sync_page(vm, vcpu, sp) > 0;
			clear_parents(vm, v);
		}
	}
	remote_flush_or_zap(vm, flush);
}

/* ---- the shadow page cache */

static s64 find_page(vm_t *vm, vcpu_t *vcpu, s64 gfn, s64 role)
{
	s64 found = NO_PAGE, collisions = 0, next;

	for (s64 i = HASH(vm)[bucket_of(vm, gfn)]; i >= 0; i = next) {
		sp_t *sp = PAGE(vm, i);

		next = sp->hash_next;
		if (is_obsolete(vm, sp))
			continue;
		if (sp->gfn != gfn) {
			collisions++;
			continue;
		}
		if (sp->role != role) {
			if (level_of(role) > 1 && sp->unsync)
				prepare_zap_page(vm, sp);
			continue;
		}
		if (sp->role & ROLE_DIRECT) {
			found = i;
			break;
		}
		if (sp->unsync) {
			int flags = sync_page(vm, vcpu, sp);

			if (flags < 0)
				break;
			if (flags > 0)
				flush_remote(vm);
		}
		sp->write_flooding_count = 0;
		found = i;
		break;
	}
	vm->stat[found < 0 ? MMU_CACHE_MISS : MMU_CACHE_HIT]++;
	commit_zap(vm);
	if (collisions > vm->stat[MAX_MMU_PAGE_HASH_COLLISIONS])
		vm->stat[MAX_MMU_PAGE_HASH_COLLISIONS] = collisions;
	return found;
}

static s64 alloc_page(vm_t *vm, s64 gfn, s64 role)
{
	s64 i, bucket = bucket_of(vm, gfn), empty = RULES(vm)->nonpresent_spte, n = entries(vm), *spt;
	sp_t *sp;

	if (!vm->n_free_pages) {
		warn(vm, 11);
		return NO_PAGE;
	}
	i = AT(vm, s64, vm->free_pages)[--vm->n_free_pages];
	sp = PAGE(vm, i);
	sp->in_use = 1;
	sp->unsync = sp->unsync_children = sp->root_count = sp->write_flooding_count = sp->parent_ptes = 0;
	sp->nx_huge_page_disallowed = sp->nx_listed = 0;
	memset(sp->unsync_child_bitmap, 0, sizeof(sp->unsync_child_bitmap));
	sp->has_translation = !(role & ROLE_DIRECT) && level_of(role) <= 3;
	sp->mmu_valid_gen = vm->mmu_valid_gen;
	list_add(vm, ACTIVE, sp);
	vm->n_used_mmu_pages++;
	sp->gfn = gfn;
	sp->role = role;
	sp->hash_next = HASH(vm)[bucket];
	sp->hash_prev = -1;
	if (sp->hash_next >= 0)
		PAGE(vm, sp->hash_next)->hash_prev = i;
	HASH(vm)[bucket] = i;
	spt = SPT(vm) + first_sptep(vm, i);
	for (s64 k = 0; k < n; k++)
		spt[k] = empty;
	vm->stat[MMU_PAGE_CREATED]++;
	if (has_gptes(role))
		account_shadowed(vm, sp);
	return i;
}

static s64 get_page(vm_t *vm, vcpu_t *vcpu, s64 gfn, s64 role)
{
	s64 i = find_page(vm, vcpu, gfn, role), created = i < 0;

	if (created) {
		i = alloc_page(vm, gfn, role);
		if (i < 0)
			return NO_PAGE;
	}
	emit_sp(vm, EV_GET_PAGE, PAGE(vm, i), created);
	return i;
}

static s64 available(vm_t *vm)
{
	s64 n = vm->n_max_mmu_pages - vm->n_used_mmu_pages;

	return n > 0 ? n : 0;
}

static int make_pages_available(vm_t *vm)
{
	s64 left = available(vm), total = 0, i = vm->list_tail[ACTIVE], before, zapped, children;

	if (left >= 5)
		return 1;
	if (i >= 0) {
		while (i >= 0) {
			sp_t *sp = PAGE(vm, i);

			before = sp->prev;
			if (sp->root_count) {
				i = before;
				continue;
			}
			zapped = prepare_zap(vm, sp, &children);
			total += zapped;
			if (total >= 25 - left)
				break;
			i = children ? vm->list_tail[ACTIVE] : before;
		}
		commit_zap(vm);
		vm->stat[MMU_RECYCLED] += total;
	}
	return available(vm) > 0;
}

/* ---- the walk that builds */

enum { EEXIST = -2 };

static s64 child_role(s64 parent, int direct, s64 access, s64 index)
{
	s64 role = (parent - 1) & ~(s64)(ROLE_ACCESS | ROLE_DIRECT | ROLE_PASSTHROUGH);

	role |= access << 8;
	if (direct)
		role |= ROLE_DIRECT;
	if (role & ROLE_4BYTE)
		role = (role & ~(s64)ROLE_QUADRANT) | (index & 1) << 5;
	return role;
}

static s64 get_child(vm_t *vm, vcpu_t *vcpu, s64 sptep, s64 gfn, int direct, s64 access)
{
	s64 spte = SPT(vm)[sptep];
	s64 role = child_role(PAGE(vm, sptep_page(vm, sptep))->role, direct, access, sptep_index(vm, sptep));

	if (is_present(spte) && !is_large(spte)) {
		sp_t *child = child_of(vm, spte);

		if ((!RULES(vm)->child_gfn_must_match || child->gfn == gfn) &&
		    (!RULES(vm)->child_role_must_match || child->role == role))
			return EEXIST;
	}
	return get_page(vm, vcpu, gfn, role);
}

static void link_page(vm_t *vm, s64 sptep, sp_t *sp)
{
	if (is_present(SPT(vm)[sptep])) {
		if (RULES(vm)->link_zaps_any)
			zap_pte(vm, PAGE(vm, sptep_page(vm, sptep)), sptep);
		else
			drop_spte(vm, sptep);
		flush_remote(vm);
	}
	SPT(vm)[sptep] = page_frame(vm, sp->id) << 12 | MMU_PRESENT | P | W | U
		| (sp->role & ROLE_AD_DISABLED ? AD_TYPE_DISABLED : A);
	sp->parent_ptes = pte_list_add(vm, sp->parent_ptes, sptep);
	if (sp->unsync_children)
		warn(vm, 8);
	if (sp->unsync_children || sp->unsync)
		mark_unsync(vm, sptep);
}

static void hugepage_adjust(vm_t *vm, fault_t *f)
{
	s64 level, host;

	f->huge_page_disallowed = f->exec && f->nx_workaround;
	if (f->max_level == 1 || f->pfn < 0 || SLOT(vm, f->slot)->flags & LOG_DIRTY)
		return;
	level = f->max_level < RULES(vm)->max_huge_page_level ? f->max_level : RULES(vm)->max_huge_page_level;
	while (level > 1 && large_meta(vm, f->slot, f->gfn, level)->disallow_lpage)
		level--;
	if (level > 1) {
		host = host_entry(vm, f->slot, f->gfn);
		host = host == -1 ? 1 : host >> 56;
		level = host < level ? host : level;
	}
	f->req_level = level;
	if (level == 1 || f->huge_page_disallowed)
		return;
	f->goal_level = level;
	f->pfn &= -hpage_pages(vm, level);
}

static int map_leaf(vm_t *vm, vcpu_t *vcpu, fault_t *f, walker_t *w, s64 access)
{
	s64 base = f->gfn, i, spte;
	int result;

	while (walk_okay(vm, f)) {
		if (f->nx_workaround)
			outside(vm);
		base = f->gfn & -hpage_pages(vm, f->it_level);
		if (f->it_level == f->goal_level)
			break;
		spte = SPT(vm)[f->it_sptep];
		if (is_present(spte) && !is_large(spte) && access_of(child_of(vm, spte)->role) != access) {
			drop_parent_pte(vm, child_of(vm, spte), f->it_sptep);
			flush_remote(vm);
		}
		i = get_child(vm, vcpu, f->it_sptep, base, 1, access);
		if (i == NO_PAGE)
			return -14;
		if (i >= 0)
			link_page(vm, f->it_sptep, PAGE(vm, i));
		walk_next(vm, f);
	}
	if (f->it_level != f->goal_level) {
		warn(vm, 18);
		return RETRY;
	}
	result = set_spte(vm, f->slot, f->it_sptep, access, base, f->pfn, f->map_writable, f->prefetch, f->write);
	if (result != SPURIOUS)
		pte_prefetch(vm, vcpu, w, f->it_sptep);
	return result;
}

static int fetch(vm_t *vm, vcpu_t *vcpu, fault_t *f, walker_t *w)
{
	ctx_t *ctx = CTX(vm, vcpu->mmu);
	s64 top = level_of(ctx->cpu_role), i, gfn, access = w->pte_access;

	if (gpte_changed(vm, vcpu, ctx, w, top == 3 ? 2 : top))
		return RETRY;
	if (ctx->root_hpa == vm->shadow_pfn << 12) {
		vcpu->requests |= REQ_FREE_OBSOLETE_ROOTS;
		return RETRY;
	}
	walk_init(vm, vcpu, f, ctx->root_hpa, f->addr);
	while (walk_okay(vm, f)) {
		PAGE(vm, sptep_page(vm, f->it_sptep))->write_flooding_count = 0;
		if (f->it_level == w->level)
			break;
		gfn = w->table_gfn[f->it_level - 2];
		i = get_child(vm, vcpu, f->it_sptep, gfn, 0, w->pt_access[f->it_level - 2]);
		if (i == NO_PAGE)
			return -14;
		if (i >= 0 && PAGE(vm, i)->unsync_children)
			sync_children(vm, vcpu, i);
		if (gpte_changed(vm, vcpu, ctx, w, f->it_level - 1))
			return RETRY;
		if (i >= 0)
			link_page(vm, f->it_sptep, PAGE(vm, i));
		if (f->write && gfn == f->gfn)
			f->write_fault_to_shadow_pgtable = 1;
		walk_next(vm, f);
	}
	hugepage_adjust(vm, f);
	emit(vm, EV_SPTE_REQUESTED, f->gfn, f->pfn, f->goal_level, access);
	return map_leaf(vm, vcpu, f, w, access);
}

/* ---- the fault */

static int invalidated(vm_t *vm, s64 gfn)
{
	return vm->invalidate_in_progress && gfn >= vm->invalidate_start && gfn < vm->invalidate_end;
}

static int is_stale(vm_t *vm, vcpu_t *vcpu, fault_t *f)
{
	s64 i = frame_page(vm, frame_of(CTX(vm, vcpu->mmu)->root_hpa));

	if (i >= 0 && is_obsolete(vm, PAGE(vm, i)))
		return 1;
	if (i < 0 && vcpu->requests & REQ_FREE_OBSOLETE_ROOTS)
		return 1;
	return f->slot >= 0 && (invalidated(vm, f->gfn) || vm->invalidate_seq != f->mmu_seq);
}

static int before_lock(vm_t *vm, vcpu_t *vcpu, ctx_t *ctx, fault_t *f, walker_t *w)
{
	struct slot *slot;

	if (!ctx->kind || !walk_addr(vm, vcpu, ctx, w, f->addr, f->error_code & ~PFERR_R)) {
		outside(vm);
		return RETRY;
	}
	f->gfn = w->gfn;
	f->max_level = w->level;
	f->slot = vcpu_slot(vm, vcpu, f->gfn);
	if (!f->rsvd && f->present && f->write && write_tracked(vm, f->slot, f->gfn)) {
		outside(vm);
		return WRITE_PROTECTED;
	}
	f->mmu_seq = vm->invalidate_seq;
	if (f->slot < 0) {
		outside(vm);
		return RETRY;
	}
	slot = SLOT(vm, f->slot);
	if (slot->flags & SLOT_INVALID || invalidated(vm, f->gfn))
		return RETRY;
	if (slot->flags & READONLY && f->write)
		return EMULATE;
	f->map_writable = !(slot->flags & READONLY);
	f->pfn = fault_in(vm, f->slot, f->gfn);
	if (f->write && !(w->pte_access & ACC_W) && !(ctx->cpu_role & ROLE_WP) && !f->user) {
		w->pte_access = (w->pte_access | ACC_W) & ~ACC_U;
		if (ctx->cpu_ext & 1 << 5)
			w->pte_access &= ~ACC_X;
	}
	return CONTINUE;
}

static int handle_page_fault(vm_t *vm, vcpu_t *vcpu, s64 addr, s64 error)
{
	ctx_t *ctx = CTX(vm, vcpu->mmu);
	fault_t *f = FAULT_OF(vm, vcpu->id * 2);
	walker_t *w = AT(vm, walker_t, vm->walkers) + vcpu->id * 2;
	struct rules *rules = RULES(vm);
	int result;

	vcpu->in_guest = 0;
	emit(vm, EV_PAGE_FAULT, vcpu->id, vcpu->rip, addr, error);
	if (error & PFERR_R || ctx->root_hpa == -1 || ctx->root_role & ROLE_DIRECT ||
	    vcpu->exception_injected || vcpu->interrupt_injected || vcpu->nmi_injected) {
		outside(vm);
		return -1;
	}
	vcpu->stat[PF_TAKEN]++;
	f->addr = addr;
	f->error_code = error;
	f->exec = !!(error & PFERR_F);
	f->write = !!(error & PFERR_W);
	f->present = !!(error & PFERR_P);
	f->rsvd = 0;
	f->user = !!(error & PFERR_U);
	f->prefetch = f->is_tdp = 0;
	f->nx_workaround = rules->nx_huge_pages;
	f->max_level = 3;
	f->req_level = f->goal_level = 1;
	f->gfn = 0;
	f->slot = -1;
	f->pfn = -3;
	f->map_writable = f->huge_page_disallowed = f->write_fault_to_shadow_pgtable = 0;
	result = before_lock(vm, vcpu, ctx, f, w);
	if (result == CONTINUE) {
		if (!rules->stale_check_after_reclaim && is_stale(vm, vcpu, f))
			result = RETRY;
		else if (!make_pages_available(vm))
			return -28;
		else if (rules->stale_check_after_reclaim && is_stale(vm, vcpu, f))
			result = RETRY;
		else
			result = fetch(vm, vcpu, f, w);
	}
	if (result < 0)
		return result;
	if (result == WRITE_PROTECTED || result == EMULATE)
		outside(vm);
	if (result == FIXED)
		vcpu->stat[PF_FIXED]++;
	else if (result == SPURIOUS)
		vcpu->stat[PF_SPURIOUS]++;
	return 0;
}

/* ---- roots */

static void put_root(vm_t *vm, s64 hpa)
{
	s64 i = frame_page(vm, frame_of(hpa));
	sp_t *sp;

	if (i < 0) {
		warn(vm, 5);
		return;
	}
	sp = PAGE(vm, i);
	if (--sp->root_count < 0)
		warn(vm, 24);
	if (!sp->root_count && sp->role & ROLE_INVALID)
		prepare_zap_page(vm, sp);
}

static void free_roots(vm_t *vm, ctx_t *ctx, int which)
{
	int current = which & 1 && ctx->root_hpa != -1;

	for (int i = 0; i < NUM_PREV_ROOTS; i++) {
		if (which & 2 << i && ctx->prev_hpa[i] != -1) {
			put_root(vm, ctx->prev_hpa[i]);
			ctx->prev_hpa[i] = -1;
		}
	}
	if (current) {
		if (frame_page(vm, frame_of(ctx->root_hpa)) >= 0)
			put_root(vm, ctx->root_hpa);
		else
			outside(vm);
		ctx->root_hpa = -1;
		ctx->root_pgd = 0;
	}
	commit_zap(vm);
}

static int root_usable(vm_t *vm, s64 hpa, s64 root_pgd, s64 pgd, s64 role)
{
	s64 i;

	if (hpa == -1 || (!(role & ROLE_DIRECT) && pgd != root_pgd))
		return 0;
	i = frame_page(vm, frame_of(hpa));
	if (i < 0) {
		warn(vm, 4);
		return 0;
	}
	return role == PAGE(vm, i)->role;
}

static void swap_root(ctx_t *ctx, int i)
{
	s64 hpa = ctx->root_hpa, pgd = ctx->root_pgd;

	ctx->root_hpa = ctx->prev_hpa[i];
	ctx->root_pgd = ctx->prev_pgd[i];
	ctx->prev_hpa[i] = hpa;
	ctx->prev_pgd[i] = pgd;
}

static int fast_pgd_switch(vm_t *vm, ctx_t *ctx, s64 pgd, s64 role)
{
	if (ctx->root_hpa != -1 && frame_page(vm, frame_of(ctx->root_hpa)) < 0)
		free_roots(vm, ctx, 1);
	if (ctx->root_hpa != -1) {
		if (root_usable(vm, ctx->root_hpa, ctx->root_pgd, pgd, role))
			return 1;
		for (int i = 0; i < NUM_PREV_ROOTS; i++) {
			swap_root(ctx, i);
			if (root_usable(vm, ctx->root_hpa, ctx->root_pgd, pgd, role))
				return 1;
		}
		free_roots(vm, ctx, 1);
		return 0;
	}
	for (int i = 0; i < NUM_PREV_ROOTS; i++) {
		if (!root_usable(vm, ctx->prev_hpa[i], ctx->prev_pgd[i], pgd, role))
			continue;
		swap_root(ctx, i);
		for (int k = i; k < NUM_PREV_ROOTS - 1; k++) {
			ctx->prev_hpa[k] = ctx->prev_hpa[k + 1];
			ctx->prev_pgd[k] = ctx->prev_pgd[k + 1];
		}
		ctx->prev_hpa[NUM_PREV_ROOTS - 1] = -1;
		return 1;
	}
	return 0;
}

static int unsync_root(vm_t *vm, s64 hpa)
{
	s64 i;

	if (hpa == -1 || hpa == vm->shadow_pfn << 12)
		return 0;
	i = frame_page(vm, frame_of(hpa));
	return i >= 0 && (PAGE(vm, i)->unsync || PAGE(vm, i)->unsync_children);
}

static void sync_roots(vm_t *vm, vcpu_t *vcpu)
{
	ctx_t *ctx = CTX(vm, vcpu->mmu);

	if (ctx->root_role & ROLE_DIRECT || ctx->root_hpa == -1)
		return;
	vcpu->mmio_gva = 0;
	if (level_of(ctx->cpu_role) >= 4) {
		if (unsync_root(vm, ctx->root_hpa))
			sync_children(vm, vcpu, frame_page(vm, frame_of(ctx->root_hpa)));
		return;
	}
	for (int i = 0; i < 4; i++) {
		s64 entry = read_pae_root(vm, ctx, i);

		if (entry & P)
			sync_children(vm, vcpu, frame_page(vm, frame_of(entry)));
	}
}

static inline s64 pcid_of(vcpu_t *vcpu, s64 pgd) { return vcpu->cr4 & CR4_PCIDE ? pgd & 0xFFF : 0; }

static void load_pgd(vm_t *vm, vcpu_t *vcpu)
{
	ctx_t *ctx = CTX(vm, vcpu->mmu);

	if (ctx->root_hpa == -1)
		return;
	vcpu->hw_root = ctx->root_hpa;
	if (level_of(ctx->root_role) >= 4)
		vcpu->hw_root |= pcid_of(vcpu, vcpu->cr3);
}

static int load_root(vm_t *vm, vcpu_t *vcpu)
{
	ctx_t *ctx = CTX(vm, vcpu->mmu);
	s64 gfn = frame_of(vcpu->cr3), i;

	if (ctx->root_role & ROLE_DIRECT || level_of(ctx->cpu_role) < 4 ||
	    !slot_visible(vm, vcpu_slot(vm, vcpu, gfn))) {
		outside(vm);
		return -14;
	}
	if (!make_pages_available(vm))
		return -28;
	i = get_page(vm, vcpu, gfn, (ctx->root_role & ~(s64)(ROLE_LEVEL | ROLE_QUADRANT)) | level_of(ctx->root_role));
	if (i < 0)
		return -14;
	PAGE(vm, i)->root_count++;
	ctx->root_hpa = page_frame(vm, i) << 12;
	ctx->root_pgd = vcpu->cr3;
	sync_roots(vm, vcpu);
	load_pgd(vm, vcpu);
	flush_hardware(vcpu);
	return 0;
}

static int root_obsolete(vm_t *vm, s64 hpa)
{
	s64 i;

	if (hpa == -1)
		return 0;
	i = frame_page(vm, frame_of(hpa));
	return i < 0 || is_obsolete(vm, PAGE(vm, i));
}

static void free_obsolete_roots(vm_t *vm, vcpu_t *vcpu)
{
	for (int m = 0; m < 2; m++) {
		ctx_t *ctx = CTX(vm, vcpu->id * 3 + m);
		int which = root_obsolete(vm, ctx->root_hpa);

		for (int i = 0; i < NUM_PREV_ROOTS; i++)
			if (root_obsolete(vm, ctx->prev_hpa[i]))
				which |= 2 << i;
		if (which)
			free_roots(vm, ctx, which);
	}
}

/* ---- registers and entry */

static int is_pae_paging(vcpu_t *vcpu)
{
	return vcpu->cr0 & CR0_PG && vcpu->cr4 & CR4_PAE && !(vcpu->efer & EFER_LMA);
}

static int set_cr3(vm_t *vm, vcpu_t *vcpu, s64 value)
{
	ctx_t *ctx = CTX(vm, vcpu->mmu);
	int noflush = 0, which = 0;
	s64 pcid = 0, i;

	if (vcpu->cr4 & CR4_PCIDE) {
		noflush = value < 0;
		value &= INT64_MAX;
		pcid = value & 0xFFF;
	}
	if (value != vcpu->cr3 || is_pae_paging(vcpu)) {
		if (value >> vcpu->maxphyaddr)
			return 1;
		if (is_pae_paging(vcpu)) {
			outside(vm);
			return 1;
		}
		if (!fast_pgd_switch(vm, ctx, value, ctx->root_role)) {
			vm->stat[ROOT_MISS]++;
		} else {
			vm->stat[ROOT_HIT]++;
			vcpu->requests |= REQ_LOAD_MMU_PGD;
			if (RULES(vm)->flush_on_reuse)
				vcpu->requests |= REQ_MMU_SYNC | REQ_TLB_FLUSH_CURRENT;
			vcpu->mmio_gva = 0;
			i = frame_page(vm, frame_of(ctx->root_hpa));
			if (!(ctx->root_role & ROLE_DIRECT) && i >= 0)
				PAGE(vm, i)->write_flooding_count = 0;
		}
		vcpu->cr3 = value;
	}
	if (noflush)
		return 0;
	if (pcid_of(vcpu, vcpu->cr3) == pcid)
		vcpu->requests |= REQ_MMU_SYNC | REQ_TLB_FLUSH_CURRENT;
	if (vcpu->cr4 & CR4_PCIDE) {
		for (int k = 0; k < NUM_PREV_ROOTS; k++)
			if (pcid_of(vcpu, ctx->prev_pgd[k]) == pcid)
				which |= 2 << k;
		free_roots(vm, ctx, which);
	}
	return 0;
}

static int take(vcpu_t *vcpu, s64 request)
{
	if (!(vcpu->requests & request))
		return 0;
	vcpu->requests &= ~request;
	return 1;
}

static int enter(vm_t *vm, vcpu_t *vcpu)
{
	do {
		if (vcpu->requests) {
			if (take(vcpu, REQ_FREE_OBSOLETE_ROOTS))
				free_obsolete_roots(vm, vcpu);
			if (take(vcpu, REQ_MMU_SYNC))
				sync_roots(vm, vcpu);
			if (take(vcpu, REQ_LOAD_MMU_PGD))
				load_pgd(vm, vcpu);
			if (take(vcpu, REQ_TLB_FLUSH)) {
				vcpu->stat[TLB_FLUSH]++;
				flush_hardware(vcpu);
				vcpu->requests &= ~REQ_TLB_FLUSH_CURRENT;
			}
			if (take(vcpu, REQ_TLB_FLUSH_CURRENT)) {
				vcpu->stat[TLB_FLUSH]++;
				flush_hardware(vcpu);
			}
			if (vcpu->requests & (REQ_TLB_FLUSH_GUEST | REQ_TRIPLE_FAULT)) {
				outside(vm);
				return 1;
			}
		}
		if (vcpu->exception_injected || vcpu->exception_pending) {
			outside(vm);
			return 1;
		}
		if (RULES(vm)->reload_frees_obsolete && take(vcpu, REQ_FREE_OBSOLETE_ROOTS))
			free_obsolete_roots(vm, vcpu);
		if (CTX(vm, vcpu->mmu)->root_hpa == -1) {
			int result = load_root(vm, vcpu);

			if (result)
				return result;
		}
	} while (vcpu->requests);
	vcpu->in_guest = 1;
	emit(vm, EV_ENTRY, vcpu->id, vcpu->rip, vcpu->immediate_exit, 0);
	vcpu->immediate_exit = 0;
	return 0;
}

/* ---- a CPU without a TLB */

static int refused(vcpu_t *vcpu, int w, int u, int nx, s64 access)
{
	s64 cr4;

	if ((access & PFERR_W && !w) || (access & PFERR_F && nx))
		return 1;
	if (access & PFERR_U)
		return !u;
	cr4 = vcpu->cr4 | CR4_PAE;
	if (!(vcpu->cr0 & CR0_PG))
		cr4 &= ~(CR4_SMEP | CR4_SMAP | CR4_PKE);
	if (u && access & PFERR_F && cr4 & CR4_SMEP)
		return 1;
	return u && !(access & PFERR_F) && cr4 & CR4_SMAP && !vcpu->ac;
}

static s64 translate(vm_t *vm, vcpu_t *vcpu, s64 gva, s64 access)
{
	s64 level = level_of(CTX(vm, vcpu->mmu)->root_role), frame = frame_of(vcpu->hw_root), sptep, spte, pages, pfn;
	s64 error = access & (PFERR_W | PFERR_U | PFERR_F), *spt = SPT(vm);
	int w = 1, u = 1, nx = 0;

	if (level == 3) {
		s64 entry = spt[frame_sptep(vm, frame) + (gva >> (vm->page_shift + 2 * vm->level_bits) & 3)];

		if (!(entry & P))
			return -1 - error;
		frame = frame_of(entry);
		level = 2;
	}
	for (;; level--) {
		sptep = frame_sptep(vm, frame) + index_at(vm, gva, level);
		spte = spt[sptep];
		if (!(spte & P))
			return -1 - error;
		if ((spte & MMIO_VALUE) == MMIO_VALUE)
			return -1 - (error | PFERR_R | PFERR_P);
		w &= (spte & W) != 0;
		u &= (spte & U) != 0;
		nx |= (spte & NX) != 0;
		if (level == 1 || spte & PS)
			break;
		spt[sptep] = spte | A;
		frame = frame_of(spte);
	}
	if (refused(vcpu, w, u, nx, access))
		return -1 - (error | PFERR_P);
	spt[sptep] = spte | A | (access & PFERR_W ? D : 0);
	pages = hpage_pages(vm, level);
	pfn = (frame_of(spte) & -pages) + (gva >> vm->page_shift & (pages - 1));
	return ((pfn - vm->ram_pfn) << vm->page_shift) + offset_in_page(vm, gva);
}

static s64 reach(vm_t *vm, vcpu_t *vcpu, s64 gva, s64 access)
{
	if (vcpu->cpl == 3)
		access |= PFERR_U;
	for (int i = 0; i < 64; i++) {
		s64 result;

		if (enter(vm, vcpu))
			return DEAD;
		result = translate(vm, vcpu, gva, access);
		if (result >= 0)
			return result;
		if (handle_page_fault(vm, vcpu, gva, -1 - result) < 0)
			return DEAD;
	}
	return STUCK;
}

static s64 store(vm_t *vm, vcpu_t *vcpu, s64 gva, s64 value, s64 size)
{
	s64 at = reach(vm, vcpu, gva, PFERR_W);

	if (at >= 0)
		memcpy(AT(vm, char, vm->ram + at), &value, size);
	return at;
}

static void invlpg(vm_t *vm, vcpu_t *vcpu, s64 gva)
{
	ctx_t *ctx = CTX(vm, vcpu->walk_mmu);
	fault_t *it = FAULT_OF(vm, vcpu->id * 2 + 1);
	s64 empty = RULES(vm)->nonpresent_spte, page = gva & -(1LL << vm->page_shift);
	int unused = 64 - (int)(vm->page_shift + vm->level_bits * (vcpu->cr4 & CR4_LA57 ? 5 : 4));

	if (unused > 0 && (s64)((uint64_t)gva << unused) >> unused != gva)
		return;
	flush_gva(vcpu, gva);
	if (!ctx->kind || RULES(vm)->invlpg_zaps) {
		outside(vm);
		return;
	}
	for (int r = -1; r < NUM_PREV_ROOTS; r++) {
		s64 root = r < 0 ? ctx->root_hpa : ctx->prev_hpa[r];

		if (vcpu->mmio_gva == page)
			vcpu->mmio_gva = 0;
		if (root == -1)
			continue;
		walk_init(vm, vcpu, it, root, gva);
		while (walk_okay(vm, it)) {
			s64 i = sptep_page(vm, it->it_sptep);
			sp_t *sp = PAGE(vm, i);

			if (i < 0)
				break;
			if (sp->unsync) {
				int flags = SPT(vm)[it->it_sptep] != empty ? sync_spte(vm, vcpu, sp, it->it_index) : 0;

				if (flags < 0)
					zap_pte(vm, sp, it->it_sptep);
				if (flags)
					flush_remote(vm);
			}
			if (!sp->unsync_children)
				break;
			walk_next(vm, it);
		}
	}
	vcpu->stat[INVLPG]++;
}

static void track_write(vm_t *vm, vcpu_t *vcpu, s64 gpa, s64 size)
{
	s64 gfn = gpa >> vm->page_shift, gentry = 0, next, offset, entry, at, spte;
	int flush = 0;

	if (!vm->indirect_shadow_pages)
		return;
	if (vcpu->cr4 & CR4_PAE && size == 4) {
		gpa &= ~7LL;
		size = 8;
	}
	offset = offset_in_page(vm, gpa);
	if (size == 4 || size == 8) {
		s64 frame = gpa_frame(vm, vcpu, gpa);

		if (frame >= 0 && offset + size <= 1LL << vm->page_shift)
			memcpy(&gentry, (char *)frame_words(vm, frame) + offset, size);
	}
	vm->stat[MMU_PTE_WRITE]++;
	for (s64 i = HASH(vm)[bucket_of(vm, gfn)]; i >= 0; i = next) {
		sp_t *sp = PAGE(vm, i);
		int upper = level_of(sp->role) > 1, count;

		next = sp->hash_next;
		if (sp->gfn != gfn || !has_gptes(sp->role) || is_obsolete(vm, sp))
			continue;
		entry = sp->role & ROLE_4BYTE ? 4 : 8;
		if (((offset & (entry - 1) || size != 1) && ((offset ^ (offset + size - 1)) & -entry || size < 4)) ||
		    (upper && ++sp->write_flooding_count >= 3)) {
			prepare_zap_page(vm, sp);
			vm->stat[MMU_FLOODED]++;
			continue;
		}
		at = offset;
		count = 1;
		if (entry == 4) {
			at <<= 1;
			if (level_of(sp->role) == 2) {
				at = (at & ~7LL) << 1;
				count = 2;
			}
			if (at >> vm->page_shift != (sp->role & ROLE_QUADRANT) >> 5)
				continue;
			at = offset_in_page(vm, at);
		}
		at = first_sptep(vm, sp->id) + (at >> 3);
		for (; count--; at++) {
			spte = SPT(vm)[at];
			zap_pte(vm, sp, at);
			if (gentry && upper)
				vm->stat[MMU_PDE_ZAPPED]++;
			flush |= is_present(spte);
		}
	}
	remote_flush_or_zap(vm, flush);
}

/* ---- the benchmarks: each does what the function of the same name in lab/drivers.py does */

static inline s64 process_root(s64 p) { return (FIRST_TABLE + p * TABLES) << 12; }
static inline s64 process_page(s64 j) { return (j / PAGES_PER_PT) << 21 | (j % PAGES_PER_PT) * STRIDE << 12; }

s64 limit_faults(vm_t *vm, s64 processes, s64 repeats)
{
	vcpu_t *vcpu = VCPU(vm, 0);
	s64 done = 0;

	while (repeats--) {
		for (s64 p = 0; p < processes; p++) {
			AT(vm, s64, vm->events)[0] = 0;
			set_cr3(vm, vcpu, process_root(p));
			for (s64 j = 0; j < PAGES; j++) {
				s64 pt = FIRST_TABLE + p * TABLES + 3 + j / PAGES_PER_PT;

				RAM(vm)[(pt << 9) + j % PAGES_PER_PT * STRIDE] &= ~(s64)(A | D);
				if (reach(vm, vcpu, process_page(j), j & 1 ? PFERR_W : 0) < 0)
					return -1;
				done++;
			}
		}
		zap_all_fast(vm);
	}
	return done;
}

s64 limit_hits(vm_t *vm, s64 n, s64 unused)
{
	vcpu_t *vcpu = VCPU(vm, 0);
	s64 x = 12345, total = 0;

	for (s64 i = 0; i < n; i++) {
		x = (x * 1103515245 + 12345) & 0x7FFFFFFF;
		total += translate(vm, vcpu, (x >> 8 & (HIT_PAGES - 1)) << 12 | (x & 0xFF8), x & 1 << 20 ? PFERR_W : 0);
	}
	return total;
}

s64 limit_cr3(vm_t *vm, s64 n, s64 unused)
{
	vcpu_t *vcpu = VCPU(vm, 0);

	for (s64 i = 0; i < n; i++) {
		set_cr3(vm, vcpu, process_root(i & 3));
		if (enter(vm, vcpu))
			return -1;
		vcpu->hw_flush = 0;
	}
	return n;
}

s64 limit_ptewrite(vm_t *vm, s64 n, s64 unused)
{
	vcpu_t *vcpu = VCPU(vm, 0);
	s64 pt = FIRST_TABLE + 3;

	for (s64 i = 0; i < n; i++) {
		s64 at = (pt << 9) + 8 + (i & 7);

		RAM(vm)[at] = i << 12;
		track_write(vm, vcpu, at << 3, 8);
	}
	return n;
}

s64 limit_refault(vm_t *vm, s64 n, s64 unused)
{
	vcpu_t *vcpu = VCPU(vm, 0);
	s64 at = (FIRST_TABLE + 3) << 9 | STRIDE;

	for (s64 i = 0; i < n; i++) {
		RAM(vm)[at] = (WINDOW + (i & 1)) << 12 | P | W | U | A | D;
		track_write(vm, vcpu, at << 3, 8);
		if (reach(vm, vcpu, process_page(1), PFERR_W) < 0)
			return -1;
	}
	return n;
}

s64 limit_unsync(vm_t *vm, s64 n, s64 unused)
{
	vcpu_t *vcpu = VCPU(vm, 0);

	for (s64 c = 0; c < n; c++) {
		for (s64 k = 0; k < 16; k++)
			if (store(vm, vcpu, SELF_MAP + (BLOCK + k) * 8,
				  (WINDOW + k + 16 * (c & 1)) << 12 | P | W | U | A | D, 8) < 0)
				return -1;
		set_cr3(vm, vcpu, vcpu->cr3);
		for (s64 k = 0; k < 16; k++)
			if (reach(vm, vcpu, (BLOCK + k) << 12, 0) < 0)
				return -1;
	}
	return n;
}

s64 limit_invlpg(vm_t *vm, s64 n, s64 unused)
{
	vcpu_t *vcpu = VCPU(vm, 0);

	for (s64 c = 0; c < n; c++) {
		if (store(vm, vcpu, SELF_MAP + BLOCK * 8, (WINDOW + 16 * (c & 1)) << 12 | P | W | U | A | D, 8) < 0)
			return -1;
		vcpu->hw_flush = 0;
		vcpu->hw_flush_count = 0;
		invlpg(vm, vcpu, BLOCK << 12);
		if (reach(vm, vcpu, BLOCK << 12, PFERR_W) < 0)
			return -1;
	}
	return n;
}

s64 limit_clone(vm_t *vm, s64 n, s64 words)
{
	s64 *to = AT(vm, s64, words * 8), total = 0, mask = 0xFFFFFFFF;

	for (s64 i = 0; i < n; i++) {
		s64 a = 1, b = 2, c = 3, d = 4;

		VCPU(vm, 0)->rip = i;
		memcpy(to, vm, words * 8);
		for (s64 k = 0; k < words - 3; k += 4) {
			a = (((a ^ to[k]) & mask) * HASH_FACTOR >> 8 ^ to[k] >> 32) & mask;
			b = (((b ^ to[k + 1]) & mask) * HASH_FACTOR >> 8 ^ to[k + 1] >> 32) & mask;
			c = (((c ^ to[k + 2]) & mask) * HASH_FACTOR >> 8 ^ to[k + 2] >> 32) & mask;
			d = (((d ^ to[k + 3]) & mask) * HASH_FACTOR >> 8 ^ to[k + 3] >> 32) & mask;
		}
		total = (total * 31 + (a ^ b << 7 ^ c << 14 ^ d << 21)) & mask;
	}
	return total;
}

s64 limit_grow(vm_t *vm, s64 tables, s64 unused)
{
	vcpu_t *vcpu = VCPU(vm, 0);

	for (s64 i = 0; i < tables; i++)
		if (reach(vm, vcpu, i << 21, 0) < 0)
			return -1;
	return tables;
}

s64 limit_zap(vm_t *vm, s64 unused, s64 unused2)
{
	vcpu_t *vcpu = VCPU(vm, 0);

	zap_all_fast(vm);
	enter(vm, vcpu);
	return vm->n_used_mmu_pages;
}
