/* UDP packets at a steady rate that nothing slows down, from one network namespace to another: what each costs the
 * processor, and how long after it was due it arrives. Both ends in one thread on one CPU.
 *
 *     steady CPU CLIENT ADDRESS PORT SERVER LISTEN SIZE RATE BURST
 *
 * CLIENT and SERVER are paths of network namespaces, "-" is this one; the client sends to ADDRESS PORT, the server listens
 * on port LISTEN of any IPv4 address. SIZE is in bytes of payload, RATE in packets a second, sent BURST at a time. "ready
 * ADDRESS:PORT" first, with the address that a first packet was sent to as the server sees it; then for each line
 * "MILLISECONDS" on stdin a line
 *
 *     SENT RECEIVED WRONG BUSY COUNTED LATE VALUE:COUNT ...
 *
 * until end of file.
 *
 *     BUSY        nanoseconds that sending and receiving COUNTED packets took: softirqs run in between, where the packets
 *                 are sent. A burst during which the thread lost the processor to another is not counted
 *     LATE        packets that were sent a whole burst's time after they were due, or later
 *     VALUE:COUNT histogram of nanoseconds from when a packet was due, sent or not, until it was read; buckets are less
 *                 than 1 % wide
 *
 * Between bursts it looks at the clock, so that the processor does not sleep.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <sys/resource.h>
#include <sys/time.h>

#include "buckets.h"
#include "common.h"

#define MOST_BURST 64
#define MOST_WORDS 180     /* 1,440 bytes: one packet */
#define PATIENCE 200000000 /* nanoseconds for the last of them to arrive */

static struct mmsghdr sending[MOST_BURST], receiving[MOST_BURST];
static struct iovec sent_parts[MOST_BURST], received_parts[MOST_BURST];
static uint64_t asked[MOST_BURST][MOST_WORDS], heard[MOST_BURST][MOST_WORDS];
static size_t size;
static uint64_t number; /* of the next packet, in all rounds */

struct round {
    uint64_t first, began, pace; /* nanoseconds between two bursts */
    unsigned burst;
    uint64_t sent, received, wrong, busy, counted, late;
};

/* How often this thread lost the processor. */
static long losses(void) {
    struct rusage used;
    if (getrusage(RUSAGE_THREAD, &used))
        die("ask for its own switches");
    return used.ru_nivcsw;
}

static int open_socket(void) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), room = 16 << 20;
    if (fd < 0)
        die("open a socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    return fd;
}

static void prepare(void) {
    for (unsigned one = 0; one < MOST_BURST; one++) {
        sent_parts[one] = (struct iovec){asked[one], size};
        received_parts[one] = (struct iovec){heard[one], sizeof heard[one]};
        sending[one].msg_hdr = (struct msghdr){.msg_iov = &sent_parts[one], .msg_iovlen = 1};
        receiving[one].msg_hdr = (struct msghdr){.msg_iov = &received_parts[one], .msg_iovlen = 1};
    }
}

static uint64_t word(uint64_t of, size_t at) {
    return of + at * 0x9e3779b97f4a7c15;
}

static void compare(struct round *round, int got) {
    for (int one = 0; one < got; one++) {
        uint64_t its = heard[one][0];
        int wrong = receiving[one].msg_len != size || its < round->first || its >= number;
        for (size_t at = 1; at < size / 8 && !wrong; at++)
            wrong = heard[one][at] != word(its, at);
        round->wrong += wrong;
    }
}

/* Reads what is there; its time is that of a burst's last packet, which all of them wait for. */
static int read_some(struct round *round, int server) {
    int got = recvmmsg(server, receiving, MOST_BURST, MSG_DONTWAIT, NULL);
    if (got < 0 && errno != EAGAIN)
        die("receive");
    if (got <= 0)
        return 0;
    uint64_t at = now();
    for (int one = 0; one < got; one++) {
        uint64_t due = round->began + (heard[one][0] - round->first) / round->burst * round->pace;
        count_in_bucket(at > due ? at - due : 0);
    }
    round->received += got;
    return got;
}

