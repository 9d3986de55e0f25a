#ifndef SWIFT_HMM_CLIVE_CHECK_H
#define SWIFT_HMM_CLIVE_CHECK_H
// Checks of CLive without anything above it. Each call starts the live backend, so it needs a process of its own.
#include "CLive.h"

/// What each call does to a page, and what mirrors are told of it. 0, or the line of the check that failed, which is
/// printed.
int clive_check_calls(const struct clive_options *_Nonnull options);

/// What cannot be moved: pinned, shared, locked, read-only, huge, of a stack, mapped anew. The same.
int clive_check_pages(const struct clive_options *_Nonnull options);

/// Threads of the CPU and of devices count in the same pages while one more takes them away, brings them home, tells
/// mirrors, protects and forks. Every count must be there in the end. 0, or the line.
int clive_check_stress(const struct clive_options *_Nonnull options, uint32_t turns);
#endif
