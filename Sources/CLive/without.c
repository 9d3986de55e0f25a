// What is treated as missing because the environment says so: HMM_WITHOUT, a list of names with commas between.
#include "internal.h"
#include <stdlib.h>
#include <string.h>

/// The names that `hmm doctor` and Documentation/live.md have.
static const struct { const char *name; unsigned bit; } features[] = {
    { "kernel-faults", WITHOUT_KERNEL_FAULTS }, { "sigbus", WITHOUT_SIGBUS }, { "move", WITHOUT_MOVE },
    { "write-protect", WITHOUT_PROTECTION }, { "pagemap-scan", WITHOUT_SCAN }, { "procmap-query", WITHOUT_MAP_QUERY },
};
/// No bit of a feature.
enum { IS_READ = 1u << 30, IS_UNKNOWN = 1u << 29 };

const char *clive_without_names(void) {
    const char *names = getenv("HMM_WITHOUT");
    return names && *names ? names : NULL;
}

static unsigned bit_of(const char *name, size_t length) {
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        if (strlen(features[i].name) == length && memcmp(features[i].name, name, length) == 0) return features[i].bit;
    }
    return length ? IS_UNKNOWN : 0;
}

unsigned left_out(void) {
    // Whoever comes first finds what anybody else would.
    static unsigned known;
    unsigned bits = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (bits) return bits;
    bits = IS_READ;
    for (const char *at = clive_without_names(); at && *at;) {
        size_t length = strcspn(at, ",");
        bits |= bit_of(at, length);
        at += length + (at[length] == ',');
    }
    __atomic_store_n(&known, bits, __ATOMIC_RELAXED);
    return bits;
}

bool clive_without_is_known(void) { return !(left_out() & IS_UNKNOWN); }

#pragma clang attribute pop
