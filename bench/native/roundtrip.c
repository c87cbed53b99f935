/* Round trips and connections between two network namespaces, timed one by one; all on one CPU.
 *
 *     roundtrip CPU[,CPU] one|two|connect udp|tcp CLIENT ADDRESS PORT SERVER LISTEN SIZE [FLOWS]
 *
 *     one        both ends in this process: nobody is woken, softirqs run where packets are sent
 *     two        the answering end is a process of its own, on the same CPU or on the second: what a wake costs is in it
 *     connect    connect() alone: of UDP it sends nothing, of TCP it is the handshake
 *
 * CLIENT and SERVER are paths of network namespaces, "-" is this one; the client talks to ADDRESS PORT, the server listens
 * on port LISTEN of any address of the same family. FLOWS sockets of the client are asked in turn, one unless more are
 * asked for. "ready" first; then for each line "MILLISECONDS [SIZE [FLOWS [spread]]]" on stdin a line
 *
 *     COUNT LOST WRONG MIN P50 P90 P99 P999 MAX         nanoseconds
 *
 * until end of file. A line with "spread" has a second one as its answer, VALUE:COUNT for each bucket that is not empty;
 * buckets are at most 1 % wide, and VALUE is the middle. SIZE and FLOWS of a line hold for that round; in `two` they stay
 * what they were. Sockets stay open meanwhile. The server answers with the complement of what it got, and the client
 * compares each bit: WRONG are answers to nothing that was asked, LOST are those that did not come within PATIENCE.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/time.h>

#include "common.h"

#define PATIENCE 1      /* seconds: a machine that others use may let a process wait for a quarter */
#define MOST_WORDS 180  /* 1,440 bytes: one packet */
#define MOST_FLOWS 256
#define FINE (1 << 17) /* below, each nanosecond has a bucket; above, each 1,024, the last 134 ms or more */
#define COARSE 1024
#define BUCKETS (2 * FINE)
#define SPREAD 7 /* buckets that are told have 2^7 to a power of two: 0.8 % at most */

static uint32_t buckets[BUCKETS];
static size_t lowest = BUCKETS, highest; /* of the buckets in use */
static uint64_t asked[MOST_WORDS], answered[MOST_WORDS], heard[MOST_WORDS];
static uint64_t number;
static size_t size;
static int tcp, family = AF_INET;

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* Who talks: sockets in pairs. Of UDP, one server answers all clients; in `two`, none is in this process. */
struct ends {
    int flows;
    int client[MOST_FLOWS], server[MOST_FLOWS];
    union address to;
};

static int open_socket(void) {
    int fd = socket(family, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0), yes = 1;
    struct timeval patience = {.tv_sec = PATIENCE};
    if (fd < 0)
        die("open a socket");
    /* Not of UDP: two clients would be given the same port, and one of them all answers. */
    if (tcp)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof yes);
    if (tcp)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

static union address address_of(const char *text, int port) {
    union address made = {0};
    if (!text || inet_pton(family, text, family == AF_INET ? (void *)&made.v4.sin_addr : (void *)&made.v6.sin6_addr) == 1)
        made.any.sa_family = family;
    made.v4.sin_port = htons(port); /* where sin6_port is */
    return made;
}

static int listen_on(int port) {
    union address own = address_of(NULL, port);
    int fd = open_socket();
    if (bind(fd, &own.any, sizeof own) || (tcp && listen(fd, 64)))
        die("listen");
    return fd;
}

/* Whether `into` was filled: one datagram, or so many bytes of a stream. */
static int receive(int fd, uint64_t *into, union address *from) {
    socklen_t length = sizeof *from;
    if (!tcp)
        return recvfrom(fd, into, size, 0, &from->any, from ? &length : NULL) == (ssize_t)size;
    for (size_t done = 0; done < size;) {
        ssize_t got = recv(fd, (char *)into + done, size - done, 0);
        if (got <= 0)
            return 0;
        done += got;
    }
    return 1;
}

