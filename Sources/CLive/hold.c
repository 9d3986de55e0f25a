// A page in a slot that a device uses for itself: CPUs that miss it wait, and nobody moves it.
#include "internal.h"

enum {
    /// Attempts on a page that a CPU takes back each time.
    MOST_FETCHES = 4,
};

bool clive_hold(uint64_t page, uint32_t frame) {
    uint64_t *word = word_of(page);
    if (!word || frame >= live.arena_frames) return false;
    unsigned turn = 0;
    for (unsigned fetches = 0; fetches < MOST_FETCHES;) {
        // A page that a CPU took back comes again, a hole gets zeros: nothing is missing while the page is held.
        (void)*(const volatile uint8_t *)(slot_page(frame) * PAGE_BYTES);
        uint64_t w = clive_load(word);
        // Of coherent memory, which all reach at once.
        if (w & CLIVE_COHERENT) return true;
        if (clive_state_of(w) == CLIVE_HOME || clive_frame_of(w) != frame) return false;
        if (clive_state_of(w) == CLIVE_BUSY) {
            wait_turn(turn++);
        } else if (clive_state_of(w) == CLIVE_RETURNED) {
            fetches++;
        } else {
            // Not while a fork is under way: what was held before it is known.
            enter(0);
            __atomic_fetch_add(&live.held, 1, __ATOMIC_SEQ_CST);
            bool is_done = exchange_word(page, word, w, with_state(w, CLIVE_BUSY) | WORD_HELD);
            if (!is_done) __atomic_fetch_sub(&live.held, 1, __ATOMIC_SEQ_CST);
            leave();
            if (is_done) return true;
        }
    }
    return false;
}

void clive_let_go(uint64_t page, uint32_t frame) {
    uint64_t *word = word_of(page);
    uint64_t w = clive_load(word);
    if (!(w & WORD_HELD) || clive_frame_of(w) != frame) return;
    clive_store(word, with_state(w, CLIVE_AWAY) & ~(uint64_t)WORD_HELD);
    __atomic_fetch_sub(&live.held, 1, __ATOMIC_SEQ_CST);
}

#pragma clang attribute pop
