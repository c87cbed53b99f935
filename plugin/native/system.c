// What several steps ask of the kernel: the time, a descriptor that is ready, and where our files are.
#include "shim.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71 // Linux 5.14
#endif

long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

bool ready(int descriptor, short events, long long deadline)
{
    long long silence = now() + SILENCE_LIMIT;
    if (deadline > silence)
        deadline = silence;
    for (long long left; (left = deadline - now()) > 0;) {
        struct pollfd wanted = {descriptor, events, 0};
        int found = poll(&wanted, 1, (int)left);
        if (found > 0)
            return true;
        if (found < 0 && errno != EINTR)
            return false;
    }
    errno = ETIMEDOUT;
    return false;
}

bool write_all(int descriptor, const char *bytes, size_t length)
{
    while (length) {
        ssize_t written = write(descriptor, bytes, length);
        if (written < 0 && errno == EAGAIN) {
            struct pollfd wanted = {descriptor, POLLOUT, 0};
            if (poll(&wanted, 1, SILENCE_LIMIT) == 0)
                return false;
        } else if (written < 0 && errno != EINTR) {
            return false;
        } else if (written > 0) {
            bytes += written;
            length -= (size_t)written;
        }
    }
    return true;
}

static ino_t namespace_of(const char *path)
{
    struct stat found;
    return stat(path, &found) == 0 ? found.st_ino : 0;
}

bool scoped(char *path, size_t size, const char *directory, const char *rest)
{
    ino_t own = namespace_of("/proc/self/ns/net"), host = namespace_of("/proc/1/ns/net");
    if (!host) // where nobody may look at process 1: kthreadd is in the namespace that the kernel booted with
        host = namespace_of("/proc/2/ns/net");
    int length;
    if (!host || host == own) {
        length = snprintf(path, size, "%s%s", directory, rest);
    } else {
        uint64_t cookie = 0;
        socklen_t cookie_size = sizeof cookie;
        int any = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        int told = any < 0 ? -1 : getsockopt(any, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &cookie_size);
        if (any >= 0)
            close(any);
        if (told != 0)
            return false;
        length = snprintf(path, size, "%s-netns-%llu%s", directory, (unsigned long long)cookie, rest);
    }
    errno = ENAMETOOLONG;
    return length > 0 && (size_t)length < size;
}
