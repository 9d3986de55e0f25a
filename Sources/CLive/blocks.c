// Blocks, of 512 pages: the gates of their words, and huge pages.
#include "internal.h"
#include <string.h>

void enter_block(uint32_t *gate) {
    for (unsigned turn = 0; __atomic_fetch_add(gate, 1, __ATOMIC_ACQUIRE) & GATE_CLOSED; turn++) {
        leave_block(gate);
        wait_turn(turn);
    }
}

/// Whether each page of the block is registered CLIVE_ON_THREAD, and its faults are answered so.
static bool is_all_on_thread(uint64_t page) {
    const uint64_t *modes = (const uint64_t *)&segment_of(page)->modes[page % CLIVE_PAGES_OF_SEGMENT & -BLOCK_PAGES];
    uint64_t wanted = 0x0101010101010101ull * (1 + CLIVE_ON_THREAD), others = 0;
    for (unsigned i = 0; i < BLOCK_PAGES / 8; i++) others |= __atomic_load_n(&modes[i], __ATOMIC_RELAXED) ^ wanted;
    return others == 0 && live.sigbus;
}

bool close_block(uint64_t page) {
    enum { MOST_LOOKS = 1000 };
    if (!is_all_on_thread(page)) return false;
    uint32_t *gate = gate_of(page);
    if (__atomic_fetch_or(gate, GATE_CLOSED, __ATOMIC_ACQUIRE) & GATE_CLOSED) return false;
    for (unsigned look = 0; look < MOST_LOOKS; look++) {
        if (__atomic_load_n(gate, __ATOMIC_ACQUIRE) != GATE_CLOSED) continue;
        // Again, now that nobody changes words.
        if (is_all_on_thread(page)) return true;
        break;
    }
    open_block(page);
    return false;
}

void open_block(uint64_t page) { __atomic_fetch_and(gate_of(page), ~(uint32_t)GATE_CLOSED, __ATOMIC_RELEASE); }

void open_blocks(void) {
    for (uint64_t index = 0; index < SEGMENT_SLOTS; index++)
        if (clive_segments[index]) memset(clive_segments[index]->gates, 0, sizeof clive_segments[index]->gates);
}

// MARK: Huge pages

enum {
    /// After so many huge pages a slot is asked to be rid of its page table once more, whatever is known of it: the
    /// kernel may have split one by itself.
    KNOWN_USES = 16,
};

static uint8_t *table_uses(uint64_t slot) { return &live.table_uses[(slot - live.arena_page) / BLOCK_PAGES]; }

void note_tables(uint64_t slot, uint64_t n) {
    for (uint64_t page = slot; page < slot + n; page = (page | (BLOCK_PAGES - 1)) + 1)
        __atomic_store_n(table_uses(page), 0, __ATOMIC_RELAXED);
}

/// The slots are empty, and have no page table then where the kernel can free one: newer ones do with this advice.
static void clear_tables(uint64_t slot) {
    uint8_t *uses = table_uses(slot), left = __atomic_load_n(uses, __ATOMIC_RELAXED);
    if (left == 0) drop_pages(slot, BLOCK_PAGES);
    __atomic_store_n(uses, left == 0 ? KNOWN_USES : left - 1, __ATOMIC_RELAXED);
}

static bool is_huge_block(struct huge_blocks *blocks, uint64_t page) {
    uint64_t at = (page - blocks->first) / BLOCK_PAGES;
    if (blocks->count && at < blocks->count) return blocks->is_huge[at];
    if (!is_huge(page)) return false;
    uint64_t count = (blocks->end - page) / BLOCK_PAGES;
    if (count > MOST_BLOCKS) count = MOST_BLOCKS;
    if (count > 1 && find_huge(page, count, blocks->is_huge)) {
        blocks->first = page;
        blocks->count = count;
    }
    return true;
}

uint64_t keep_huge(uint64_t page, uint32_t frame, struct huge_blocks *blocks) {
    if (slot_page(frame) % BLOCK_PAGES != 0 || !live.can_move || !is_huge_block(blocks, page)) return 0;
    clear_tables(slot_page(frame));
    return WORD_HUGE;
}

#pragma clang attribute pop
