// The two userfaultfds and what is registered with them. Which page belongs to which is a byte a page beside its word,
// so that a fault handler reads it without a lock.
#include "internal.h"
#include <string.h>

/// Marks a byte that is being set: undone if registering fails.
enum { MODE_NEW = 0x80, MODE_BITS = 3 };

static int open_with(uint64_t features) {
    struct clive_features way;
    int file = open_uffd(&way);
    if (file < 0) return file;
    // A process may have given its rights up since the start, and then forked.
    live.kernel_faults = way.kernel_faults;
    struct kernel_uffd_api api = { .api = 0xAA, .features = features };
    long result = kernel_ioctl(file, UFFD_API, &api);
    if (result == 0) return keep_high(file);
    kernel_call(SYS_close, file, 0, 0, 0, 0, 0);
    return (int)result;
}

int open_uffds(void) {
    uint64_t wanted = live.features & (FEATURE_WP | FEATURE_MOVE | FEATURE_WP_SHMEM);
    int second = open_with(wanted | (live.features & FEATURE_THREAD_ID));
    if (second < 0) return second;
    int first = live.sigbus ? open_with(wanted | FEATURE_SIGBUS) : second;
    if (first < 0) {
        kernel_call(SYS_close, second, 0, 0, 0, 0, 0);
        return first;
    }
    live.uffd[CLIVE_ON_THREAD] = first;
    live.uffd[CLIVE_HANDLER_THREAD] = second;
    return 0;
}

long register_pages(int uffd, uint64_t page, uint64_t n) {
    struct kernel_uffd_register range = {
        .range = { page * PAGE_BYTES, n * PAGE_BYTES },
        .mode = UFFD_MISSING | (live.can_protect ? UFFD_WP : 0),
    };
    long result = kernel_ioctl(uffd, UFFD_REGISTER, &range);
    if (result != -EINVAL || !live.can_protect) return result;
    // Memory that cannot be protected, shared memory on older kernels.
    range.mode = UFFD_MISSING;
    return kernel_ioctl(uffd, UFFD_REGISTER, &range);
}

/// Calls `visit` for the pieces of a range that one mapping covers. Stops at an error, unless it is told not to.
static int each_mapping(uint64_t page, uint64_t n, int (*visit)(uint64_t page, uint64_t n, const struct clive_vma *vma,
                                                               uint8_t byte), uint8_t byte, bool stops) {
    uint64_t end = page + n;
    struct clive_vma vma;
    while (page < end && clive_vma_ending_after(page, &vma) == 0 && vma.start_page < end) {
        uint64_t first = vma.start_page > page ? vma.start_page : page;
        uint64_t last = vma.end_page < end ? vma.end_page : end;
        int error = visit(first, last - first, &vma, byte);
        if (error && stops) return error;
        page = last;
    }
    return 0;
}

/// Calls `visit` for each run of registered pages of one mode in a range.
static void each_run(uint64_t page, uint64_t n, void (*visit)(uint64_t page, uint64_t n, uint8_t byte)) {
    uint64_t end = page + n;
    while (page < end) {
        struct segment *s = segment_of(page);
        uint64_t in_segment = page % CLIVE_PAGES_OF_SEGMENT, left = CLIVE_PAGES_OF_SEGMENT - in_segment;
        if (left > end - page) left = end - page;
        if (!s) {
            page += left;
            continue;
        }
        const uint8_t *modes = &s->modes[in_segment];
        uint64_t run = 1, same = 0x0101010101010101ull * modes[0], next;
        while (run + 8 <= left && (memcpy(&next, &modes[run], 8), next == same)) run += 8;
        while (run < left && modes[run] == modes[0]) run++;
        if (modes[0]) visit(page, run, modes[0]);
        page += run;
    }
}

static void set_modes(uint64_t page, uint64_t n, uint8_t byte, uint8_t where, uint8_t is) {
    for (uint64_t i = 0; i < n; i++) {
        struct segment *s = segment_of(page + i);
        uint8_t *mode = &s->modes[(page + i) % CLIVE_PAGES_OF_SEGMENT];
        if ((*mode & where) == is) __atomic_store_n(mode, byte, __ATOMIC_RELAXED);
    }
}

int clive_register(uint64_t page, uint64_t count, enum clive_mode mode) {
    if (count == 0) return 0;
    int error = clive_make_segments(page, count);
    if (error) return error;
    uint8_t byte = (uint8_t)(1 + mode);
    for (uint64_t i = 0; i < count; i++) {
        uint8_t now = mode_byte(page + i);
        if (now && now != byte) return -EBUSY;
    }
    // The bytes first: a fault may come before the call returns.
    set_modes(page, count, byte | MODE_NEW, 0xff, 0);
    long result = register_pages(live.uffd[mode], page, count);
    set_modes(page, count, result ? 0 : byte, 0xff, byte | MODE_NEW);
    return (int)result;
}

