#ifndef SWIFT_HMM_CLIVE_INTERNAL_H
#define SWIFT_HMM_CLIVE_INTERNAL_H
// What the files of this target share. Each of them ends what this begins:
//
// A fault may come while a sanitizer's own code touches memory for the program, with locks of its own held. What
// answers the fault must not enter it again.
#pragma clang attribute push(__attribute__((disable_sanitizer_instrumentation)), apply_to = function)
#include "include/CLive.h"
#include "kernel.h"
#include <errno.h>

#pragma GCC visibility push(hidden)

// Bits of a word that only this target uses.
enum {
    /// RETURNED, and mirrors were not told: an entry of the queue or a scan will deliver it.
    WORD_UNDELIVERED = 1 << 8,
    /// RETURNED, and the slot has a copy for devices that read; home is write-protected while it has.
    WORD_COPIED = 1 << 9,
    /// AWAY, and went as a part of a whole huge page.
    WORD_HUGE = 1 << 10,
    /// BUSY, and owned by a device that uses the slot: see clive_hold.
    WORD_HELD = 1 << 12,
    /// What pages that come home by one call have in common.
    WORD_ALIKE = CLIVE_READONLY | CLIVE_FRESH,
};

enum {
    /// What a huge page has. Aligned, in memory and in the arena.
    BLOCK_PAGES = 512,
};

/// The state of 1 GiB of memory. Zeroed memory is a segment with everything at home.
struct segment {
    uint64_t words[CLIVE_PAGES_OF_SEGMENT];
    /// 0, or 1 + the mode in which the page is registered. Written by clive_register and clive_unregister, read by
    /// fault handlers.
    uint8_t modes[CLIVE_PAGES_OF_SEGMENT];
    /// By block: see enter_block.
    uint32_t gates[CLIVE_PAGES_OF_SEGMENT / BLOCK_PAGES];
    int32_t number;
};
enum { SEGMENT_SLOTS = 1 << 18 };
/// By page / CLIVE_PAGES_OF_SEGMENT. An entry is set once.
extern struct segment *clive_segments[SEGMENT_SLOTS];

struct live {
    /// By clive_mode. The same file twice where the kernel cannot raise SIGBUS.
    int uffd[2];
    int pagemap, maps;
    bool started, can_move, can_protect, protects_copies, can_zero, sigbus, kernel_faults;
    uint64_t arena_page, arena_frames;
    uint64_t *owners;
    /// By block of the arena: how many huge pages it may get before it is asked to be rid of its page table; 0 where it
    /// may have one.
    uint8_t *table_uses;
    /// Addresses to which pages are taken while they are copied.
    uint64_t aside_page;
    uint32_t fault_around;
    /// The gate: while `gate` has the number of a thread, only that thread starts to answer a fault;
    /// `answering` threads are behind it.
    uint32_t gate, answering;
    /// Odd while the fault thread has let a thread go on whose return is not in the queue yet.
    uint32_t waking;
    /// A fork keeps the gate, and faults have waited at it; `passed`: some went through all the same.
    uint32_t forking, refusals, passed;
    /// Pages that devices hold, and those that they held when the fork that is under way began.
    uint32_t held, held_at_fork;
    uint64_t features;
    struct clive_counts counts;
};
extern struct live live;

static inline struct segment *segment_of(uint64_t page) {
    uint64_t index = page / CLIVE_PAGES_OF_SEGMENT;
    return index < SEGMENT_SLOTS ? __atomic_load_n(&clive_segments[index], __ATOMIC_ACQUIRE) : NULL;
}
/// clive_word, without the tables of the dynamic linker, which may bind it only when it is called.
static inline uint64_t *word_of(uint64_t page) {
    struct segment *s = segment_of(page);
    return s ? &s->words[page % CLIVE_PAGES_OF_SEGMENT] : NULL;
}
/// 0, or 1 + the mode.
static inline uint8_t mode_byte(uint64_t page) {
    struct segment *s = segment_of(page);
    return s ? __atomic_load_n(&s->modes[page % CLIVE_PAGES_OF_SEGMENT], __ATOMIC_RELAXED) & 3 : 0;
}
/// The userfaultfd of a registered page, or -1.
static inline int uffd_of(uint64_t page) {
    uint8_t byte = mode_byte(page);
    return byte ? live.uffd[byte - 1] : -1;
}
/// The arena belongs to the on-thread userfaultfd.
static inline int arena_uffd(void) { return live.uffd[CLIVE_ON_THREAD]; }
static inline uint64_t slot_page(uint32_t frame) { return live.arena_page + frame; }
static inline uint64_t owner_of(uint32_t frame) {
    return frame < live.arena_frames ? __atomic_load_n(&live.owners[frame], __ATOMIC_ACQUIRE) : 0;
}
static inline void set_owner(uint32_t frame, uint64_t page) {
    if (frame < live.arena_frames) __atomic_store_n(&live.owners[frame], page, __ATOMIC_RELEASE);
}
/// Of `n` slots side by side.
static inline void clear_owners(uint32_t frame, size_t n) {
    uint64_t *owners = &live.owners[frame];
    if (n > live.arena_frames - frame) n = live.arena_frames - frame;
    for (size_t i = 0; i < n; i++) __atomic_store_n(&owners[i], 0, __ATOMIC_RELEASE);
}
static inline uint64_t with_state(uint64_t word, uint64_t state) { return (word & ~(uint64_t)CLIVE_STATE) | state; }
static inline void count(uint64_t *counter, uint64_t n) { __atomic_fetch_add(counter, n, __ATOMIC_RELAXED); }

