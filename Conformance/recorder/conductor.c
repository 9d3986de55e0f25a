// Reads scenarios, has their processes play them, and prints the answers.
//
//     recorder FILE…      each FILE holds scenarios, `== NAME` before each
//
// The driver must be loaded: /dev/hmm_dmirror0…3. Prints `== end` after the last scenario. Exit status: 0; 1 for a file
// that it does not understand; 3 if a statement was not answered within half a minute: the machine is of no use then.
#include "recorder.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_REGIONS = 16, MOST_WORDS = 16, NAME_SIZE = 32, PATIENCE_MS = 30000 };
// Regions lie in slots of their own, in the order of their `map` and `move`.
static const uint64_t first_slot = 0x1000000000, slot_bytes = 1 << 30;

struct shared *shared;
int sockets[MOST_PROCESSES][2];

// The scenario that is being played.
struct process {
    char name[NAME_SIZE];
    uint64_t starts[MOST_REGIONS];
};
static struct process processes[MOST_PROCESSES];
static struct {
    char name[NAME_SIZE];
    uint64_t pages;
} regions[MOST_REGIONS];
static int process_count, region_count, slot_count;

void die(const char *what) {
    fflush(stdout);
    fprintf(stderr, "recorder: %s: %s\n", what, strerror(errno));
    exit(1);
}

_Noreturn static void refuse(const char *what, const char *word) {
    fflush(stdout);
    fprintf(stderr, "recorder: %s '%s'\n", what, word);
    exit(1);
}

// MARK: Words

struct word {
    const char *text;
    int value;
};
static const struct word advices[] = {
    {"hugepage", MADV_HUGEPAGE}, {"nohugepage", MADV_NOHUGEPAGE}, {"dontneed", MADV_DONTNEED},
    {"pageout", MADV_PAGEOUT}, {"collapse", 25}, {"populate-read", 22}, {"populate-write", 23},
    {"remove", MADV_REMOVE}, {"free", MADV_FREE}, {NULL, 0},
};
static const struct word device_words[] = {
    {"read", OP_READ}, {"write", OP_WRITE}, {"migrate", OP_MIGRATE}, {"evict", OP_EVICT},
    {"exclusive", OP_EXCLUSIVE}, {"check-exclusive", OP_CHECK_EXCLUSIVE}, {"snapshot", OP_SNAPSHOT},
    {"release", OP_RELEASE}, {"open", OP_OPEN}, {"close", OP_CLOSE}, {NULL, 0},
};
static const struct word cpu_words[] = {{"read", OP_CPU_READ}, {"write", OP_CPU_WRITE}, {NULL, 0}};
static const struct word rights[] = {
    {"none", PROT_NONE}, {"r", PROT_READ}, {"rw", PROT_READ | PROT_WRITE}, {NULL, 0},
};
static const struct word range_words[] = {
    {"unmap", OP_UNMAP}, {"protect", OP_PROTECT}, {"advise", OP_ADVISE}, {"move", OP_MOVE}, {NULL, 0},
};

static int look_up(const struct word *words, const char *text) {
    while (words->text && strcmp(words->text, text)) words++;
    if (!words->text) refuse("cannot record", text);
    return words->value;
}

static int region_named(const char *name, size_t length) {
    for (int r = 0; r < region_count; r++)
        if (strlen(regions[r].name) == length && !strncmp(regions[r].name, name, length)) return r;
    refuse("no region for", name);
}

// `R`, `R[i]` or `R[a..<b]`.
static void read_range(struct command *c, const struct process *p, const char *text) {
    size_t length = strcspn(text, "[");
    int r = region_named(text, length);
    unsigned long first = 0, end = regions[r].pages;
    if (text[length] == '[' && sscanf(text + length, "[%lu..<%lu]", &first, &end) == 1) end = first + 1;
    if (first >= end || end > regions[r].pages) refuse("no such pages:", text);
    c->first = first;
    c->count = end - first;
    c->start = p->starts[r] + first * PAGE_SIZE;
}

// MARK: Statements

// Waits for the process's answer.
static void ask(int number, const struct command *c) {
    // Who ends answers nothing; it has ended when its files are closed.
    int is_ending = c->operation == OP_EXIT;
    int ended = is_ending ? (int)syscall(SYS_pidfd_open, shared->ids[number], 0) : -1;
    if (write(sockets[number][0], c, sizeof *c) != sizeof *c) die("a process");
    struct pollfd wait = {.fd = is_ending ? ended : sockets[number][0], .events = POLLIN};
    char answered;
    if (is_ending && ended < 0) return;  // it had ended before
    if (poll(&wait, 1, PATIENCE_MS) != 1 || (!is_ending && read(sockets[number][0], &answered, 1) != 1)) {
        printf("stuck\n");
        fflush(stdout);
        _exit(3);
    }
    if (is_ending) {
        close(ended);
        shared->ids[number] = 0;
    }
}

