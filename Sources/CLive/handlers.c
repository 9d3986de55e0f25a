// The two ways in which faults arrive: SIGBUS on the faulting thread, and messages to the fault thread.
#define _GNU_SOURCE
#include "internal.h"
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

enum { HANDLERS = 8 };
/// Who handled SIGBUS before each of our handlers. Written once each, before that handler is installed.
///
/// A program that installs a handler of its own afterwards puts it in front of ours, and may go on to ours from there.
/// So another handler of ours is put in front of that one, which has its own behind it: a signal that is nobody's
/// passes each of them once.
static struct sigaction behind[HANDLERS];

#if defined(__x86_64__)
static unsigned kind_of(const ucontext_t *context) {
    greg_t error = context->uc_mcontext.gregs[REG_ERR];
    return (error & 2 ? FAULT_WRITE : 0) | ((error & 3) == 3 ? FAULT_PROTECTED : 0);
}
#elif defined(__aarch64__)
/// The syndrome register is in a record of the reserved area.
static unsigned kind_of(const ucontext_t *context) {
    const uint8_t *at = (const uint8_t *)context->uc_mcontext.__reserved;
    const uint8_t *end = at + sizeof context->uc_mcontext.__reserved;
    while (at + 16 <= end) {
        const struct { uint32_t magic, bytes; uint64_t value; } *record = (const void *)at;
        if (record->magic == 0 || record->bytes == 0) break;
        if (record->magic == 0x45535201) {
            uint64_t syndrome = record->value;
            // A cache operation counts as a write although it is none.
            bool is_write = syndrome & 1 << 6 && !(syndrome & 1 << 8);
            bool is_permission = (syndrome & 0x3c) == 0x0c;
            return (is_write ? FAULT_WRITE : 0) | (is_write && is_permission ? FAULT_PROTECTED : 0);
        }
        at += record->bytes;
    }
    return FAULT_UNSURE;
}
#else
static unsigned kind_of(const ucontext_t *context) {
    (void)context;
    return FAULT_UNSURE;
}
#endif

/// As the kernel knows it; the C library's has another layout.
struct kernel_action {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

static void set_mask(uint64_t mask) {
    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, sizeof mask, 0, 0);
}

/// A SIGBUS that is none of ours goes to who was there before, under the mask that it asked for.
static void pass_on(const struct sigaction *to, int number, siginfo_t *info, void *context) {
    bool is_sent = info->si_code <= 0;
    if (!(to->sa_flags & SA_SIGINFO) && to->sa_handler == SIG_IGN && is_sent) return;
    bool is_default = !(to->sa_flags & SA_SIGINFO)
        && (to->sa_handler == SIG_DFL || to->sa_handler == SIG_IGN);
    if (is_default) {
        struct kernel_action nothing = { .handler = SIG_DFL };
        kernel_call(SYS_rt_sigaction, number, (long)&nothing, 0, sizeof nothing.mask, 0, 0);
        // A fault happens again when the handler returns; a signal that was sent has to be sent again.
        if (!is_sent) return;
        long process = kernel_call(SYS_getpid, 0, 0, 0, 0, 0, 0), thread = kernel_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
        kernel_call(SYS_tgkill, process, thread, number, 0, 0, 0);
        return;
    }
    uint64_t mask = 0;
    for (int i = 1; i < 64; i++) mask |= (uint64_t)(sigismember(&to->sa_mask, i) == 1) << (i - 1);
    if (!(to->sa_flags & SA_NODEFER)) mask |= 1ull << (number - 1);
    const uint64_t *interrupted = (const void *)&((const ucontext_t *)context)->uc_sigmask;
    set_mask(mask | *interrupted);
    if (to->sa_flags & SA_SIGINFO) to->sa_sigaction(number, info, context);
    else to->sa_handler(number);
}

static bool is_answered(const siginfo_t *info, const ucontext_t *context) {
    return resolve((uint64_t)(uintptr_t)info->si_addr, kind_of(context), CLIVE_ON_THREAD, 0);
}

static inline void on_sigbus(const struct sigaction *to, int number, siginfo_t *info, void *context) {
    // A page that the hardware lost has another code.
    if (info->si_code == BUS_ADRERR && is_answered(info, context)) return;
    pass_on(to, number, info, context);
}

#define HANDLER(n) \
    static void handler_##n(int number, siginfo_t *info, void *context) { \
        on_sigbus(&behind[n], number, info, context);                     \
    }
