#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 64 };

/// Memory, and what the calls fill.
struct world {
    char *home, *arena;
    uint64_t page;
    enum clive_mode mode;
    bool tells_writes, raises_signals;
    uint32_t frames[PAGES];
    uint8_t result[PAGES];
    struct clive_return returns[PAGES];
};

static void number_frames(struct world *w, uint32_t first, uint32_t step) {
    for (uint32_t i = 0; i < PAGES; i++) w->frames[i] = first + i * step % PAGES;
}

static size_t drain(struct world *w) { return clive_drain(w->returns, PAGES); }

static int settle(struct world *w, size_t n) {
    EXPECT(drain(w) == n);
    for (size_t i = 0; i < n; i++)
        EXPECT(w->returns[i].bits & CLIVE_COW || clive_settle(w->returns[i].page, w->returns[i].frame));
    return 0;
}

static int check_home(struct world *w) {
    EXPECT(clive_registered(w->page) == -1);
    EXPECT(clive_register(w->page, PAGES, w->mode) == 0);
    EXPECT(clive_register(w->page, PAGES, w->mode) == 0);
    EXPECT(clive_register(w->page, 1, w->mode == CLIVE_ON_THREAD ? CLIVE_HANDLER_THREAD : CLIVE_ON_THREAD) == -EBUSY);
    EXPECT(clive_registered(w->page + PAGES - 1) == (int)w->mode && clive_registered(w->page + PAGES) == -1);
    for (int i = 0; i < 8; i++) *byte_at(w->home, i) = (char)(i + 1);
    EXPECT(*byte_at(w->home, 9) == 0 && *clive_word(w->page) == 0);
    uint8_t seen[16];
    EXPECT(clive_look(w->page, 16, seen) == 0);
    EXPECT((seen[0] & (CLIVE_PRESENT | CLIVE_ZERO | CLIVE_WP)) == CLIVE_PRESENT);
    EXPECT(seen[9] & CLIVE_ZERO && seen[10] == 0);
    EXPECT(clive_look_quickly(w->page, 16, seen) == 0);
    EXPECT(seen[0] & CLIVE_PRESENT && seen[9] & CLIVE_ZERO && seen[10] == 0);
    struct clive_vma vma;
    EXPECT(clive_vma_ending_after(w->page, &vma) == 0 && vma.start_page <= w->page && vma.end_page > w->page);
    EXPECT(vma.prot == (PROT_READ | PROT_WRITE) && !vma.shared && !vma.file && !vma.stack);
    return 0;
}

/// One page there and back, by every way.
static int check_one_page(struct world *w) {
    number_frames(w, 100, 1);
    EXPECT(clive_take(w->page, w->frames, 16, 0, w->result) == 16);
    uint8_t seen[16];
    EXPECT(clive_look(w->page, 16, seen) == 0 && seen[0] == 0 && seen[15] == 0);
    for (int i = 0; i < 8; i++) EXPECT(*byte_at(w->arena, 100 + i) == i + 1);
    EXPECT(*byte_at(w->arena, 112) == 0 && clive_owner(103) == w->page + 3);
    EXPECT(clive_take(w->page, w->frames, 1, 0, w->result) == 0 && w->result[0] == EALREADY);
    // A CPU takes it back.
    *byte_at(w->arena, 103) = 77;
    EXPECT(*byte_at(w->home, 3) == 77);
    EXPECT(clive_take(w->page + 3, w->frames, 1, 0, w->result) == 0 && w->result[0] == EAGAIN);
    EXPECT(drain(w) == 1 && w->returns[0].page == w->page + 3 && w->returns[0].frame == 103 && !w->returns[0].bits);
    EXPECT(drain(w) == 0);
    // The device fetches it again before the slot is free: then it is not.
    *byte_at(w->home, 3) = 78;
    EXPECT(*byte_at(w->arena, 103) == 78);
    EXPECT(!clive_settle(w->page + 3, 103) && clive_state_of(*clive_word(w->page + 3)) == CLIVE_AWAY);
    *byte_at(w->home, 3) = 79;
    EXPECT(!clive_settle(w->page + 3, 103));
    RUN(settle(w, 1));
    EXPECT(*clive_word(w->page + 3) == 0 && clive_owner(103) == 0);
    // Fetched again before anybody drained: there is nothing to tell.
    *byte_at(w->home, 4) = 80;
    EXPECT(*byte_at(w->arena, 104) == 80 && drain(w) == 0);
    // What was empty comes home empty.
    EXPECT(*byte_at(w->home, 14) == 0);
    *byte_at(w->home, 15) = 1;
    RUN(settle(w, 2));
    EXPECT(clive_bring(w->page, 16, w->result, NULL) == 13 && w->result[3] == ENOENT && w->result[0] == 0);
    for (int i = 0; i < 8; i++) EXPECT(*byte_at(w->home, i) == (i == 3 ? 79 : i == 4 ? 80 : i + 1));
    return 0;
}

