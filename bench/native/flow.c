/* Numbered UDP packets at a steady rate, and whoever counts which of them arrived.
 *
 *     flow send ADDRESS PORT COUNT RATE      prints "SENT ERRORS NANOSECONDS"
 *     flow receive PORT COUNT                "ready" first; prints "RECEIVED TWICE LATE GAP SILENCE"
 *
 *     TWICE    packets that came more than once         LATE      after one with a higher number
 *     GAP      the most packets missing in a row        SILENCE   the longest time without any, in nanoseconds
 *
 * The sender is not connected: what ICMP says about one packet must not keep the next from being sent. Bursts of a
 * millisecond by absolute time, so that a late one does not shift those after it. The receiver ends when all are there,
 * or three seconds after the last.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>

#include "common.h"

#define BATCH 64
#define PAYLOAD 64
#define PATIENCE 3000 /* milliseconds */
#define FIRST_PATIENCE 60000

static struct mmsghdr messages[BATCH];
static struct iovec parts[BATCH];
static uint64_t payloads[BATCH][PAYLOAD / 8];

static void send_all(int udp, struct sockaddr_in *to, uint64_t count, uint64_t rate) {
    uint64_t sent = 0, errors = 0, began = now();
    for (int one = 0; one < BATCH; one++) {
        messages[one].msg_hdr.msg_name = to;
        messages[one].msg_hdr.msg_namelen = sizeof *to;
    }
    for (uint64_t tick = 1; sent + errors < count; tick++) {
        uint64_t due = tick * rate / 1000;
        if (due > count)
            due = count;
        while (sent + errors < due) {
            unsigned batch = due - sent - errors < BATCH ? due - sent - errors : BATCH;
            for (unsigned one = 0; one < batch; one++)
                payloads[one][0] = sent + errors + one;
            int put = sendmmsg(udp, messages, batch, 0);
            if (put > 0)
                sent += put;
            else
                errors++; /* this number is lost, by our own side */
        }
        sleep_until(began + tick * MILLISECOND);
    }
    printf("%llu %llu %llu\n", (unsigned long long)sent, (unsigned long long)errors, (unsigned long long)(now() - began));
}

static void receive_all(int udp, uint64_t count) {
    unsigned char *seen = calloc(count, 1);
    uint64_t received = 0, twice = 0, late = 0, highest = 0, silence = 0, last = 0;
    struct pollfd one = {.fd = udp, .events = POLLIN};
    puts("ready");
    fflush(stdout);
    while (received < count && poll(&one, 1, received ? PATIENCE : FIRST_PATIENCE) > 0) {
        int got = recvmmsg(udp, messages, BATCH, MSG_DONTWAIT, NULL);
        uint64_t at = now();
        for (int index = 0; index < got; index++) {
            uint64_t number = payloads[index][0];
            if (number >= count)
                continue;
            if (last && at - last > silence)
                silence = at - last;
            last = at;
            if (seen[number]++) {
                twice++;
                continue;
            }
            received++;
            late += number < highest;
            if (number > highest)
                highest = number;
        }
    }
    uint64_t gap = 0, run = 0;
    for (uint64_t number = 0; number < count; number++) {
        run = seen[number] ? 0 : run + 1;
        if (run > gap)
            gap = run;
    }
    printf("%llu %llu %llu %llu %llu\n", (unsigned long long)received, (unsigned long long)twice,
           (unsigned long long)late, (unsigned long long)gap, (unsigned long long)silence);
}

int main(int argc, char **argv) {
    int sends = argc == 6 && !strcmp(argv[1], "send"), receives = argc == 4 && !strcmp(argv[1], "receive");
    if (!sends && !receives) {
        fprintf(stderr, "usage: flow send ADDRESS PORT COUNT RATE | flow receive PORT COUNT\n");
        return 2;
    }
    for (int one = 0; one < BATCH; one++) {
        parts[one] = (struct iovec){payloads[one], PAYLOAD};
        messages[one].msg_hdr = (struct msghdr){.msg_iov = &parts[one], .msg_iovlen = 1};
    }
    int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), size = 64 << 20;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[sends ? 3 : 2]))};
    if (udp < 0)
        die("open a socket");
    setsockopt(udp, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    if (sends) {
        if (inet_pton(AF_INET, argv[2], &address.sin_addr) != 1)
            die("read the address");
        send_all(udp, &address, strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10));
        return 0;
    }
    if (bind(udp, (struct sockaddr *)&address, sizeof address))
        die("bind");
    receive_all(udp, strtoull(argv[3], NULL, 10));
    return 0;
}
