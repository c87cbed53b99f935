// What a runtime starts: asks the agent, or has Python do the work. The flow is in main.c.
//
//     text.c      bytes that grow, and JSON strings written into them
//     answer.c    the agent's answer, read
//     agent.c     one call over the agent's socket
//     python.c    the same call, handed on to plugin/shim.py
//     queue.c     a DEL that nobody can serve, kept for later
//     system.c    what these ask of the kernel
//
// plugin/shim.py does the same where no compiler was there; control/protocol/wire.py is the protocol. Statically linked, libc
// only: what a runtime waits for is one exec. No environment variable leads it to another socket or interpreter.
//
// Be aware: standard input and environment are any bytes, and stay what they are.
#ifndef SHIM_H
#define SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

enum {
    PROTOCOL = 3,             // control/protocol/wire.py, VERSION
    MAX_BODY = 2 << 20,       // bytes of JSON in a frame, as there
    MAX_STDIN = 1 << 20,      // bytes; one more is read, so that a longer input is refused and not cut
    DECLINED = -1,            // in place of an exit status: this process is to do the work
    MISSING_DEPENDENCY = 103, // CNI error codes, plugin/errors.py
    IO_FAILURE = 5,
};

// Milliseconds. A local connect blocks only while the agent's backlog is full. The tests compile shorter ones.
#ifndef CONNECT_LIMIT
#define CONNECT_LIMIT 1000
#endif
#ifndef SILENCE_LIMIT
#define SILENCE_LIMIT 30000 // without a byte: of standard input, or from the agent
#endif
#ifndef TOTAL_LIMIT
#define TOTAL_LIMIT 120000 // until the agent has answered, however often a byte comes; what becomes Python has no more
#endif
// Of the host's network namespace; the tests compile others.
#ifndef RUN_DIRECTORY
#define RUN_DIRECTORY "/run/dataplane"
#endif
#ifndef STATE_DIRECTORY
#define STATE_DIRECTORY "/var/lib/dataplane"
#endif

// Bytes that grow. Where memory ends, or `failed` was set before, nothing is added: look at `failed` once, at the end.
struct text {
    char *bytes;
    size_t length, capacity;
    bool failed;
};

void text_add(struct text *text, const void *bytes, size_t length);
void text_word(struct text *text, const char *word);
void text_number(struct text *text, long long number);
// A JSON string with its quotes. Bytes that are no UTF-8 stay as they are, as in Python's surrogateescape.
void text_json(struct text *text, const void *bytes, size_t length);

struct call {
    const char *plugin; // the name that this process was started by
    const char *verb;   // CNI_COMMAND, or ""
    struct text input;  // standard input
    int netns;          // CNI_NETNS, open; or -1,
    const char *netns_error; // and why, where a path was given
};

struct answer {
    struct text output, error;
    int status; // of exit, or DECLINED
};

// The body of a call's frame, and of a file in the queue.
struct text call_body(const struct call *call);

// True where the body is an answer to a CNI call that follows the protocol; else the answer is not to be used.
bool answer_read(const char *body, size_t length, struct answer *answer);

// True where the agent served the call, or declined it. Until `deadline` at the latest.
bool agent_call(const struct text *body, int netns, long long deadline, struct answer *answer);

// Becomes Python, which serves the call. Returns only where that fails, with the reason.
const char *python_call(const struct call *call, bool declined);

// Keeps a DEL for later. NULL where that is done, else why not.
const char *queue_put(const struct text *body);

// Milliseconds of a clock that nobody sets.
long long now(void);
// Whether a descriptor is ready for `events` within SILENCE_LIMIT and before `deadline`; sets errno where not.
bool ready(int descriptor, short events, long long deadline);
// Writes all of it; false where that is not possible.
bool write_all(int descriptor, const char *bytes, size_t length);
// The directory itself in the host's network namespace, "<directory>-netns-<cookie>" in any other, as
// dataplane/netns.py has it, with `rest` behind. False where it does not fit, or the kernel does not say.
bool scoped(char *path, size_t size, const char *directory, const char *rest);

#endif
