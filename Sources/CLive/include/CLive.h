#ifndef SWIFT_HMM_CLIVE_H
#define SWIFT_HMM_CLIVE_H
// What the live backend does where nothing but async-signal-safe code may run: answers page faults, moves pages between
// the memory of the process and the arena of its devices, and wraps the calls of the kernel that this takes.
//
// Every page that a device took is in exactly one place: at its address (home), or in its slot, a page of the arena.
// Who touches it where it is not gets it moved there: a CPU at its address, a device at the slot. One atomic word a
// page says where it is; whoever sets it to CLIVE_BUSY owns the page until it stores another state, and everybody
// else waits. Owners wait for nothing but calls of the kernel that do not fault, so there is no deadlock.
//
// Pages are numbered: address / 4096. A function that answers int answers 0, or an errno as a negative number, unless
// it says otherwise. "Signal-safe" below means: allowed in a signal handler and with any lock held; it takes no lock,
// allocates nothing and keeps errno. Everything else is for normal context, outside of signal handlers.
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// MARK: What this kernel can do

/// Found by trying, never from a version.
struct clive_features {
    /// 0, or the errno with which opening a userfaultfd failed in every way (EPERM: vm.unprivileged_userfaultfd and the
    /// rights of /dev/userfaultfd; ENOSYS: not built in).
    int open_error;
    /// Opened by /dev/userfaultfd.
    bool via_device;
    /// Faults that the kernel itself takes in a system call can be answered too.
    bool kernel_faults;
    /// UFFD_FEATURE_SIGBUS: faults can be answered on the faulting thread.
    bool sigbus;
    bool move, copy, zeropage, write_protect;
    /// A page that was never touched can be write-protected.
    bool wp_unpopulated;
    /// A page that is copied protected is so also where it may only be read (Linux 5.19).
    bool protects_copies;
    bool wp_async, poison, minor_shmem, thread_id, exact_address;
    /// PAGEMAP_SCAN of /proc/self/pagemap, and PROCMAP_QUERY of /proc/self/maps.
    bool pagemap_scan, procmap_query;
    /// MADV_POPULATE_READ and MADV_POPULATE_WRITE.
    bool populate;
    /// /proc/self/pagemap tells physical page numbers.
    bool pfn_visible;
    /// What UFFDIO_API answered, and the ioctls that it has for private anonymous memory.
    uint64_t uffd_features, uffd_ioctls;
};
void clive_probe(struct clive_features *_Nonnull out);

/// The environment variable HMM_WITHOUT names features, with commas between, that are treated as missing in this
/// process: to be what an older kernel or a user without rights makes it. False: it names something else.
bool clive_without_is_known(void);
/// Whether the names are there, and which.
const char *_Nullable clive_without_names(void);
/// Faults that the kernel takes in a system call are answered in the process as it runs. If not, a system call that
/// meets a page that is missing or protected in registered memory answers EFAULT, and a signal whose frame would lie
/// there ends the process: so registered is then no more than what devices use, and not much of it is protected.
bool clive_answers_kernel_faults(void);

// MARK: Start, and fork

struct clive_options {
    /// A CPU fault brings back the pages that are away in the aligned block of this many pages; 0 and 1: one page.
    /// At most 512, rounded down to a power of two.
    uint32_t fault_around_pages;
    /// Copies even where pages could be moved.
    bool copy_only;
    /// Features of userfaultfd (as in clive_features) that are treated as missing: to be what an older kernel makes it.
    uint64_t without_features;
};

/// Opens the userfaultfds, registers the arena, installs the SIGBUS handler and starts the fault thread. Once a
/// process. `arena` is private anonymous memory, readable and writable, aligned to a page (better to 2 MiB), with
/// nothing in it; frame 0 stays unused. -EALREADY if it was called before; -EPERM or -ENOSYS if userfaultfd cannot be
/// had; -EOPNOTSUPP where pages are not of 4 KiB.
int clive_start(void *_Nonnull arena, uint64_t arena_frames, const struct clive_options *_Nonnull options);
void clive_set_fault_around(uint32_t pages);
/// Puts the SIGBUS handler in front again, if somebody has put another in its place since: that one is behind it from
/// now on. -ENOSPC after some such changes.
int clive_keep_handler(void);

