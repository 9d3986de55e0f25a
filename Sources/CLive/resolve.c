// The answer to a fault, on whatever thread it came: a CPU that misses a page or writes a protected one, a device that
// misses a slot. Runs in a signal handler: no lock, no allocation, no errno.
#include "internal.h"

/// The gate holds faults off, but for those of the thread that closed it.
static bool try_enter(uint32_t thread) {
    __atomic_fetch_add(&live.answering, 1, __ATOMIC_SEQ_CST);
    uint32_t keeper = __atomic_load_n(&live.gate, __ATOMIC_SEQ_CST);
    if (keeper == 0 || keeper == (thread ? thread : this_thread())) return true;
    __atomic_fetch_sub(&live.answering, 1, __ATOMIC_SEQ_CST);
    return false;
}

enum {
    /// So often is a fault refused, for milliseconds, before it is let through while a fork keeps the gate: what forks
    /// may wait for a lock, of the allocator for one, that the thread holds which faults.
    MOST_REFUSALS = 200,
};

/// The child may find the page halfway then, and mends it.
static bool try_pass(void) {
    if (!__atomic_load_n(&live.forking, __ATOMIC_SEQ_CST)) return false;
    if (__atomic_fetch_add(&live.refusals, 1, __ATOMIC_RELAXED) < MOST_REFUSALS) return false;
    __atomic_store_n(&live.passed, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&live.answering, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&live.forking, __ATOMIC_SEQ_CST)) return true;
    __atomic_fetch_sub(&live.answering, 1, __ATOMIC_SEQ_CST);
    return false;
}

void wait_for_answers(void) {
    for (unsigned turn = 0; __atomic_load_n(&live.answering, __ATOMIC_SEQ_CST); turn++) wait_turn(turn);
}

bool close_gate(void) {
    uint32_t self = this_thread(), nobody = 0;
    for (unsigned turn = 0; !__atomic_compare_exchange_n(&live.gate, &nobody, self, false, __ATOMIC_SEQ_CST,
                                                         __ATOMIC_SEQ_CST); turn++) {
        if (nobody == self) return false;
        nobody = 0;
        wait_turn(turn);
    }
    wait_for_answers();
    return true;
}

void open_gate(void) { __atomic_store_n(&live.gate, 0, __ATOMIC_SEQ_CST); }

/// The fault thread (`thread` is not 0) does not wait at the gate: the next fault may be the one of the thread that
/// keeps it. It lets the fault happen again.
bool enter(uint32_t thread) {
    for (unsigned turn = 0; !try_enter(thread) && !try_pass(); turn++) {
        if (thread) {
            sleep_ns(20000);
            return false;
        }
        wait_turn(turn);
    }
    return true;
}

void leave(void) { __atomic_fetch_sub(&live.answering, 1, __ATOMIC_SEQ_CST); }

/// Round what lets a thread go on that sleeps in a fault, or is about to, until its return and those of the pages
/// around are in the queue: it may be awake, and ask what there is to tell, before the fault thread is done.
static void begin_or_end_waking(unsigned kind) {
    if (kind & FAULT_ASLEEP) __atomic_fetch_add(&live.waking, 1, __ATOMIC_SEQ_CST);
}

/// A write to a page that is there but protected: let through, and told.
static bool let_through(uint64_t page, uint64_t *word, uint64_t w, int uffd, unsigned kind) {
    if (w & WORD_COPIED) {
        drop_pages(slot_page(clive_frame_of(w)), 1);
        w &= ~(uint64_t)WORD_COPIED;
    }
    begin_or_end_waking(kind);
    bool done = protect_pages(uffd, page, 1, false) == 0;
    bool is_news = done && !(w & CLIVE_WP_HIT);
    clive_store(word, is_news ? w | CLIVE_WP_HIT : w);
    count(&live.counts.write_protect_faults, 1);
    if (is_news) {
        count(&live.counts.returns, 1);
        push_return(page, 0, CLIVE_COW);
    }
    begin_or_end_waking(kind);
    if (is_news) announce_returns();
    return done;
}

/// The page is at home, or nowhere.
static bool answer_at_home(uint64_t page, uint64_t *word, uint64_t w, int uffd, unsigned kind) {
    if (kind & FAULT_PROTECTED) return let_through(page, word, w, uffd, kind);
    bool was_present;
    bool done = fill_with_zeros(uffd, page, kind & FAULT_WRITE, &was_present) == 0;
    if (done && was_present && kind & FAULT_UNSURE) return let_through(page, word, w, uffd, kind);
    clive_store(word, w);
    return done;
}

