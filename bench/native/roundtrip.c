/* Round trips and connections between two network namespaces, timed one by one; all on one CPU.
 *
 *     roundtrip CPU one|two|connect udp|tcp CLIENT ADDRESS PORT SERVER LISTEN SIZE
 *
 *     one        both ends in this process: nobody is woken, softirqs run where packets are sent
 *     two        the answering end is a process of its own, on the same CPU: what a wake costs is in it
 *     connect    connect() alone: of UDP it sends nothing, of TCP it is the handshake
 *
 * CLIENT and SERVER are paths of network namespaces, "-" is this one; the client talks to ADDRESS PORT, the server listens
 * on port LISTEN of any IPv4 address. "ready" first; then for each line "MILLISECONDS" on stdin a line
 *
 *     COUNT LOST WRONG MIN P50 P90 P99 P999 MAX         nanoseconds
 *
 * until end of file. Sockets stay open meanwhile. The server answers with the complement of what it got, and the client
 * compares each bit: WRONG are answers to nothing that was asked, LOST are those that did not come within PATIENCE.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 250000 /* microseconds */
#define MOST_WORDS 180  /* 1,440 bytes: one packet */
#define FINE (1 << 16)  /* below, each nanosecond has a bucket; above, each 1,024, up to 67 ms */
#define COARSE 1024

static uint32_t buckets[2 * FINE];
static uint64_t asked[MOST_WORDS], answered[MOST_WORDS], heard[MOST_WORDS];
static uint64_t number;
static size_t size;
static int tcp;

static void die(const char *what) {
    fprintf(stderr, "roundtrip: could not %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + at.tv_nsec;
}

static void enter(const char *netns) {
    int fd = open(netns, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET))
        die("enter a network namespace");
    close(fd);
}

