#include "probe.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

void check_arguments(void) {
    int device = open_device(0);
    uint64_t *memory = fresh(4, 1), words[4 * WORDS];
    CHECK(ask(device, DEVICE_READ, (char *)memory + 8, 1, words) == EINVAL);
    CHECK(ask(device, DEVICE_READ, memory, 0, words) == EINVAL);
    CHECK(ask(device, DEVICE_READ, memory, UINT64_MAX / PAGE, words) == EINVAL);
    CHECK(ask(device, DEVICE_READ, memory, 1, (void *)8) == EFAULT);
    CHECK(ask(device, DEVICE_WRITE, memory, 1, (void *)8) == EFAULT);
    CHECK(ask(device, DEVICE_READ, (void *)(1ull << 62), 1, words) == EFAULT);
    CHECK(ask(device, _IOWR('H', 8, struct request), memory, 1, words) == EINVAL);
    CHECK(ask(device, _IO('H', 0), memory, 1, words) == EINVAL);
    CHECK(ioctl(device, DEVICE_READ, 8) == -1 && errno == EFAULT);
    CHECK(is_intact(memory, 4, 1));
    close(device);
}

// Whatever the program does to its mappings, the device sees, with pages in its memory too.
void check_mappings(void) {
    int device = open_device(0);
    uint64_t *memory = fresh(8, 2), words[8 * WORDS];
    CHECK(ask(device, DEVICE_MIGRATE, memory, 8, words) == 0 && is_intact(words, 8, 2));
    CHECK(mprotect(memory, PAGE, PROT_NONE) == 0);
    CHECK(ask(device, DEVICE_READ, memory, 1, words) == EFAULT);
    CHECK(mprotect(memory, PAGE, PROT_READ) == 0);
    CHECK(memory[0] == 2 && ask(device, DEVICE_WRITE, memory, 1, words) == EPERM);
    CHECK(munmap(memory + WORDS, PAGE) == 0);
    CHECK(ask(device, DEVICE_READ, memory, 2, words) == EFAULT && look(device, memory + WORDS) == 0xff);
    CHECK(madvise(memory + 2 * WORDS, PAGE, MADV_DONTNEED) == 0 && memory[2 * WORDS] == 0);
    uint64_t *moved = mremap(memory + 4 * WORDS, 4 * PAGE, 16 * PAGE, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED);
    for (uint64_t page = 0; page < 4; page++) CHECK(moved[page * WORDS] == ((page + 4) ^ 2));
    CHECK(ask(device, DEVICE_READ, moved, 4, words) == 0 && words[3 * WORDS] == (7 ^ 2));
    // A new mapping over one that has pages at the device.
    CHECK(ask(device, DEVICE_MIGRATE, moved, 4, words) == 0);
    CHECK(mmap(moved, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == moved);
    CHECK(moved[0] == 0 && moved[3 * WORDS] == 0);
    CHECK(ask(device, DEVICE_READ, moved, 4, words) == 0 && words[0] == 0);
    close(device);
}

// Four pages that the device has.
static uint64_t *taken(int device, uint64_t seed) {
    uint64_t *memory = fresh(4, seed), words[4 * WORDS];
    CHECK(ask(device, DEVICE_MIGRATE, memory, 4, words) == 0 && look(device, memory) == 0x22);
    return memory;
}

// A system call that gets memory which a device has waits for it, as the program itself would.
void check_system_calls(void) {
    int device = open_device(0), ends[2];
    uint64_t *memory = taken(device, 4), words[4 * WORDS];
    CHECK(pipe(ends) == 0);
    CHECK(write(ends[1], memory, 2 * PAGE) == 2 * PAGE);
    CHECK(read(ends[0], memory + 2 * WORDS, 2 * PAGE) == 2 * PAGE);
    CHECK(is_intact(memory, 2, 4) && is_intact(memory + 2 * WORDS, 2, 4));
    CHECK(ask(device, DEVICE_READ, memory, 4, words) == 0 && is_intact(words + 2 * WORDS, 2, 4));
    int file = memfd_create("calls", 0);
    CHECK(pwrite(file, taken(device, 5), 4 * PAGE, 0) == 4 * PAGE);
    memory = taken(device, 6);
    CHECK(pread(file, memory, 4 * PAGE, 0) == 4 * PAGE && is_intact(memory, 4, 5));
    memory = taken(device, 7);
    struct iovec parts[2] = {{memory + 2 * WORDS, 2 * PAGE}, {memory, 2 * PAGE}};
    CHECK(writev(ends[1], parts, 2) == 4 * PAGE);
    memory = taken(device, 8);
    parts[0].iov_base = memory + 2 * WORDS;
    parts[1].iov_base = memory;
    CHECK(readv(ends[0], parts, 2) == 4 * PAGE && is_intact(memory, 4, 7));
    close(file);
    close(device);
}

// What sockets carry, and what streams read without a buffer in between.
void check_carriers(void) {
    int device = open_device(0), pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    uint64_t *memory = taken(device, 1), *answer = taken(device, 2);
    CHECK(send(pair[0], memory, 4 * PAGE, 0) == 4 * PAGE);
    CHECK(recv(pair[1], answer, 4 * PAGE, 0) == 4 * PAGE && is_intact(answer, 4, 1));
    struct iovec part = {taken(device, 3), 4 * PAGE};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    CHECK(sendmsg(pair[1], &message, 0) == 4 * PAGE);
    part.iov_base = taken(device, 4);
    CHECK(recvmsg(pair[0], &message, 0) == 4 * PAGE && is_intact(part.iov_base, 4, 3));
    FILE *stream = tmpfile();
    CHECK(stream != NULL && fwrite(taken(device, 5), PAGE, 4, stream) == 4 && fflush(stream) == 0);
    rewind(stream);
    memory = taken(device, 6);
    CHECK(fread(memory, PAGE, 4, stream) == 4 && is_intact(memory, 4, 5));
    // What the C library reads into memory of its own, beside what a device has of the allocator's.
    enum { PAGES = 8 };
    char *block = malloc((PAGES + 1) * PAGE);
    uint64_t *words = malloc(PAGES * PAGE);
    uint64_t *inside = (uint64_t *)(((uintptr_t)block + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    for (uint64_t page = 0; page < PAGES; page++) inside[page * WORDS] = page;
    CHECK(ask(device, DEVICE_MIGRATE, inside, PAGES, words) == 0);
    FILE *again = fopen("/proc/self/exe", "r");
    char *large = malloc(64 * PAGE), magic[4];
    CHECK(again != NULL && fread(magic, 1, 4, again) == 4 && memcmp(magic, "\177ELF", 4) == 0);
    CHECK(fread(large, 1, 3 * PAGE, again) == 3 * PAGE);
    CHECK(is_intact(inside, PAGES, 0));
    fclose(again);
    fclose(stream);
    free(large);
    free(words);
    free(block);
    close(device);
}

// The allocator's memory is memory like any other, and what it gives back and gets again is new.
void check_allocator(void) {
    enum { PAGES = 256 };
    int device = open_device(0);
    for (uint64_t round = 0; round < 20; round++) {
        char *block = malloc((PAGES + 1) * PAGE);
        CHECK(block != NULL);
        uint64_t *memory = (uint64_t *)(((uintptr_t)block + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
        uint64_t *words = malloc(PAGES * PAGE);
        for (uint64_t page = 0; page < PAGES; page++) memory[page * WORDS] = page ^ round;
        CHECK(ask(device, DEVICE_MIGRATE, memory, PAGES, words) == 0 && is_intact(words, PAGES, round));
        if (round % 2) CHECK(is_intact(memory, PAGES, round));
        free(block);
        free(words);
        uint64_t *zeros = calloc(PAGES, PAGE);
        for (uint64_t word = 0; word < PAGES * WORDS; word += 64) CHECK(zeros[word] == 0);
        free(zeros);
    }
    close(device);
}

void check_device_mapping(void) {
    int device = open_device(0);
    uint64_t *private = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, device, 0);
    uint64_t *shared = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
    CHECK(private != MAP_FAILED && shared != MAP_FAILED);
    // All pages are there from the start, and each mapping has its own.
    CHECK(look(device, private) == 0x01 && look(device, private + WORDS) == 0x01 && look(device, shared) == 0x02);
    shared[0] = 1;
    CHECK(private[0] == 0);
    private[0] = 2;
    CHECK(look(device, private) == 0x02 && shared[0] == 1);
    CHECK(munmap(private, 2 * PAGE) == 0 && munmap(shared, 2 * PAGE) == 0);
    close(device);
    int pins = open("/sys/kernel/debug/gup_test", O_RDWR);
    CHECK(pins >= 0 && mmap(NULL, PAGE, PROT_READ, MAP_SHARED, pins, 0) == MAP_FAILED && errno == ENODEV);
    close(pins);
}

struct pin {
    uint64_t get_time, put_time, address, size;
    uint32_t pages_per_call, flags, test_flags, dumped[8];
};

static uint64_t pin(int pins, int what, uint64_t *memory, uint64_t pages, uint32_t flags) {
    struct pin pin = {.address = (uint64_t)memory, .size = pages * PAGE, .pages_per_call = 1, .flags = flags};
    CHECK(ioctl(pins, _IOWR('g', what, struct pin), &pin) == 0);
    return pin.size / PAGE;
}

uint64_t pin_page(int pins, uint64_t *memory) {
    return pin(pins, 4, memory, 1, 1);
}

void check_pins(void) {
    int device = open_device(2), other = open_device(0), pins = open("/sys/kernel/debug/gup_test", O_RDWR);
    uint64_t *memory = fresh(4, 6), words[4 * WORDS];
    CHECK(pins >= 0 && ask(device, DEVICE_MIGRATE, memory, 2, words) == 0);
    CHECK(ask(other, DEVICE_MIGRATE, memory + 2 * WORDS, 2, words) == 0);
    // An ordinary pin of a page leaves it in coherent memory; a long one does not.
    CHECK(pin(pins, 4, memory, 1, 1) == 1 && look(device, memory) == 0x42);
    CHECK(pin(pins, 3, memory + WORDS, 1, 1) == 1 && look(device, memory + WORDS) == 0x02);
    CHECK(pin(pins, 5, memory + 2 * WORDS, 2, 1) == 2 && look(device, memory + 2 * WORDS) == 0x02);
    CHECK(mprotect(memory + 3 * WORDS, PAGE, PROT_READ) == 0);
    CHECK(pin(pins, 4, memory + 2 * WORDS, 2, 1) == 1);
    CHECK(ioctl(pins, _IO('g', 8), 0) == -1 && errno == EINVAL);
    CHECK(is_intact(memory, 4, 6));
    close(pins);
    close(device);
    close(other);
}
