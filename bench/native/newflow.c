/* First packets: flows that nobody saw before, from one network namespace to another, timed one by one; all on one CPU.
 *
 *     newflow CPU CLIENT SOURCES ADDRESS SERVER PROTOCOL:PORT:LISTEN...
 *
 *     udp        one datagram there, and its answer: from send() until the answer is read
 *     tcp        connect(): the handshake; what is then said over the connection, and its end, are not timed
 *
 * CLIENT and SERVER are paths of network namespaces, between which the one that this starts in may forward. The client
 * talks to ADDRESS PORT, the server listens on port LISTEN of any IPv4 address; several of these are targets 0, 1, 2 ...
 * Both ends are in this process: nobody is woken, softirqs run where packets are sent. "ready" first; then for each line
 * "TARGET MILLISECONDS LEAST" on stdin so many flows as take so long, but at least LEAST, and a line
 *
 *     COUNT LOST WRONG MADE TRACKED P50 P90 P99 VALUE:COUNT...         nanoseconds
 *
 * until end of file. Each flow has a source of its own: ports 1024 to 65535 of the 65,536 addresses from SOURCES on, each
 * once, which CLIENT must take for its own. Before a round conntrack forgets all flows of the namespace that this started
 * in. MADE counts all flows of the round, also a few at its beginning that are not timed, and TRACKED is how many entries
 * conntrack has afterwards: as many, where each was new to it. The server answers with the complement of what it got:
 * WRONG are other answers, LOST are flows without any. VALUE is the least of a bucket.
 *
 * Be aware: where the namespace has no conntrack, TRACKED is 0.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <sys/time.h>

#include "buckets.h"
#include "common.h"

#define PATIENCE 250000 /* microseconds */
#define WORDS 8
#define SIZE (WORDS * sizeof(uint64_t))
#define FIRST_PORT 1024
#define PORTS (65536 - FIRST_PORT)
#define MOST_TARGETS 16
#define MOST_FLOWS 100000 /* of a round: conntrack must hold them */
#define FEW 4             /* flows at the beginning of a round that are not timed */
#define COUNT "/proc/sys/net/netfilter/nf_conntrack_count"

struct target {
    int tcp, server;
    struct sockaddr_in to;
};

enum came { CAME, CAME_WRONG, CAME_NOT };

static struct target targets[MOST_TARGETS];
static uint32_t sources, spent_by[MOST_FLOWS];
static uint64_t number, asked[WORDS], answered[WORDS], heard[WORDS];
static int conntrack, counted;

static int open_socket(int tcp) {
    int fd = socket(AF_INET, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0), yes = 1;
    struct timeval patience = {.tv_usec = PATIENCE};
    if (fd < 0)
        die("open a socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience); /* of connect() */
    return fd;
}

/* A socket with a source that no flow had before. */
static int next_client(int tcp) {
    struct sockaddr_in own = {.sin_family = AF_INET,
                              .sin_port = htons(FIRST_PORT + number % PORTS),
                              .sin_addr.s_addr = htonl(sources + number / PORTS % 65536)};
    int fd = open_socket(tcp);
    number++;
    if (bind(fd, (struct sockaddr *)&own, sizeof own))
        die("bind to a source");
    for (size_t word = 0; word < WORDS; word++)
        asked[word] = number + ((uint64_t)word << 40);
    return fd;
}

/* A whole question or answer: one datagram, or so many bytes of a stream. */
static int receive(int fd, uint64_t *into, struct sockaddr_in *from) {
    socklen_t length = sizeof *from;
    ssize_t got = recvfrom(fd, into, SIZE, MSG_WAITALL, (struct sockaddr *)from, from ? &length : NULL);
    return got == (ssize_t)SIZE;
}

static void complement(void) {
    for (size_t word = 0; word < WORDS; word++)
        heard[word] = ~heard[word];
}

static enum came compared(void) {
    for (size_t word = 0; word < WORDS; word++)
        if (answered[word] != ~asked[word])
            return CAME_WRONG;
    return CAME;
}

static enum came datagram(const struct target *target, uint64_t *spent) {
    struct sockaddr_in from;
    int client = next_client(0), came;
    if (connect(client, (const struct sockaddr *)&target->to, sizeof target->to))
        die("choose a route");
    uint64_t began = now();
    came = send(client, asked, SIZE, 0) == (ssize_t)SIZE && receive(target->server, heard, &from);
    if (came) {
        complement();
        came = sendto(target->server, heard, SIZE, 0, (struct sockaddr *)&from, sizeof from) == (ssize_t)SIZE &&
               receive(client, answered, NULL);
    }
    *spent = now() - began;
    close(client);
    return came ? compared() : CAME_NOT;
}

static enum came connection(const struct target *target, uint64_t *spent) {
    int client = next_client(1), server = -1, came;
    uint64_t began = now();
    came = !connect(client, (const struct sockaddr *)&target->to, sizeof target->to);
    *spent = now() - began;
    if (came)
        came = (server = accept4(target->server, NULL, NULL, SOCK_CLOEXEC)) >= 0;
    if (came)
        came = send(client, asked, SIZE, 0) == (ssize_t)SIZE && receive(server, heard, NULL);
    if (came) {
        complement();
        came = send(server, heard, SIZE, 0) == (ssize_t)SIZE && receive(client, answered, NULL);
    }
    reset(client);
    if (server >= 0)
        reset(server);
    return came ? compared() : CAME_NOT;
}

static void forget(void) {
    struct {
        struct nlmsghdr header;
        struct nfgenmsg family;
    } all = {.header = {.nlmsg_len = sizeof all,
                        .nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE,
                        .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK}};
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
    } answer = {0};
    if (send(conntrack, &all, sizeof all, 0) < 0 || recv(conntrack, &answer, sizeof answer, 0) < (ssize_t)sizeof answer)
        die("flush conntrack");
    errno = -answer.error.error;
    if (errno)
        die("flush conntrack");
}