static void read_map(struct command *c, struct process *p, char **words, int count) {
    if (count < 4 || region_count == MOST_REGIONS) refuse("cannot record", words[0]);
    int r = region_count++;
    snprintf(regions[r].name, sizeof regions[r].name, "%s", words[1]);
    regions[r].pages = c->count = strtoul(words[2], NULL, 10);
    if (c->count < 1 || c->count > MOST_PAGES) refuse("cannot map that many pages:", words[2]);
    p->starts[r] = c->start = first_slot + slot_bytes * (uint64_t)slot_count++;
    c->operation = OP_MAP;
    c->argument = look_up(rights, words[3]);
    for (int i = 4; i < count; i++) {
        c->is_shared |= !strcmp(words[i], "shared");
        c->is_file |= !strcmp(words[i], "file");
        c->is_huge |= !strcmp(words[i], "hugepage");
        c->is_hugetlb |= !strcmp(words[i], "hugetlb");
    }
}

static void read_fork(struct command *c, const struct process *parent, const char *name) {
    if (process_count == MOST_PROCESSES) refuse("too many processes:", name);
    c->operation = OP_FORK;
    c->argument = process_count++;
    processes[c->argument] = *parent;
    snprintf(processes[c->argument].name, NAME_SIZE, "%s", name);
}

// `cpu` and `devK`.
static void read_access(struct command *c, const struct process *p, char **words, int count) {
    int is_cpu = !strcmp(words[0], "cpu");
    c->operation = (enum operation)look_up(is_cpu ? cpu_words : device_words, words[1]);
    if (!is_cpu) c->device = words[0][3] - '0';
    c->start = first_slot;
    if (count > 2) read_range(c, p, words[2]);
    if (count > 3) c->seed = (uint32_t)strtoul(words[3], NULL, 10);
}

static void read_statement(struct command *c, struct process *p, char **words, int count) {
    const char *verb = words[0];
    int is_device = !strncmp(verb, "dev", 3) && verb[3] >= '0' && verb[3] < '0' + DEVICES && !verb[4];
    if (!strcmp(verb, "exit")) {
        c->operation = OP_EXIT;
        return;
    }
    if (count < 2) refuse("cannot record", verb);
    if (!strcmp(verb, "map")) {
        read_map(c, p, words, count);
    } else if (!strcmp(verb, "fork")) {
        read_fork(c, p, words[1]);
    } else if (!strcmp(verb, "cpu") || is_device) {
        read_access(c, p, words, count);
    } else {
        c->operation = (enum operation)look_up(range_words, verb);
        read_range(c, p, words[1]);
        if (c->operation == OP_MOVE) c->target = first_slot + slot_bytes * (uint64_t)slot_count++;
        if (c->operation == OP_PROTECT) c->argument = look_up(rights, count > 2 ? words[2] : "");
        if (c->operation == OP_ADVISE) c->argument = look_up(advices, count > 2 ? words[2] : "");
    }
}

static void play_statement(char *line, int number) {
    char *words[MOST_WORDS], **verb = words;
    int count = 0, owner = 0;
    for (char *w = strtok(line, " \t"); w && count < MOST_WORDS; w = strtok(NULL, " \t")) words[count++] = w;
    size_t length = strlen(words[0]);
    if (words[0][length - 1] == ':') {
        words[0][length - 1] = 0;
        while (owner < process_count && strcmp(processes[owner].name, words[0])) owner++;
        if (owner == process_count || count == 1) refuse("no process, or nothing for it:", words[0]);
        verb++;
        count--;
    }
    struct process *p = &processes[owner];
    struct command c = {0};
    read_statement(&c, p, verb, count);
    ask(owner, &c);
    if (c.operation == OP_EXIT) strcpy(shared->answer, "ok");
    if (c.operation == OP_MOVE && !strcmp(shared->answer, "ok"))
        p->starts[region_named(verb[1], strlen(verb[1]))] = c.target;
    printf("%d %s\n", number, shared->answer);
}

// MARK: Scenarios

static void start_scenario(void) {
    for (int i = 0; i < MOST_PROCESSES; i++)
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets[i])) die("socketpair");
    process_count = 1;
    region_count = slot_count = 0;
    memset(processes, 0, sizeof processes);
    memset((void *)shared->ids, 0, sizeof shared->ids);
    strcpy(processes[0].name, "main");
    fflush(stdout);  // the process would have a copy of what is unwritten
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) serve(0);
    shared->ids[0] = child;
}

// Leaves no process of it: their memory, and what is swapped of it, is free again.
static void finish_scenario(void) {
    struct command leave = {.operation = OP_EXIT};
    for (int i = 0; i < process_count; i++)
        if (shared->ids[i]) ask(i, &leave);
    while (waitpid(-1, NULL, 0) > 0) {}
    for (int i = 0; i < MOST_PROCESSES; i++) {
        close(sockets[i][0]);
        close(sockets[i][1]);
    }
    fflush(stdout);
}

static void play(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) die(path);
    char line[512];
    int number = 0, is_playing = 0;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "#\r\n")] = 0;
        if (!strncmp(line, "== ", 3)) {
            if (is_playing) finish_scenario();
            printf("%s\n", line);
            start_scenario();
            is_playing = 1;
            number = 0;
        } else if (is_playing && line[strspn(line, " \t")]) {
            play_statement(line, ++number);
        }
    }
    if (is_playing) finish_scenario();
    fclose(file);
}

int main(int count, char **arguments) {
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (shared == MAP_FAILED) die("mmap");
    // The processes of scenarios inherit the handlers; orphans among them come to the conductor.
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (int i = 1; i < count; i++) play(arguments[i]);
    printf("== end\n");
    return 0;
}
