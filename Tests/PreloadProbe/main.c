#include "probe.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

int open_device(int number) {
    char path[] = "/dev/hmm_dmirror0";
    path[sizeof path - 2] += (char)number;
    int device = open(path, O_RDWR);
    CHECK(device >= 0);
    return device;
}

int ask(int device, unsigned long what, void *address, uint64_t pages, void *buffer) {
    struct request request = {.address = (uint64_t)address, .buffer = (uint64_t)buffer, .page_count = pages};
    if (ioctl(device, what, &request) != 0) {
        // What the request counted does not come back with an error.
        CHECK(request.pages == 0 && request.faults == 0);
        return errno;
    }
    if (what != DEVICE_EVICT) CHECK(request.pages == pages);
    return 0;
}

int look(int device, void *address) {
    unsigned char byte = 0xee;
    return ask(device, DEVICE_SNAPSHOT, address, 1, &byte) == 0 ? byte : -1;
}

uint64_t *fresh(uint64_t pages, uint64_t seed) {
    uint64_t *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    for (uint64_t page = 0; page < pages; page++) memory[page * WORDS] = page ^ seed;
    return memory;
}

int is_intact(const uint64_t *memory, uint64_t pages, uint64_t seed) {
    for (uint64_t page = 0; page < pages; page++) {
        if (memory[page * WORDS] != (page ^ seed)) return 0;
    }
    return 1;
}

int in_child(void (*body)(void *), void *context) {
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        body(context);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

int main(int count, char **arguments) {
    static const struct {
        const char *name;
        void (*check)(void);
    } checks[] = {
        {"names", check_names}, {"copies", check_copies}, {"closing", check_closing},
        {"stale-numbers", check_stale_numbers}, {"fork", check_fork}, {"vfork", check_vfork},
        {"coherent-copies", check_coherent_copies}, {"arguments", check_arguments}, {"mappings", check_mappings},
        {"system-calls", check_system_calls}, {"carriers", check_carriers}, {"allocator", check_allocator},
        {"device-mapping", check_device_mapping}, {"pins", check_pins}, {"signals", check_signals},
        {"threads", check_threads}, {"allocating-threads", check_allocating_threads}, {"programs", check_programs},
    };
    for (size_t index = 0; index < sizeof checks / sizeof *checks; index++) {
        if (count > 1 && strcmp(arguments[1], checks[index].name) != 0) continue;
        checks[index].check();
        printf("ok %s\n", checks[index].name);
        if (count > 1) return 0;
    }
    return count > 1 ? 64 : 0;
}
