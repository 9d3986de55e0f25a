// Moves the bytes of owned pages between a home and a slot: by UFFDIO_MOVE, which maps the page elsewhere, or by a
// copy (copy.c).
//
// A thread whose fault waits for the fault thread is woken by the fault thread, when the word says what became of the
// page and the return is in the queue. Only a move wakes it at once, where that is asked for.
#include "internal.h"

enum { ZERO_PAGES = 16 };
/// Never written, so it is one page of zeros that all share.
static uint8_t zeros[ZERO_PAGES * PAGE_BYTES] __attribute__((aligned(4096)));

/// Where bytes are written: the userfaultfd of the page that gets them decides.
static size_t move_run(int uffd, uint64_t to, uint64_t from, size_t n, unsigned flags, int *error) {
    size_t done = 0;
    for (unsigned turn = 0; turn < MOST_TURNS;) {
        struct kernel_uffd_transfer move = {
            .to = (to + done) * PAGE_BYTES, .from = (from + done) * PAGE_BYTES, .bytes = (n - done) * PAGE_BYTES,
            .mode = UFFD_MOVE_HOLES | (flags & WAKING ? 0 : UFFD_ASLEEP),
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

/// Pages of their own for `n` slots that are missing, or have the shared page of zeros.
static void fill_run(uint64_t page, size_t n, bool is_missing) {
    note_tables(page, n);
    if (!is_missing) {
        kernel_advise(page, n, ADVISE_POPULATE_WRITE);
        return;
    }
    for (size_t done = 0; done < n;) {
        size_t most = n - done < ZERO_PAGES ? n - done : ZERO_PAGES;
        int error = 0;
        size_t filled = copy_run(arena_uffd(), page + done, zeros, most, false, &error);
        count(&live.counts.zero_filled, filled);
        if (filled < most && error != EEXIST) return;
        done += filled < most ? filled + 1 : most;
    }
}

void fill_slots(uint32_t frame, size_t n) {
    uint64_t page = slot_page(frame), end = page + n;
    while (page < end) {
        uint64_t entries[64];
        size_t most = end - page < 64 ? end - page : 64;
        if (!read_pagemap(page, most, entries)) return;
        for (size_t i = 0; i < most;) {
            // A page that is its own is mapped by this process alone. Another may be shared with a child: that does
            // no harm.
            uint64_t which = entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED | PAGEMAP_EXCLUSIVE);
            size_t first = i;
            while (i < most && (entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED | PAGEMAP_EXCLUSIVE)) == which) i++;
            if (which == 0 || which == PAGEMAP_PRESENT) fill_run(page + first, i - first, which == 0);
        }
        page += most;
    }
}

/// After UFFDIO_MOVE said EBUSY: the page is shared with another process since a fork, or pinned. Makes it this
/// process's own if it can be. False: only a copy helps.
static bool make_own(int home_uffd, uint64_t page) {
    protect_pages(home_uffd, page, 1, false);
    return kernel_advise(page, 1, ADVISE_POPULATE_WRITE) == 0;
}

size_t move_own(int uffd, uint64_t to, uint64_t from, int from_uffd, int *error) {
    *error = 0;
    if (move_run(uffd, to, from, 1, 0, error)) return 1;
    if (*error != EBUSY || !make_own(from_uffd, from)) return 0;
    return move_run(uffd, to, from, 1, 0, error);
}

/// Copies one page. What lies where it should go has nothing to say, as below.
static size_t copy_single(int to_uffd, int from_uffd, uint64_t to, uint64_t from, unsigned flags, int *error) {
    size_t done = copy_pages(to_uffd, from_uffd, to, from, 1, flags, error);
    if (done || *error != EEXIST) return done;
    drop_pages(flags & TO_SLOT ? to : from, 1);
    return flags & TO_SLOT ? copy_pages(to_uffd, from_uffd, to, from, 1, flags, error) : 1;
}

/// One page that did not move in a run, for the reason `error`: 1 if it went after all.
static size_t transfer_hard(int to_uffd, int from_uffd, uint64_t to, uint64_t from, unsigned flags, int *error) {
    bool is_own = false, was_refused = false;
    for (int attempt = 0; attempt < 8; attempt++) {
        int again = 0;
        switch (*error) {
        case EEXIST:
            // A slot has nothing to say. A home that is there although the page was away was put there by the program.
            drop_pages(flags & TO_SLOT ? to : from, 1);
            if (!(flags & TO_SLOT)) return 1;
            break;
        case EBUSY:
            if (flags & TO_SLOT && is_own) return 0;
            is_own = true;
            if (!(flags & TO_SLOT)) return copy_single(to_uffd, from_uffd, to, from, flags, error);
            // A copy of it might be a copy of what is pinned.
            if (!make_own(from_uffd, from)) return 0;
            break;
        case EINVAL:
            // Rights that differ, or locked memory. For a run: more than one mapping.
            if (was_refused) {
                size_t done = flags & TO_SLOT ? move_aside(to, from, from_uffd, error) : 0;
                return done || *error != EINVAL ? done : copy_single(to_uffd, from_uffd, to, from, flags, error);
            }
            was_refused = true;
            break;
        case ENOMEM:
            sleep_ns(1000000);
            break;
        default:
            return 0;
        }
        if (move_run(to_uffd, to, from, 1, 0, &again)) return 1;
        *error = again;
    }
    return 0;
}

size_t transfer(int home_uffd, uint64_t to, uint64_t from, size_t n, unsigned flags, int *error) {
    int to_uffd = flags & TO_SLOT ? arena_uffd() : home_uffd;
    int from_uffd = flags & TO_SLOT ? home_uffd : arena_uffd();
    size_t done = 0;
    if (!(flags & WHOLE)) note_tables(flags & TO_SLOT ? to : from, n);
    while (done < n) {
        if (live.can_move) {
            *error = 0;
            size_t moved = move_run(to_uffd, to + done, from + done, n - done, flags, error);
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
