// The mappings of this process: one call of the kernel where it has one, else the text of /proc/self/maps.
#include "internal.h"
#include <string.h>
#include <sys/mman.h>

static bool begins(const char *text, const char *with) { return strncmp(text, with, strlen(with)) == 0; }

static void name_mapping(struct clive_vma *vma, const char *name, uint64_t inode) {
    vma->heap = begins(name, "[heap]");
    vma->stack = begins(name, "[stack");
    vma->special = begins(name, "[v") || begins(name, "[sigpage]") || begins(name, "[uprobes]");
    bool is_nameless = begins(name, "/dev/zero (deleted)") || begins(name, "/SYSV");
    vma->file = inode != 0 && !is_nameless;
}

static int query(uint64_t page, struct clive_vma *out) {
    char name[64] = { 0 };
    struct kernel_map_query q = {
        .bytes = sizeof q, .flags = MAP_QUERY_OR_NEXT, .address = page * PAGE_BYTES,
        .name_bytes = sizeof name, .name = (uint64_t)(uintptr_t)name,
    };
    long result = kernel_ioctl(live.maps, PROCMAP_QUERY_CALL, &q);
    if (result == -ENAMETOOLONG) {
        // The path of a file; none of the names that mean something is so long.
        q.name = q.name_bytes = 0;
        result = kernel_ioctl(live.maps, PROCMAP_QUERY_CALL, &q);
    }
    if (result) return (int)result;
    *out = (struct clive_vma){
        .start_page = q.start / PAGE_BYTES, .end_page = q.end / PAGE_BYTES,
        .prot = (q.rights & MAP_QUERY_READ ? PROT_READ : 0) | (q.rights & MAP_QUERY_WRITE ? PROT_WRITE : 0)
            | (q.rights & MAP_QUERY_EXEC ? PROT_EXEC : 0),
        .shared = q.rights & MAP_QUERY_SHARED,
        .hugetlb = q.page_bytes > PAGE_BYTES,
    };
    name_mapping(out, name, q.inode);
    return 0;
}

static uint64_t number(const char **text, unsigned base) {
    uint64_t value = 0;
    for (;; (*text)++) {
        char c = **text;
        unsigned digit = 99;
        if (c >= '0' && c <= '9') digit = (unsigned)(c - '0');
        if (c >= 'a' && c <= 'f') digit = (unsigned)(c - 'a') + 10;
        if (digit >= base) return value;
        value = value * base + digit;
    }
}

/// "start-end rwxp offset major:minor inode   name". The text ends with a zero.
static void parse(const char *line, struct clive_vma *out) {
    *out = (struct clive_vma){ 0 };
    out->start_page = number(&line, 16) / PAGE_BYTES;
    line++;
    out->end_page = number(&line, 16) / PAGE_BYTES;
    for (line++; *line && *line != ' '; line++) {
        if (*line == 'r') out->prot |= PROT_READ;
        if (*line == 'w') out->prot |= PROT_WRITE;
        if (*line == 'x') out->prot |= PROT_EXEC;
        if (*line == 's') out->shared = true;
    }
    for (int field = 0; field < 2 && *line; field++)
        for (line++; *line && *line != ' '; line++) {}
    if (*line) line++;
    uint64_t inode = number(&line, 10);
    while (*line == ' ') line++;
    name_mapping(out, line, inode);
    // The text does not tell the size of pages.
    out->hugetlb = begins(line, "/anon_hugepage") || begins(line, "/dev/hugepages/");
}

/// Reads the text piece by piece. A line is longer than a piece only by its name, which is cut off.
static int search_text(uint64_t page, struct clive_vma *out) {
    char line[512], piece[1024];
    size_t length = 0;
    for (int64_t offset = 0;;) {
        long bytes = kernel_call(SYS_pread64, live.maps, (long)piece, sizeof piece, offset, 0, 0);
        if (bytes < 0) return (int)bytes;
        if (bytes == 0) return -ENOENT;
        offset += bytes;
        for (long i = 0; i < bytes; i++) {
            if (piece[i] != '\n') {
                if (length < sizeof line - 1) line[length++] = piece[i];
                continue;
            }
            line[length] = 0;
            length = 0;
            parse(line, out);
            if (out->end_page > page) return 0;
        }
    }
}

int clive_vma_ending_after(uint64_t page, struct clive_vma *out) {
    int result = left_out() & WITHOUT_MAP_QUERY ? -ENOTTY : query(page, out);
    return result == -ENOTTY || result == -EINVAL ? search_text(page, out) : result;
}

#pragma clang attribute pop