/// Owns the pages that follow (`step` 1) or come before (-1) `page` in memory and in the arena alike. All of one block.
static uint64_t own_neighbours(uint64_t page, uint64_t w, uint64_t limit, int step) {
    uint64_t *word = word_of(page);
    uint32_t frame = clive_frame_of(w);
    uint8_t mode = mode_byte(page);
    if (page == limit) return page;
    uint32_t *gate = gate_of(page);
    enter_block(gate);
    while (page != limit) {
        uint64_t next = clive_load(word += step);
        bool fits = clive_state_of(next) == CLIVE_AWAY && clive_frame_of(next) == (frame += (uint32_t)step)
            && !(next & CLIVE_EXCLUSIVE) && !((next ^ w) & WORD_ALIKE);
        if (!fits || mode_byte(page + (uint64_t)(int64_t)step) != mode) break;
        if (!exchange_inside(word, next, with_state(next, CLIVE_BUSY))) break;
        page += (uint64_t)(int64_t)step;
    }
    leave_block(gate);
    return page;
}

/// Brings owned pages home, from `first` to `last`, which have frames one after the other. `w` is the word of `first`.
/// 0, or the errno for the first page that did not come; those stay away.
static int bring_run(uint64_t first, uint64_t last, uint64_t w, int uffd, unsigned kind) {
    size_t n = (size_t)(last - first + 1);
    int error = 0;
    // To wake late costs the thread that waits a fifth of its time. But not before a page is protected.
    unsigned flags = WATCHED | (w & CLIVE_READONLY ? PROTECTED : kind & FAULT_ASLEEP ? WAKING : 0);
    if (w & CLIVE_FRESH) fill_slots(clive_frame_of(w), n);
    if (n == BLOCK_PAGES && w & WORD_HUGE) flags |= WHOLE;
    size_t done = transfer(uffd, first, slot_page(clive_frame_of(w)), n, flags, &error);
    uint64_t *word = word_of(first);
    for (size_t i = 0; i < n; i++, word++) {
        uint64_t now = clive_load(word);
        if (i >= done) {
            clive_store(word, with_state(now, CLIVE_AWAY));
            continue;
        }
        const uint64_t gone = WORD_HUGE | CLIVE_FRESH;
        clive_store(word, (with_state(now, CLIVE_RETURNED) & ~gone) | WORD_UNDELIVERED);
        push_return(first + i, clive_frame_of(now), (uint32_t)now & (CLIVE_READONLY | CLIVE_EXCLUSIVE));
    }
    count(&live.counts.returns, done);
    return done == n ? 0 : error;
}

/// The other pages of the block that are away and may come home too.
static void bring_around(uint64_t page, uint64_t block, uint64_t end, int uffd, unsigned kind) {
    uint8_t mode = mode_byte(page);
    uint64_t *word = word_of(block);
    for (uint64_t next = block; next < end;) {
        uint64_t w = clive_load(&word[next - block]);
        if (clive_state_of(w) != CLIVE_AWAY || w & CLIVE_EXCLUSIVE || mode_byte(next) != mode
            || !exchange_word(next, &word[next - block], w, with_state(w, CLIVE_BUSY))) {
            next++;
            continue;
        }
        uint64_t last = own_neighbours(next, w, end - 1, 1);
        if (bring_run(next, last, w, uffd, kind)) return;
        next = last + 1;
    }
}

/// The page is away, and owned now.
static bool answer_away(uint64_t page, uint64_t *word, uint64_t w, int uffd, unsigned kind) {
    uint64_t around = __atomic_load_n(&live.fault_around, __ATOMIC_RELAXED);
    // A huge page comes home whole: faster than a part of it, and it stays huge.
    if (w & WORD_HUGE && around > 1) around = BLOCK_PAGES;
    uint64_t block = page & ~(around - 1), end = block + around, first = page, last = page;
    bool alone = around <= 1 || w & CLIVE_EXCLUSIVE;
    if (!alone) {
        last = own_neighbours(page, w, end - 1, 1);
        first = own_neighbours(page, w, block, -1);
    }
    begin_or_end_waking(kind);
    int error = bring_run(first, last, clive_load(word - (page - first)), uffd, kind);
    if (error && clive_state_of(clive_load(word)) == CLIVE_AWAY) {
        // A neighbour stood in the way, or the page itself cannot come.
        w = own_word(page, word);
        error = 0;
        if (clive_state_of(w) == CLIVE_AWAY) error = bring_run(page, page, w, uffd, kind);
        else clive_store(word, w);
    } else {
        error = 0;
    }
    if (!error && !alone && last - first + 1 < around) bring_around(page, block, end, uffd, kind);
    begin_or_end_waking(kind);
    announce_returns();
    return error == 0;
}

static bool answer_home(uint64_t page, int uffd, unsigned kind) {
    uint64_t *word = word_of(page);
    uint64_t w = own_word(page, word);
    if (clive_state_of(w) == CLIVE_AWAY) {
        count(&live.counts.cpu_faults, 1);
        return answer_away(page, word, w, uffd, kind);
    }
    return answer_at_home(page, word, w, uffd, kind);
}

enum answer { ANSWERED, LATER };

