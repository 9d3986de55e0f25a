#ifndef SWIFT_HMM_CPRELOAD_H
#define SWIFT_HMM_CPRELOAD_H
// The functions of the C library that `hmm exec` puts itself before, so that a program finds the kernel's test driver
// in its files and the driver hears of every change of the program's memory.
//
// What Swift provides to this (Sources/HMMPreload) is declared in driver.h.

#include <stdint.h>

// The request numbers of the test driver, the third byte of an ioctl's number. Kernel: lib/test_hmm_uapi.h (6.12).
enum cpreload_request {
    CPRELOAD_READ,
    CPRELOAD_WRITE,
    CPRELOAD_MIGRATE,
    CPRELOAD_EVICT,
    CPRELOAD_SNAPSHOT,
    CPRELOAD_EXCLUSIVE,
    CPRELOAD_CHECK_EXCLUSIVE,
    CPRELOAD_RELEASE,
    CPRELOAD_REQUESTS
};

enum { CPRELOAD_DEVICES = 4 };

// Called once, before the address space is started.
void cpreload_starting(void);
// Called once, when the address space was started: from now on changes of memory are reported, and forks are prepared.
// Must come after the address space's own handlers of fork were registered, so that requests end before those run.
void cpreload_started(void);

// The kernel's own faults are not answered: memory that goes to system calls comes home before them.
void cpreload_fetch_for_calls(void);

// Prints a line for a person on the standard error, "hmm exec: TEXT".
void cpreload_complain(const char *text);

#endif
