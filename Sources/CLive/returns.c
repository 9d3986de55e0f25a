// What CPUs took back, on its way to who tells the mirrors: a bounded queue that any thread may push to in a signal
// handler, and when it is full a scan of the words, which say the same.
//
// The word decides, the queue only says where to look: a return is delivered by whoever takes WORD_UNDELIVERED (or
// CLIVE_WP_HIT) out of the word. An entry whose word no longer has the bit is left out.
#include "internal.h"
#include <limits.h>

enum { CELLS = 1 << 16 };
/// A cell is free for the push with ticket `turn`, and full for the pop with ticket `turn` - 1.
struct cell {
    uint64_t turn;
    struct clive_return entry;
};
static struct {
    /// Next ticket of a push, and of a pop; alone on their cache lines.
    __attribute__((aligned(64))) uint64_t push;
    __attribute__((aligned(64))) uint64_t pop;
    /// The queue was full: words have to be scanned.
    __attribute__((aligned(64))) uint32_t overflow;
    /// Changes with every push while somebody sleeps. The futex word.
    uint32_t pushed;
    uint32_t sleepers;
    /// 0: free. One thread scans at a time, others find nothing.
    uint32_t scanning;
    /// Where the scan goes on: a segment, and a page in it.
    uint32_t scan_segment, scan_page;
    /// Turns are stored as turn - index, so that zeroed memory is an empty queue.
    struct cell cells[CELLS];
} queue;

static bool try_push(struct clive_return entry) {
    uint64_t ticket = __atomic_load_n(&queue.push, __ATOMIC_RELAXED);
    for (;;) {
        struct cell *cell = &queue.cells[ticket % CELLS];
        int64_t ahead = (int64_t)(__atomic_load_n(&cell->turn, __ATOMIC_ACQUIRE) + ticket % CELLS - ticket);
        if (ahead < 0) return false;
        if (ahead > 0) {
            ticket = __atomic_load_n(&queue.push, __ATOMIC_RELAXED);
        } else if (__atomic_compare_exchange_n(&queue.push, &ticket, ticket + 1, true, __ATOMIC_RELAXED,
                                               __ATOMIC_RELAXED)) {
            cell->entry = entry;
            __atomic_store_n(&cell->turn, ticket + 1 - ticket % CELLS, __ATOMIC_RELEASE);
            return true;
        }
    }
}

static bool try_pop(struct clive_return *entry) {
    uint64_t ticket = __atomic_load_n(&queue.pop, __ATOMIC_RELAXED);
    for (;;) {
        struct cell *cell = &queue.cells[ticket % CELLS];
        int64_t ahead = (int64_t)(__atomic_load_n(&cell->turn, __ATOMIC_ACQUIRE) + ticket % CELLS - (ticket + 1));
        if (ahead < 0) return false;
        if (ahead > 0) {
            ticket = __atomic_load_n(&queue.pop, __ATOMIC_RELAXED);
        } else if (__atomic_compare_exchange_n(&queue.pop, &ticket, ticket + 1, true, __ATOMIC_RELAXED,
                                               __ATOMIC_RELAXED)) {
            *entry = cell->entry;
            __atomic_store_n(&cell->turn, ticket + CELLS - ticket % CELLS, __ATOMIC_RELEASE);
            return true;
        }
    }
}

void push_return(uint64_t page, uint32_t frame, uint32_t bits) {
    if (try_push((struct clive_return){ page, frame, bits })) return;
    count(&live.counts.overflows, 1);
    __atomic_store_n(&queue.overflow, 1, __ATOMIC_SEQ_CST);
}

void restart_returns(void) {
    for (uint64_t i = 0; i < CELLS; i++) queue.cells[i].turn = 0;
    queue.push = queue.pop = 0;
    queue.scanning = queue.scan_segment = queue.scan_page = 0;
    __atomic_store_n(&queue.overflow, 1, __ATOMIC_SEQ_CST);
}

enum { FUTEX_WAIT_PRIVATE_CALL = 128, FUTEX_WAKE_PRIVATE_CALL = 129 };

static void wake(void) {
    // Only the first push after a sleep began pays for the wake-up.
    if (__atomic_exchange_n(&queue.sleepers, 0, __ATOMIC_SEQ_CST) == 0) return;
    __atomic_fetch_add(&queue.pushed, 1, __ATOMIC_SEQ_CST);
    kernel_call(SYS_futex, (long)&queue.pushed, FUTEX_WAKE_PRIVATE_CALL, INT_MAX, 0, 0, 0);
}

void announce_returns(void) {
    // The pushes before this one are seen by a sleeper that is not counted yet: it looks after it counted itself.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(&queue.sleepers, __ATOMIC_RELAXED)) wake();
}

void clive_wake_returns(void) { wake(); }

