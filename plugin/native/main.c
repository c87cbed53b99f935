// From a runtime's call to its end.
//
//     VERSION, as libcni asks for it     answered here
//     the agent answers                  its answer is printed
//     no agent, or it declined           Python serves the call (python.c)
//     and Python cannot be started       DEL is kept for later (queue.c); the others end with an error
#define _GNU_SOURCE
#include "shim.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

// plugin/versions.py has them, too.
static const char *const VERSIONS[] = {"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};
enum { VERSION_COUNT = sizeof VERSIONS / sizeof *VERSIONS };
#define CURRENT_VERSION VERSIONS[VERSION_COUNT - 1]

// A standard stream that is closed must not become our socket: then it is one that can be neither read nor written.
static void open_standard_streams(void)
{
    for (int stream = 0; stream <= 2; stream++)
        if (fcntl(stream, F_GETFD) < 0 && open("/dev/null", stream ? O_RDONLY : O_WRONLY) != stream)
            _exit(1);
}

static _Noreturn void end(const struct text *output, const struct text *error, int status)
{
    write_all(2, error->bytes, error->length);
    // A result that nobody got is no success.
    bool written = !output->failed && write_all(1, output->bytes, output->length);
    _exit(written ? status : 1);
}

static _Noreturn void fail(int code, const char *message, const char *details)
{
    struct text output = {0}, error = {0};
    text_word(&output, "{\"cniVersion\": \"");
    text_word(&output, CURRENT_VERSION);
    text_word(&output, "\", \"code\": ");
    text_number(&output, code);
    text_word(&output, ", \"msg\": ");
    text_json(&output, message, strlen(message));
    text_word(&output, ", \"details\": ");
    text_json(&output, details, strlen(details));
    text_word(&output, "}");
    end(&output, &error, 1);
}

// NULL, or why it could not be read.
static const char *read_input(struct text *input, long long deadline)
{
    static char part[64 << 10];
    while (!input->failed && input->length <= MAX_STDIN) {
        size_t missing = MAX_STDIN + 1 - input->length;
        if (!ready(0, POLLIN, deadline))
            return strerror(errno);
        ssize_t length = read(0, part, missing < sizeof part ? missing : sizeof part);
        if (length == 0)
            return NULL;
        if (length > 0)
            text_add(input, part, (size_t)length);
        else if (errno != EINTR && errno != EAGAIN)
            return strerror(errno);
    }
    return input->failed ? strerror(ENOMEM) : NULL;
}

// The version that VERSION is asked for, where it is asked as libcni does it, spaces apart; or NULL.
static const char *asked_version(const struct text *input)
{
    char compact[64];
    size_t length = 0;
    for (size_t i = 0; i < input->length; i++) {
        if (input->bytes[i] == ' ' || (length == 0 && isspace((unsigned char)input->bytes[i])))
            continue;
        if (length == sizeof compact)
            return NULL;
        compact[length++] = input->bytes[i];
    }
    while (length && isspace((unsigned char)compact[length - 1]))
        length--;
    if (length == 0)
        return CURRENT_VERSION;
    for (int i = 0; i < VERSION_COUNT; i++) {
        char asked[sizeof compact];
        int size = snprintf(asked, sizeof asked, "{\"cniVersion\":\"%s\"}", VERSIONS[i]);
        if ((size_t)size == length && memcmp(asked, compact, length) == 0)
            return VERSIONS[i];
    }
    return NULL;
}

static _Noreturn void tell_versions(const char *version)
{
    struct text output = {0}, error = {0};
    text_word(&output, "{\"cniVersion\": \"");
    text_word(&output, version);
    text_word(&output, "\", \"supportedVersions\": [");
    for (int i = 0; i < VERSION_COUNT; i++) {
        text_word(&output, i ? ", \"" : "\"");
        text_word(&output, VERSIONS[i]);
        text_word(&output, "\"");
    }
    text_word(&output, "]}");
    end(&output, &error, 0);
}

static void open_netns(struct call *call)
{
    const char *path = getenv("CNI_NETNS");
    if (!path || !*path)
        return;
    // Once: a path can be made to lead elsewhere between two looks at it. O_NONBLOCK: one that leads to a FIFO must
    // not hold up the runtime. No O_NOFOLLOW: /proc/PID/ns/net is a link.
    call->netns = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (call->netns < 0)
        call->netns_error = strerror(errno); // fine for a DEL; the other verbs will say so
}

static bool is_carried(const char *variable, size_t length)
{
    static const char *const whole[] = {"TRACEPARENT", "DATAPLANE_DEBUG"};
    if (length >= 4 && memcmp(variable, "CNI_", 4) == 0)
        return true;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (length == strlen(whole[i]) && memcmp(variable, whole[i], length) == 0)
            return true;
    return false;
}

static bool is_repeated(char **variable, size_t length)
{
    for (char **other = environ; other < variable; other++)
        if (strncmp(*other, *variable, length) == 0 && (*other)[length] == '=')
            return true;
    return false;
}

static void add_environment(struct text *body)
{
    const char *separator = "";
    text_word(body, "{");
    for (char **variable = environ; variable && *variable; variable++) {
        const char *equals = strchr(*variable, '=');
        if (!equals || !is_carried(*variable, (size_t)(equals - *variable)))
            continue;
        // Of equal names the first counts, as for getenv(3).
        if (is_repeated(variable, (size_t)(equals - *variable)))
            continue;
        text_word(body, separator);
        text_json(body, *variable, (size_t)(equals - *variable));
        text_word(body, ": ");
        text_json(body, equals + 1, strlen(equals + 1));
        separator = ", ";
    }
    text_word(body, "}");
}

struct text call_body(const struct call *call)
{
    struct text body = {0};
    text_word(&body, "{\"v\": ");
    text_number(&body, PROTOCOL);
    text_word(&body, ", \"call\": \"cni\", \"environment\": ");
    add_environment(&body);
    text_word(&body, ", \"stdin\": ");
    text_json(&body, call->input.bytes, call->input.length);
    text_word(&body, ", \"netns_error\": ");
    text_json(&body, call->netns_error, strlen(call->netns_error));
    text_word(&body, ", \"plugin\": ");
    text_json(&body, call->plugin, strlen(call->plugin));
    text_word(&body, "}");
    return body;
}

static _Noreturn void without_python(const struct call *call, const struct text *body, const char *cause)
{
    static const char message[] = "this host lacks something";
    if (strcmp(call->verb, "DEL") != 0)
        fail(MISSING_DEPENDENCY, message, cause);
    // A runtime that is told of a failure asks again and again, and keeps the container's remains for it.
    const char *unkept = queue_put(body);
    struct text output = {0}, error = {0};
    if (unkept) {
        text_word(&error, cause);
        text_word(&error, "; and the DEL could not be kept for later: ");
        text_word(&error, unkept);
        text_add(&error, "", 1);
        fail(MISSING_DEPENDENCY, message, error.failed ? cause : error.bytes);
    }
    text_word(&error, "dataplane: the DEL is kept for later: ");
    text_word(&error, cause);
    text_word(&error, "\n");
    end(&output, &error, 0);
}

int main(int count, char **arguments)
{
    long long deadline = now() + TOTAL_LIMIT;
    const char *verb = getenv("CNI_COMMAND");
    struct call call = {.plugin = count ? arguments[0] : "", .verb = verb ? verb : "", .netns = -1, .netns_error = ""};
    const char *slash = strrchr(call.plugin, '/');
    if (slash)
        call.plugin = slash + 1;
    open_standard_streams();
    signal(SIGPIPE, SIG_IGN);
    if (!*call.verb) // started by hand: standard input may be a terminal
        fail(MISSING_DEPENDENCY, "this host lacks something", python_call(&call, false));
    const char *unreadable = read_input(&call.input, deadline);
    if (unreadable)
        call.input.length = 0;
    if (strcmp(call.verb, "VERSION") == 0) {
        const char *version = asked_version(&call.input);
        if (version)
            tell_versions(version);
    } else if (unreadable) {
        fail(IO_FAILURE, "could not read standard input", unreadable);
    }
    open_netns(&call);
    struct text body = call_body(&call);
    struct answer answer = {0};
    bool served = agent_call(&body, call.netns, deadline, &answer);
    if (served && answer.status != DECLINED)
        end(&answer.output, &answer.error, answer.status);
    without_python(&call, &body, python_call(&call, served));
}
