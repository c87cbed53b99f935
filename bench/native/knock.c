/* New TCP connections, one after the other at a steady pace, and whoever accepts them.
 *
 *     knock connect ADDRESS PORT MICROSECONDS SECONDS     a line each: "BEGAN ENDED ERRNO", CLOCK_MONOTONIC nanoseconds
 *     knock accept PORT                                   "ready" first; until killed
 *
 * A try that is not answered within a second is ETIMEDOUT, and the next begins at its next beat. Who connected closes by
 * reset, so that no port is left in TIME_WAIT; who accepted closes much later, or its reset could look like a refusal.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>

#include "common.h"

#define PATIENCE 1000 /* milliseconds */
#define KEPT 512      /* accepted connections that are open at a time; a process may have 1024 descriptors */

static int try(const struct sockaddr_in *to) {
    int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (tcp < 0)
        die("open a socket");
    int error = connect(tcp, (const struct sockaddr *)to, sizeof *to) ? errno : 0;
    if (error == EINPROGRESS) {
        struct pollfd one = {.fd = tcp, .events = POLLOUT};
        socklen_t length = sizeof error;
        if (poll(&one, 1, PATIENCE) <= 0)
            error = ETIMEDOUT;
        else
            getsockopt(tcp, SOL_SOCKET, SO_ERROR, &error, &length);
    }
    reset(tcp);
    return error;
}

static void connect_all(const struct sockaddr_in *to, uint64_t pace, uint64_t span) {
    uint64_t first = now(), due = first;
    while (due < first + span) {
        sleep_until(due);
        uint64_t began = now();
        int error = try(to);
        printf("%llu %llu %d\n", (unsigned long long)began, (unsigned long long)now(), error);
        for (due += pace; due < now(); due += pace)
            ;
    }
}

static void accept_all(const struct sockaddr_in *own) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (listener < 0 || bind(listener, (const struct sockaddr *)own, sizeof *own) || listen(listener, 1024))
        die("listen");
    puts("ready");
    int kept[KEPT] = {0};
    for (unsigned turn = 0;; turn = (turn + 1) % KEPT) {
        if (kept[turn])
            reset(kept[turn]);
        int peer = accept(listener, NULL, NULL);
        kept[turn] = peer > 0 ? peer : 0;
    }
}

int main(int argc, char **argv) {
    int connects = argc == 6 && !strcmp(argv[1], "connect"), accepts = argc == 3 && !strcmp(argv[1], "accept");
    if (!connects && !accepts) {
        fprintf(stderr, "usage: knock connect ADDRESS PORT MICROSECONDS SECONDS | knock accept PORT\n");
        return 2;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[connects ? 3 : 2]))};
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (accepts)
        accept_all(&address);
    if (inet_pton(AF_INET, argv[2], &address.sin_addr) != 1)
        die("read the address");
    connect_all(&address, strtoull(argv[4], NULL, 10) * 1000, strtoull(argv[5], NULL, 10) * SECOND);
    return 0;
}
