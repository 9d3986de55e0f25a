// Copies of owned pages, for kernels that cannot move them and for pages that cannot be moved: no write may get lost
// between the copy and the end of the original, so that one is protected against writes first.
#define _GNU_SOURCE
#include "internal.h"
#include <sys/mman.h>
#include <sys/uio.h>

enum {
    /// Pages of a copy at a time.
    COPY_PAGES = 16,
    LOCK_ON_FAULT = 1,
    /// Each copy that is watched needs a buffer outside of registered memory, and not on a stack that may be small.
    BUFFERS = MOST_COPIES,
};
static uint8_t buffers[BUFFERS][COPY_PAGES * PAGE_BYTES] __attribute__((aligned(4096)));
struct copy_under_way copies_under_way[MOST_COPIES];
/// 0: free. Taken by exchange.
static uint32_t buffer_taken[BUFFERS];

int open_copies(void) {
    void *aside = mmap(NULL, sizeof buffers, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (aside == MAP_FAILED) return -ENOMEM;
    live.aside_page = (uint64_t)(uintptr_t)aside / PAGE_BYTES;
    return 0;
}

size_t copy_run(int uffd, uint64_t to, const void *from, size_t n, bool protected, int *error) {
    size_t done = 0;
    for (unsigned turn = 0; done < n && turn < MOST_TURNS;) {
        struct kernel_uffd_transfer copy = {
            .to = (to + done) * PAGE_BYTES, .from = (uint64_t)(uintptr_t)from + done * PAGE_BYTES,
            .bytes = (n - done) * PAGE_BYTES,
            .mode = UFFD_ASLEEP | (protected && live.can_protect ? UFFD_COPY_PROTECTED : 0),
        };
        long result = kernel_ioctl(uffd, UFFD_COPY, &copy);
        size_t copied = result == 0 ? n - done : copy.done > 0 ? (size_t)copy.done / PAGE_BYTES : 0;
        // Such a kernel leaves them unprotected only where nobody may write them.
        if (copied && protected && !live.protects_copies) protect_pages(uffd, to + done, copied, true);
        if (copied) {
            done += copied;
            turn = 0;
        } else if (asks_again(result)) {
            wait_turn(turn++);
        } else {
            *error = (int)-result;
            return done;
        }
    }
    if (done < n) *error = EAGAIN;
    return done;
}

static int take_buffer(void) {
    for (unsigned turn = 0;; turn++) {
        for (int i = 0; i < BUFFERS; i++) {
            if (__atomic_load_n(&buffer_taken[i], __ATOMIC_RELAXED) == 0
                && __atomic_exchange_n(&buffer_taken[i], 1, __ATOMIC_ACQUIRE) == 0) return i;
        }
        wait_turn(turn);
    }
}

static void note_copy(int index, const void *bytes, uint64_t to, uint64_t from, size_t n) {
    struct copy_under_way *copy = &copies_under_way[index];
    *copy = (struct copy_under_way){ bytes, to, from, 0 };
    __atomic_store_n(&copy->n, n, __ATOMIC_SEQ_CST);
}

static void give_buffer(int index) {
    __atomic_store_n(&copies_under_way[index].n, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&buffer_taken[index], 0, __ATOMIC_RELEASE);
}

void end_copies(void) {
    for (int i = 0; i < BUFFERS; i++) give_buffer(i);
}

/// Reads memory as the kernel does for itself: answers false instead of faulting.
static bool read_pages(uint8_t *to, uint64_t from, size_t n) {
    struct iovec local = { to, n * PAGE_BYTES }, remote = { (void *)(from * PAGE_BYTES), n * PAGE_BYTES };
    long self = kernel_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
    long bytes = kernel_call(SYS_process_vm_readv, self, (long)&local, 1, (long)&remote, 1, 0);
    return bytes == (long)(n * PAGE_BYTES);
}

/// A copy that has the page in one place at any time. The source is protected and present.
static size_t copy_watched(int to_uffd, int from_uffd, uint64_t to, uint64_t from, size_t n, unsigned flags,
                           int *error) {
    int index = take_buffer();
    uint8_t *buffer = buffers[index];
    size_t done = 0;
    if (!read_pages(buffer, from, n)) {
        *error = EFAULT;
    } else {
        note_copy(index, buffer, to, from, n);
        drop_pages(from, n);
        done = copy_run(to_uffd, to, buffer, n, flags & PROTECTED, error);
        // What did not arrive goes back: it is nowhere else.
        int ignored = 0;
        if (done < n) copy_run(from_uffd, from + done, buffer + done * PAGE_BYTES, n - done, false, &ignored);
    }
    give_buffer(index);
    return done;
}

/// A copy on a kernel that cannot protect pages: mremap takes them all at once to where nobody writes them, and leaves
/// the source mapped and registered with nothing in it.
static size_t copy_aside(int to_uffd, int from_uffd, uint64_t to, uint64_t from, size_t n, unsigned flags,
                         int *error) {
    int index = take_buffer();
    uint64_t aside = live.aside_page + (uint64_t)index * COPY_PAGES;
    long result = -EFAULT;
    // All of one mapping, or page by page.
    for (;; n = 1) {
        note_copy(index, (const void *)(aside * PAGE_BYTES), to, from, n);
        result = kernel_call(SYS_mremap, (long)(from * PAGE_BYTES), (long)(n * PAGE_BYTES), (long)(n * PAGE_BYTES),
                             REMAP_MAY_MOVE | REMAP_FIXED | REMAP_KEEP_OLD, (long)(aside * PAGE_BYTES), 0);
        if (result >= 0 || n == 1) break;
    }
    size_t done = 0;
    if (result < 0) {
        *error = (int)-result;
    } else {
        // The pages brought the rights of their mapping along.
        kernel_call(SYS_mprotect, (long)(aside * PAGE_BYTES), (long)(n * PAGE_BYTES), 1, 0, 0, 0);
        done = copy_run(to_uffd, to, (const void *)(aside * PAGE_BYTES), n, flags & PROTECTED, error);
        int ignored = 0;
        if (done < n)
            copy_run(from_uffd, from + done, (const void *)((aside + done) * PAGE_BYTES), n - done, false, &ignored);
        drop_pages(aside, n);
    }
    give_buffer(index);
    count(&live.counts.copied, done);
    return done;
}

/// Memory of the rights `rights`, locked or not, at an address that pages of such memory can be moved to.
static bool prepare_aside(uint64_t aside, uint32_t rights, bool is_locked) {
    long start = (long)(aside * PAGE_BYTES);
    long error = kernel_call(SYS_mprotect, start, PAGE_BYTES, rights, 0, 0, 0);
    if (!error && is_locked) error = kernel_call(SYS_mlock2, start, PAGE_BYTES, LOCK_ON_FAULT, 0, 0, 0);
    if (!error && !is_locked) error = kernel_call(SYS_munlock, start, PAGE_BYTES, 0, 0, 0, 0);
    return !error && register_pages(arena_uffd(), aside, 1) == 0;
}

size_t move_aside(uint64_t to, uint64_t from, int from_uffd, int *error) {
    struct clive_vma vma;
    bool is_known = clive_vma_ending_after(from, &vma) == 0 && vma.start_page <= from;
    // The kernel moves pages of memory that may be written.
    if (!is_known || !(vma.prot & PROT_WRITE)) return 0;
    int index = take_buffer();
    uint64_t aside = live.aside_page + (uint64_t)index * COPY_PAGES;
    size_t done = 0;
    for (int is_locked = 0; is_locked < 2 && !done && *error == EINVAL; is_locked++) {
        if (!prepare_aside(aside, vma.prot, is_locked)) *error = EBUSY;
        else done = move_own(arena_uffd(), aside, from, from_uffd, error);
    }
    if (done) {
        // Nobody can pin it where nobody knows of it.
        const void *bytes = (const void *)(aside * PAGE_BYTES);
        int ignored = 0;
        done = 0;
        *error = EBUSY;
        if (prepare_aside(aside, PROT_READ | PROT_WRITE, false))
            done = copy_run(arena_uffd(), to, bytes, 1, false, error);
        if (!done) copy_run(from_uffd, from, bytes, 1, false, &ignored);
        drop_pages(aside, 1);
        count(&live.counts.copied, done);
    }
    give_buffer(index);
    return done;
}

/// Copies `n` present pages, at most COPY_PAGES.
static size_t copy_present(int to_uffd, int from_uffd, uint64_t to, uint64_t from, size_t n, unsigned flags,
                           int *error) {
    if (!live.can_protect) return copy_aside(to_uffd, from_uffd, to, from, n, flags, error);
    long result = protect_pages(from_uffd, from, n, true);
    if (result == -ENOENT && n > 1) {
        // More than one mapping: page by page.
        n = 1;
        result = protect_pages(from_uffd, from, 1, true);
    }
    if (result) {
        *error = (int)-result;
        return 0;
    }
    size_t done;
    if (flags & WATCHED) {
        done = copy_watched(to_uffd, from_uffd, to, from, n, flags, error);
    } else {
        done = copy_run(to_uffd, to, (const void *)(from * PAGE_BYTES), n, flags & PROTECTED, error);
        if (done) drop_pages(from, done);
    }
    if (done < n) protect_pages(from_uffd, from + done, n - done, false);
    count(&live.counts.copied, done);
    return done;
}

static bool is_private(uint64_t entry) {
    return entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED) && !(entry & PAGEMAP_FILE);
}

size_t copy_pages(int to_uffd, int from_uffd, uint64_t to, uint64_t from, size_t n, unsigned flags,
                         int *error) {
    size_t done = 0;
    while (done < n) {
        uint64_t entries[COPY_PAGES];
        size_t most = n - done < COPY_PAGES ? n - done : COPY_PAGES, at = 0;
        // A missing page must not be read: in memory of the fault thread, that would wait for the owner, which is here.
        if (!read_pagemap(from + done, most, entries)) {
            *error = EIO;
            return done;
        }
        while (at < most) {
            size_t first = at;
            // The page cache would keep what is dropped here.
            if (entries[at] & PAGEMAP_FILE) {
                *error = EINVAL;
                return done;
            }
            while (at < most && is_private(entries[at])) at++;
            if (at == first) {
                at++;
                done++;
                continue;
            }
            size_t wanted = at - first;
            size_t copied = copy_present(to_uffd, from_uffd, to + done, from + done, wanted, flags, error);
            done += copied;
            if (copied == 0) return done;
            if (copied < wanted) break;
        }
    }
    return done;
}

#pragma clang attribute pop
