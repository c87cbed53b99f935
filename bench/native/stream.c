/* Bulk TCP between two network namespaces: how much of it goes through, and how much processor time each byte takes.
 *
 *     stream CPU CPU CLIENT ADDRESS PORT SERVER LISTEN
 *
 * The first CPU is the client's, the second the server's. Where both are the same one, one thread has both ends, and
 * writes and reads by turns: nobody is woken, softirqs run where segments are sent, and no time passes that is not work.
 * Otherwise each end is a thread of its own.
 *
 * CLIENT and SERVER are paths of network namespaces, "-" is this one; the client connects to ADDRESS PORT, the server
 * listens on port LISTEN of any IPv4 address. "ready ADDRESS:PORT" first, with the server's own address as its socket has
 * it; then for each line "up|down WARM MILLISECONDS all|some" on stdin a line
 *
 *     SENT RECEIVED WRONG NANOSECONDS BUSY SLEPT RETRANSMITTED DSACK REORDERED
 *
 * until end of file. "up" is to the server. Each line has a connection of its own, which has WARM milliseconds to open its
 * windows: what a connection makes of one disturbance can stay with it for good. Nothing of it is remembered for the next
 * (tcp_no_metrics_save). And it is Reno: nothing is congested here, and Cubic (HyStart) takes a burst that waits for its
 * own softirqs for congestion, so that its window stays at whatever it was by then.
 *
 *     WRONG        what is not as it was sent, of what was looked at: each byte, or eight of each 251
 *     NANOSECONDS  from the first write to the last read
 *     BUSY         processor time. One thread: the time that passed, but for what it waited for its processor, and
 *                  slept; two threads by their clocks, which on some kernels leave softirqs out
 *     SLEPT        how long the one thread slept of its own accord, for there was nothing to send or read: a softirq was
 *                  left to ksoftirqd, whose work then is in no count. Where it is much, BUSY is too little
 *     the rest     what both ends' TCP_INFO came to meanwhile: segments sent again, those that were so in vain, and
 *                  those that came out of order
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/tcp.h>
#include <pthread.h>
#include <sys/time.h>

#include "common.h"

#define CHUNK (128 << 10)
#define PERIOD 131071 /* a prime: no segment, page or chunk lost, doubled or misplaced leaves the pattern as it was */
#define STEP 251      /* a prime, too: what goes wrong at round distances is looked at as well */
#define PATIENCE (2 * SECOND) /* for what was sent to arrive */
#define MOMENT 20000 /* nanoseconds */
#define LOOK 10000   /* microseconds after which an end looks whether that was all */

static unsigned char pattern[PERIOD + CHUNK], heard[CHUNK];
static int apart; /* the ends are threads of their own */

struct transfer {
    int from, to, all, sender_cpu, reader_cpu;
    uint64_t began, end; /* nothing is sent after the end */
    uint64_t position;   /* in the stream, when the round began */
    _Atomic uint64_t sent;
    _Atomic int over; /* no more is sent */
    uint64_t received, wrong;
    uint64_t last; /* when something was read last */
    uint64_t busy, reader_busy, slept;
};

/* Nanoseconds that this thread was ready to run and did not. */
static uint64_t waited(void) {
    static int file = -1;
    char text[96] = "";
    unsigned long long ran, delayed;
    if (file < 0)
        file = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    if (file < 0 || pread(file, text, sizeof text - 1, 0) <= 0 || sscanf(text, "%llu %llu", &ran, &delayed) != 2)
        die("read /proc/thread-self/schedstat, which takes CONFIG_SCHED_INFO");
    return delayed;
}

/* In this network namespace. */
static void remember_nothing(void) {
    int fd = open("/proc/sys/net/ipv4/tcp_no_metrics_save", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "1", 1) != 1)
        die("set tcp_no_metrics_save");
    close(fd);
}

static int open_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    if (fd < 0)
        die("open a socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4))
        die("use Reno");
    return fd;
}

