#include "probe.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static sigjmp_buf back;
static void *volatile fault;

static void on_signal(int number, siginfo_t *information, void *context) {
    (void)number;
    (void)context;
    fault = information->si_addr;
    siglongjmp(back, 1);
}

// A page of a file that is shorter than its mapping.
static volatile char *beyond_file(void) {
    int file = memfd_create("short", 0);
    char *memory = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0);
    CHECK(memory != MAP_FAILED);
    close(file);
    return memory;
}

static void touch_beyond(void *context) {
    (void)context;
    signal(SIGBUS, SIG_DFL);
    (void)*beyond_file();
}

// A program's own handler of SIGBUS gets the faults of the program, set before the first open or after it; the driver's
// faults go on.
void check_signals(void) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO}, old;
    CHECK(sigaction(SIGBUS, &action, NULL) == 0);
    int device = open_device(0);
    for (int round = 0; round < 3; round++) {
        volatile char *memory = beyond_file();
        fault = NULL;
        if (sigsetjmp(back, 1) == 0) (void)*memory;
        CHECK(fault == memory);
        CHECK(sigaction(SIGBUS, &action, &old) == 0 && old.sa_sigaction == on_signal);
        uint64_t *pages = fresh(4, 8), words[4 * WORDS];
        CHECK(ask(device, DEVICE_MIGRATE, pages, 4, words) == 0 && is_intact(words, 4, 8));
        CHECK(is_intact(pages, 4, 8));
    }
    int status = in_child(touch_beyond, NULL);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    // A thread that has all signals blocked can use the devices too.
    sigset_t all;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_BLOCK, &all, NULL) == 0);
    uint64_t *pages = fresh(4, 8), words[4 * WORDS];
    CHECK(ask(device, DEVICE_MIGRATE, pages, 4, words) == 0 && is_intact(words, 4, 8));
    CHECK(is_intact(pages, 4, 8));
    close(device);
}

enum { THREADS = 4, ROUNDS = 50, PAGES = 32 };

static void *work(void *context) {
    int device = open_device(*(int *)context % 4);
    uint64_t words[PAGES * WORDS];
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint64_t *memory = fresh(PAGES, round);
        // Between the move and the answer a fork, or an unmap in front of the memory, may take entries of the mirror.
        int error = ask(device, DEVICE_MIGRATE, memory, PAGES, words);
        CHECK(error == 0 || error == ENOENT);
        CHECK(ask(device, DEVICE_READ, memory, PAGES, words) == 0 && is_intact(words, PAGES, round));
        memory[5 * WORDS] += 1;
        CHECK(ask(device, DEVICE_READ, memory, PAGES, words) == 0 && words[5 * WORDS] == (5 ^ round) + 1);
        CHECK(munmap(memory, PAGES * PAGE) == 0);
    }
    close(device);
    return NULL;
}

static void leave(void *context) { (void)context; }

void check_threads(void) {
    pthread_t threads[THREADS];
    int numbers[THREADS];
    for (int index = 0; index < THREADS; index++) {
        numbers[index] = index;
        CHECK(pthread_create(&threads[index], NULL, work, &numbers[index]) == 0);
    }
    // Forks in the middle of it all.
    for (int round = 0; round < 10; round++) CHECK(in_child(leave, NULL) == 0);
    for (int index = 0; index < THREADS; index++) CHECK(pthread_join(threads[index], NULL) == 0);
}

static void *allocate(void *context) {
    int device = open_device(*(int *)context % 2);
    for (uint64_t round = 0; round < 200; round++) {
        char *block = malloc((PAGES + 1) * PAGE);
        uint64_t *words = malloc(PAGES * PAGE);
        CHECK(block != NULL && words != NULL);
        uint64_t *memory = (uint64_t *)(((uintptr_t)block + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
        for (uint64_t page = 0; page < PAGES; page++) memory[page * WORDS] = page ^ round;
        int error = ask(device, DEVICE_MIGRATE, memory, PAGES, words);
        CHECK(error == 0 || error == ENOENT);
        CHECK(is_intact(memory, PAGES, round));
        free(block);
        free(words);
    }
    close(device);
    return NULL;
}

static void allocate_in_child(void *context) {
    (void)context;
    char *block = malloc(PAGES * PAGE);
    CHECK(block != NULL);
    memset(block, 1, PAGES * PAGE);
    free(block);
}

// A fork waits for the locks of the allocator, which threads hold that touch memory of devices.
void check_allocating_threads(void) {
    pthread_t threads[THREADS];
    int numbers[THREADS];
    for (int index = 0; index < THREADS; index++) {
        numbers[index] = index;
        CHECK(pthread_create(&threads[index], NULL, allocate, &numbers[index]) == 0);
    }
    for (int round = 0; round < 50; round++) CHECK(in_child(allocate_in_child, NULL) == 0);
    for (int index = 0; index < THREADS; index++) CHECK(pthread_join(threads[index], NULL) == 0);
}

// Programs that are started from here have the devices too, and memory of their own.
void check_programs(void) {
    int device = open_device(0);
    uint64_t *memory = fresh(4, 10), words[4 * WORDS];
    CHECK(ask(device, DEVICE_MIGRATE, memory, 4, words) == 0);
    char *arguments[] = {"/proc/self/exe", "names", NULL};
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    CHECK(length > 0);
    path[length] = 0;
    pid_t child;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    CHECK(posix_spawn(&child, path, &actions, NULL, arguments, environ) == 0);
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(look(device, memory) == 0x22 && is_intact(memory, 4, 10));
    close(device);
}
