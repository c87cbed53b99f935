// One call over the agent's socket: connect, send the frame with the open namespace, read the answer.
//
// Every step has its limit, and all together `deadline`; the Python that this becomes where no agent serves has limits
// for its steps, and none for all of it. Whatever goes wrong is as if no agent were there: ADD and DEL are idempotent
// by the attachment's key, so they may be done again even where the agent had the whole call.
#include "shim.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { HEADER = 4 };

static int connected(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!scoped(address.sun_path, sizeof address.sun_path, RUN_DIRECTORY, "/agent.sock"))
        return -1;
    int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (agent < 0)
        return -1;
    // The one limit that a connect over AF_UNIX knows: poll(2) does not tell when there is room in a backlog.
    struct timeval limit = {CONNECT_LIMIT / 1000, CONNECT_LIMIT % 1000 * 1000};
    long long deadline = now() + CONNECT_LIMIT;
    if (setsockopt(agent, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0) {
        do {
            if (connect(agent, (struct sockaddr *)&address, sizeof address) == 0)
                return agent;
        } while (errno == EINTR && now() < deadline);
    }
    close(agent);
    return -1;
}

// The namespace goes with the first byte.
static ssize_t send_first(int agent, const char *bytes, size_t length, int netns)
{
    struct iovec part = {(void *)(uintptr_t)bytes, length};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (netns >= 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &netns, sizeof(int));
    }
    return sendmsg(agent, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool send_frame(int agent, const struct text *frame, int netns, long long deadline)
{
    for (size_t sent = 0; sent < frame->length;) {
        if (!ready(agent, POLLOUT, deadline))
            return false;
        ssize_t more = send_first(agent, frame->bytes + sent, frame->length - sent, sent ? -1 : netns);
        if (more < 0 && errno != EINTR && errno != EAGAIN)
            return false;
        if (more > 0)
            sent += (size_t)more;
    }
    return true;
}

static bool receive(int agent, char *bytes, size_t length, long long deadline)
{
    for (size_t received = 0; received < length;) {
        if (!ready(agent, POLLIN, deadline))
            return false;
        ssize_t more = recv(agent, bytes + received, length - received, MSG_DONTWAIT);
        if (more == 0 || (more < 0 && errno != EINTR && errno != EAGAIN))
            return false;
        if (more > 0)
            received += (size_t)more;
    }
    return true;
}

static bool receive_answer(int agent, long long deadline, struct answer *answer)
{
    unsigned char header[HEADER];
    if (!receive(agent, (char *)header, HEADER, deadline))
        return false;
    size_t length = (size_t)header[0] << 24 | (size_t)header[1] << 16 | (size_t)header[2] << 8 | header[3];
    if (length > MAX_BODY)
        return false;
    char *body = malloc(length + 1); // malloc(0) may be NULL
    return body && receive(agent, body, length, deadline) && answer_read(body, length, answer);
}

bool agent_call(const struct text *body, int netns, long long deadline, struct answer *answer)
{
    if (body->failed || body->length > MAX_BODY)
        return false;
    int agent = connected();
    if (agent < 0)
        return false;
    uint32_t length = (uint32_t)body->length;
    unsigned char header[HEADER] = {
        (unsigned char)(length >> 24), (unsigned char)(length >> 16), (unsigned char)(length >> 8),
        (unsigned char)length,
    };
    struct text frame = {0};
    text_add(&frame, header, HEADER);
    text_add(&frame, body->bytes, body->length);
    bool served = !frame.failed && send_frame(agent, &frame, netns, deadline) &&
                  receive_answer(agent, deadline, answer);
    close(agent);
    free(frame.bytes);
    return served;
}