/// A fault brings the neighbours along, but nobody's exclusive page.
static int check_fault_around(struct world *w) {
    clive_set_fault_around(16);
    number_frames(w, 200, 7);
    EXPECT(clive_take(w->page, w->frames, 8, 0, w->result) == 8);
    EXPECT(clive_take(w->page + 8, &w->frames[8], 8, CLIVE_EXCLUSIVE, w->result) == 8);
    EXPECT(*byte_at(w->home, 2) == 3);
    RUN(settle(w, 8));
    *byte_at(w->home, 9) = 4;
    EXPECT(drain(w) == 1 && w->returns[0].bits == CLIVE_EXCLUSIVE);
    EXPECT(clive_settle(w->returns[0].page, w->returns[0].frame));
    EXPECT(clive_bring(w->page + 8, 8, w->result, NULL) == 7);
    clive_set_fault_around(1);
    return 0;
}

/// Pages that go home protected, and the first write to them.
static int check_protection(struct world *w) {
    number_frames(w, 300, 1);
    EXPECT(clive_take(w->page, w->frames, 8, CLIVE_READONLY, w->result) == 8);
    EXPECT(*byte_at(w->home, 0) == 1);
    EXPECT(drain(w) == 1 && w->returns[0].bits == CLIVE_READONLY);
    EXPECT(clive_settle(w->page, 300));
    EXPECT(clive_bring(w->page, 8, w->result, NULL) == 7);
    if (!w->tells_writes) return 0;
    uint8_t seen[8];
    EXPECT(clive_look(w->page, 8, seen) == 0 && seen[0] & CLIVE_WP && seen[1] & CLIVE_WP);
    *byte_at(w->home, 0) = 5;
    EXPECT(drain(w) == 1 && w->returns[0].page == w->page && w->returns[0].bits == CLIVE_COW);
    EXPECT(clive_look_quickly(w->page, 8, seen) == 0 && !(seen[0] & CLIVE_WP) && seen[1] & CLIVE_WP);
    EXPECT(clive_write_protect(w->page, 8, false) == 0);
    EXPECT(clive_look(w->page, 8, seen) == 0 && !(seen[1] & CLIVE_WP));
    return 0;
}

static int check_forget_and_relocate(struct world *w) {
    uint32_t frames[4];
    *byte_at(w->home, 5) = 6;
    EXPECT(clive_take(w->page, w->frames, 8, 0, w->result) == 8);
    clive_forget(w->page, 4, frames);
    EXPECT(frames[0] == 300 && frames[3] == 303 && clive_owner(300) == 0 && *byte_at(w->home, 0) == 0);
    EXPECT(clive_relocate(w->page + 4, w->page + 40, 4) == 0);
    EXPECT(*byte_at(w->home, 41) == 6 && clive_owner(305) == w->page + 41);
    RUN(settle(w, 1));
    EXPECT(clive_bring(w->page + 40, 4, w->result, NULL) == 3);
    return 0;
}

/// A system call that meets a page that is away.
static int check_system_call(struct world *w) {
    int ends[2];
    EXPECT(pipe(ends) == 0);
    strcpy(w->home, "hello");
    EXPECT(clive_take(w->page, w->frames, 1, 0, w->result) == 1);
    ssize_t written = write(ends[1], w->home, 6);
    if (w->mode == CLIVE_ON_THREAD && w->raises_signals) EXPECT(written == -1 && errno == EFAULT);
    else EXPECT(written == 6);
    EXPECT(strcmp(w->home, "hello") == 0);
    RUN(settle(w, 1));
    close(ends[0]);
    close(ends[1]);
    return 0;
}

static int check_in_child(struct world *w) {
    EXPECT(clive_after_fork_in_child() == 0);
    for (int i = 0; i < 8; i++) EXPECT(*byte_at(w->home, i) == i + 1);
    EXPECT(drain(w) == 4);
    *byte_at(w->arena, 600) = 44;
    EXPECT(*byte_at(w->home, 0) == 44);
    *byte_at(w->home, 4) = 55;
    EXPECT(drain(w) == (w->tells_writes ? 2 : 1));
    EXPECT(clive_take(w->page + 4, &w->frames[4], 4, 0, w->result) == 4 && *byte_at(w->arena, 604) == 55);
    return 0;
}

