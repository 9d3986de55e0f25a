// A child whose parent answered a fault in the moment of the fork, or let a device hold a page: pages that nobody moves
// or uses any more.
//
// The kernel copies page tables while nobody moves pages (both take the lock of the address space), and the memory with
// the words then too: a page whose word is not busy in the child is where the word says. One whose word is busy is
// wholly in one place, or in two with the same bytes, or in a buffer that the child has too.
#include "internal.h"

static bool is_there(uint64_t page) {
    uint64_t entry = 0;
    return read_pagemap(page, 1, &entry) && entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED);
}

static int uffd_for(uint64_t page) {
    return page - live.arena_page < live.arena_frames ? arena_uffd() : uffd_of(page);
}

static void finish_copy(const struct copy_under_way *copy) {
    for (size_t i = 0; i < copy->n; i++) {
        int error = 0, uffd = uffd_for(copy->to + i);
        const uint8_t *bytes = (const uint8_t *)copy->bytes + i * PAGE_BYTES;
        bool is_nowhere = !is_there(copy->from + i) && !is_there(copy->to + i);
        // Of memory that was moved aside only what is there.
        bool is_kept = is_there((uint64_t)(uintptr_t)bytes / PAGE_BYTES);
        if (is_nowhere && is_kept && uffd >= 0) copy_run(uffd, copy->to + i, bytes, 1, false, &error);
    }
}

static void mend(uint64_t page, uint64_t *word) {
    uint64_t w = clive_load(word) & ~(uint64_t)WORD_HELD;
    if (clive_state_of(w) != CLIVE_BUSY) return;
    uint32_t frame = clive_frame_of(w);
    if (frame == 0 || w & CLIVE_COHERENT) {
        clive_store(word, with_state(w, CLIVE_HOME));
    } else if (is_there(page)) {
        drop_pages(slot_page(frame), 1);
        const uint64_t gone = WORD_HUGE | CLIVE_FRESH | WORD_COPIED;
        clive_store(word, (with_state(w, CLIVE_RETURNED) & ~gone) | WORD_UNDELIVERED);
    } else {
        clive_store(word, with_state(w, CLIVE_AWAY) & ~(uint64_t)WORD_UNDELIVERED);
    }
}

void mend_halfway(void) {
    for (int i = 0; i < MOST_COPIES; i++) finish_copy(&copies_under_way[i]);
    end_copies();
    for (uint64_t index = 0; index < SEGMENT_SLOTS; index++) {
        struct segment *s = clive_segments[index];
        if (!s) continue;
        for (uint64_t i = 0; i < CLIVE_PAGES_OF_SEGMENT; i++) mend(index * CLIVE_PAGES_OF_SEGMENT + i, &s->words[i]);
    }
    restart_returns();
}

#pragma clang attribute pop