static int open_socket(void) {
    int fd = socket(AF_INET, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0), yes = 1;
    struct timeval patience = {.tv_usec = PATIENCE};
    if (fd < 0)
        die("open a socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (tcp)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

static void reset(int fd) {
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close(fd);
}

static int listen_on(int port) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = open_socket();
    if (bind(fd, (struct sockaddr *)&own, sizeof own) || (tcp && listen(fd, 64)))
        die("listen");
    return fd;
}

/* Whether `into` was filled: one datagram, or so many bytes of a stream. */
static int receive(int fd, uint64_t *into, struct sockaddr_in *from) {
    socklen_t length = sizeof *from;
    if (!tcp)
        return recvfrom(fd, into, size, 0, (struct sockaddr *)from, from ? &length : NULL) == (ssize_t)size;
    for (size_t done = 0; done < size;) {
        ssize_t got = recv(fd, (char *)into + done, size - done, 0);
        if (got <= 0)
            return 0;
        done += got;
    }
    return 1;
}

static int serve(int server) {
    struct sockaddr_in from;
    if (!receive(server, heard, tcp ? NULL : &from))
        return 0;
    for (size_t word = 0; word < size / 8; word++)
        heard[word] = ~heard[word];
    if (tcp)
        return send(server, heard, size, 0) == (ssize_t)size;
    return sendto(server, heard, size, 0, (struct sockaddr *)&from, sizeof from) == (ssize_t)size;
}

enum came { CAME, CAME_WRONG, CAME_NOT };

/* Later answers to earlier questions are passed over. */
static enum came hear(int client) {
    for (;;) {
        if (!receive(client, answered, NULL))
            return CAME_NOT;
        if (~answered[0] < number && !tcp)
            continue;
        for (size_t word = 0; word < size / 8; word++)
            if (answered[word] != ~asked[word])
                return CAME_WRONG;
        return CAME;
    }
}

static enum came round_trip(int client, int server, uint64_t *spent) {
    number++;
    for (size_t word = 0; word < size / 8; word++)
        asked[word] = number + (word << 40);
    uint64_t began = now();
    if (send(client, asked, size, 0) != (ssize_t)size || (server >= 0 && !serve(server)))
        return CAME_NOT;
    enum came came = hear(client);
    *spent = now() - began;
    return came;
}

static enum came connection(int *client, int listener, const struct sockaddr_in *to, uint64_t *spent) {
    static const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    if (tcp)
        *client = open_socket();
    uint64_t began = now();
    int refused = connect(*client, (const struct sockaddr *)to, sizeof *to);
    *spent = now() - began;
    if (!tcp) {
        connect(*client, &nowhere, sizeof nowhere);
    } else {
        int accepted = refused ? -1 : accept(listener, NULL, NULL);
        refused |= accepted < 0;
        reset(*client);
        if (accepted >= 0)
            reset(accepted);
    }
    return refused ? CAME_NOT : CAME;
}

static uint64_t percentile(uint64_t count, uint64_t per_mille) {
    uint64_t wanted = count * per_mille / 1000, seen = 0;
    for (size_t bucket = 0; bucket < 2 * FINE; bucket++) {
        seen += buckets[bucket];
        if (seen > wanted)
            return bucket < FINE ? bucket : (bucket - FINE) * COARSE;
    }
    return 0;
}

static void measure(uint64_t span, int connects, int client, int server, const struct sockaddr_in *to) {
    uint64_t count = 0, lost = 0, wrong = 0, least = UINT64_MAX, most = 0;
    memset(buckets, 0, sizeof buckets);
    for (uint64_t end = now() + span; now() < end;) {
        uint64_t spent = 0;
        switch (connects ? connection(&client, server, to, &spent) : round_trip(client, server, &spent)) {
        case CAME_NOT:
            lost++;
            if (tcp && !connects)
                die("keep the connection");
            break;
        case CAME_WRONG:
            wrong++;
            break;
        case CAME:
            count++;
            least = spent < least ? spent : least;
            most = spent > most ? spent : most;
            size_t bucket = spent < FINE ? spent : FINE + spent / COARSE;
            buckets[bucket < 2 * FINE ? bucket : 2 * FINE - 1]++;
        }
    }
    printf("%llu %llu %llu %llu %llu %llu %llu %llu %llu\n", (unsigned long long)count, (unsigned long long)lost,
           (unsigned long long)wrong, (unsigned long long)(count ? least : 0), (unsigned long long)percentile(count, 500),
           (unsigned long long)percentile(count, 900), (unsigned long long)percentile(count, 990),
           (unsigned long long)percentile(count, 999), (unsigned long long)most);
}

/* A process that answers, and goes with this one. */
static void serve_apart(int server) {
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        die("fork");
    if (child)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (getppid() == parent)
        serve(server);
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc != 10) {
        fprintf(stderr, "usage: roundtrip CPU one|two|connect udp|tcp CLIENT ADDRESS PORT SERVER LISTEN SIZE\n");
        return 2;
    }
    int connects = !strcmp(argv[2], "connect"), own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[6]))};
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(atoi(argv[1]), &only);
    tcp = !strcmp(argv[3], "tcp");
    size = atoi(argv[9]);
    if (sched_setaffinity(0, sizeof only, &only))
        die("pin to a CPU");
    if (size % 8 || !size || size > sizeof asked || inet_pton(AF_INET, argv[5], &to.sin_addr) != 1) {
        fprintf(stderr, "roundtrip: bad address or size\n");
        return 2;
    }

    if (strcmp(argv[7], "-"))
        enter(argv[7]);
    int server = listen_on(atoi(argv[8]));
    if (setns(own, CLONE_NEWNET))
        die("return to its network namespace");
    if (strcmp(argv[4], "-"))
        enter(argv[4]);
    int client = open_socket();
    if (!connects) {
        if (connect(client, (struct sockaddr *)&to, sizeof to))
            die("connect");
        if (tcp && (server = accept(server, NULL, NULL)) < 0)
            die("accept");
        if (tcp) {
            int yes = 1;
            setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        }
        if (!strcmp(argv[2], "two")) {
            serve_apart(server);
            server = -1;
        }
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    char line[64];
    while (fgets(line, sizeof line, stdin))
        measure(strtoull(line, NULL, 10) * 1000000, connects, client, server, &to);
    return 0;
}
