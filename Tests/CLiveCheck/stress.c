#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    /// The first half is registered on-thread, with all of its block; the second with the fault thread, in the next.
    PAGES = 96,
    CPUS = 3, DEVICES = 2, FRAMES = 300, RUN_PAGES = 32,
    /// Counters of a page: one of each thread, which only that thread writes, and one that all add to.
    FIRST_DEVICE = 8, COMMON = 16,
};

static struct {
    char *home, *arena;
    uint64_t page;
    /// Guarded by the lock of the page, as the mirror of a driver is: the frame that devices may use, 0 for none.
    uint32_t mirror[PAGES];
    pthread_mutex_t lock[PAGES];
    /// What the common counters must come to.
    uint64_t total[PAGES];
    uint32_t free_frames[FRAMES], free_count;
    bool is_over;
    /// The line of the first check that failed, on any thread.
    int failure;
} world;

static uint64_t draw(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static void fail(int line, uint64_t page, uint64_t seen, uint64_t wanted) {
    fprintf(stderr, "%s:%d: page %lu has %lu, wanted %lu, word %lx\n", __FILE__, line, (unsigned long)page,
            (unsigned long)seen, (unsigned long)wanted, (unsigned long)*clive_word(world.page + page));
    __atomic_store_n(&world.failure, line, __ATOMIC_RELAXED);
}

static bool goes_on(void) {
    return !__atomic_load_n(&world.is_over, __ATOMIC_RELAXED) && !__atomic_load_n(&world.failure, __ATOMIC_RELAXED);
}

static void add(volatile uint64_t *words, uint64_t page) {
    __atomic_fetch_add(&words[COMMON], 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&world.total[page], 1, __ATOMIC_SEQ_CST);
}

static void *run_cpu(void *argument) {
    uintptr_t self = (uintptr_t)argument;
    uint64_t random = self * 7919 + 1, mine[PAGES] = { 0 };
    int ends[2];
    if (pipe(ends)) fail(__LINE__, 0, 0, 0);
    while (goes_on()) {
        uint64_t page = draw(&random) % PAGES, kind = draw(&random) % 4;
        volatile uint64_t *words = (volatile uint64_t *)byte_at(world.home, page);
        uint64_t seen = words[self];
        if (seen != mine[page]) fail(__LINE__, page, seen, mine[page]);
        if (kind == 0) continue;
        if (kind == 1 && page >= PAGES / 2) {
            uint64_t read_back = 0;
            bool done = write(ends[1], (const void *)&words[self], 8) == 8 && read(ends[0], &read_back, 8) == 8;
            if (!done || read_back != seen) fail(__LINE__, page, read_back, seen);
        }
        words[self] = ++mine[page];
        add(words, page);
    }
    return NULL;
}

static void *run_device(void *argument) {
    uintptr_t self = (uintptr_t)argument;
    uint64_t random = self * 104729 + 5, mine[PAGES] = { 0 };
    while (goes_on()) {
        uint64_t page = draw(&random) % PAGES;
        pthread_mutex_lock(&world.lock[page]);
        uint32_t frame = world.mirror[page];
        if (frame) {
            volatile uint64_t *words = (volatile uint64_t *)byte_at(world.arena, frame);
            uint64_t seen = words[FIRST_DEVICE + self];
            if (seen != mine[page]) fail(__LINE__, page, seen, mine[page]);
            if (draw(&random) & 3) {
                words[FIRST_DEVICE + self] = ++mine[page];
                add(words, page);
            }
        }
        pthread_mutex_unlock(&world.lock[page]);
        if (!frame) usleep(1);
    }
    return NULL;
}

static void set_mirror(uint64_t page, uint32_t frame) {
    pthread_mutex_lock(&world.lock[page]);
    world.mirror[page] = frame;
    pthread_mutex_unlock(&world.lock[page]);
}

static void give_frame(uint32_t frame) { world.free_frames[world.free_count++] = frame; }

static void deliver(void) {
    struct clive_return returns[RUN_PAGES];
    size_t n;
    while ((n = clive_drain(returns, RUN_PAGES)) != 0) {
        for (size_t i = 0; i < n; i++) {
            if (returns[i].bits & CLIVE_COW) continue;
            set_mirror(returns[i].page - world.page, 0);
            if (clive_settle(returns[i].page, returns[i].frame)) give_frame(returns[i].frame);
        }
    }
}

static int later_first(const void *a, const void *b) {
    return *(const uint32_t *)a < *(const uint32_t *)b ? 1 : -1;
}

static void take(uint64_t page, uint32_t n, uint64_t bits) {
    deliver();
    if (world.free_count < n) return;
    // Neighbours go together.
    qsort(world.free_frames, world.free_count, sizeof *world.free_frames, later_first);
    uint32_t frames[RUN_PAGES];
    uint8_t result[RUN_PAGES];
    for (uint32_t i = 0; i < n; i++) frames[i] = world.free_frames[--world.free_count];
    clive_take(world.page + page, frames, n, bits, result);
    for (uint32_t i = 0; i < n; i++) {
        if (result[i] == 0) set_mirror(page + i, frames[i]);
        else give_frame(frames[i]);
        if (result[i] && result[i] != EALREADY && result[i] != EAGAIN) fail(__LINE__, page + i, result[i], 0);
    }
}

static void bring(uint64_t page, uint32_t n) {
    uint32_t frames[RUN_PAGES];
    uint8_t result[RUN_PAGES];
    for (uint32_t i = 0; i < n; i++) set_mirror(page + i, 0);
    clive_bring(world.page + page, n, result, frames);
    for (uint32_t i = 0; i < n; i++) {
        if (result[i] == 0) give_frame(frames[i]);
        else if (result[i] != ENOENT) fail(__LINE__, page + i, result[i], 0);
    }
}

/// A device that was told of a return looks anew.
static void look_anew(uint64_t page, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint64_t word = clive_load(clive_word(world.page + page + i));
        if (clive_state_of(word) == CLIVE_AWAY) set_mirror(page + i, clive_frame_of(word));
    }
}

