// Plays scenarios on the HMM test driver of the running kernel.
//
// The conductor (conductor.c) reads the scenarios and never touches their memory. Each process of a scenario is a real
// one (process.c) that gets its statements over a socket, one after the other; what it answers is text (answer.c).
#pragma once

#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { PAGE_SIZE = 4096, WORDS = 512, MOST_PROCESSES = 8, MOST_PAGES = 4096, DEVICES = 4 };

enum operation {
    OP_MAP, OP_UNMAP, OP_PROTECT, OP_ADVISE, OP_MOVE, OP_FORK, OP_EXIT, OP_CPU_READ, OP_CPU_WRITE,
    OP_OPEN, OP_CLOSE, OP_READ, OP_WRITE, OP_MIGRATE, OP_EVICT, OP_EXCLUSIVE, OP_CHECK_EXCLUSIVE, OP_SNAPSHOT,
    OP_RELEASE,
};

// A statement, as a process gets it.
struct command {
    enum operation operation;
    int device;
    int argument;  // rights, advice, or the number of the forked process
    int is_shared, is_file, is_huge, is_hugetlb;
    uint32_t seed;
    uint64_t start;         // first byte of the range
    uint64_t first, count;  // the range in pages of its region
    uint64_t target;        // where it moves to
};

// What all processes share, so that a fork does not copy it.
struct shared {
    // What a device reads or writes: a page for each one of the largest request.
    uint64_t window[MOST_PAGES * WORDS];
    // The processes' ids, told by themselves; 0 where none runs.
    volatile pid_t ids[MOST_PROCESSES];
    // The answer to the statement that is being played: one is at a time.
    char answer[120000];
    size_t answer_length;
};
extern struct shared *shared;

// Both ends of each process's socket, the conductor's first. Made before a scenario's first process, so that all of its
// processes have all.
extern int sockets[MOST_PROCESSES][2];

_Noreturn void die(const char *what);

// MARK: answer.c

// What the page of a region holds that was written with the seed, in its first word.
uint64_t pattern(uint32_t seed, uint64_t page);
enum { TORN = -1, GOT_SIGSEGV = -2, GOT_SIGBUS = -3 };
// What a page's words say: a seed, 0, or TORN for words that do not belong together.
int64_t value_of(const volatile uint64_t *words, uint64_t page);

__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
// Values as runs of equal neighbours with blanks between.
void say_values(const int64_t *values, uint64_t count, const char *format);
void say_error(int error);
// `ok` for 0, else what errno says.
void say_outcome(int result);

// MARK: process.c

// The signal handler of an access that may fault.
void on_fault(int signal_number);
// The life of the process with this number.
_Noreturn void serve(int number);