/// Before fork(), with no take or bring going on: lets the faults that are being answered come to an end and new ones
/// wait, so that the child finds no page halfway. One of the two below ends it, on the same thread, in each process;
/// until then that thread alone may still fault (in the child not: there a page that is away reads as zeros before the
/// function below has run, so nothing that runs between fork and it may be away: stacks, the heap).
void clive_before_fork(void);
/// In the child: its own userfaultfds, every range registered again, what is present write-protected (the first write
/// after fork is told as CLIVE_COW), a fault thread of its own. Words, owners and the bytes of slots are inherited.
int clive_after_fork_in_child(void);
/// In the parent: what is present in registered ranges is write-protected, so that the first write is told.
int clive_after_fork_in_parent(void);
/// The lowest descriptor of this code's from the number on, or -1. Whoever closes it loses what is away.
int clive_file_from(int number);

// MARK: The word of a page

enum {
    /// At its address, or nowhere yet.
    CLIVE_HOME = 0,
    /// In its slot.
    CLIVE_AWAY = 1,
    /// Somebody is moving it. Only that thread may write the word.
    CLIVE_BUSY = 2,
    /// A CPU took it back; mirrors may not know yet, so the slot is not free.
    CLIVE_RETURNED = 3,
    CLIVE_STATE = 7,
    /// Goes home write-protected.
    CLIVE_READONLY = 8,
    /// Nobody but one device may reach it.
    CLIVE_EXCLUSIVE = 16,
    /// At its address, accounted to a device. For the caller; such a page is not taken (EBUSY).
    CLIVE_COHERENT = 32,
    /// A write to a protected page was let through and mirrors were not told yet.
    CLIVE_WP_HIT = 64,
    /// Away, and taken where there was nothing, or the page of zeros that all share: a page of its own goes home.
    CLIVE_FRESH = 1 << 11,
    // The other bits from 7 to 15 belong to the implementation: keep them.
    /// Bits 16 to 47: the slot, 0 for none. A HOME word may carry a number of the caller there.
    CLIVE_FRAME_SHIFT = 16,
};
#define CLIVE_FRAME_MASK (0xffffffffull << CLIVE_FRAME_SHIFT)
#define CLIVE_PAGES_OF_SEGMENT (1u << 18)
#define CLIVE_SEGMENTS 8192