/// The child finds every page as it was at one moment: what a thread was adding may be in one counter and not yet in
/// the other.
static int check_in_child(void) {
    EXPECT(clive_after_fork_in_child() == 0);
    for (uint64_t page = 0; page < PAGES; page++) {
        volatile uint64_t *words = (volatile uint64_t *)byte_at(world.home, page);
        uint64_t sum = 0;
        for (int i = 0; i < CPUS; i++) sum += words[i];
        for (int i = 0; i < DEVICES; i++) sum += words[FIRST_DEVICE + i];
        EXPECT(sum >= words[COMMON] && sum <= words[COMMON] + CPUS + DEVICES);
        words[0] = 7;
    }
    return 0;
}

static void fork_once(void) {
    clive_before_fork();
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        _exit(check_in_child() != 0);
    }
    clive_after_fork_in_parent();
    int status = -1;
    waitpid(child, &status, 0);
    if (status) fail(__LINE__, 0, (uint64_t)status, 0);
}

static void manage(uint32_t turns) {
    uint64_t random = 99;
    for (uint32_t turn = 0; turn < turns && goes_on(); turn++) {
        uint64_t page = draw(&random) % PAGES;
        uint32_t n = 1 + (uint32_t)(draw(&random) % RUN_PAGES);
        if (n > PAGES - page) n = (uint32_t)(PAGES - page);
        uint64_t bits = draw(&random) % 8 == 0 ? CLIVE_EXCLUSIVE : draw(&random) % 8 == 0 ? CLIVE_READONLY : 0;
        switch (draw(&random) % 8) {
        case 0: case 1: case 2: take(page, n, bits); break;
        case 3: bring(page, n); break;
        case 4: deliver(); break;
        case 5: look_anew(page, n); break;
        case 6:
            if (turn % 16 == 0) clive_write_protect(world.page + page, n, true);
            clive_set_fault_around(1u << draw(&random) % 6);
            break;
        default:
            if (turn % 64 == 7) fork_once();
        }
        if (draw(&random) % 4 == 0) usleep(50);
    }
}

static int start_world(const struct clive_options *options) {
    world.arena = map_pages(ARENA_FRAMES);
    EXPECT(clive_start(world.arena, ARENA_FRAMES, options) == 0);
    const uint64_t before = HUGE_PAGES - PAGES / 2;
    world.home = map_pages(HUGE_PAGES + PAGES) + before * PAGE_BYTES;
    world.page = page_of(world.home);
    EXPECT(clive_register(world.page - before, HUGE_PAGES, CLIVE_ON_THREAD) == 0);
    EXPECT(clive_register(world.page + PAGES / 2, PAGES / 2, CLIVE_HANDLER_THREAD) == 0);
    for (int i = 0; i < PAGES; i++) pthread_mutex_init(&world.lock[i], NULL);
    for (uint32_t frame = FRAMES; frame > 0; frame--) give_frame(frame);
    return 0;
}

/// Everything that was added is there, and every frame is free or has a page.
static int check_sums(void) {
    deliver();
    for (uint64_t page = 0; page < PAGES; page++) {
        EXPECT(((volatile uint64_t *)byte_at(world.home, page))[COMMON] == world.total[page]);
        deliver();
    }
    EXPECT(world.free_count == FRAMES);
    return 0;
}

int clive_check_stress(const struct clive_options *options, uint32_t turns) {
    RUN(start_world(options));
    pthread_t threads[CPUS + DEVICES];
    for (uintptr_t i = 0; i < CPUS + DEVICES; i++)
        EXPECT(pthread_create(&threads[i], NULL, i < CPUS ? run_cpu : run_device,
                              (void *)(i < CPUS ? i : i - CPUS)) == 0);
    manage(turns);
    __atomic_store_n(&world.is_over, true, __ATOMIC_RELAXED);
    for (int i = 0; i < CPUS + DEVICES; i++) pthread_join(threads[i], NULL);
    return world.failure ? world.failure : check_sums();
}
