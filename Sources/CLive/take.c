// Moving pages in normal context: away with a device, and home again.
//
// While a page is owned here, this thread must touch nothing that could be that page: signals are blocked, arguments
// are copied in and results out around each step, and the part of the stack that is in use is left alone.
#define _GNU_SOURCE
#include "internal.h"
#include <signal.h>
#include <string.h>

enum {
    /// Pages of a step; steps end where a huge page may end.
    STEP_PAGES = 512,
    /// What is taken for the stack in use: below the frame of a step, and above it.
    STACK_BELOW = 64 << 10, STACK_ABOVE = 32 << 10,
};

/// What a step works on, on the stack.
struct step {
    uint64_t page;
    size_t n;
    uint32_t frames[STEP_PAGES];
    /// The words as they were.
    uint64_t before[STEP_PAGES];
    uint8_t result[STEP_PAGES];
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

/// The end of the run from `i` on that can be owned: pages at home, frames that go on by one. Owns it.
static size_t own_run(struct step *step, size_t i, uint64_t bits, uint64_t stack_first, uint64_t stack_last) {
    size_t first = i;
    struct segment *s = segment_of(step->page);
    uint64_t at = step->page % CLIVE_PAGES_OF_SEGMENT;
    uint8_t mode = s ? s->modes[at + i] : 0;
    for (; i < step->n; i++) {
        uint32_t frame = step->frames[i];
        if (i > first && (frame != step->frames[i - 1] + 1 || s->modes[at + i] != mode)) return i;
        uint64_t page = step->page + i;
        uint8_t error = 0;
        if (frame == 0 || frame >= live.arena_frames) error = EINVAL;
        else if (!mode) error = ENXIO;
        else if (page >= stack_first && page <= stack_last) error = EBUSY;
        for (unsigned turn = 0; !error;) {
            uint64_t *word = &s->words[at + i], w = clive_load(word);
            uint32_t state = clive_state_of(w);
            if (state == CLIVE_AWAY) error = EALREADY;
            else if (state == CLIVE_RETURNED) error = EAGAIN;
            else if (state == CLIVE_BUSY) wait_turn(turn++);
            else if (w & CLIVE_COHERENT) error = EBUSY;
            else {
                uint64_t owned = CLIVE_BUSY | bits | (w & CLIVE_WP_HIT) | (uint64_t)frame << CLIVE_FRAME_SHIFT;
                if (!clive_cas(word, w, owned)) continue;
                step->before[i] = w;
                set_owner(frame, page);
                break;
            }
        }
        if (error) {
            if (i == first) step->result[i] = error;
            return i;
        }
    }
    return i;
}

/// A huge page that goes whole into slots that can take it stays huge, if they have no page table left from smaller
/// pages: newer kernels free it with this advice. Answers the mark for the words of such pages.
static uint64_t keep_huge(const struct step *step, size_t first, size_t end) {
    bool is_whole = end - first == STEP_PAGES && slot_page(step->frames[first]) % STEP_PAGES == 0;
    if (!is_whole || !live.can_move || !is_huge(step->page)) return 0;
    drop_pages(slot_page(step->frames[first]), STEP_PAGES);
    return WORD_HUGE;
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

static size_t take_step(struct step *step, uint64_t bits) {
    uint64_t stack_first, stack_last;
    find_stack(step, &stack_first, &stack_last);
    size_t taken = 0;
    for (size_t i = 0; i < step->n;) {
        size_t end = own_run(step, i, bits, stack_first, stack_last);
        if (end == i) {
            i++;
            continue;
        }
        int uffd = uffd_of(step->page + i);
        uint64_t *words = word_of(step->page);
        uint64_t huge = keep_huge(step, i, end);
        while (i < end) {
            int error = 0;
            size_t done = transfer(uffd, slot_page(step->frames[i]), step->page + i, end - i, TO_SLOT, &error);
            for (size_t k = i; k < i + done; k++) {
                clive_store(&words[k], with_state(clive_load(&words[k]), CLIVE_AWAY) | huge);
                step->result[k] = 0;
            }
            taken += done;
            i += done;
            if (i == end) break;
            set_owner(step->frames[i], 0);
            clive_store(&words[i], step->before[i]);
            step->result[i++] = (uint8_t)error;
        }
    }
    return taken;
}

int clive_take(uint64_t page, const uint32_t *frames, size_t count, uint64_t bits, uint8_t *result) {
    int taken = 0;
    bits &= CLIVE_READONLY | CLIVE_EXCLUSIVE | CLIVE_FRESH;
    struct step step;
    touch_stack();
    register_again(page, count);
    for (size_t done = 0; done < count; done += step.n) {
        step.page = page + done;
        step.n = step_length(step.page, count - done);
        memcpy(step.frames, &frames[done], step.n * sizeof *frames);
        uint64_t mask = block_signals();
        taken += (int)take_step(&step, bits);
        restore_signals(mask);
        memcpy(&result[done], step.result, step.n);
    }
    return taken;
}

/// Owns pages that are away from `i` on, while their frames go on by one and they come home alike. What has come home
/// already is settled here.
static size_t own_away(struct step *step, size_t i) {
    size_t first = i;
    struct segment *s = segment_of(step->page);
    uint64_t *words = s ? &s->words[step->page % CLIVE_PAGES_OF_SEGMENT] : NULL;
    for (; i < step->n; i++) {
        uint64_t w = words ? own_word(&words[i]) : 0;
        uint32_t frame = step->frames[i] = clive_frame_of(w);
        step->before[i] = w;
        bool fits = i == first
            || (frame == step->frames[i - 1] + 1 && !((w ^ step->before[first]) & (CLIVE_READONLY | CLIVE_FRESH))
                && s->modes[step->page % CLIVE_PAGES_OF_SEGMENT + i]
                    == s->modes[step->page % CLIVE_PAGES_OF_SEGMENT + first]);
        if (clive_state_of(w) == CLIVE_AWAY && fits) continue;
        if (i == first) {
            step->result[i] = ENOENT;
            if (clive_state_of(w) == CLIVE_RETURNED) {
                if (w & WORD_COPIED) drop_pages(slot_page(frame), 1);
                set_owner(frame, 0);
                step->result[i] = 0;
                w &= CLIVE_WP_HIT;
            }
        }
        if (words) clive_store(&words[i], w);
        return i;
    }
    return i;
}

static size_t bring_step(struct step *step) {
    size_t brought = 0;
    for (size_t i = 0; i < step->n;) {
        size_t end = own_away(step, i);
        if (end == i) {
            brought += step->result[i++] == 0;
            continue;
        }
        int uffd = uffd_of(step->page + i);
        uint64_t *words = word_of(step->page);
        unsigned flags = step->before[i] & CLIVE_READONLY ? PROTECTED : 0;
        if (uffd >= 0 && step->before[i] & CLIVE_FRESH) fill_slots(step->frames[i], end - i);
        while (i < end) {
            int error = ENXIO;
            size_t done = 0;
            if (uffd >= 0) done = transfer(uffd, step->page + i, slot_page(step->frames[i]), end - i, flags, &error);
            for (size_t k = i; k < i + done; k++) {
                set_owner(step->frames[k], 0);
                clive_store(&words[k], clive_load(&words[k]) & CLIVE_WP_HIT);
                step->result[k] = 0;
            }
            brought += done;
            i += done;
            if (i == end) break;
            clive_store(&words[i], step->before[i]);
            step->result[i++] = (uint8_t)error;
        }
    }
    return brought;
}

int clive_bring(uint64_t page, size_t count, uint8_t *result, uint32_t *frames) {
    int brought = 0;
    struct step step;
    touch_stack();
    for (size_t done = 0; done < count; done += step.n) {
        step.page = page + done;
        step.n = step_length(step.page, count - done);
        uint64_t mask = block_signals();
        brought += (int)bring_step(&step);
        restore_signals(mask);
        if (result) memcpy(&result[done], step.result, step.n);
        for (size_t i = 0; frames && i < step.n; i++) frames[done + i] = step.result[i] == 0 ? step.frames[i] : 0;
    }
    return brought;
}

static void forget_step(struct step *step) {
    uint64_t *words = word_of(step->page);
    for (size_t i = 0; i < step->n; i++) {
        step->frames[i] = 0;
        if (!words || clive_load(&words[i]) == 0) continue;
        uint64_t w = own_word(&words[i]);
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
        step.page = page + done;
        step.n = step_length(step.page, count - done);
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
        uint64_t mask = block_signals(), w = own_word(word);
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
    uint64_t mask = block_signals(), w = own_word(word);
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
        uint64_t mask = block_signals(), w = own_word(source);
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
        else if (clive_cas(word, w, w & CLIVE_WP_HIT)) break;
    }
    set_owner(frame, 0);
    if (w & WORD_COPIED) drop_pages(slot_page(frame), 1);
    return true;
}

#pragma clang attribute pop
