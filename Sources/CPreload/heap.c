// Memory of the driver's own. It lives in the program's process, and the allocator of the C library would put its
// objects between those of the program: one that writes past the end of its own, as hmm-tests.c does (a page of
// answers into a buffer of seven bytes), would write into the driver. A kernel's driver cannot be reached that way.
//
// What is allocated while a thread is in the driver comes from here. Blocks are of sizes 2^n and 1.5 · 2^n, and go
// back to the list of their size.

#include "internal.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// Address space only, until it is written.
#define REGION_BYTES (64ull << 30)
// In front of each block, which is aligned to it.
struct header {
    // The block's size class, and from the start of the block to what was handed out.
    uint32_t class, offset;
    // While it is free.
    struct header *next;
};
enum { CLASSES = 80, SMALLEST = 32, GIVEN_BACK = 1 << 20 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct header *free_of[CLASSES];
// Set once, by the first allocation; what lies between is ours.
static _Atomic(uintptr_t) region_start;
// Guarded by `lock`.
static uintptr_t region_used, region_end;

void cpreload_lock_heap(void) { pthread_mutex_lock(&lock); }
void cpreload_unlock_heap(void) { pthread_mutex_unlock(&lock); }

static bool is_ours(const void *memory) {
    uintptr_t start = atomic_load_explicit(&region_start, memory_order_relaxed);
    return __builtin_expect(start != 0 && (uintptr_t)memory - start < REGION_BYTES, 0);
}

static size_t bytes_of(uint32_t class) {
    size_t power = (size_t)SMALLEST << (class / 2);
    return class % 2 ? power + power / 2 : power;
}

static uint32_t class_for(size_t bytes) {
    uint32_t class = 0;
    while (bytes_of(class) < bytes) class++;
    return class;
}

static bool start_region(void) {
    if (region_end != 0) return true;
    void *memory = (void *)syscall(
        SYS_mmap, NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L);
    if (memory == MAP_FAILED) return false;
    region_used = (uintptr_t)memory;
    region_end = region_used + REGION_BYTES;
    atomic_store(&region_start, (uintptr_t)memory);
    return true;
}

// A block from which `bytes` can be handed out, or null.
static struct header *take(size_t bytes) {
    if (bytes > REGION_BYTES / 4) return NULL;
    uint32_t class = class_for(bytes);
    cpreload_lock_heap();
    struct header *block = free_of[class];
    if (block != NULL) {
        free_of[class] = block->next;
    } else if (start_region() && region_end - region_used >= bytes_of(class)) {
        block = (struct header *)region_used;
        region_used += bytes_of(class);
        block->class = class;
    }
    cpreload_unlock_heap();
    return block;
}

static void *allocate(size_t alignment, size_t bytes) {
    if (alignment < sizeof(struct header)) alignment = sizeof(struct header);
    struct header *block = bytes < SIZE_MAX / 2 ? take(bytes + alignment + sizeof *block) : NULL;
    if (block == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    uintptr_t first = (uintptr_t)block + sizeof *block;
    uintptr_t memory = (first + alignment - 1) / alignment * alignment;
    struct header *header = (struct header *)memory - 1;
    uint32_t class = block->class;
    header->class = class;
    header->offset = (uint32_t)(memory - (uintptr_t)block);
    return (void *)memory;
}

static size_t usable(const void *memory) {
    const struct header *header = (const struct header *)memory - 1;
    return bytes_of(header->class) - header->offset;
}

static void give_back(void *memory) {
    const struct header *header = (const struct header *)memory - 1;
    uint32_t class = header->class;
    struct header *block = (struct header *)((uintptr_t)memory - header->offset);
    // The pages go; of the header only what is written below is needed.
    if (bytes_of(class) >= GIVEN_BACK) {
        uintptr_t first = ((uintptr_t)block + PAGE) & ~(uintptr_t)(PAGE - 1);
        uintptr_t end = ((uintptr_t)block + bytes_of(class)) & ~(uintptr_t)(PAGE - 1);
        syscall(SYS_madvise, first, end - first, (long)MADV_DONTNEED);
    }
    cpreload_lock_heap();
    block->class = class;
    block->next = free_of[class];
    free_of[class] = block;
    cpreload_unlock_heap();
}

// MARK: the allocator of the C library

EXPORTED void *malloc(size_t bytes) {
    if (__builtin_expect(cpreload_inside == 0, 1)) return NEXT(malloc)(bytes);
    return allocate(16, bytes);
}

EXPORTED void *calloc(size_t count, size_t size) {
    if (__builtin_expect(cpreload_inside == 0, 1)) return NEXT(calloc)(count, size);
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) bytes = SIZE_MAX;
    void *memory = allocate(16, bytes);
    return memory == NULL ? NULL : memset(memory, 0, bytes);
}

EXPORTED void free(void *memory) {
    if (is_ours(memory)) give_back(memory);
    else NEXT(free)(memory);
}

EXPORTED void *realloc(void *memory, size_t bytes) {
    bool was_ours = is_ours(memory);
    if (!was_ours && (memory != NULL || cpreload_inside == 0)) return NEXT(realloc)(memory, bytes);
    if (memory == NULL) return allocate(16, bytes);
    size_t had = usable(memory);
    if (bytes <= had) return memory;
    void *larger = allocate(16, bytes);
    if (larger == NULL) return NULL;
    memcpy(larger, memory, had);
    give_back(memory);
    return larger;
}

EXPORTED int posix_memalign(void **memory, size_t alignment, size_t bytes) {
    if (__builtin_expect(cpreload_inside == 0, 1)) return NEXT(posix_memalign)(memory, alignment, bytes);
    void *found = allocate(alignment, bytes);
    if (found == NULL) return ENOMEM;
    *memory = found;
    return 0;
}

void *cpreload_allocate(size_t bytes) { return allocate(PAGE, bytes); }

EXPORTED void *aligned_alloc(size_t alignment, size_t bytes) {
    if (__builtin_expect(cpreload_inside == 0, 1)) return NEXT(aligned_alloc)(alignment, bytes);
    return allocate(alignment, bytes);
}

EXPORTED size_t malloc_usable_size(void *memory) {
    return is_ours(memory) ? usable(memory) : NEXT(malloc_usable_size)(memory);
}

// MARK: threads

struct start {
    void *(*routine)(void *);
    void *argument;
};

static void *run_inside(void *context) {
    struct start start = *(struct start *)context;
    cpreload_inside++;
    free(context);
    return start.routine(start.argument);
}

// A thread that the driver makes is in the driver for good.
EXPORTED int pthread_create(
    pthread_t *thread, const pthread_attr_t *attributes, void *(*routine)(void *), void *argument) {
    if (__builtin_expect(cpreload_inside == 0, 1)) {
        return NEXT(pthread_create)(thread, attributes, routine, argument);
    }
    struct start *start = malloc(sizeof *start);
    if (start == NULL) return EAGAIN;
    *start = (struct start){routine, argument};
    int error = NEXT(pthread_create)(thread, attributes, run_inside, start);
    if (error != 0) free(start);
    return error;
}
