/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading packets.
 *
 * Contract of every function here: headers are copied out with bpf_skb_load_bytes(), so no pointer into the packet is
 * ever held, none goes stale when a helper moves the packet, and data outside of the linear part is read as well. A
 * frame starts with its Ethernet header. Nothing is written. What is not understood is said to be so and left to the
 * stack: a tag in the payload (802.1Q, 802.1ad), for one, is not looked behind.
 */
#ifndef DATAPLANE_PARSE_H
#define DATAPLANE_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

/* "Go on": the next program of the hook decides, and the stack where there is none (TCX_NEXT has the same value). */
#define CONTINUE TC_ACT_UNSPEC
#define DROP TC_ACT_SHOT

#define IPV4_MIN_WORDS 5
#define IPV4_OFFSET_MASK 0x1fff
#define IPV4_MORE_FRAGMENTS 0x2000
#define TCP_FLAGS_OFFSET 13
#define TCP_FLAG_BIT_SYN 0x02

enum parsed {
	PARSED,            /* every field of the result is set */
	PARSED_NOT_OURS,   /* another protocol: not looked at */
	PARSED_UNREADABLE, /* a fragment, truncated, or lengths that contradict each other */
};

/* A whole TCP or UDP packet over IPv4, with the field and the range that its checksum is about. */
struct packet {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__be16 check;   /* as it stands in the packet */
	__u8 protocol;  /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 syn;       /* TCP: the flow begins with this packet */
	__u32 check_at; /* offset of the checksum field */
	__u32 l4_at;    /* offset of the TCP or UDP header */
	__u32 l4_len;   /* bytes that the sum covers: what follows in the frame is padding */
};

static __always_inline __be16 ethertype(struct __sk_buff *skb)
{
	__be16 type = 0;

	bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_proto), &type, sizeof(type));
	return type;
}

static __always_inline enum parsed parse_tcp(struct __sk_buff *skb, struct packet *packet)
{
	struct tcphdr tcp;
	__u8 flags;

	if (packet->l4_len < sizeof(tcp))
		return PARSED_UNREADABLE;
	if (bpf_skb_load_bytes(skb, packet->l4_at, &tcp, sizeof(tcp)))
		return PARSED_UNREADABLE;

	flags = ((__u8 *)&tcp)[TCP_FLAGS_OFFSET];
	packet->sport = tcp.source;
	packet->dport = tcp.dest;
	packet->check = tcp.check;
	packet->check_at = packet->l4_at + offsetof(struct tcphdr, check);
	packet->syn = !!(flags & TCP_FLAG_BIT_SYN);
	return PARSED;
}

/* RFC 768: the sum covers what the UDP header says, which may be less than what IP carries. */
static __always_inline enum parsed parse_udp(struct __sk_buff *skb, struct packet *packet)
{
	struct udphdr udp;
	__u32 len;

	if (packet->l4_len < sizeof(udp))
		return PARSED_UNREADABLE;
	if (bpf_skb_load_bytes(skb, packet->l4_at, &udp, sizeof(udp)))
		return PARSED_UNREADABLE;
	if (!udp.check)
		return PARSED_NOT_OURS; /* sent without a checksum */

	len = bpf_ntohs(udp.len);
	if (len < sizeof(udp) || len > packet->l4_len)
		return PARSED_UNREADABLE;

	packet->sport = udp.source;
	packet->dport = udp.dest;
	packet->check = udp.check;
	packet->check_at = packet->l4_at + offsetof(struct udphdr, check);
	packet->syn = 0;
	packet->l4_len = len;
	return PARSED;
}

static __always_inline enum parsed parse_ipv4(struct __sk_buff *skb, struct packet *packet)
{
	struct iphdr ip;
	__u32 header_len, total_len;

	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip)))
		return PARSED_UNREADABLE;
	if (ip.protocol != IPPROTO_TCP && ip.protocol != IPPROTO_UDP)
		return PARSED_NOT_OURS;

	header_len = ip.ihl * 4;
	total_len = bpf_ntohs(ip.tot_len);
	if (ip.version != 4 || ip.ihl < IPV4_MIN_WORDS || total_len < header_len)
		return PARSED_UNREADABLE;
	if (sizeof(struct ethhdr) + total_len > skb->len)
		return PARSED_UNREADABLE; /* truncated */
	if (bpf_ntohs(ip.frag_off) & (IPV4_MORE_FRAGMENTS | IPV4_OFFSET_MASK))
		return PARSED_UNREADABLE; /* the sum covers bytes that are not here */

	packet->saddr = ip.saddr;
	packet->daddr = ip.daddr;
	packet->protocol = ip.protocol;
	packet->l4_at = sizeof(struct ethhdr) + header_len;
	packet->l4_len = total_len - header_len;
	if (ip.protocol == IPPROTO_TCP)
		return parse_tcp(skb, packet);
	return parse_udp(skb, packet);
}

/* The one place to add another network layer (IPv6). */
static __always_inline enum parsed parse_packet(struct __sk_buff *skb, struct packet *packet)
{
	if (ethertype(skb) == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, packet);
	return PARSED_NOT_OURS;
}

#endif