static inline uint32_t this_thread(void) { return (uint32_t)kernel_call(SYS_gettid, 0, 0, 0, 0, 0, 0); }

/// Memory of zeros that no mapping of the program is ever joined with: what the answer to a fault needs must not be
/// registered, nor write-protected by a fork, together with memory beside it. NULL: there is none.
void *own_memory(size_t bytes);
/// Gives way while somebody else owns what is waited for: first the processor, then real time.
void wait_turn(unsigned turn);
void sleep_ns(uint64_t nanoseconds);
/// Owns the page: waits while it is BUSY, makes it BUSY and answers the word as it was.
uint64_t own_word(uint64_t page, uint64_t *word);

// The gate of a block. A word that is not BUSY is changed by an atomic exchange inside of the gate of its block, or by
// plain stores of the one thread that has closed it: what moves a whole block owns it so for a tenth of the price.
//
// Who is inside waits for nobody, but may be interrupted, or miss a page of its own stack. So who closes does not wait
// for long either, and goes another way then (words by exchange, inside). And who has closed must miss nothing whose
// answer needs the block: no stack lies in it, because it closes only blocks that are all CLIVE_ON_THREAD, where that
// is not the fault thread's too, and no page of the block can be taken meanwhile.
enum { GATE_CLOSED = 1u << 31 };

