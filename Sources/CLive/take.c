// Moving pages in normal context: away with a device, and home again.
//
// While a page is owned here, this thread must touch nothing that could be that page: signals are blocked, arguments
// are copied in and results out around each step, and the part of the stack that is in use is left alone.
#define _GNU_SOURCE
#include "step.h"
#include <signal.h>
#include <string.h>

enum {
    /// What is taken for the stack in use: below the frame of a step, and above it.
    STACK_BELOW = 64 << 10, STACK_ABOVE = 32 << 10,
};

static size_t step_length(uint64_t page, size_t left) {
    size_t most = STEP_PAGES - page % STEP_PAGES;
    return left < most ? left : most;
}

static uint64_t block_signals(void) {
    uint64_t all = ~0ull, before = 0;
    for (int i = 0; i < 6; i++) {
        const int faults[] = { SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGABRT };
        all &= ~(1ull << (faults[i] - 1));
    }
    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&before, sizeof all, 0, 0);
    return before;
}

static void restore_signals(uint64_t before) {
    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&before, 0, sizeof before, 0, 0);
}

/// The stack that will be used is present before anything is owned. A page of it that was away would be waited for.
static __attribute__((noinline)) void touch_stack(void) {
    volatile uint8_t room[16 << 10];
    for (size_t i = 0; i < sizeof room; i += PAGE_BYTES) room[i] = 0;
}

static void begin_step(struct step *step, uint64_t page, size_t left) {
    step->page = page;
    step->n = step_length(page, left);
    step->words = word_of(page);
}

/// The part of the stack that is in use, within its mapping: what lies beside that may go.
static void find_stack(const struct step *step, uint64_t *first, uint64_t *last) {
    uint64_t here = (uint64_t)(uintptr_t)step;
    *first = (here - STACK_BELOW) / PAGE_BYTES;
    *last = (here + sizeof *step + STACK_ABOVE) / PAGE_BYTES;
    if (step->page > *last || step->page + step->n <= *first) return;
    struct clive_vma vma;
    if (clive_vma_ending_after(here / PAGE_BYTES, &vma) || vma.start_page > here / PAGE_BYTES) return;
    if (*first < vma.start_page) *first = vma.start_page;
    if (*last >= vma.end_page) *last = vma.end_page - 1;
}

static size_t take_step(struct step *step, uint64_t bits, struct huge_blocks *blocks) {
    uint64_t stack_first, stack_last;
    find_stack(step, &stack_first, &stack_last);
    size_t taken = 0;
    for (size_t i = 0; i < step->n;) {
        bool has_stack = step->page <= stack_last && step->page + step->n > stack_first;
        size_t end = has_stack ? i : own_block(step, i, bits);
        if (end == i) end = own_run(step, i, bits, stack_first, stack_last);
        if (end == i) {
            i++;
            continue;
        }
        int uffd = uffd_of(step->page + i);
        uint64_t *words = step->words;
        uint64_t huge = end - i == STEP_PAGES ? keep_huge(step->page, step->frames[i], blocks) : 0;
        unsigned flags = TO_SLOT | (huge ? WHOLE : 0);
        while (i < end) {
            int error = 0;
            size_t done = transfer(uffd, slot_page(step->frames[i]), step->page + i, end - i, flags, &error);
            for (size_t k = i; k < i + done; k++)
                clive_store(&words[k], with_state(clive_load(&words[k]), CLIVE_AWAY) | huge);
            memset(&step->result[i], 0, done);
            taken += done;
            i += done;
            if (i == end) break;
            set_owner(step->frames[i], 0);
            clive_store(&words[i], clive_load(&words[i]) & CLIVE_WP_HIT);
            step->result[i++] = (uint8_t)error;
        }
    }
    return taken;
}

int clive_take(uint64_t page, const uint32_t *frames, size_t count, uint64_t bits, uint8_t *result) {
    int taken = 0;
    bits &= CLIVE_READONLY | CLIVE_EXCLUSIVE | CLIVE_FRESH;
    struct step step;
    struct huge_blocks blocks = { .end = page + count };
    touch_stack();
    register_again(page, count);
    uint64_t mask = block_signals();
    for (size_t done = 0; done < count; done += step.n) {
        begin_step(&step, page + done, count - done);
        memcpy(step.frames, &frames[done], step.n * sizeof *frames);
        taken += (int)take_step(&step, bits, &blocks);
        memcpy(&result[done], step.result, step.n);
    }
    restore_signals(mask);
    return taken;
}

static size_t bring_step(struct step *step) {
    size_t brought = 0;
    for (size_t i = 0; i < step->n;) {
        size_t end = own_away_block(step, i);
        if (end == i) end = own_away(step, i);
        if (end == i) {
            brought += step->result[i++] == 0;
            continue;
        }
        int uffd = uffd_of(step->page + i);
        uint64_t *words = step->words;
        uint64_t w = clive_load(&words[i]);
        unsigned flags = w & CLIVE_READONLY ? PROTECTED : 0;
        if (end - i == BLOCK_PAGES && w & WORD_HUGE) flags |= WHOLE;
        if (uffd >= 0 && w & CLIVE_FRESH) fill_slots(step->frames[i], end - i);
        while (i < end) {
            int error = ENXIO;
            size_t done = 0;
            if (uffd >= 0) done = transfer(uffd, step->page + i, slot_page(step->frames[i]), end - i, flags, &error);
            clear_owners(step->frames[i], done);
            for (size_t k = i; k < i + done; k++) clive_store(&words[k], clive_load(&words[k]) & CLIVE_WP_HIT);
            memset(&step->result[i], 0, done);
            brought += done;
            i += done;
            if (i == end) break;
            clive_store(&words[i], with_state(clive_load(&words[i]), CLIVE_AWAY));
            step->result[i++] = (uint8_t)error;
        }
    }
    return brought;
}