// All signal-safe.
static inline uint64_t clive_load(const uint64_t *_Nonnull word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
/// Only for who made the word CLIVE_BUSY; everybody else uses clive_change.
static inline void clive_store(uint64_t *_Nonnull word, uint64_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
/// Sets the word of a page, which is there, if it is `expected` and not CLIVE_BUSY.
bool clive_change(uint64_t page, uint64_t expected, uint64_t value);
static inline uint32_t clive_state_of(uint64_t word) { return (uint32_t)(word & CLIVE_STATE); }
static inline uint32_t clive_frame_of(uint64_t word) { return (uint32_t)(word >> CLIVE_FRAME_SHIFT); }

/// The word of a page; the words of one segment (1 GiB, 2^18 pages) are contiguous. NULL: no segment there yet.
/// Signal-safe. A word that is known to be there stays at its place for the life of the process.
uint64_t *_Nullable clive_word(uint64_t page);
/// Whether all words say CLIVE_HOME, and not CLIVE_COHERENT. Signal-safe.
bool clive_are_home(const uint64_t *_Nonnull words, size_t count);
/// Makes the segments of a range. -ENOMEM; -ENOSPC after CLIVE_SEGMENTS of them; -EINVAL beyond the address space.
int clive_make_segments(uint64_t page, uint64_t count);
/// The number of the segment of a page, for live frame numbers; -1: none yet. Signal-safe.
int32_t clive_segment(uint64_t page);
/// By number: the first byte of the segment's memory. CLIVE_SEGMENTS entries, NULL for those not made yet.
void *_Nullable const *_Nonnull clive_segment_bases(void);
/// The page whose bytes belong into a slot, 0 for none. Signal-safe.
uint64_t clive_owner(uint32_t frame);

// MARK: Registered ranges

enum clive_mode {
    /// A fault is a SIGBUS that is answered on the faulting thread: fast. A system call that meets a page that is away
    /// answers EFAULT, and a thread that blocks SIGBUS or whose stack is away dies.
    CLIVE_ON_THREAD,
    /// A fault waits for the fault thread. System calls work; slower by an order of magnitude. For stacks, and for
    /// buffers of system calls.
    CLIVE_HANDLER_THREAD,
};

/// Has the faults of a range answered here: missing pages, and writes to protected ones where the kernel can tell.
/// Makes the segments. Idempotent for pages that are registered in the same mode; -EBUSY if one is registered in
/// another mode (unregister it first, with nothing away in it) or by a userfaultfd of somebody else; -EINVAL for memory
/// that userfaultfd does not take (files, hugetlb without support, nothing mapped at the first page).
int clive_register(uint64_t page, uint64_t count, enum clive_mode mode);
/// Pages that are away must have been brought home or forgotten. Ranges that were unmapped meanwhile are fine.
int clive_unregister(uint64_t page, uint64_t count);
/// -1, or the mode. Signal-safe.
int clive_registered(uint64_t page);
/// Whether the kernel knows of it too: memory that was unmapped without clive_unregister, and what is mapped there now,
/// is not. Takes write-protection from the page, so ask of a page that is away, or where nothing was ever protected.
bool clive_still_registered(uint64_t page);

// MARK: Moving pages
//
// The caller of take, bring, forget and relocate holds off the others of these, and whoever changes mappings or rights
// of the range; faults of CPUs and devices go on meanwhile. `result[i]` is 0 or an errno for page + i. Both arrays may
// lie in registered memory. Signals are blocked while pages are owned.

/// HOME → AWAY into frames[i] (0: leave this page alone, result EINVAL). `bits`: CLIVE_READONLY, CLIVE_EXCLUSIVE,
/// CLIVE_FRESH. A hole is taken too; its slot stays missing and reads zero. The slots must be free and empty; what was
/// touched in one by mistake is dropped. Pages and frames that go on by one together are one call of the kernel.
/// Errors of a page: EALREADY away already, EAGAIN returned and not settled, EBUSY pinned (by direct I/O or io_uring)
/// or part of the stack that the caller runs on, ENXIO not registered, EFAULT not readable, ENOMEM.
/// Answers the number of pages that went.
int clive_take(uint64_t page, const uint32_t *_Nonnull frames, size_t count, uint64_t bits,
               uint8_t *_Nonnull result);
/// AWAY or RETURNED → HOME. Mirrors were told before. `frames`, if not NULL, gets the frame of each page that came, 0
/// for the others: the caller's to free.
/// Errors of a page: ENOENT not away, ENXIO no longer registered, ENOMEM. Answers the number of pages that came.
int clive_bring(uint64_t page, size_t count, uint8_t *_Nullable result, uint32_t *_Nullable frames);
/// AWAY or RETURNED → HOME with the bytes in the slot thrown away: for memory that is unmapped or discarded. `frames`,
/// if not NULL, gets the frame of each page, 0 where there was none.
void clive_forget(uint64_t page, size_t count, uint32_t *_Nullable frames);
/// Pages that are AWAY or RETURNED belong to `to` + i from now on: for mremap, before the new address is touched. The
/// words of `to` must be HOME, and its segments are made.
int clive_relocate(uint64_t from, uint64_t to, size_t count);

/// Owns a page that is AWAY in this frame, and leaves its slot to the caller: who misses the page at its address waits,
/// whoever wants to move it too. False: the page is not there, nor comes back. A page of coherent memory, which all
/// reach at once, is left as it is. Not for long, and no other page is to be waited for meanwhile.
bool clive_hold(uint64_t page, uint32_t frame);
/// The page is AWAY again, after clive_hold answered true.
void clive_let_go(uint64_t page, uint32_t frame);

// MARK: Returns: what mirrors have to be told

enum {
    /// A bit of clive_return: a write to a protected page was let through; frame is 0.
    CLIVE_COW = 128,
};
/// A page that a CPU took back, or (CLIVE_COW) wrote. `bits`: CLIVE_EXCLUSIVE, CLIVE_READONLY of the word, CLIVE_COW.
struct clive_return {
    uint64_t page;
    uint32_t frame;
    uint32_t bits;
};
/// The next returns, each delivered once; none is lost when the queue runs over. A page that a device fetched into its
/// slot again before this is left out. Any thread but one that answers faults; waits for no more than a page that is
/// being moved.
size_t clive_drain(struct clive_return *_Nonnull out, size_t capacity);
/// After mirrors were told of a drained return: RETURNED → HOME, the owner is cleared, the slot is empty. True: the
/// frame is free now. False: a device fetched the page again meanwhile (it is AWAY in the same frame), or it returned
/// once more and will be drained again: the frame is in use.
bool clive_settle(uint64_t page, uint32_t frame);
/// Blocks until something can be drained or the time is over. It lets two milliseconds of returns gather, so that a
/// burst of faults pays for one wake-up.
void clive_wait_returns(uint64_t timeout_ns);
/// Ends a clive_wait_returns that sleeps. Signal-safe.
void clive_wake_returns(void);

// MARK: Looking, and other calls of the kernel

enum {
    CLIVE_PRESENT = 1,
    /// The page of zeros that all share.
    CLIVE_ZERO = 2,
    CLIVE_HUGE = 4,
    /// Of a file or of shared memory.
    CLIVE_FILE = 8,
    CLIVE_SWAPPED = 16,
    /// Write-protected by clive_write_protect, fork or a READONLY return.
    CLIVE_WP = 32,
    /// Mapped by nobody else.
    CLIVE_EXCLUSIVELY_MAPPED = 64,
};
/// What the page tables say now.
int clive_look(uint64_t page, size_t count, uint8_t *_Nonnull out);
/// The same without CLIVE_FILE and CLIVE_EXCLUSIVELY_MAPPED (which may be set all the same), at less than half the
/// cost.
int clive_look_quickly(uint64_t page, size_t count, uint8_t *_Nonnull out);

struct clive_vma {
    uint64_t start_page, end_page;
    /// PROT_READ, PROT_WRITE, PROT_EXEC.
    uint32_t prot;
    /// `file`: backed by a file that has a name (shared anonymous memory and memory of System V are not).
    bool shared, file, hugetlb, special, stack, heap;
};
/// The mapping that contains the page or is the next after it; -ENOENT: none.
int clive_vma_ending_after(uint64_t page, struct clive_vma *_Nonnull out);
/// Faults pages in without touching them (MADV_POPULATE_READ or _WRITE). -EFAULT: not mapped, no right, or in memory
/// registered CLIVE_ON_THREAD a page that is missing there. -EINVAL: the kernel cannot.
int clive_populate(uint64_t page, size_t count, bool write);
/// Write-protects what is present, or takes that away. -ENXIO: not registered; -EOPNOTSUPP: the kernel cannot.
int clive_write_protect(uint64_t page, size_t count, bool on);
/// Zero pages where nothing is present, but for pages that are AWAY.
int clive_zero(uint64_t page, size_t count);
/// A page of zeros of its own where nothing is present, or the one that all share, whatever rights the mapping has.
/// For memory that nobody may write meanwhile. -ENXIO: not registered.
int clive_zero_own(uint64_t page);

// MARK: Nodes of memory

/// Moves pages, in any order, to a node: they keep their addresses. `result[i]` is 0 where the page is there now, or
/// an errno: EBUSY pinned, EACCES shared with another process (and not permitted), ENOMEM the node is full, ENOENT
/// nothing is there, EFAULT not of this kind (the page of zeros, or nothing mapped). Answers how many are there, or a
/// negative errno where none can be: ENODEV, EACCES, ENOSYS.
int clive_move_to_node(const uint64_t *_Nonnull pages, size_t count, int node, uint8_t *_Nonnull result);
/// The node of each page, or as a negative errno why it has none.
int clive_nodes(const uint64_t *_Nonnull pages, size_t count, int *_Nonnull nodes);
/// The node of the processor that runs this, or a negative errno.
int clive_this_node(void);

// The calls themselves, past the C library. They answer the call's value, or an errno as a negative number.
intptr_t clive_sys_munmap(uintptr_t address, size_t bytes);
intptr_t clive_sys_mprotect(uintptr_t address, size_t bytes, int protection);
intptr_t clive_sys_madvise(uintptr_t address, size_t bytes, int advice);
intptr_t clive_sys_mremap(uintptr_t address, size_t bytes, size_t new_bytes, int flags, uintptr_t target);
/// fork() of the C library, with its handlers; Swift does not import it. -1 and errno, as there.
int clive_call_fork(void);
/// pthread_atfork.
void clive_at_fork(void (*_Nonnull prepare)(void), void (*_Nonnull parent)(void), void (*_Nonnull child)(void));
/// The calling thread takes no signals from now on but those of faults.
void clive_block_signals(void);

/// What has happened since the start. Relaxed counts.
struct clive_counts {
    /// Faults answered, by kind.
    uint64_t cpu_faults, device_faults, write_protect_faults;
    /// Pages that went by a move, and by a copy; holes that were filled.
    uint64_t moved, copied, zero_filled;
    /// Returns pushed, and how often the queue ran over.
    uint64_t returns, overflows;
};
void clive_read_counts(struct clive_counts *_Nonnull out);
#endif
