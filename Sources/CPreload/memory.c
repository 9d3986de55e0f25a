// The functions of the C library that change mappings. Those of a process that uses devices go through the address
// space that the devices see; all others go straight on.

#include "internal.h"
#include "driver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t pages_of(size_t bytes) {
    return bytes / PAGE + (bytes % PAGE != 0);
}

// Whether the system would look at the range at all.
static bool is_well_formed(const void *address, size_t bytes) {
    return (uintptr_t)address % PAGE == 0 && bytes != 0 && bytes <= UINTPTR_MAX - (PAGE - 1)
        && (uintptr_t)address <= UINTPTR_MAX - pages_of(bytes) * PAGE;
}

static int answer(int error) {
    if (error == 0) return 0;
    errno = error;
    return -1;
}

// MARK: mmap

struct mapping {
    void *address;
    size_t bytes;
    int protection, flags, descriptor;
    off_t offset;
    void *result;
    int error;
};

static int map(void *context) {
    struct mapping *mapping = context;
    mapping->result = (void *)syscall(
        SYS_mmap, mapping->address, mapping->bytes, mapping->protection, mapping->flags, mapping->descriptor,
        mapping->offset);
    mapping->error = mapping->result == MAP_FAILED ? errno : 0;
    return mapping->error == 0;
}

// Maps, with what follows from it for the address space. `is_programs`: somebody may have mirrors.
static void *map_known(struct mapping *mapping, bool is_programs) {
    bool is_over = (mapping->flags & MAP_FIXED) && !(mapping->flags & MAP_FIXED_NOREPLACE);
    if (!is_programs || (is_over && !is_well_formed(mapping->address, mapping->bytes))) {
        map(mapping);
    } else {
        cpreload_inside++;
        if (is_over) {
            hmm_preload_map_over((uintptr_t)mapping->address / PAGE, pages_of(mapping->bytes), map, mapping);
        } else if (map(mapping)) {
            hmm_preload_mapped((uintptr_t)mapping->result / PAGE, pages_of(mapping->bytes));
        }
        cpreload_inside--;
    }
    if (mapping->error != 0) errno = mapping->error;
    return mapping->result;
}

// Kernel: lib/test_hmm.c dmirror_fops_mmap (6.12): each mapping has fresh zero pages, all mapped at once, those of a
// private mapping without the right to write. A memory file that only this mapping knows is the same thing.
void *cpreload_map_device(struct cpreload_file *file, void *address, size_t bytes, int protection, int flags) {
    int access = file->flags & O_ACCMODE;
    bool is_shared = (flags & MAP_TYPE) != MAP_PRIVATE;
    bool is_refused = access == O_WRONLY || (is_shared && (protection & PROT_WRITE) && access != O_RDWR);
    if (is_refused || file->kind == KIND_GUP) {
        errno = is_refused ? EACCES : ENODEV;
        return MAP_FAILED;
    }
    struct mapping mapping = {
        .address = address, .bytes = bytes, .protection = protection, .flags = flags & ~MAP_POPULATE,
        .descriptor = (int)syscall(SYS_memfd_create, "hmm_dmirror", MFD_CLOEXEC), .result = MAP_FAILED,
    };
    if (mapping.descriptor < 0) return MAP_FAILED;
    if (syscall(SYS_ftruncate, mapping.descriptor, pages_of(bytes) * PAGE) == 0) map_known(&mapping, true);
    int saved = errno;
    syscall(SYS_close, mapping.descriptor);
    if (mapping.result != MAP_FAILED && (protection & PROT_READ)) {
        bool is_writable = is_shared && (protection & PROT_WRITE);
        syscall(SYS_madvise, mapping.result, bytes, is_writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
    }
    errno = saved;
    return mapping.result;
}

static void *map_for(
    void *address, size_t bytes, int protection, int flags, int descriptor, off_t offset, bool is_programs) {
    if (cpreload_has_files() && !(flags & MAP_ANONYMOUS)) {
        struct cpreload_file *file = cpreload_get(descriptor);
        if (file != NULL) {
            void *result = cpreload_map_device(file, address, bytes, protection, flags);
            cpreload_put(file);
            return result;
        }
    }
    struct mapping mapping = {
        .address = address, .bytes = bytes, .protection = protection, .flags = flags, .descriptor = descriptor,
        .offset = offset,
    };
    return map_known(&mapping, is_programs);
}

EXPORTED void *mmap(void *address, size_t bytes, int protection, int flags, int descriptor, off_t offset) {
    const void *caller = CALLER();
    return map_for(address, bytes, protection, flags, descriptor, offset, cpreload_is_programs(caller));
}

EXPORTED void *mmap64(void *address, size_t bytes, int protection, int flags, int descriptor, off64_t offset) {
    const void *caller = CALLER();
    return map_for(address, bytes, protection, flags, descriptor, offset, cpreload_is_programs(caller));
}

// MARK: the others

EXPORTED int munmap(void *address, size_t bytes) {
    const void *caller = CALLER();
    if (!cpreload_is_programs(caller) || !is_well_formed(address, bytes)) {
        return (int)syscall(SYS_munmap, address, bytes);
    }
    cpreload_inside++;
    int error = hmm_preload_unmap((uintptr_t)address / PAGE, pages_of(bytes));
    cpreload_inside--;
    return answer(error);
}

EXPORTED int mprotect(void *address, size_t bytes, int protection) {
    const void *caller = CALLER();
    bool is_plain = (protection & ~(PROT_READ | PROT_WRITE | PROT_EXEC)) == 0;
    if (!cpreload_is_programs(caller) || !is_plain || !is_well_formed(address, bytes)) {
        return (int)syscall(SYS_mprotect, address, bytes, (long)protection);
    }
    cpreload_inside++;
    int error = hmm_preload_protect((uintptr_t)address / PAGE, pages_of(bytes), protection);
    cpreload_inside--;
    return answer(error);
}

EXPORTED int madvise(void *address, size_t bytes, int advice) {
    const void *caller = CALLER();
    if (!cpreload_is_programs(caller) || !is_well_formed(address, bytes)) {
        return (int)syscall(SYS_madvise, address, bytes, (long)advice);
    }
    cpreload_inside++;
    int error = hmm_preload_advise((uintptr_t)address / PAGE, pages_of(bytes), advice);
    cpreload_inside--;
    return answer(error);
}

EXPORTED void *mremap(void *old, size_t bytes, size_t new_bytes, int flags, ...) {
    const void *caller = CALLER();
    void *target = NULL;
    if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) {
        va_list arguments;
        va_start(arguments, flags);
        target = va_arg(arguments, void *);
        va_end(arguments);
    }
    bool is_sound = is_well_formed(old, bytes) && new_bytes != 0 && (uintptr_t)target % PAGE == 0;
    if (!cpreload_is_programs(caller) || !is_sound) {
        return (void *)syscall(SYS_mremap, old, bytes, new_bytes, (long)flags, target);
    }
    uint64_t moved = 0;
    cpreload_inside++;
    int error = hmm_preload_remap(
        (uintptr_t)old / PAGE, pages_of(bytes), pages_of(new_bytes), flags, (uintptr_t)target / PAGE, &moved);
    cpreload_inside--;
    if (error == 0) return (void *)(moved * PAGE);
    errno = error;
    return MAP_FAILED;
}