int clive_bring(uint64_t page, size_t count, uint8_t *result, uint32_t *frames) {
    int brought = 0;
    struct step step;
    touch_stack();
    uint64_t mask = block_signals();
    for (size_t done = 0; done < count; done += step.n) {
        begin_step(&step, page + done, count - done);
        size_t came = bring_step(&step);
        brought += (int)came;
        if (result) memcpy(&result[done], step.result, step.n);
        if (frames && came == step.n) memcpy(&frames[done], step.frames, step.n * sizeof *frames);
        for (size_t i = 0; frames && came < step.n && i < step.n; i++)
            frames[done + i] = step.result[i] == 0 ? step.frames[i] : 0;
    }
    restore_signals(mask);
    return brought;
}

static void forget_step(struct step *step) {
    uint64_t *words = step->words;
    for (size_t i = 0; i < step->n; i++) {
        step->frames[i] = 0;
        if (!words || clive_load(&words[i]) == 0) continue;
        uint64_t w = own_word(step->page + i, &words[i]);
        if (clive_state_of(w) == CLIVE_HOME) {
            clive_store(&words[i], w);
            continue;
        }
        step->frames[i] = clive_frame_of(w);
        set_owner(step->frames[i], 0);
        drop_pages(slot_page(step->frames[i]), 1);
        clive_store(&words[i], 0);
    }
}

void clive_forget(uint64_t page, size_t count, uint32_t *frames) {
    struct step step;
    touch_stack();
    for (size_t done = 0; done < count; done += step.n) {
        begin_step(&step, page + done, count - done);
        uint64_t mask = block_signals();
        forget_step(&step);
        restore_signals(mask);
        if (frames) memcpy(&frames[done], step.frames, step.n * sizeof *frames);
    }
}

int clive_zero(uint64_t page, size_t count) {
    touch_stack();
    for (size_t i = 0; i < count; i++) {
        int uffd = uffd_of(page + i);
        uint64_t *word = word_of(page + i);
        if (uffd < 0 || !word) return -ENXIO;
        uint64_t mask = block_signals(), w = own_word(page + i, word);
        bool was_present;
        // Zeros in the place of a page that a device took just now would hide its bytes.
        long result = clive_state_of(w) == CLIVE_AWAY ? 0 : fill_with_zeros(uffd, page + i, false, &was_present);
        clive_store(word, w);
        restore_signals(mask);
        if (result) return (int)result;
    }
    return 0;
}

int clive_zero_own(uint64_t page) {
    int uffd = uffd_of(page);
    uint64_t *word = word_of(page);
    if (uffd < 0 || !word) return -ENXIO;
    touch_stack();
    uint64_t mask = block_signals(), w = own_word(page, word);
    uint8_t seen = 0;
    bool was_present;
    long result = 0;
    if (clive_state_of(w) != CLIVE_AWAY) {
        if (clive_look_quickly(page, 1, &seen) == 0 && seen & CLIVE_ZERO) drop_pages(page, 1);
        result = fill_with_zeros(uffd, page, true, &was_present);
    }
    clive_store(word, w);
    restore_signals(mask);
    return (int)result;
}

int clive_relocate(uint64_t from, uint64_t to, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint64_t *source = word_of(from + i), *destination = word_of(to + i);
        if (!source || clive_load(source) == 0) continue;
        if (!destination) return -ENXIO;
        uint64_t mask = block_signals(), w = own_word(from + i, source);
        if (clive_state_of(w) != CLIVE_HOME) {
            clive_store(destination, w);
            set_owner(clive_frame_of(w), to + i);
            clive_store(source, 0);
            if (w & WORD_UNDELIVERED)
                push_return(to + i, clive_frame_of(w), (uint32_t)w & (CLIVE_READONLY | CLIVE_EXCLUSIVE));
        } else {
            clive_store(source, w);
        }
        restore_signals(mask);
    }
    announce_returns();
    return 0;
}

bool clive_settle(uint64_t page, uint32_t frame) {
    uint64_t *word = word_of(page);
    if (!word) return false;
    uint64_t w;
    // Nothing is owned: a fault that comes between the word and the owner finds a slot that is nobody's.
    for (unsigned turn = 0;;) {
        w = clive_load(word);
        if (clive_frame_of(w) != frame) return false;
        if (clive_state_of(w) == CLIVE_BUSY) wait_turn(turn++);
        else if (clive_state_of(w) != CLIVE_RETURNED || w & WORD_UNDELIVERED) return false;
        else if (exchange_word(page, word, w, w & CLIVE_WP_HIT)) break;
    }
    set_owner(frame, 0);
    if (w & WORD_COPIED) drop_pages(slot_page(frame), 1);
    return true;
}

#pragma clang attribute pop
