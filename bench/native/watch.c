/* Prints each nftables transaction of this network namespace as it is announced: "NANOSECONDS GENERATION PID NAME".
 *
 *     watch              "ready" first, then a line each, until killed; CLOCK_MONOTONIC
 *
 * The kernel announces a commit when it is in force, the new generation last (NFT_MSG_NEWGEN, since Linux 3.16; pid and
 * name of who asked since 4.17). "lost" is printed where announcements did not fit into the socket's buffer.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include "common.h"

#define BUFFER (64 << 20) /* ten thousand elements are announced one by one */

static void tell(const struct nlmsghdr *message) {
    uint64_t at = now();
    uint32_t generation = 0, process = 0;
    const char *name = "?";
    const char *end = (const char *)message + message->nlmsg_len;
    const char *next = (const char *)NLMSG_DATA(message) + NLMSG_ALIGN(sizeof(struct nfgenmsg));
    while (next + NLA_HDRLEN <= end) {
        const struct nlattr *attribute = (const struct nlattr *)next;
        const char *value = next + NLA_HDRLEN;
        if (attribute->nla_len < NLA_HDRLEN)
            break;
        switch (attribute->nla_type & NLA_TYPE_MASK) {
        case NFTA_GEN_ID:
            generation = ntohl(*(const uint32_t *)value);
            break;
        case NFTA_GEN_PROC_PID:
            process = ntohl(*(const uint32_t *)value);
            break;
        case NFTA_GEN_PROC_NAME:
            name = value;
            break;
        }
        next += NLA_ALIGN(attribute->nla_len);
    }
    printf("%llu %u %u %s\n", (unsigned long long)at, generation, process, name);
}

int main(void) {
    int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    struct sockaddr_nl own = {.nl_family = AF_NETLINK};
    int size = BUFFER, group = NFNLGRP_NFTABLES;
    if (netlink < 0 || bind(netlink, (struct sockaddr *)&own, sizeof own))
        die("open a netlink socket");
    setsockopt(netlink, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    if (setsockopt(netlink, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group))
        die("join the group of nftables");
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    static char buffer[1 << 18];
    for (;;) {
        ssize_t length = recv(netlink, buffer, sizeof buffer, 0);
        if (length < 0 && errno == ENOBUFS)
            puts("lost");
        else if (length < 0 && errno != EINTR)
            die("receive");
        int left = length < 0 ? 0 : length;
        for (struct nlmsghdr *message = (struct nlmsghdr *)buffer; NLMSG_OK(message, left);
             message = NLMSG_NEXT(message, left))
            if (message->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN))
                tell(message);
    }
}
