// Values of pages, and the text of an answer.
#include "recorder.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

uint64_t pattern(uint32_t seed, uint64_t page) { return (uint64_t)seed << 40 | page << 12; }

int64_t value_of(const volatile uint64_t *words, uint64_t page) {
    uint64_t seed = words[0] >> 40, base = pattern((uint32_t)seed, page), any = 0, difference = 0;
    for (uint64_t i = 0; i < WORDS; i++) {
        uint64_t word = words[i];
        any |= word;
        difference |= word ^ (base | i);
    }
    if (!any) return 0;
    return difference || !seed ? TORN : (int64_t)seed;
}

void say(const char *format, ...) {
    size_t room = sizeof shared->answer - shared->answer_length;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(shared->answer + shared->answer_length, room, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= room) {
        errno = EMSGSIZE;
        die("an answer");
    }
    shared->answer_length += (size_t)length;
}

static void say_run(int64_t value, uint64_t count, const char *format) {
    switch (value) {
    case TORN: say("x"); break;
    case GOT_SIGSEGV: say("!"); break;
    case GOT_SIGBUS: say("B"); break;
    default: say(format, (int)value);
    }
    if (count > 1) say("*%llu", (unsigned long long)count);
}

void say_values(const int64_t *values, uint64_t count, const char *format) {
    for (uint64_t i = 0, begin = 0; i < count; i++) {
        if (i + 1 < count && values[i + 1] == values[i]) continue;
        if (begin) say(" ");
        say_run(values[i], i + 1 - begin, format);
        begin = i + 1;
    }
}

void say_error(int error) { say("error %s", strerrorname_np(error)); }

void say_outcome(int result) {
    if (result) say_error(errno);
    else say("ok");
}
