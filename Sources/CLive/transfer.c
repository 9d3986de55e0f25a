// Moves the bytes of owned pages between a home and a slot: by UFFDIO_MOVE, which maps the page elsewhere, or by a
// copy that is kept atomic with write-protection.
//
// Nothing here wakes a thread whose fault waits for the fault thread: the fault thread does, when the word says what
// became of the page and the return is in the queue.
#include "internal.h"
#include <errno.h>
#include <sys/uio.h>

enum {
    /// Pages of a copy at a time.
    COPY_PAGES = 16,
    /// Each copy that is watched needs a buffer outside of registered memory, and not on a stack that may be small.
    BUFFERS = 8,
    /// How often the kernel may ask to try again without any progress: minutes.
    MOST_TURNS = 1 << 20,
};
static uint8_t buffers[BUFFERS][COPY_PAGES * PAGE_BYTES] __attribute__((aligned(4096)));
/// 0: free. Taken by exchange.
static uint32_t buffer_taken[BUFFERS];
static const uint8_t zeros[PAGE_BYTES] __attribute__((aligned(4096)));

static bool asks_again(long result) { return result == -EAGAIN || result == -EINTR; }

/// Where bytes are written: the userfaultfd of the page that gets them decides.
static size_t move_run(int uffd, uint64_t to, uint64_t from, size_t n, int *error) {
    size_t done = 0;
    for (unsigned turn = 0; turn < MOST_TURNS;) {
        struct kernel_uffd_transfer move = {
            .to = (to + done) * PAGE_BYTES, .from = (from + done) * PAGE_BYTES, .bytes = (n - done) * PAGE_BYTES,
            .mode = UFFD_MOVE_HOLES | UFFD_ASLEEP,
        };
        long result = kernel_ioctl(uffd, UFFD_MOVE, &move);
        if (result == 0) {
            count(&live.counts.moved, n);
            return n;
        }
        if (move.done > 0) {
            done += (size_t)move.done / PAGE_BYTES;
            turn = 0;
            continue;
        }
        if (!asks_again(result)) {
            *error = (int)-result;
            count(&live.counts.moved, done);
            return done;
        }
        wait_turn(turn++);
    }
    *error = EAGAIN;
    return done;
}