HANDLER(0) HANDLER(1) HANDLER(2) HANDLER(3) HANDLER(4) HANDLER(5) HANDLER(6) HANDLER(7)
static void (*const handlers[HANDLERS])(int, siginfo_t *, void *) = {
    handler_0, handler_1, handler_2, handler_3, handler_4, handler_5, handler_6, handler_7,
};
/// How many are in use. Changed by who has taken `installing`.
static int handler_count;
static uint32_t installing;

static bool is_ours(const struct sigaction *action) {
    for (int i = 0; action->sa_flags & SA_SIGINFO && i < HANDLERS; i++)
        if (action->sa_sigaction == handlers[i]) return true;
    return false;
}

static bool is_same(const struct sigaction *a, const struct sigaction *b) {
    return a->sa_sigaction == b->sa_sigaction && a->sa_flags == b->sa_flags
        && memcmp(&a->sa_mask, &b->sa_mask, sizeof(uint64_t)) == 0;
}

/// The handler of ours that has `next` behind it. -ENOSPC: all are in use.
static int handler_before(const struct sigaction *next) {
    for (int i = 0; i < handler_count; i++) if (is_same(&behind[i], next)) return i;
    if (handler_count == HANDLERS) return -ENOSPC;
    behind[handler_count] = *next;
    return handler_count++;
}

int clive_keep_handler(void) {
    struct sigaction now;
    if (sigaction(SIGBUS, NULL, &now)) return -errno;
    if (is_ours(&now)) return 0;
    for (unsigned turn = 0; __atomic_exchange_n(&installing, 1, __ATOMIC_ACQUIRE); turn++) wait_turn(turn);
    int error = 0;
    // What is replaced may be another one than was seen: that has to be behind ours, too.
    for (struct sigaction replaced; !error && !is_ours(&now); now = replaced) {
        int index = handler_before(&now);
        struct sigaction action = { .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
        // While a page is owned no other handler may run on this thread: it could touch the page and wait for itself.
        sigfillset(&action.sa_mask);
        const int faults[] = { SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGABRT };
        for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&action.sa_mask, faults[i]);
        if (index >= 0) action.sa_sigaction = handlers[index];
        error = index < 0 ? index : sigaction(SIGBUS, &action, &replaced) ? -errno : 0;
        if (!error && is_same(&replaced, &now)) break;
    }
    __atomic_store_n(&installing, 0, __ATOMIC_RELEASE);
    return error;
}

static void *answer_faults(void *argument) {
    int uffd = live.uffd[CLIVE_HANDLER_THREAD];
    struct kernel_uffd_message messages[16];
    have_own_files();
    __atomic_store_n((bool *)argument, true, __ATOMIC_RELEASE);
    for (;;) {
        long bytes = kernel_call(SYS_read, uffd, (long)messages, sizeof messages, 0, 0, 0);
        if (bytes == -EINTR || bytes == -EAGAIN) continue;
        if (bytes < 0) return NULL;
        for (size_t i = 0; i < (size_t)bytes / sizeof *messages; i++) {
            if (messages[i].event != UFFD_MESSAGE_FAULT) continue;
            unsigned kind = FAULT_ASLEEP | (messages[i].flags & UFFD_FAULT_WRITE ? FAULT_WRITE : 0)
                | (messages[i].flags & UFFD_FAULT_WP ? FAULT_PROTECTED : 0);
            // What cannot be answered faults again, and is then the kernel's to judge. Who waits goes on now at the
            // latest.
            resolve(messages[i].address, kind, CLIVE_HANDLER_THREAD, (uint32_t)messages[i].thread);
            struct kernel_uffd_range page = { messages[i].address & ~(PAGE_BYTES - 1), PAGE_BYTES };
            kernel_ioctl(uffd, UFFD_WAKE, &page);
        }
    }
}

int start_fault_thread(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    int error = pthread_attr_init(&attributes);
    if (error) return -error;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    enum { STACK_BYTES = 256 << 10 };
    void *stack = own_memory(STACK_BYTES);
    if (!stack) {
        pthread_attr_destroy(&attributes);
        return -ENOMEM;
    }
    pthread_attr_setstack(&attributes, stack, STACK_BYTES);
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool has_begun = false;
    error = pthread_create(&thread, &attributes, answer_faults, &has_begun);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error) return -error;
    // From then on nobody can take its descriptors away.
    for (unsigned turn = 0; !__atomic_load_n(&has_begun, __ATOMIC_ACQUIRE); turn++) wait_turn(turn);
    pthread_setname_np(thread, "hmm-faults");
    return 0;
}

#pragma clang attribute pop