/// The slot of a page that a CPU took back: the device gets it again.
static enum answer fetch_again(uint32_t frame, uint64_t page, uint64_t *word, uint64_t w, unsigned kind) {
    int uffd = uffd_of(page), error = 0;
    if (w & WORD_COPIED) drop_pages(slot_page(frame), 1);
    w &= ~(uint64_t)WORD_COPIED;
    count(&live.counts.device_faults, 1);
    if (uffd >= 0 && transfer(uffd, slot_page(frame), page, 1, TO_SLOT | WATCHED, &error) == 1) {
        clive_store(word, with_state(w, CLIVE_AWAY) & ~(uint64_t)WORD_UNDELIVERED);
        return ANSWERED;
    }
    if (error == ENOMEM || error == EAGAIN || (error == EBUSY && (kind & FAULT_WRITE || !live.can_protect))) {
        // Pinned: a device must not write another copy, nor get one that it could write.
        clive_store(word, w);
        return LATER;
    }
    // A device that reads gets a copy; a CPU that writes afterwards drops it.
    size_t copied = 0;
    struct kernel_uffd_transfer copy = {
        .to = slot_page(frame) * PAGE_BYTES, .from = page * PAGE_BYTES, .bytes = PAGE_BYTES,
        .mode = UFFD_ASLEEP | (live.can_protect ? UFFD_COPY_PROTECTED : 0),
    };
    if (error == EBUSY && protect_pages(uffd, page, 1, true) == 0)
        copied = kernel_ioctl(arena_uffd(), UFFD_COPY, &copy) == 0;
    bool was_present;
    if (!copied) fill_with_zeros(arena_uffd(), slot_page(frame), false, &was_present);
    clive_store(word, w | WORD_COPIED);
    return ANSWERED;
}

static enum answer answer_slot(uint32_t frame, unsigned kind) {
    uint64_t slot = slot_page(frame);
    for (unsigned turn = 0;; turn++) {
        uint64_t page = owner_of(frame);
        uint64_t *word = page ? word_of(page) : NULL;
        uint64_t w = word ? clive_load(word) : 0;
        uint32_t state = clive_state_of(w);
        bool was_present;
        note_tables(slot, 1);
        bool is_this = clive_frame_of(w) == frame;
        if (is_this && state == CLIVE_BUSY && !(w & WORD_HELD)) {
            wait_turn(turn);
            continue;
        }
        if (!is_this || state == CLIVE_HOME || w & WORD_HELD) {
            if (owner_of(frame) != page) continue;
            // Nobody's, or of the device that holds it.
            if (kind & FAULT_PROTECTED) protect_pages(arena_uffd(), slot, 1, false);
            else fill_with_zeros(arena_uffd(), slot, kind & FAULT_WRITE, &was_present);
            if (kind & FAULT_UNSURE) protect_pages(arena_uffd(), slot, 1, false);
            return ANSWERED;
        }
        if (!exchange_word(page, word, w, with_state(w, CLIVE_BUSY))) continue;
        if (state == CLIVE_RETURNED) return fetch_again(frame, page, word, w, kind);
        if (!(kind & FAULT_PROTECTED)) fill_with_zeros(arena_uffd(), slot, kind & FAULT_WRITE, &was_present);
        if (kind & (FAULT_PROTECTED | FAULT_UNSURE)) protect_pages(arena_uffd(), slot, 1, false);
        clive_store(word, w);
        return ANSWERED;
    }
}

/// Whether the mapping of a page has grown from one that was registered here: then it begins or ends with such a page,
/// as a mapping has one userfaultfd only.
static bool has_grown(uint64_t page) {
    struct clive_vma vma;
    return clive_vma_ending_after(page, &vma) == 0 && vma.start_page <= page
        && (uffd_of(vma.start_page) >= 0 || uffd_of(vma.end_page - 1) >= 0);
}

/// A page that nobody registered here. It can be registered all the same, as a part of a mapping that grew: a stack, or
/// what mremap made longer. A message is always about one's own memory, a signal not: the page may be missing in the
/// memory of somebody else's userfaultfd, which the kernel would let us fill.
static bool answer_unknown(uint64_t page, unsigned kind, enum clive_mode mode) {
    if (mode == CLIVE_ON_THREAD && !has_grown(page)) return false;
    int uffd = live.uffd[mode];
    bool was_present = true;
    if (!(kind & FAULT_PROTECTED) && fill_with_zeros(uffd, page, kind & FAULT_WRITE, &was_present)) return false;
    return !was_present || (kind & FAULT_WRITE && live.can_protect && protect_pages(uffd, page, 1, false) == 0);
}

bool resolve(uint64_t address, unsigned kind, enum clive_mode mode, uint32_t thread) {
    uint64_t page = address / PAGE_BYTES;
    if (page - live.arena_page < live.arena_frames) {
        for (;;) {
            if (!enter(thread)) return true;
            enum answer answer = answer_slot((uint32_t)(page - live.arena_page), kind);
            leave();
            if (answer == ANSWERED) return true;
            sleep_ns(100000);
        }
    }
    int uffd = uffd_of(page);
    if (uffd < 0) return answer_unknown(page, kind, mode);
    if (!enter(thread)) return true;
    bool answered = answer_home(page, uffd, kind);
    leave();
    return answered;
}

#pragma clang attribute pop
