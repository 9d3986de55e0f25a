#ifndef SWIFT_HMM_CBENCH_H
#define SWIFT_HMM_CBENCH_H
// What the host kernel takes for the operations of `hmm bench`. Each call makes what it needs, measures one sample of
// the one operation, takes everything down again and answers nanoseconds, or an errno as a negative number. A sample
// whose checksum is not what the memory must hold answers -EILSEQ.
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cbench_mapping {
    void *_Nullable base;
    size_t bytes;
};

/// Private anonymous memory, every page written.
struct cbench_region {
    void *_Nullable base;
    size_t pages;
    /// What was mapped for it.
    struct cbench_mapping whole;
};

/// Makes a region of 4 KiB pages, or, as far as the host has them, of huge ones. 0, or a negative errno.
int64_t cbench_region_make(struct cbench_region *_Nonnull region, size_t pages, bool huge);
void cbench_region_free(struct cbench_region *_Nonnull region);

/// Reads what the page tables say of the region: PAGEMAP_SCAN, repeated until the end of the range. `found` is the
/// number of pages that were reported.
int64_t cbench_pagemap_scan(const struct cbench_region *_Nonnull region, uint64_t *_Nonnull found);

/// Faults in fresh memory with MADV_POPULATE_WRITE.
int64_t cbench_populate(size_t pages);

/// Takes the right to write from the whole region. The region can be written again afterwards.
int64_t cbench_protect(const struct cbench_region *_Nonnull region);

/// For each page of the region alone: no rights, all rights again, one write.
int64_t cbench_revoke_each(const struct cbench_region *_Nonnull region);

/// Copies between two regions and back.
int64_t cbench_copy_both_ways(const struct cbench_region *_Nonnull from, const struct cbench_region *_Nonnull to);

/// fork with the region mapped; the child leaves at once.
int64_t cbench_fork(const struct cbench_region *_Nonnull region);

/// Writes the first word of every page of fresh memory.
int64_t cbench_touch(size_t pages);

/// `count` switches between two contexts of the C library.
int64_t cbench_swapcontext(size_t count);

/// From now on the calling thread runs on one processor, and the threads that answer faults, ours and those of plain C
/// (their names end in `-faults`), on another, if there is another. 0, or a negative errno.
int64_t cbench_place_apart(void);
/// Ends that: they run where the calling thread was allowed to before.
int64_t cbench_place_anywhere(void);

// MARK: Live memory (live.c)

/// Memory that is moved away by UFFDIO_MOVE and comes home by page faults.
struct cbench_live {
    int fd;
    size_t pages;
    /// Pages that a fault brings home, a power of two.
    size_t around;
    void *_Nullable home;
    void *_Nullable away;
    struct cbench_mapping home_whole, away_whole;
    /// The thread that answers faults; without one, a handler of SIGBUS does it on the thread that faulted.
    bool has_thread;
    uint64_t thread;
    /// Of a fault that could not be answered.
    int error;
};

/// Makes a region of written pages, of 4 KiB or, as far as the host has them, huge ones. 0, or a negative errno.
int64_t cbench_live_make(struct cbench_live *_Nonnull live, size_t pages, bool huge, bool handler_thread);
void cbench_live_free(struct cbench_live *_Nonnull live);

/// Reads the first word of every page after all of them were moved away; each fault brings `around` pages home. Only
/// the reads are measured.
int64_t cbench_live_faults(struct cbench_live *_Nonnull live, size_t around);

/// Moves the whole region away and home again, one ioctl each way.
int64_t cbench_live_move_both_ways(struct cbench_live *_Nonnull live);
#endif
