// A process of a scenario: it does on its own memory, and with its own mirrors, what its socket says.
#include "recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

// The driver's interface: what a request says, and the numbers of the requests.
struct request {
    uint64_t address, buffer, pages, copied_pages, faults;
};
static const unsigned long requests[] = {
    [OP_READ] = _IOWR('H', 0, struct request), [OP_WRITE] = _IOWR('H', 1, struct request),
    [OP_MIGRATE] = _IOWR('H', 2, struct request), [OP_EVICT] = _IOWR('H', 3, struct request),
    [OP_SNAPSHOT] = _IOWR('H', 4, struct request), [OP_EXCLUSIVE] = _IOWR('H', 5, struct request),
    [OP_CHECK_EXCLUSIVE] = _IOWR('H', 6, struct request), [OP_RELEASE] = _IOWR('H', 7, struct request),
};

static sigjmp_buf access_begin;
static volatile sig_atomic_t is_accessing;
// This process's mirrors; -1 where none is open.
static int mirrors[DEVICES] = {-1, -1, -1, -1};

void on_fault(int signal_number) {
    if (!is_accessing) _exit(9);
    siglongjmp(access_begin, signal_number);
}

// The value of the page read or written. Its own function: what a jump goes back over keeps no variables in registers.
static int64_t access_page(const struct command *c, uint64_t page) {
    volatile uint64_t *words = (uint64_t *)(c->start + page * PAGE_SIZE);
    int64_t value = c->seed;
    int signal_number = sigsetjmp(access_begin, 1);
    if (signal_number) {
        is_accessing = 0;
        return signal_number == SIGBUS ? GOT_SIGBUS : GOT_SIGSEGV;
    }
    is_accessing = 1;
    if (c->operation == OP_CPU_WRITE) {
        uint64_t base = pattern(c->seed, c->first + page);
        for (uint64_t i = 0; i < WORDS; i++) words[i] = base | i;
    } else {
        value = value_of(words, c->first + page);
    }
    is_accessing = 0;
    return value;
}

static void access_memory(const struct command *c) {
    static int64_t values[MOST_PAGES];
    int faults = 0;
    for (uint64_t i = 0; i < c->count; i++) {
        values[i] = access_page(c, i);
        faults += values[i] == GOT_SIGBUS || values[i] == GOT_SIGSEGV;
    }
    if (c->operation == OP_CPU_WRITE && !faults) say("ok");
    else say_values(values, c->count, "%d");
}

static int open_mirror(int device) {
    if (mirrors[device] >= 0) return 0;
    char path[32];
    snprintf(path, sizeof path, "/dev/hmm_dmirror%d", device);
    mirrors[device] = open(path, O_RDWR | O_CLOEXEC);
    return mirrors[device] < 0 ? -1 : 0;
}

static void close_mirror(int device) {
    if (mirrors[device] >= 0) close(mirrors[device]);
    mirrors[device] = -1;
}

static void say_window(const struct command *c) {
    static int64_t values[MOST_PAGES];
    for (uint64_t i = 0; i < c->count; i++) values[i] = value_of(shared->window + i * WORDS, c->first + i);
    say(" values ");
    say_values(values, c->count, "%d");
}

// A byte for each page.
static void say_snapshot(const struct command *c) {
    static int64_t values[MOST_PAGES];
    for (uint64_t i = 0; i < c->count; i++) values[i] = ((const uint8_t *)shared->window)[i];
    say(" ");
    say_values(values, c->count, "%02x");
}

static void use_device(const struct command *c) {
    if (open_mirror(c->device)) {
        say_error(errno);
        return;
    }
    struct request request = {.address = c->start, .buffer = (uint64_t)shared->window, .pages = c->count};
    // Of all memory that the device has, whatever the range.
    if (c->operation == OP_RELEASE) request.pages = 1;
    for (uint64_t i = 0; c->operation == OP_WRITE && i < c->count * WORDS; i++)
        shared->window[i] = pattern(c->seed, c->first + i / WORDS) | i % WORDS;
    if (ioctl(mirrors[c->device], requests[c->operation], &request)) {
        say_error(errno);
        return;
    }
    say("ok");
    switch (c->operation) {
    case OP_READ:
    case OP_WRITE:
        say(" pages=%llu faults=%llu", (unsigned long long)request.copied_pages, (unsigned long long)request.faults);
        break;
    case OP_MIGRATE:
    case OP_EVICT:
    case OP_EXCLUSIVE: say(" pages=%llu", (unsigned long long)request.copied_pages); break;
    default: break;
    }
    if (c->operation == OP_READ || c->operation == OP_MIGRATE || c->operation == OP_EXCLUSIVE) say_window(c);
    if (c->operation == OP_SNAPSHOT) say_snapshot(c);
}

static void map(const struct command *c) {
    int flags = MAP_FIXED_NOREPLACE | (c->is_shared ? MAP_SHARED : MAP_PRIVATE), file = -1;
    size_t bytes = c->count * PAGE_SIZE;
    char path[] = P_tmpdir "/scenario-XXXXXX";
    if (c->is_file) {
        // Of a tmpfs, with a name: one that has none when it is mapped counts as anonymous shared memory.
        file = mkostemp(path, O_CLOEXEC);
        if (file < 0 || ftruncate(file, (off_t)bytes)) die(path);
    } else {
        flags |= MAP_ANONYMOUS;
    }
    if (c->is_hugetlb) flags |= MAP_HUGETLB;
    void *memory = mmap((void *)c->start, bytes, c->argument, flags, file, 0);
    int error = errno;
    if (file >= 0) {
        unlink(path);
        close(file);
    }
    if (memory == MAP_FAILED) say_error(error);
    else say_outcome(c->is_hugetlb ? 0 : madvise(memory, bytes, c->is_huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
}

static void fork_process(const struct command *c) {
    pid_t child = fork();
    if (child == 0) {
        // The mirrors of the parent stay the parent's.
        for (int device = 0; device < DEVICES; device++) close_mirror(device);
        serve(c->argument);
    }
    if (child > 0) shared->ids[c->argument] = child;
    say_outcome(child < 0);
}

static void perform(const struct command *c) {
    void *start = (void *)c->start;
    size_t bytes = c->count * PAGE_SIZE;
    switch (c->operation) {
    case OP_MAP: map(c); break;
    case OP_UNMAP: say_outcome(munmap(start, bytes)); break;
    case OP_PROTECT: say_outcome(mprotect(start, bytes, c->argument)); break;
    case OP_ADVISE: say_outcome(madvise(start, bytes, c->argument)); break;
    case OP_MOVE:
        say_outcome(mremap(start, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)c->target) == MAP_FAILED);
        break;
    case OP_FORK: fork_process(c); break;
    case OP_CPU_READ:
    case OP_CPU_WRITE: access_memory(c); break;
    case OP_OPEN: say_outcome(open_mirror(c->device)); break;
    case OP_CLOSE:
        close_mirror(c->device);
        say("ok");
        break;
    default: use_device(c);
    }
}

void serve(int number) {
    shared->ids[number] = getpid();
    struct command c;
    while (read(sockets[number][1], &c, sizeof c) == sizeof c && c.operation != OP_EXIT) {
        shared->answer_length = 0;
        perform(&c);
        if (write(sockets[number][1], "", 1) != 1) _exit(1);
    }
    _exit(0);
}
