// Shared by the files of this target.
//
// None of it may cost a program that opens no device more than a load and a branch a call, and each function can be
// called before the C library's start-up is done, by other libraries' constructors.
#ifndef SWIFT_HMM_CPRELOAD_INTERNAL_H
#define SWIFT_HMM_CPRELOAD_INTERNAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#undef _FORTIFY_SOURCE

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>

#include "CPreload.h"

#define EXPORTED __attribute__((visibility("default")))
#define HIDDEN __attribute__((visibility("hidden")))

enum { PAGE = 4096 };

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

// MARK: start.c

// How deep the thread is in the driver: what is called there is the driver's own, and goes straight to the system.
extern HIDDEN _Thread_local int cpreload_inside __attribute__((tls_model("initial-exec")));

// Non-zero in the process that started the address space and in children that fork prepared; null before. The word is
// in a page that reads as zero in a child that was made behind our back (a bare clone): there nothing of ours may run,
// because its system calls would act on the parent's memory.
extern HIDDEN _Atomic(uint32_t) *_Atomic cpreload_alive;

static inline bool cpreload_is_active(void) {
    _Atomic(uint32_t) *alive = atomic_load_explicit(&cpreload_alive, memory_order_acquire);
    return __builtin_expect(alive != NULL, 0) && atomic_load_explicit(alive, memory_order_relaxed) != 0;
}

// Whether the process, or one that it comes from, started an address space.
static inline bool cpreload_was_started(void) {
    return atomic_load_explicit(&cpreload_alive, memory_order_acquire) != NULL;
}

// Whether the address is in this library: its own threads call the C library too, and must not come back to us.
HIDDEN bool cpreload_is_own(const void *caller);
// Read where the function begins: an optimizer that moves rare code into a function of its own takes a bare
// __builtin_return_address along, and then it is another's.
#define CALLER() \
    ({ \
        const void *caller = __builtin_return_address(0); \
        __asm__ volatile("" : "+r"(caller)); \
        caller; \
    })
static inline bool cpreload_is_programs(const void *caller) {
    return cpreload_is_active() && cpreload_inside == 0 && !cpreload_is_own(caller);
}

// The next definition of a function that we stand before.
HIDDEN void *cpreload_find(const char *name);
#define NEXT(function) \
    ({ \
        static _Atomic(void *) known; \
        void *found = atomic_load_explicit(&known, memory_order_acquire); \
        if (__builtin_expect(found == NULL, 0)) { \
            found = cpreload_find(#function); \
            atomic_store_explicit(&known, found, memory_order_release); \
        } \
        (__typeof__(&function))found; \
    })

// Requests of devices hold this shared; fork holds it alone, so that a child inherits no request half done.
HIDDEN void cpreload_request_begin(void);
HIDDEN void cpreload_request_end(void);

// MARK: heap.c

// Pages of the driver's own; null when there are none. They do not come from where the program has a hole, which it may
// know of.
HIDDEN void *cpreload_allocate(size_t bytes);
// Fork holds it, so that a child finds the lists whole.
HIDDEN void cpreload_lock_heap(void);
HIDDEN void cpreload_unlock_heap(void);

// MARK: signals.c

// Before the driver takes SIGBUS for itself: what the program has there is kept, and found by the driver behind it.
HIDDEN void cpreload_keep_signal(void);

// MARK: files.c

// What a name of ours stands for: a device's number, or the file of the test of page pins.
enum { KIND_NONE = -1, KIND_GUP = CPRELOAD_DEVICES };
HIDDEN int cpreload_kind(const char *path);
// Opens a file of ours. The descriptor, or -1 with errno.
HIDDEN int cpreload_open(int kind, int flags);

// An open file: the descriptors of it in this process, and requests under way, hold references.
struct cpreload_file {
    int kind;
    int flags;
    uint32_t references;
    // Of the memory file that the descriptors name: tells when a number has become something else behind our back.
    uint64_t device, inode;
    // The mirror; null for the pin test, and in a child for what the parent opened.
    void *mirror;
};

// Files that are open now. While it is zero no descriptor is looked up.
extern HIDDEN _Atomic(uint32_t) cpreload_open_files;
static inline bool cpreload_has_files(void) {
    return __builtin_expect(atomic_load_explicit(&cpreload_open_files, memory_order_relaxed) != 0, 0);
}

// The file behind the descriptor with a reference of its own, or null. The driver itself has none.
HIDDEN struct cpreload_file *cpreload_get(int descriptor);
HIDDEN void cpreload_put(struct cpreload_file *file);
// The descriptor's number is given up or was taken over: forget what it was.
HIDDEN void cpreload_forget(int descriptor);
// `copy` now names what `descriptor` names.
HIDDEN void cpreload_duplicated(int descriptor, int copy);
// In a child: all files are the parent's. Nobody else runs.
HIDDEN void cpreload_disown_files(void);
HIDDEN void cpreload_lock_files(void);
HIDDEN void cpreload_unlock_files(void);

// MARK: requests.c, pins.c

HIDDEN int cpreload_ioctl(struct cpreload_file *file, unsigned long request, void *argument);
HIDDEN int cpreload_pin_ioctl(unsigned long request, void *argument);
// Copies like the kernel does: EFAULT instead of a signal.
HIDDEN int cpreload_copy_in(void *to, uint64_t from, uint64_t bytes);
HIDDEN int cpreload_copy_out(uint64_t to, const void *from, uint64_t bytes);

// MARK: memory.c

// What the test driver's mmap does: fresh pages of zeros, mapped at once.
HIDDEN void *cpreload_map_device(struct cpreload_file *file, void *address, size_t bytes, int protection, int flags);

#endif
