/* Datagrams that must not arrive, as fast as they can be sent, and whoever would hear of those that do; all on one CPU.
 *
 *     flood CPU SENDER ADDRESS PORT RECEIVER
 *
 * SENDER and RECEIVER are paths of network namespaces, "-" is this one. "ready" first; then for each line
 * "BATCHES FLOWS" on stdin a line
 *
 *     SENT REFUSED ARRIVED LEAST P50 MOST         nanoseconds a datagram, of whole batches
 *
 * until end of file. Of one flow, all datagrams are sent by one socket to ADDRESS PORT, where the receiver listens; of
 * several, each goes to the next of so many ports behind that, where nobody does, from a port that is new with each line.
 *
 * A veth hands a packet on in the softirq of the CPU that sends it, before sendmmsg() returns: so the time of a batch is
 * that of all that became of it, up to the drop. The median batch is one that nobody interrupted. What arrived is taken
 * out after each batch, outside of what is timed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>

#include "common.h"

#define BATCH 8
#define PAYLOAD 64
#define MOST_BATCHES 65536

static struct mmsghdr messages[BATCH], heard[BATCH];
static struct iovec parts[BATCH], places[BATCH];
static struct sockaddr_in to, each_to[BATCH];
static char payloads[BATCH][PAYLOAD], into[BATCH][PAYLOAD];
static uint32_t spent[MOST_BATCHES];

static int open_socket(void) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("open a socket");
    return fd;
}

static uint64_t arrived(int receiver) {
    uint64_t count = 0;
    for (int got; (got = recvmmsg(receiver, heard, BATCH, MSG_DONTWAIT, NULL)) > 0;)
        count += got;
    return count;
}

/* Where the next batch goes: to where the sender is connected, or to a port for each datagram. */
static void address(uint64_t flows) {
    static uint64_t next;
    for (int one = 0; one < BATCH; one++) {
        each_to[one] = to;
        each_to[one].sin_port = htons(ntohs(to.sin_port) + 1 + (flows > 1 ? next++ % flows : 0));
        messages[one].msg_hdr.msg_name = flows > 1 ? &each_to[one] : NULL;
        messages[one].msg_hdr.msg_namelen = flows > 1 ? sizeof each_to[one] : 0;
    }
}

static void measure(uint64_t batches, uint64_t flows, int sender, int receiver) {
    uint64_t sent = 0, refused = 0, came = arrived(receiver), timed = 0;
    int from = flows > 1 ? open_socket() : sender;
    for (uint64_t batch = 0; batch < batches; batch++) {
        address(flows);
        uint64_t began = now();
        int put = sendmmsg(from, messages, BATCH, 0);
        uint64_t ended = now();
        if (put > 0)
            sent += put;
        refused += put < BATCH; /* by the sender's own kernel: nobody else saw that one */
        if (put == BATCH)
            spent[timed++] = at_most(UINT32_MAX, (ended - began) / BATCH);
        came += arrived(receiver);
    }
    if (flows > 1)
        close(from);
    qsort(spent, timed, sizeof *spent, ascending);
    printf("%llu %llu %llu %u %u %u\n", (unsigned long long)sent, (unsigned long long)refused, (unsigned long long)came,
           timed ? spent[0] : 0, timed ? spent[timed / 2] : 0, timed ? spent[timed - 1] : 0);
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: flood CPU SENDER ADDRESS PORT RECEIVER\n");
        return 2;
    }
    int own = own_netns();
    to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(argv[4]))};
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = to.sin_port};
    pin(atoi(argv[1]));
    if (inet_pton(AF_INET, argv[3], &to.sin_addr) != 1) {
        fprintf(stderr, "flood: bad address\n");
        return 2;
    }
    for (int one = 0; one < BATCH; one++) {
        parts[one] = (struct iovec){payloads[one], PAYLOAD};
        places[one] = (struct iovec){into[one], PAYLOAD};
        messages[one].msg_hdr = (struct msghdr){.msg_iov = &parts[one], .msg_iovlen = 1};
        heard[one].msg_hdr = (struct msghdr){.msg_iov = &places[one], .msg_iovlen = 1};
    }

    enter(argv[5], own);
    int receiver = open_socket();
    if (bind(receiver, (struct sockaddr *)&here, sizeof here))
        die("bind");
    enter(argv[2], own);
    int sender = open_socket();
    if (connect(sender, (struct sockaddr *)&to, sizeof to))
        die("connect");
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        unsigned long long batches, flows;
        if (sscanf(line, "%llu %llu", &batches, &flows) != 2 || batches > MOST_BATCHES) {
            fprintf(stderr, "flood: not so many batches\n");
            return 2;
        }
        measure(batches, flows, sender, receiver);
    }
    return 0;
}