static unsigned long long tracked(void) {
    char text[32] = "";
    if (pread(counted, text, sizeof text - 1, 0) < 0)
        die("count the flows of conntrack");
    return strtoull(text, NULL, 10);
}

static void tell(uint32_t count, uint64_t lost, uint64_t wrong, uint64_t made) {
    static const uint32_t shares[] = {500, 900, 990};
    qsort(spent_by, count, sizeof *spent_by, ascending);
    printf("%u %llu %llu %llu %llu", count, (unsigned long long)lost, (unsigned long long)wrong,
           (unsigned long long)made, tracked());
    for (size_t one = 0; one < sizeof shares / sizeof *shares; one++)
        printf(" %u", count ? spent_by[(uint64_t)(count - 1) * shares[one] / 1000] : 0);
    forget_buckets();
    for (uint32_t one = 0; one < count; one++)
        count_in_bucket(spent_by[one]);
    tell_buckets();
}

static void measure(const struct target *target, uint64_t span, uint64_t least) {
    uint64_t lost = 0, wrong = 0, made = 0, end = now() + span;
    uint32_t count = 0;
    forget();
    while ((now() < end || made < least + FEW) && made < MOST_FLOWS) {
        uint64_t spent;
        enum came came = target->tcp ? connection(target, &spent) : datagram(target, &spent);
        lost += came == CAME_NOT;
        wrong += came == CAME_WRONG;
        if (++made > FEW && came == CAME)
            spent_by[count++] = at_most(UINT32_MAX, spent);
    }
    tell(count, lost, wrong, made);
}

static void listen_on(struct target *target, int port) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port)};
    target->server = open_socket(target->tcp);
    if (bind(target->server, (struct sockaddr *)&own, sizeof own) || (target->tcp && listen(target->server, 64)))
        die("listen");
}

int main(int argc, char **argv) {
    struct in_addr to, from;
    if (argc < 7 || argc > 6 + MOST_TARGETS || inet_pton(AF_INET, argv[3], &from) != 1 ||
        inet_pton(AF_INET, argv[4], &to) != 1) {
        fprintf(stderr, "usage: newflow CPU CLIENT SOURCES ADDRESS SERVER udp|tcp:PORT:LISTEN...\n");
        return 2;
    }
    sources = ntohl(from.s_addr);
    pin(atoi(argv[1]));
    /* Both are those of the namespace in which they were opened. */
    conntrack = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    counted = open(COUNT, O_RDONLY | O_CLOEXEC);
    if (conntrack < 0 || counted < 0)
        die("open conntrack");

    int own = own_netns();
    enter(argv[5], own);
    for (int one = 6; one < argc; one++) {
        struct target *target = &targets[one - 6];
        char protocol[4];
        int port, listen;
        if (sscanf(argv[one], "%3[a-z]:%d:%d", protocol, &port, &listen) != 3) {
            fprintf(stderr, "newflow: not a target: %s\n", argv[one]);
            return 2;
        }
        target->tcp = !strcmp(protocol, "tcp");
        target->to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = to};
        listen_on(target, listen);
    }
    enter(argv[2], own);
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    puts("ready");
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        int chosen, span, least;
        if (sscanf(line, "%d %d %d", &chosen, &span, &least) != 3 || chosen < 0 || chosen >= argc - 6) {
            fprintf(stderr, "newflow: not a round: %s", line);
            return 2;
        }
        measure(&targets[chosen], span * MILLISECOND, least);
        fflush(stdout);
    }
    return 0;
}
