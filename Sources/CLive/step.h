#ifndef SWIFT_HMM_CLIVE_STEP_H
#define SWIFT_HMM_CLIVE_STEP_H
// Moves in normal context go in steps.
#include "internal.h"

#pragma GCC visibility push(hidden)

enum {
    /// Pages of a step, which lies in one block.
    STEP_PAGES = BLOCK_PAGES,
};

/// What a step works on, on the stack.
struct step {
    uint64_t page;
    size_t n;
    uint64_t *words;
    uint32_t frames[STEP_PAGES];
    uint8_t result[STEP_PAGES];
};

/// The end of the run from `i` on that can be owned: pages at home, frames that go on by one. Owns it. Waits for the
/// first page, and has the reason in its result if it cannot be owned.
size_t own_run(struct step *step, size_t i, uint64_t bits, uint64_t stack_first, uint64_t stack_last);
/// The same where the gate of the block can be closed: what does not fit ends the run, the first page too.
size_t own_block(struct step *step, size_t i, uint64_t bits);
/// Owns pages that are away from `i` on, while their frames go on by one and they come home alike. Waits for the first
/// page; if that came home already, it is settled here.
size_t own_away(struct step *step, size_t i);
/// The same where the gate of the block can be closed.
size_t own_away_block(struct step *step, size_t i);

#pragma GCC visibility pop
#endif