/* Nothing blocks for long, so that whoever is to end does. */
static void be_awake(int fd) {
    struct timeval look = {.tv_usec = LOOK};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &look, sizeof look);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &look, sizeof look);
}

static void fill_pattern(void) {
    uint64_t state = 0x9e3779b97f4a7c15;
    for (size_t at = 0; at < sizeof pattern; at++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        pattern[at] = at < PERIOD ? state >> 56 : pattern[at - PERIOD];
    }
}

static uint64_t differing(uint64_t position, size_t count, int all) {
    const unsigned char *wanted = pattern + position % PERIOD;
    uint64_t wrong = 0;
    if (all && memcmp(heard, wanted, count))
        for (size_t at = 0; at < count; at++)
            wrong += heard[at] != wanted[at];
    if (!all)
        for (size_t at = (STEP - position % STEP) % STEP; at + 8 <= count; at += STEP)
            wrong += !!memcmp(heard + at, wanted + at, 8);
    return wrong;
}

/* Whether something was written. */
static int send_some(struct transfer *one, int flags) {
    ssize_t put = send(one->from, pattern + (one->position + one->sent) % PERIOD, CHUNK, flags);
    if (put < 0 && errno != EAGAIN)
        die("send");
    one->sent += put > 0 ? put : 0;
    return put > 0;
}

/* Whether something was read. */
static int receive_some(struct transfer *one, int flags) {
    ssize_t got = recv(one->to, heard, sizeof heard, flags);
    if (!got || (got < 0 && errno != EAGAIN))
        die("receive");
    if (got < 0)
        return 0;
    one->last = now();
    one->wrong += differing(one->position + one->received, got, one->all);
    one->received += got;
    return 1;
}

static void begin(struct transfer *one, uint64_t span) {
    one->began = one->last = now();
    one->end = one->began + span;
}

/* The time, and how long this thread had waited by then: nothing came between the two. */
static uint64_t now_and_waited(uint64_t *so_far) {
    for (;;) {
        uint64_t before = waited(), at = now();
        *so_far = waited();
        if (*so_far == before)
            return at;
    }
}

/* Nanoseconds that this thread slept, and was not kept from its processor. */
static uint64_t sleep_a_moment(void) {
    static const struct timespec moment = {.tv_nsec = MOMENT};
    uint64_t before, after, began = now_and_waited(&before);
    nanosleep(&moment, NULL);
    return now_and_waited(&after) - began - (after - before);
}

/* Where nothing can be sent or read, a softirq was left to ksoftirqd, which is let run. */
static void by_turns(struct transfer *one, uint64_t span) {
    uint64_t before, after, began = now_and_waited(&before);
    begin(one, span);
    do {
        int went = (now() < one->end || !one->sent) && send_some(one, MSG_DONTWAIT);
        while (receive_some(one, MSG_DONTWAIT))
            went = 1;
        if (!went)
            one->slept += sleep_a_moment();
    } while (now() < one->end || (one->received < one->sent && now() < one->end + PATIENCE));
    uint64_t ended = now_and_waited(&after);
    one->busy = ended - began - (after - before) - one->slept;
}

static void *reader(void *argument) {
    struct transfer *one = argument;
    uint64_t began = clock_of(CLOCK_THREAD_CPUTIME_ID);
    while (!one->over || (one->received < one->sent && now() < one->end + PATIENCE))
        receive_some(one, 0);
    one->reader_busy = clock_of(CLOCK_THREAD_CPUTIME_ID) - began;
    return NULL;
}

static void at_once(struct transfer *one, uint64_t span) {
    pthread_t thread;
    pin(one->reader_cpu); /* it begins where it is made, and stays there */
    if (pthread_create(&thread, NULL, reader, one))
        die("start a thread");
    pin(one->sender_cpu);
    begin(one, span);
    uint64_t began = clock_of(CLOCK_THREAD_CPUTIME_ID);
    do
        send_some(one, 0);
    while (now() < one->end);
    one->busy = clock_of(CLOCK_THREAD_CPUTIME_ID) - began;
    one->over = 1;
    pthread_join(thread, NULL);
    one->busy += one->reader_busy;
}

