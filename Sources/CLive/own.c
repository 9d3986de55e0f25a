// How a step comes to own its pages: by exchange, word by word, or where the gate of the block can be closed with plain
// stores.
#include "step.h"

/// What a page at home becomes that is taken.
static inline uint64_t taken_word(uint64_t w, uint64_t bits, uint32_t frame) {
    return CLIVE_BUSY | bits | (w & CLIVE_WP_HIT) | (uint64_t)frame << CLIVE_FRAME_SHIFT;
}

enum {
    /// Not an errno: the page is owned by somebody else at the moment.
    OWNED = 0xff,
};

/// Makes a page at home BUSY; inside of the gate. 0, OWNED, or an errno.
static uint8_t own_home(struct step *step, size_t i, uint64_t bits) {
    uint64_t *word = &step->words[i];
    for (;;) {
        uint64_t w = clive_load(word);
        uint32_t state = clive_state_of(w);
        if (state == CLIVE_AWAY) return EALREADY;
        if (state == CLIVE_RETURNED) return EAGAIN;
        if (state == CLIVE_BUSY) return OWNED;
        if (w & CLIVE_COHERENT) return EBUSY;
        if (!exchange_inside(word, w, taken_word(w, bits, step->frames[i]))) continue;
        set_owner(step->frames[i], step->page + i);
        return 0;
    }
}

size_t own_run(struct step *step, size_t i, uint64_t bits, uint64_t stack_first, uint64_t stack_last) {
    size_t first = i;
    struct segment *s = segment_of(step->page);
    uint64_t at = step->page % CLIVE_PAGES_OF_SEGMENT;
    uint8_t mode = s ? s->modes[at + i] : 0;
    uint32_t *gate = s ? gate_of(step->page) : NULL;
    if (gate) enter_block(gate);
    for (unsigned turn = 0; i < step->n;) {
        uint32_t frame = step->frames[i];
        if (i > first && (frame != step->frames[i - 1] + 1 || s->modes[at + i] != mode)) break;
        uint64_t page = step->page + i;
        uint8_t error = 0;
        if (frame == 0 || frame >= live.arena_frames) error = EINVAL;
        else if (!mode) error = ENXIO;
        else if (page >= stack_first && page <= stack_last) error = EBUSY;
        else error = own_home(step, i, bits);
        if (error == OWNED && i == first) {
            // Outside: others may have to come in for it.
            leave_block(gate);
            wait_turn(turn++);
            enter_block(gate);
            continue;
        }
        if (error && i == first) step->result[i] = error;
        if (error) break;
        i++;
    }
    if (gate) leave_block(gate);
    return i;
}

size_t own_block(struct step *step, size_t i, uint64_t bits) {
    const uint32_t *frames = &step->frames[i];
    uint32_t first = frames[0];
    if (step->n - i < 8 || !step->words || first == 0 || first >= live.arena_frames) return i;
    if (!close_block(step->page)) return i;
    uint64_t *words = &step->words[i];
    size_t n = 0, most = step->n - i;
    if (most > live.arena_frames - first) most = live.arena_frames - first;
    for (; n < most; n++) {
        uint64_t w = __atomic_load_n(&words[n], __ATOMIC_RELAXED);
        if (w & (CLIVE_STATE | CLIVE_COHERENT) || frames[n] != first + n) break;
        __atomic_store_n(&words[n], taken_word(w, bits, first + (uint32_t)n), __ATOMIC_RELAXED);
    }
    open_block(step->page);
    uint64_t *owners = &live.owners[first];
    for (size_t k = 0; k < n; k++) __atomic_store_n(&owners[k], step->page + i + k, __ATOMIC_RELEASE);
    return i + n;
}

/// A page that came home already, and is owned: its slot is empty.
static void settle_owned(struct step *step, size_t i, uint64_t w) {
    if (w & WORD_COPIED) drop_pages(slot_page(step->frames[i]), 1);
    set_owner(step->frames[i], 0);
    step->result[i] = 0;
    clive_store(&step->words[i], w & CLIVE_WP_HIT);
}

size_t own_away(struct step *step, size_t i) {
    size_t first = i;
    step->result[i] = ENOENT;
    if (!step->words) return i;
    const uint8_t *modes = &segment_of(step->page)->modes[step->page % CLIVE_PAGES_OF_SEGMENT];
    uint32_t *gate = gate_of(step->page);
    enter_block(gate);
    for (unsigned turn = 0; i < step->n;) {
        uint64_t w = clive_load(&step->words[i]);
        uint32_t state = clive_state_of(w);
        if (state == CLIVE_BUSY && i == first) {
            // Outside: others may have to come in for it.
            leave_block(gate);
            wait_turn(turn++);
            enter_block(gate);
            continue;
        }
        uint32_t frame = clive_frame_of(w);
        bool fits = i == first ? state == CLIVE_AWAY || state == CLIVE_RETURNED
                               : state == CLIVE_AWAY && frame == step->frames[i - 1] + 1 && modes[i] == modes[first]
                                     && !((w ^ clive_load(&step->words[first])) & WORD_ALIKE);
        if (!fits) break;
        if (!exchange_inside(&step->words[i], w, with_state(w, CLIVE_BUSY))) continue;
        step->frames[i] = frame;
        if (state == CLIVE_RETURNED) {
            leave_block(gate);
            settle_owned(step, i, w);
            return i;
        }
        i++;
    }
    leave_block(gate);
    return i;
}

size_t own_away_block(struct step *step, size_t i) {
    if (step->n - i < 8 || !step->words || !close_block(step->page)) return i;
    uint64_t *words = &step->words[i];
    uint64_t expected = clive_load(words);
    size_t n = 0, most = clive_state_of(expected) == CLIVE_AWAY ? step->n - i : 0;
    for (; n < most; n++, expected += 1ull << CLIVE_FRAME_SHIFT) {
        uint64_t w = __atomic_load_n(&words[n], __ATOMIC_RELAXED);
        if ((w ^ expected) & (CLIVE_STATE | WORD_ALIKE | CLIVE_FRAME_MASK)) break;
        __atomic_store_n(&words[n], with_state(w, CLIVE_BUSY), __ATOMIC_RELAXED);
    }
    open_block(step->page);
    uint32_t first = n ? clive_frame_of(words[0]) : 0;
    for (size_t k = 0; k < n; k++) step->frames[i + k] = first + (uint32_t)k;
    return i + n;
}

#pragma clang attribute pop
