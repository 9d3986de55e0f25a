// A program's own handler of SIGBUS. The driver needs that signal for itself (its memory is reached by faults that are
// answered in a handler), and hands on what is not its own: to the action that was there when it started. That is ours,
// and it does what the program asked for, now or later.

#include "internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

// What the program wants done. Guarded by `lock` to be changed; the handler reads it without, as a thread that changes
// its handler while another takes the signal knows neither which it gets.
static struct sigaction wanted;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(bool) is_ours;

static void pass_on(int number, siginfo_t *information, void *context) {
    struct sigaction action = wanted;
    if (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN) {
        // A fault that is ignored would happen again for ever; the system does not ignore it either. One that somebody
        // sent can be ignored.
        if (action.sa_handler == SIG_IGN && information->si_code <= 0) return;
        struct sigaction fallback = {.sa_handler = SIG_DFL};
        NEXT(sigaction)(number, &fallback, NULL);
        raise(number);
        return;
    }
    sigset_t before;
    pthread_sigmask(SIG_BLOCK, &action.sa_mask, &before);
    if (action.sa_flags & SA_SIGINFO) action.sa_sigaction(number, information, context);
    else action.sa_handler(number);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void cpreload_keep_signal(void) {
    struct sigaction action = {.sa_sigaction = pass_on, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    pthread_mutex_lock(&lock);
    if (NEXT(sigaction)(SIGBUS, &action, &wanted) == 0) atomic_store(&is_ours, true);
    pthread_mutex_unlock(&lock);
}

static bool is_kept(int number, const void *caller) {
    return number == SIGBUS && cpreload_inside == 0 && atomic_load(&is_ours) && !cpreload_is_own(caller);
}

static void exchange(const struct sigaction *action, struct sigaction *old) {
    pthread_mutex_lock(&lock);
    struct sigaction before = wanted;
    if (action != NULL) wanted = *action;
    pthread_mutex_unlock(&lock);
    if (old != NULL) *old = before;
}

EXPORTED int sigaction(int number, const struct sigaction *action, struct sigaction *old) {
    const void *caller = CALLER();
    if (!is_kept(number, caller)) return NEXT(sigaction)(number, action, old);
    exchange(action, old);
    return 0;
}

EXPORTED sighandler_t signal(int number, sighandler_t handler) {
    const void *caller = CALLER();
    if (!is_kept(number, caller)) return NEXT(signal)(number, handler);
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART}, old;
    exchange(&action, &old);
    return old.sa_handler;
}
