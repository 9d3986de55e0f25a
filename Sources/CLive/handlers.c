// The two ways in which faults arrive: SIGBUS on the faulting thread, and messages to the fault thread.
#define _GNU_SOURCE
#include "internal.h"
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

/// Who handled SIGBUS before. Written once, before the handler is installed.
static struct sigaction previous;

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
static void pass_on(int number, siginfo_t *info, void *context) {
    bool is_sent = info->si_code <= 0;
    if (!(previous.sa_flags & SA_SIGINFO) && previous.sa_handler == SIG_IGN && is_sent) return;
    bool is_default = !(previous.sa_flags & SA_SIGINFO)
        && (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN);
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
    for (int i = 1; i < 64; i++) mask |= (uint64_t)(sigismember(&previous.sa_mask, i) == 1) << (i - 1);
    if (!(previous.sa_flags & SA_NODEFER)) mask |= 1ull << (number - 1);
    const uint64_t *interrupted = (const void *)&((const ucontext_t *)context)->uc_sigmask;
    set_mask(mask | *interrupted);
    if (previous.sa_flags & SA_SIGINFO) previous.sa_sigaction(number, info, context);
    else previous.sa_handler(number);
}

static bool is_answered(const siginfo_t *info, const ucontext_t *context) {
    return resolve((uint64_t)(uintptr_t)info->si_addr, kind_of(context), CLIVE_ON_THREAD, 0);
}

static void on_sigbus(int number, siginfo_t *info, void *context) {
    // A page that the hardware lost has another code.
    if (info->si_code == BUS_ADRERR && is_answered(info, context)) return;
    pass_on(number, info, context);
}

int install_handler(void) {
    struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
    // While a page is owned no other handler may run on this thread: it could touch the page and wait for itself.
    sigfillset(&action.sa_mask);
    const int faults[] = { SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGABRT };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&action.sa_mask, faults[i]);
    if (sigaction(SIGBUS, NULL, &previous)) return -errno;
    return sigaction(SIGBUS, &action, NULL) ? -errno : 0;
}

static void *answer_faults(void *argument) {
    int uffd = (int)(intptr_t)argument;
    struct kernel_uffd_message messages[16];
    for (;;) {
        long bytes = kernel_call(SYS_read, uffd, (long)messages, sizeof messages, 0, 0, 0);
        if (bytes == -EINTR || bytes == -EAGAIN) continue;
        if (bytes < 0) return NULL;
        for (size_t i = 0; i < (size_t)bytes / sizeof *messages; i++) {
            if (messages[i].event != UFFD_MESSAGE_FAULT) continue;
            unsigned kind = (messages[i].flags & UFFD_FAULT_WRITE ? FAULT_WRITE : 0)
                | (messages[i].flags & UFFD_FAULT_WP ? FAULT_PROTECTED : 0);
            // What cannot be answered faults again, and is then the kernel's to judge. The thread goes on only now, and
            // not from within the calls that mend the page: it finds its return in the queue.
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
    int uffd = live.uffd[CLIVE_HANDLER_THREAD];
    error = pthread_create(&thread, &attributes, answer_faults, (void *)(intptr_t)uffd);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error) return -error;
    pthread_setname_np(thread, "hmm-faults");
    return 0;
}

#pragma clang attribute pop