/* Questions before the `first` are passed over: who answered one that was late would be late for ever. */
static int serve(int server, uint64_t first) {
    union address from;
    do {
        if (!receive(server, heard, tcp ? NULL : &from))
            return 0;
    } while (!tcp && heard[0] < first);
    for (size_t word = 0; word < size / 8; word++)
        heard[word] = ~heard[word];
    if (tcp)
        return send(server, heard, size, 0) == (ssize_t)size;
    return sendto(server, heard, size, 0, &from.any, sizeof from) == (ssize_t)size;
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

static enum came round_trip(const struct ends *ends, uint64_t *spent) {
    int flow = number++ % ends->flows, client = ends->client[flow], server = ends->server[flow];
    for (size_t word = 0; word < size / 8; word++)
        asked[word] = number + (word << 40);
    uint64_t began = now();
    if (send(client, asked, size, 0) != (ssize_t)size || (server >= 0 && !serve(server, number)))
        return CAME_NOT;
    enum came came = hear(client);
    *spent = now() - began;
    return came;
}

static enum came connection(const struct ends *ends, uint64_t *spent) {
    static const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    int client = tcp ? open_socket() : ends->client[0];
    uint64_t began = now();
    int refused = connect(client, &ends->to.any, sizeof ends->to);
    *spent = now() - began;
    if (!tcp) {
        connect(client, &nowhere, sizeof nowhere);
    } else {
        int accepted = refused ? -1 : accept(ends->server[0], NULL, NULL);
        refused |= accepted < 0;
        reset(client);
        if (accepted >= 0)
            reset(accepted);
    }
    return refused ? CAME_NOT : CAME;
}

static size_t bucket_of(uint64_t spent) {
    uint64_t bucket = spent < FINE ? spent : FINE + spent / COARSE;
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

/* The least value of a bucket. */
static uint64_t value_of(size_t bucket) {
    return bucket < FINE ? bucket : (uint64_t)(bucket - FINE) * COARSE;
}

static uint64_t percentile(uint64_t count, uint64_t per_mille) {
    uint64_t wanted = count * per_mille / 1000, seen = 0;
    for (size_t bucket = lowest; bucket <= highest; bucket++) {
        seen += buckets[bucket];
        if (seen > wanted)
            return value_of(bucket);
    }
    return 0;
}

/* As many of the fine buckets in one as are 1 % together. */
static void tell_spread(void) {
    const char *space = "";
    for (size_t bucket = lowest; bucket <= highest;) {
        uint64_t first = value_of(bucket), width = 1, count = 0;
        while (first >> (SPREAD + 1) >= width)
            width <<= 1;
        first &= ~(width - 1);
        for (; bucket <= highest && value_of(bucket) < first + width; bucket++)
            count += buckets[bucket];
        if (count)
            printf("%s%llu:%llu", space, (unsigned long long)(first + width / 2), (unsigned long long)count), space = " ";
    }
    putchar('\n');
}

static void measure(uint64_t span, int connects, int spread, const struct ends *ends) {
    uint64_t count = 0, lost = 0, wrong = 0, least = UINT64_MAX, most = 0;
    /* Only what was used: to clear all would leave nothing else in the caches. */
    for (size_t bucket = lowest; bucket <= highest; bucket++)
        buckets[bucket] = 0;
    lowest = BUCKETS, highest = 0;
    for (uint64_t end = now() + span; now() < end;) {
        uint64_t spent = 0;
        switch (connects ? connection(ends, &spent) : round_trip(ends, &spent)) {
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
            size_t bucket = bucket_of(spent);
            buckets[bucket]++;
            lowest = bucket < lowest ? bucket : lowest;
            highest = bucket > highest ? bucket : highest;
        }
    }
    printf("%llu %llu %llu %llu %llu %llu %llu %llu %llu\n", (unsigned long long)count, (unsigned long long)lost,
           (unsigned long long)wrong, (unsigned long long)(count ? least : 0), (unsigned long long)percentile(count, 500),
           (unsigned long long)percentile(count, 900), (unsigned long long)percentile(count, 990),
           (unsigned long long)percentile(count, 999), (unsigned long long)most);
    if (spread)
        tell_spread();
}

/* A process that answers, and goes with this one. The flows come in turn, as they are asked. */
static void serve_apart(struct ends *ends, int cpu) {
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        die("fork");
    if (child) {
        for (int flow = 0; flow < ends->flows; flow++)
            ends->server[flow] = -1;
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin(cpu);
    for (uint64_t turn = 0; getppid() == parent;)
        turn += serve(ends->server[turn % ends->flows], 0);
    _exit(0);
}

static int possible(size_t wanted, int flows, int most) {
    return wanted && wanted % 8 == 0 && wanted <= sizeof asked && flows >= 1 && flows <= most;
}

static void open_flow(struct ends *ends, int flow, int listener) {
    int client = ends->client[flow] = open_socket(), yes = 1;
    ends->server[flow] = listener;
    if (connect(client, &ends->to.any, sizeof ends->to))
        die("connect");
    if (!tcp)
        return;
    if ((ends->server[flow] = accept(listener, NULL, NULL)) < 0)
        die("accept");
    setsockopt(ends->server[flow], IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

int main(int argc, char **argv) {
    static struct ends ends = {.flows = 1};
    if (argc != 10 && argc != 11) {
        fprintf(stderr, "usage: roundtrip CPU[,CPU] one|two|connect udp|tcp CLIENT ADDRESS PORT SERVER LISTEN SIZE [FLOWS]\n");
        return 2;
    }
    const char *other = strchr(argv[1], ',');
    int connects = !strcmp(argv[2], "connect"), own = own_netns();
    int cpu = atoi(argv[1]), answering = other ? atoi(other + 1) : cpu;
    pin(cpu);
    tcp = !strcmp(argv[3], "tcp");
    family = strchr(argv[5], ':') ? AF_INET6 : AF_INET;
    size = atoi(argv[9]);
    ends.to = address_of(argv[5], atoi(argv[6]));
    ends.flows = argc > 10 ? atoi(argv[10]) : 1;
    int most = connects ? 1 : MOST_FLOWS, apart = !strcmp(argv[2], "two");
    if (!ends.to.any.sa_family || !possible(size, ends.flows, most)) {
        fprintf(stderr, "roundtrip: bad address, size or number of flows\n");
        return 2;
    }

    enter(argv[7], own);
    int listener = listen_on(atoi(argv[8]));
    enter(argv[4], own);
    if (connects) {
        ends.client[0] = open_socket();
        ends.server[0] = listener;
    } else {
        for (int flow = 0; flow < ends.flows; flow++)
            open_flow(&ends, flow, listener);
        if (apart)
            serve_apart(&ends, answering);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    char line[64], word[8];
    const size_t opened_size = size;
    const int opened = ends.flows;
    while (fgets(line, sizeof line, stdin)) {
        unsigned long long milliseconds = 0;
        size = opened_size;
        ends.flows = opened;
        int words = sscanf(line, "%llu %zu %d %7s", &milliseconds, &size, &ends.flows, word);
        int changed = size != opened_size || ends.flows != opened;
        if (words < 1 || !possible(size, ends.flows, opened) || (apart && changed)) {
            fprintf(stderr, "roundtrip: could not do as asked: %s", line);
            return 2;
        }
        measure(milliseconds * MILLISECOND, connects, words == 4, &ends);
    }
    return 0;
}