static int check_fork(struct world *w) {
    for (int i = 0; i < 8; i++) *byte_at(w->home, i) = (char)(i + 1);
    number_frames(w, 600, 1);
    EXPECT(clive_take(w->page, w->frames, 4, 0, w->result) == 4);
    clive_before_fork();
    pid_t child = fork();
    if (child == 0) _exit(check_in_child(w) != 0);
    EXPECT(clive_after_fork_in_parent() == 0);
    int status;
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
    EXPECT(drain(w) == 0);
    for (int i = 0; i < 8; i++) EXPECT((*byte_at(w->home, i))++ == i + 1);
    RUN(settle(w, w->tells_writes ? 8 : 4));
    return 0;
}

// MARK: Somebody else's userfaultfd

static struct { int uffd; char *page; int faults; } other = { .uffd = -1 };

/// Fills the page of its own with a 7, as a program with a userfaultfd of its own does.
static void answer_other(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)context;
    static char contents[PAGE_BYTES] __attribute__((aligned(4096)));
    if ((char *)info->si_addr != other.page) _exit(98);
    other.faults++;
    contents[0] = 7;
    struct uffdio_copy copy = { .dst = (uintptr_t)other.page, .src = (uintptr_t)contents, .len = PAGE_BYTES };
    if (ioctl(other.uffd, UFFDIO_COPY, &copy)) _exit(99);
}

/// Its handler stands behind ours, and still gets its faults.
static int check_others(struct world *w) {
    if (!w->raises_signals) return 0;
    other.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_SIGBUS };
    EXPECT(other.uffd >= 0 && ioctl(other.uffd, UFFDIO_API, &api) == 0);
    other.page = map_pages(1);
    other.faults = 0;
    struct uffdio_register range = { { (uintptr_t)other.page, PAGE_BYTES }, UFFDIO_REGISTER_MODE_MISSING, 0 };
    EXPECT(ioctl(other.uffd, UFFDIO_REGISTER, &range) == 0);
    struct sigaction action = { .sa_sigaction = answer_other, .sa_flags = SA_SIGINFO }, before;
    EXPECT(sigaction(SIGBUS, &action, &before) == 0);
    EXPECT(clive_keep_handler() == 0);
    EXPECT(*byte_at(other.page, 0) == 7 && other.faults == 1);
    EXPECT(sigaction(SIGBUS, &before, NULL) == 0);
    return close(other.uffd);
}

static int check_end(struct world *w) {
    EXPECT(clive_zero(w->page + 50, 2) == 0);
    uint8_t seen;
    EXPECT(clive_look(w->page + 50, 1, &seen) == 0 && seen & CLIVE_ZERO);
    EXPECT(clive_unregister(w->page, PAGES) == 0 && clive_registered(w->page) == -1);
    EXPECT(*byte_at(w->home, 55) == 0 && *byte_at(w->home, 0) == 2);
    return 0;
}

int clive_check_calls(const struct clive_options *options) {
    struct clive_features features;
    clive_probe(&features);
    EXPECT(features.open_error == 0);
    struct world w = {
        .arena = map_pages(ARENA_FRAMES),
        .tells_writes = features.write_protect && !(options->without_features & 1),
        .raises_signals = features.sigbus && !(options->without_features & 1 << 7),
    };
    EXPECT(clive_start(w.arena, ARENA_FRAMES, options) == 0);
    EXPECT(clive_start(w.arena, ARENA_FRAMES, options) == -EALREADY);
    for (int mode = CLIVE_ON_THREAD; mode <= CLIVE_HANDLER_THREAD; mode++) {
        w.mode = (enum clive_mode)mode;
        w.home = map_pages(PAGES);
        w.page = page_of(w.home);
        madvise(w.home, PAGES * PAGE_BYTES, MADV_NOHUGEPAGE);
        RUN(check_home(&w));
        RUN(check_one_page(&w));
        RUN(check_fault_around(&w));
        RUN(check_protection(&w));
        RUN(check_forget_and_relocate(&w));
        RUN(check_system_call(&w));
        RUN(check_fork(&w));
        RUN(check_others(&w));
        RUN(check_end(&w));
    }
    return 0;
}