static int unregister_mapping(uint64_t page, uint64_t n, const struct clive_vma *vma, uint8_t byte) {
    (void)vma;
    struct kernel_uffd_range range = { page * PAGE_BYTES, n * PAGE_BYTES };
    return (int)kernel_ioctl(live.uffd[(byte & MODE_BITS) - 1], UFFD_UNREGISTER, &range);
}

static void unregister_run(uint64_t page, uint64_t n, uint8_t byte) {
    // What was unmapped, or mapped anew, is not registered any more; the rest of the run still may be.
    if (unregister_mapping(page, n, NULL, byte)) each_mapping(page, n, unregister_mapping, byte, false);
    set_modes(page, n, 0, 0, 0);
}

int clive_unregister(uint64_t page, uint64_t count) {
    each_run(page, count, unregister_run);
    return 0;
}

bool clive_answers_kernel_faults(void) { return live.kernel_faults; }

int clive_registered(uint64_t page) { return (int)mode_byte(page) - 1; }

bool clive_still_registered(uint64_t page) {
    if (mode_byte(page) == 0) return false;
    return !live.can_protect || protect_pages(uffd_of(page), page, 1, false) == 0;
}

static int register_mapping(uint64_t page, uint64_t n, const struct clive_vma *vma, uint8_t byte) {
    (void)vma;
    long result = register_pages(live.uffd[(byte & MODE_BITS) - 1], page, n);
    // Something else is mapped there now.
    if (result) set_modes(page, n, 0, 0, 0);
    return (int)result;
}

static void register_run(uint64_t page, uint64_t n, uint8_t byte) {
    if (register_pages(live.uffd[(byte & MODE_BITS) - 1], page, n))
        each_mapping(page, n, register_mapping, byte, false);
}

void register_again(uint64_t page, uint64_t n) { each_run(page, n, register_run); }

/// The runs of pages that are counted to a device.
static int protect_coherent(int uffd, uint64_t page, uint64_t n) {
    for (uint64_t end = page + n; page < end;) {
        uint64_t first = page;
        while (page < end && clive_load(word_of(page)) & CLIVE_COHERENT) page++;
        if (page == first) page++;
        else protect_pages(uffd, first, page - first, true);
    }
    return 0;
}

/// Where the kernel's own faults are not answered, a protected page is one that the kernel cannot write: a buffer of
/// read(2) would be EFAULT, and a stack or the thread's own data the end of the process. So memory for system calls is
/// left alone there, and the first write to a page after a fork is not told. Nobody misses the news of ordinary pages:
/// a fork takes their entries from all mirrors (and a slot goes home protected), what a device asks for afterwards is
/// protected then if it is shared still, and any entry reaches the page at its own address. What is counted to a device
/// loses that by the write, so those few pages are protected all the same.
static int protect_mapping(uint64_t page, uint64_t n, const struct clive_vma *vma, uint8_t byte) {
    if (vma->shared) return 0;
    int uffd = live.uffd[(byte & MODE_BITS) - 1];
    bool is_for_calls = (byte & MODE_BITS) - 1 == CLIVE_HANDLER_THREAD;
    if (is_for_calls && !live.kernel_faults) return protect_coherent(uffd, page, n);
    return (int)protect_pages(uffd, page, n, true);
}

static void protect_run(uint64_t page, uint64_t n, uint8_t byte) {
    each_mapping(page, n, protect_mapping, byte, false);
}

static void each_segment_run(void (*visit)(uint64_t page, uint64_t n, uint8_t byte)) {
    for (uint64_t index = 0; index < SEGMENT_SLOTS; index++)
        if (clive_segments[index]) each_run(index * CLIVE_PAGES_OF_SEGMENT, CLIVE_PAGES_OF_SEGMENT, visit);
}

int register_everything(void) {
    each_segment_run(register_run);
    return (int)register_pages(arena_uffd(), live.arena_page, live.arena_frames);
}

int protect_everything(void) {
    if (live.can_protect) each_segment_run(protect_run);
    return 0;
}

static int protect_one(uint64_t page, uint64_t n, const struct clive_vma *vma, uint8_t byte) {
    (void)vma;
    if (mode_byte(page) == 0) return -ENXIO;
    return (int)protect_pages(uffd_of(page), page, n, byte);
}

static int protect_range(uint64_t page, size_t count, bool on) {
    if (mode_byte(page) && mode_byte(page) == mode_byte(page + count - 1)) {
        long result = protect_pages(uffd_of(page), page, count, on);
        if (result != -ENOENT) return (int)result;
    }
    return each_mapping(page, count, protect_one, on, true);
}

int clive_write_protect(uint64_t page, size_t count, bool on) {
    if (!live.can_protect) return -EOPNOTSUPP;
    if (count == 0) return 0;
    bool is_closed = on && close_gate();
    int error = protect_range(page, count, on);
    if (is_closed) open_gate();
    return error;
}

#pragma clang attribute pop
