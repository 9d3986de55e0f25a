// A program that knows the kernel's test driver and nothing of this package. Each check is one run of it under
// `hmm exec`; it ends with status 0, or says which line was not as on a kernel.
#ifndef PRELOAD_PROBE_H
#define PRELOAD_PROBE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum { PAGE = 4096, WORDS = 512 };

struct request {
    uint64_t address, buffer, page_count, pages, faults;
};
#define DEVICE_READ _IOWR('H', 0, struct request)
#define DEVICE_WRITE _IOWR('H', 1, struct request)
#define DEVICE_MIGRATE _IOWR('H', 2, struct request)
#define DEVICE_EVICT _IOWR('H', 3, struct request)
#define DEVICE_SNAPSHOT _IOWR('H', 4, struct request)
#define DEVICE_EXCLUSIVE _IOWR('H', 5, struct request)

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s (errno %s)\n", __FILE__, __LINE__, #condition, strerror(errno)); \
            exit(1); \
        } \
    } while (0)

// Opens device 0…3.
int open_device(int number);
// One request over pages at `address`; 0 or the errno.
int ask(int device, unsigned long what, void *address, uint64_t pages, void *buffer);
// The snapshot of one page, or -1.
int look(int device, void *address);
// Pages of memory, the first word of each its number and `seed`.
uint64_t *fresh(uint64_t pages, uint64_t seed);
// Whether all of them still say so.
int is_intact(const uint64_t *memory, uint64_t pages, uint64_t seed);
// Runs `body` in a child, which must leave by returning. Its exit status.
int in_child(void (*body)(void *), void *context);

// Pins a page to be written, for a moment: 1 if it could be had.
uint64_t pin_page(int pins, uint64_t *memory);

// files.c
void check_names(void);
void check_copies(void);
void check_closing(void);
void check_stale_numbers(void);
void check_fork(void);
void check_vfork(void);
void check_coherent_copies(void);
// memory.c
void check_arguments(void);
void check_mappings(void);
void check_system_calls(void);
void check_carriers(void);
void check_allocator(void);
void check_device_mapping(void);
void check_pins(void);
// process.c
void check_signals(void);
void check_threads(void);
void check_allocating_threads(void);
void check_programs(void);

#endif