static bool is_empty(void) {
    uint64_t ticket = __atomic_load_n(&queue.pop, __ATOMIC_SEQ_CST);
    return __atomic_load_n(&queue.push, __ATOMIC_SEQ_CST) == ticket
        && __atomic_load_n(&queue.overflow, __ATOMIC_SEQ_CST) == 0;
}

static void wait_for_push(uint64_t timeout_ns) {
    uint32_t seen = __atomic_load_n(&queue.pushed, __ATOMIC_SEQ_CST);
    __atomic_store_n(&queue.sleepers, 1, __ATOMIC_SEQ_CST);
    if (!is_empty()) return;
    struct { int64_t seconds, nanoseconds; } timeout = {
        (int64_t)(timeout_ns / 1000000000ull), (int64_t)(timeout_ns % 1000000000ull),
    };
    kernel_call(SYS_futex, (long)&queue.pushed, FUTEX_WAIT_PRIVATE_CALL, seen, (long)&timeout, 0, 0);
}

void clive_wait_returns(uint64_t timeout_ns) {
    if (is_empty()) wait_for_push(timeout_ns);
    // One seldom comes alone, and who tells them runs beside those who fault: each page that moves then has to
    // interrupt that processor too. Together they cost less.
    if (!is_empty()) sleep_ns(2000000);
}

/// Takes the news out of a word. False: there are none (any more).
static bool take_news(uint64_t *word, uint64_t page, bool is_write, struct clive_return *out) {
    for (unsigned turn = 0;;) {
        uint64_t w = clive_load(word);
        uint64_t bit = is_write ? CLIVE_WP_HIT : WORD_UNDELIVERED;
        if (!(w & bit)) return false;
        if (clive_state_of(w) == CLIVE_BUSY) {
            wait_turn(turn++);
        } else if (exchange_word(page, word, w, w & ~bit)) {
            *out = is_write ? (struct clive_return){ page, 0, CLIVE_COW }
                            : (struct clive_return){ page, clive_frame_of(w),
                                                     (uint32_t)w & (CLIVE_READONLY | CLIVE_EXCLUSIVE) };
            return true;
        }
    }
}

/// Goes on with the scan after an overflow. Holds `scanning`.
static size_t scan(struct clive_return *out, size_t capacity) {
    size_t n = 0;
    for (; queue.scan_segment < SEGMENT_SLOTS; queue.scan_segment++, queue.scan_page = 0) {
        struct segment *s = __atomic_load_n(&clive_segments[queue.scan_segment], __ATOMIC_ACQUIRE);
        if (!s) continue;
        for (; queue.scan_page < CLIVE_PAGES_OF_SEGMENT; queue.scan_page++) {
            uint64_t *word = &s->words[queue.scan_page];
            if (!(clive_load(word) & (WORD_UNDELIVERED | CLIVE_WP_HIT))) continue;
            if (capacity - n < 2) return n;
            uint64_t page = (uint64_t)queue.scan_segment * CLIVE_PAGES_OF_SEGMENT + queue.scan_page;
            n += take_news(word, page, false, &out[n]);
            n += take_news(word, page, true, &out[n]);
        }
    }
    queue.scan_segment = queue.scan_page = 0;
    return n;
}

/// Who was woken a moment ago finds its return in the queue: waits until it is there.
static void wait_for_waking(void) {
    uint32_t seen = __atomic_load_n(&live.waking, __ATOMIC_SEQ_CST);
    for (unsigned turn = 0; seen & 1 && __atomic_load_n(&live.waking, __ATOMIC_SEQ_CST) == seen; turn++)
        wait_turn(turn);
}

size_t clive_drain(struct clive_return *out, size_t capacity) {
    wait_for_waking();
    size_t n = 0;
    struct clive_return entry;
    while (n < capacity && try_pop(&entry)) {
        uint64_t *word = word_of(entry.page);
        n += word && take_news(word, entry.page, entry.bits & CLIVE_COW, &out[n]);
    }
    if (capacity - n < 2 || !__atomic_load_n(&queue.overflow, __ATOMIC_SEQ_CST)) return n;
    if (__atomic_exchange_n(&queue.scanning, 1, __ATOMIC_ACQUIRE)) return n;
    // A scan that begins now sees everything of before; what overflows later sets the mark again. One that goes on
    // where it stopped leaves the mark as it is.
    if (queue.scan_segment == 0 && queue.scan_page == 0) __atomic_store_n(&queue.overflow, 0, __ATOMIC_SEQ_CST);
    n += scan(&out[n], capacity - n);
    if (queue.scan_segment || queue.scan_page) __atomic_store_n(&queue.overflow, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&queue.scanning, 0, __ATOMIC_RELEASE);
    return n;
}

#pragma clang attribute pop