static inline uint32_t *gate_of(uint64_t page) {
    return &segment_of(page)->gates[page % CLIVE_PAGES_OF_SEGMENT / BLOCK_PAGES];
}
/// Goes in, when the gate is open.
void enter_block(uint32_t *gate);
static inline void leave_block(uint32_t *gate) { __atomic_fetch_sub(gate, 1, __ATOMIC_RELEASE); }
/// Inside of the gate.
static inline bool exchange_inside(uint64_t *word, uint64_t expected, uint64_t value) {
    return __atomic_compare_exchange_n(word, &expected, value, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
static inline bool exchange_word(uint64_t page, uint64_t *word, uint64_t expected, uint64_t value) {
    uint32_t *gate = gate_of(page);
    enter_block(gate);
    bool is_done = exchange_inside(word, expected, value);
    leave_block(gate);
    return is_done;
}
/// Closes the gate of the block of a page. False: not now.
bool close_block(uint64_t page);
void open_block(uint64_t page);
/// In a child: nobody else is inside.
void open_blocks(void);

// Huge pages. They go whole, and stay huge, where no part of either block has a page table; a table stays behind when
// a part of a block was in use by itself.
enum { MOST_BLOCKS = 8 };
/// Which of the blocks of a range are huge pages. The kernel is asked of each, and of the next ones when it was one.
struct huge_blocks {
    /// The end of the range, in pages.
    uint64_t end;
    /// What was asked before.
    uint64_t first, count;
    bool is_huge[MOST_BLOCKS];
};
/// The mark for the words of a whole block that is about to go to slots from `frame` on, which are made fit for it if
/// it is a huge page; 0 if it is none.
uint64_t keep_huge(uint64_t page, uint32_t frame, struct huge_blocks *blocks);
/// Slots are used by less than a block.
void note_tables(uint64_t slot, uint64_t n);

// transfer.c
enum {
    /// The destination is a slot, otherwise a home.
    TO_SLOT = 1,
    /// CPUs and devices may be looking: a copy may not be seen before the original is gone.
    WATCHED = 2,
    /// The pages come home write-protected.
    PROTECTED = 4,
    /// Who waits for the page goes on as soon as it is there.
    WAKING = 8,
    /// A huge page.
    WHOLE = 16,
};
/// Moves pages from `from` to `to`, copies what cannot be moved. All of them are owned. A hole stays a hole. Answers
/// how many went, from the first; if fewer than `n`, `error` says why the next one did not.
size_t transfer(int home_uffd, uint64_t to, uint64_t from, size_t n, unsigned flags, int *error);
enum {
    /// How often the kernel may ask to try again without any progress: minutes.
    MOST_TURNS = 1 << 20,
};
static inline bool asks_again(long result) { return result == -EAGAIN || result == -EINTR; }
/// Gives owned slots that may be empty, or may hold the shared page of zeros, pages of their own: a kernel's device
/// memory has some for each page, and they come home as such.
void fill_slots(uint32_t frame, size_t n);
/// UFFDIO_WRITEPROTECT of what is present. 0, or a negative errno.
long protect_pages(int uffd, uint64_t page, uint64_t n, bool on);
/// A page of zeros where nothing is. 0 if there is something now (also if there was before: `was_present`), or a
/// negative errno.
long fill_with_zeros(int uffd, uint64_t page, bool is_write, bool *was_present);
/// Moves a page to `to`, where it has the same rights, and makes it this process's own before if it must. EBUSY: it is
/// pinned. 1 or 0.
size_t move_own(int uffd, uint64_t to, uint64_t from, int from_uffd, int *error);
/// Drops bytes, of locked memory too.
long drop_pages(uint64_t page, uint64_t n);

// copy.c
int open_copies(void);
/// A copy that is nowhere else for a moment, and where it is: read by a child that was forked in that moment.
struct copy_under_way {
    const void *bytes;
    uint64_t to, from;
    /// 0: none.
    size_t n;
};
enum { MOST_COPIES = 8 };
extern struct copy_under_way copies_under_way[MOST_COPIES];
/// In a child: nobody copies.
void end_copies(void);
/// UFFDIO_COPY. `from` is an address, which the kernel reads. Answers how many pages went, from the first.
size_t copy_run(int uffd, uint64_t to, const void *from, size_t n, bool protected, int *error);
/// Copies pages until one cannot be copied, and takes the originals away; holes stay holes.
size_t copy_pages(int to_uffd, int from_uffd, uint64_t to, uint64_t from, size_t n, unsigned flags, int *error);

/// Takes a page into a slot that the kernel does not move there, because its memory has other rights or is locked. It
/// is copied from an address of such memory to which it was moved: what is pinned does not move (EBUSY), and a copy of
/// it would miss what the pin is for. 1 or 0; the error stays EINVAL where the kernel moves no such memory.
size_t move_aside(uint64_t to, uint64_t from, int from_uffd, int *error);

// resolve.c
enum {
    FAULT_WRITE = 1,
    /// The page is there, but protected.
    FAULT_PROTECTED = 2,
    /// The machine does not tell: any of the above may be true.
    FAULT_UNSURE = 4,
    /// The thread that faulted sleeps until it is woken.
    FAULT_ASLEEP = 8,
};
/// Answers a fault that came in one of the two ways, on `thread`; 0 is the running one. False: it is none of ours.
bool resolve(uint64_t address, unsigned kind, enum clive_mode mode, uint32_t thread);
/// Waits until no fault is being answered, and lets none begin but those of this thread: for fork, and while pages are
/// protected, since a page that gets protected while its owner makes it this process's own would make the owner fault.
/// False: this thread has closed it already.
bool close_gate(void);
void open_gate(void);
/// Goes in to answer a fault, when the gate is open; `thread` is 0, or the number of the thread whose fault the fault
/// thread answers. False: not now.
bool enter(uint32_t thread);
void leave(void);
/// Waits until no fault is being answered. The gate is closed.
void wait_for_answers(void);

// returns.c
void push_return(uint64_t page, uint32_t frame, uint32_t bits);
/// Wakes the reader, if it sleeps, after some pushes.
void announce_returns(void);

/// In a child: an empty queue, and everything that has to be delivered is found by a scan.
void restart_returns(void);

// halfway.c
/// In a child: what the parent was moving when it was copied is put where it belongs.
void mend_halfway(void);

// ranges.c
long register_pages(int uffd, uint64_t page, uint64_t n);
int open_uffds(void);
int register_everything(void);
/// Registers what should be registered in a range: a part of it may have been mapped anew behind our back, by the
/// allocator of the C library for one. A page that is taken from such memory would not fault when it is missed.
void register_again(uint64_t page, uint64_t n);
int protect_everything(void);

// without.c
enum {
    WITHOUT_KERNEL_FAULTS = 1, WITHOUT_SIGBUS = 2, WITHOUT_MOVE = 4, WITHOUT_PROTECTION = 8, WITHOUT_SCAN = 16,
    WITHOUT_MAP_QUERY = 32,
};
/// What HMM_WITHOUT names, as it was when it was first asked. Signal-safe after that.
unsigned left_out(void);

// probe.c
/// A userfaultfd, opened in the first way that works, before UFFDIO_API. Or a negative errno, of the plain way. The
/// way is noted in `way` unless that is NULL.
int open_uffd(struct clive_features *way);

// handlers.c
int start_fault_thread(void);

// files.c
/// The same file under a number that programs do not give to `dup2`, if there is one.
int keep_high(int file);
/// Gives the calling thread descriptors of its own: those of this code, and no others.
void have_own_files(void);

// maps.c, look.c
int open_proc_files(void);
/// Entries of /proc/self/pagemap. Signal-safe.
bool read_pagemap(uint64_t page, size_t n, uint64_t *entries);
/// Whether a huge page maps `page`; false if the kernel does not tell.
bool is_huge(uint64_t page);
/// The same of whole blocks from `page` on, at most MOST_BLOCKS.
bool find_huge(uint64_t page, size_t blocks, bool *are);

#pragma GCC visibility pop
#endif