/// `from` is an address, which the kernel reads.
static size_t copy_run(int uffd, uint64_t to, const void *from, size_t n, bool protected, int *error) {
    size_t done = 0;
    for (unsigned turn = 0; done < n && turn < MOST_TURNS;) {
        struct kernel_uffd_transfer copy = {
            .to = (to + done) * PAGE_BYTES, .from = (uint64_t)(uintptr_t)from + done * PAGE_BYTES,
            .bytes = (n - done) * PAGE_BYTES,
            .mode = UFFD_ASLEEP | (protected && live.can_protect ? UFFD_COPY_PROTECTED : 0),
        };
        long result = kernel_ioctl(uffd, UFFD_COPY, &copy);
        if (result == 0) return n;
        if (copy.done > 0) {
            done += (size_t)copy.done / PAGE_BYTES;
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

long protect_pages(int uffd, uint64_t page, uint64_t n, bool on) {
    if (!live.can_protect) return 0;
    for (unsigned turn = 0; turn < MOST_TURNS; turn++) {
        struct kernel_uffd_protect protect = {
            { page * PAGE_BYTES, n * PAGE_BYTES }, on ? UFFD_PROTECT : UFFD_PROTECT_ASLEEP,
        };
        long result = kernel_ioctl(uffd, UFFD_WRITEPROTECT, &protect);
        if (!asks_again(result)) return result;
        wait_turn(turn);
    }
    return -EAGAIN;
}

long drop_pages(uint64_t page, uint64_t n) {
    long result = kernel_advise(page, n, ADVISE_DONTNEED);
    return result == -EINVAL ? kernel_advise(page, n, ADVISE_DONTNEED_LOCKED) : result;
}

long fill_with_zeros(int uffd, uint64_t page, bool is_write, bool *was_present) {
    *was_present = false;
    for (unsigned turn = 0; turn < MOST_TURNS; turn++) {
        long result;
        // A page of its own at once for a write; the shared page of zeros would fault a second time.
        if (is_write || !live.can_zero) {
            int error = 0;
            result = copy_run(uffd, page, zeros, 1, false, &error) == 1 ? 0 : -error;
        } else {
            struct kernel_uffd_zero zero = { { page * PAGE_BYTES, PAGE_BYTES }, UFFD_ASLEEP, 0 };
            result = kernel_ioctl(uffd, UFFD_ZEROPAGE, &zero);
        }
        if (result == 0) count(&live.counts.zero_filled, 1);
        *was_present = result == -EEXIST;
        if (result == 0 || result == -EEXIST) return 0;
        if (!asks_again(result)) return result;
        wait_turn(turn);
    }
    return -EAGAIN;
}

static uint8_t *take_buffer(void) {
    for (unsigned turn = 0;; turn++) {
        for (int i = 0; i < BUFFERS; i++) {
            if (__atomic_load_n(&buffer_taken[i], __ATOMIC_RELAXED) == 0
                && __atomic_exchange_n(&buffer_taken[i], 1, __ATOMIC_ACQUIRE) == 0) return buffers[i];
        }
        wait_turn(turn);
    }
}

static void give_buffer(uint8_t *buffer) {
    __atomic_store_n(&buffer_taken[(buffer - buffers[0]) / (ptrdiff_t)sizeof buffers[0]], 0, __ATOMIC_RELEASE);
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
    uint8_t *buffer = take_buffer();
    size_t done = 0;
    if (!read_pages(buffer, from, n)) {
        *error = EFAULT;
    } else {
        drop_pages(from, n);
        done = copy_run(to_uffd, to, buffer, n, flags & PROTECTED, error);
        // What did not arrive goes back: it is nowhere else.
        int ignored = 0;
        if (done < n) copy_run(from_uffd, from + done, buffer + done * PAGE_BYTES, n - done, false, &ignored);
    }
    give_buffer(buffer);
    return done;
}

/// Copies `n` present pages, at most COPY_PAGES.
static size_t copy_present(int to_uffd, int from_uffd, uint64_t to, uint64_t from, size_t n, unsigned flags,
                           int *error) {
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

/// Copies pages until one cannot be copied; holes stay holes.
static size_t copy_pages(int to_uffd, int from_uffd, uint64_t to, uint64_t from, size_t n, unsigned flags,
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

/// After UFFDIO_MOVE said EBUSY: the page is shared with another process since a fork, or pinned. Makes it this
/// process's own if it can be. False: only a copy helps.
static bool make_own(int home_uffd, uint64_t page) {
    protect_pages(home_uffd, page, 1, false);
    return kernel_advise(page, 1, ADVISE_POPULATE_WRITE) == 0;
}

/// One page that did not move in a run, for the reason `error`: 1 if it went after all.
static size_t transfer_hard(int to_uffd, int from_uffd, uint64_t to, uint64_t from, unsigned flags, int *error) {
    for (int attempt = 0; attempt < 8; attempt++) {
        int again = 0;
        switch (*error) {
        case EEXIST:
            // A slot has nothing to say. A home that is there although the page was away was put there by the program.
            drop_pages(flags & TO_SLOT ? to : from, 1);
            if (!(flags & TO_SLOT)) return 1;
            break;
        case EBUSY:
            if (flags & TO_SLOT && attempt > 0) return 0;
            if (!(flags & TO_SLOT) || !make_own(from_uffd, from))
                return copy_pages(to_uffd, from_uffd, to, from, 1, flags, error);
            break;
        case EINVAL:
            // Rights that differ, or locked memory. For a run: more than one mapping.
            if (attempt > 0) return copy_pages(to_uffd, from_uffd, to, from, 1, flags, error);
            break;
        case ENOMEM:
            sleep_ns(1000000);
            break;
        default:
            return 0;
        }
        if (move_run(to_uffd, to, from, 1, &again)) return 1;
        *error = again;
    }
    return 0;
}

size_t transfer(int home_uffd, uint64_t to, uint64_t from, size_t n, unsigned flags, int *error) {
    int to_uffd = flags & TO_SLOT ? arena_uffd() : home_uffd;
    int from_uffd = flags & TO_SLOT ? home_uffd : arena_uffd();
    size_t done = 0;
    while (done < n) {
        if (live.can_move) {
            *error = 0;
            size_t moved = move_run(to_uffd, to + done, from + done, n - done, error);
            if (moved && flags & PROTECTED) protect_pages(home_uffd, to + done, moved, true);
            done += moved;
            if (done == n) return n;
            if (transfer_hard(to_uffd, from_uffd, to + done, from + done, flags, error) == 0) return done;
            if (flags & PROTECTED) protect_pages(home_uffd, to + done, 1, true);
            done++;
            continue;
        }
        done += copy_pages(to_uffd, from_uffd, to + done, from + done, n - done, flags, error);
        if (done == n) return n;
        if (*error != EEXIST) return done;
        drop_pages(flags & TO_SLOT ? to + done : from + done, 1);
        if (!(flags & TO_SLOT)) done++;
    }
    return done;
}

#pragma clang attribute pop