static struct tcp_info info(int fd) {
    struct tcp_info found = {0};
    socklen_t length = sizeof found;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &found, &length))
        die("read TCP_INFO");
    return found;
}

/* Ends where what was sent did not arrive. */
static void transfer(struct transfer *one, uint64_t span) {
    if (apart)
        at_once(one, span);
    else
        by_turns(one, span);
    if (one->received != one->sent) {
        fprintf(stderr, "stream: what was sent did not arrive\n");
        exit(1);
    }
}

static void measure(struct transfer *one, uint64_t span) {
    struct tcp_info from = info(one->from), to = info(one->to);
    transfer(one, span);
    struct tcp_info from_then = info(one->from), to_then = info(one->to);
#define BOTH(field) (from_then.field - from.field + to_then.field - to.field)
    printf("%llu %llu %llu %llu %llu %llu %u %u %u\n", (unsigned long long)one->sent, (unsigned long long)one->received,
           (unsigned long long)one->wrong, (unsigned long long)(one->last - one->began), (unsigned long long)one->busy,
           (unsigned long long)one->slept, BOTH(tcpi_total_retrans), BOTH(tcpi_dsack_dups), BOTH(tcpi_reord_seen));
#undef BOTH
}

static int listen_on(int port) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = open_socket();
    if (bind(fd, (struct sockaddr *)&own, sizeof own) || listen(fd, 1))
        die("listen");
    return fd;
}

static void open_connection(int listener, const struct sockaddr_in *to, int *client, int *server) {
    *client = open_socket();
    if (connect(*client, (const struct sockaddr *)to, sizeof *to))
        die("connect");
    *server = accept(listener, NULL, NULL);
    if (*server < 0)
        die("accept");
    be_awake(*client);
    be_awake(*server);
}

static void say_ready(int server) {
    struct sockaddr_in own;
    socklen_t length = sizeof own;
    char text[INET_ADDRSTRLEN];
    if (getsockname(server, (struct sockaddr *)&own, &length))
        die("ask a socket for its address");
    printf("ready %s:%d\n", inet_ntop(AF_INET, &own.sin_addr, text, sizeof text), ntohs(own.sin_port));
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: stream CPU CPU CLIENT ADDRESS PORT SERVER LISTEN\n");
        return 2;
    }
    int client_cpu = atoi(argv[1]), server_cpu = atoi(argv[2]), own = own_netns();
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[5]))};
    if (inet_pton(AF_INET, argv[4], &to.sin_addr) != 1) {
        fprintf(stderr, "stream: bad address\n");
        return 2;
    }
    apart = client_cpu != server_cpu;
    pin(client_cpu);
    fill_pattern();

    enter(argv[6], own);
    remember_nothing();
    int listener = listen_on(atoi(argv[7]));
    enter(argv[3], own);
    remember_nothing();
    int client, server;
    open_connection(listener, &to, &client, &server);
    setvbuf(stdout, NULL, _IOLBF, 0);
    say_ready(server);

    char line[64], way[8], how[8];
    unsigned long long warm, span;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%7s %llu %llu %7s", way, &warm, &span, how) != 4) {
            fprintf(stderr, "stream: bad line %s", line);
            return 2;
        }
        reset(client);
        reset(server);
        open_connection(listener, &to, &client, &server);
        int up = !strcmp(way, "up");
        struct transfer one = {.from = up ? client : server, .to = up ? server : client, .all = !strcmp(how, "all"),
                               .sender_cpu = up ? client_cpu : server_cpu, .reader_cpu = up ? server_cpu : client_cpu};
        transfer(&one, warm * MILLISECOND);
        one = (struct transfer){.from = one.from, .to = one.to, .all = one.all, .sender_cpu = one.sender_cpu,
                                .reader_cpu = one.reader_cpu, .position = one.sent};
        measure(&one, span * MILLISECOND);
    }
    return 0;
}