static void one_burst(struct round *round, int client, int server, uint64_t due) {
    for (unsigned one = 0; one < round->burst; one++)
        for (size_t at = 0; at < size / 8; at++)
            asked[one][at] = word(number + one, at);
    number += round->burst;
    while (now() < due)
        ;
    long lost = losses();
    uint64_t began = now();
    if (sendmmsg(client, sending, round->burst, 0) != (int)round->burst)
        die("send");
    int got = read_some(round, server);
    uint64_t ended = now();
    round->sent += round->burst;
    round->late += began > due + round->pace ? round->burst : 0;
    if (losses() == lost && got == (int)round->burst) {
        round->busy += ended - began;
        round->counted += got;
    }
    compare(round, got);
}

static void measure(uint64_t span, struct round round, int client, int server) {
    forget_buckets();
    round.first = number;
    round.began = now() + round.pace;
    uint64_t due = round.began;
    for (; due < round.began + span; due += round.pace)
        one_burst(&round, client, server, due);
    while (round.received < round.sent && now() < due + PATIENCE)
        compare(&round, read_some(&round, server));
    printf("%llu %llu %llu %llu %llu %llu", (unsigned long long)round.sent, (unsigned long long)round.received,
           (unsigned long long)round.wrong, (unsigned long long)round.busy, (unsigned long long)round.counted,
           (unsigned long long)round.late);
    tell_buckets();
}

static int bound(int port) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = open_socket(), yes = 1;
    if (setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &yes, sizeof yes) || bind(fd, (struct sockaddr *)&own, sizeof own))
        die("listen");
    return fd;
}

/* A packet there, of which it is told where it was sent to, and one back, so that conntrack sees both directions. */
static void greet(int client, int server, int port) {
    char control[CMSG_SPACE(sizeof(struct in_pktinfo))], text[INET_ADDRSTRLEN] = "?";
    struct sockaddr_in from;
    struct timeval patience = {.tv_usec = PATIENCE / 1000}, none = {0};
    struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = received_parts, .msg_iovlen = 1,
                             .msg_control = control, .msg_controllen = sizeof control};
    setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (send(client, asked[0], size, 0) != (ssize_t)size || recvmsg(server, &message, 0) != (ssize_t)size)
        die("send a first packet");
    if (sendto(server, heard[0], size, 0, (struct sockaddr *)&from, sizeof from) != (ssize_t)size ||
        recv(client, heard[0], sizeof heard[0], 0) != (ssize_t)size)
        die("answer a first packet");
    for (struct cmsghdr *one = CMSG_FIRSTHDR(&message); one; one = CMSG_NXTHDR(&message, one))
        if (one->cmsg_level == IPPROTO_IP && one->cmsg_type == IP_PKTINFO)
            inet_ntop(AF_INET, &((struct in_pktinfo *)CMSG_DATA(one))->ipi_addr, text, sizeof text);
    int no = 0;
    setsockopt(server, IPPROTO_IP, IP_PKTINFO, &no, sizeof no);
    setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
    printf("ready %s:%d\n", text, port);
}

int main(int argc, char **argv) {
    if (argc != 10) {
        fprintf(stderr, "usage: steady CPU CLIENT ADDRESS PORT SERVER LISTEN SIZE RATE BURST\n");
        return 2;
    }
    int own = own_netns();
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[4]))};
    struct round round = {.burst = atoi(argv[9])};
    size = atoi(argv[7]);
    pin(atoi(argv[1]));
    if (size % 8 || !size || size > sizeof asked[0] || !round.burst || round.burst > MOST_BURST || atoi(argv[8]) < 1 ||
        inet_pton(AF_INET, argv[3], &to.sin_addr) != 1) {
        fprintf(stderr, "steady: bad address, size, rate or burst\n");
        return 2;
    }
    round.pace = SECOND * round.burst / atoi(argv[8]);
    prepare();

    enter(argv[5], own);
    int server = bound(atoi(argv[6]));
    enter(argv[2], own);
    int client = open_socket();
    if (connect(client, (struct sockaddr *)&to, sizeof to))
        die("connect");
    setvbuf(stdout, NULL, _IOLBF, 1 << 16);
    greet(client, server, atoi(argv[6]));
    char line[64];
    while (fgets(line, sizeof line, stdin))
        measure(strtoull(line, NULL, 10) * MILLISECOND, round, client, server);
    return 0;
}
