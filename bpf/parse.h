/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading packets: frame, then IP, then the transport header.
 *
 * Contract of every function here: headers are copied out with bpf_skb_load_bytes(), so no pointer into the packet is
 * ever held, none goes stale when a helper moves the packet, and data outside of the linear part is read as well. A
 * frame starts with its Ethernet header. Nothing is written. What is not understood is said to be so and left to the
 * stack.
 *
 * Bounds: 2 VLAN tags in the frame (802.1ad, besides one that the device keeps apart), 6 IPv6 extension headers.
 */
#ifndef DATAPLANE_PARSE_H
#define DATAPLANE_PARSE_H

#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "abi.h"

/* "Go on": the next program of the hook decides, and the stack where there is none (TCX_NEXT has the same value). */
#define CONTINUE TC_ACT_UNSPEC
#define DROP TC_ACT_SHOT

#define MAX_TAGS 2
#define MAX_EXTENSIONS 6

#define IPV4_MIN_WORDS 5
#define IPV4_OFFSET_MASK 0x1fff
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV6_OFFSET_MASK 0xfff8
#define IPV6_MORE_FRAGMENTS 0x0001
#define EXT_MOBILITY 135 /* IPPROTO_MH */

/* Hides a value from the optimiser: a loop keeps the exit that is written, with the bound that the verifier can see. */
#define KEEP_AS_WRITTEN(variable) asm volatile("" : "+r"(variable))

enum parsed {
	PARSED,            /* every field of the result is set */
	PARSED_NOT_OURS,   /* another protocol: not looked at */
	PARSED_UNREADABLE, /* truncated, more headers than the bound, or lengths that contradict each other */
};

/* A frame, without its tags. */
struct frame {
	__be16 type; /* Ethernet protocol of what is behind the tags */
	__u16 tags;
	__u32 at; /* offset of what is behind them */
};

enum fragment {
	FRAGMENT_NONE,  /* a whole packet */
	FRAGMENT_FIRST, /* has the transport header */
	FRAGMENT_LATER,
};

/* An IP packet, with what is behind its options or extension headers. */
struct ip_packet {
	struct address saddr;
	struct address daddr;
	__u32 l4_at;
	__u32 l4_len;   /* as the IP header says: what follows in the frame is padding */
	__u8 family;    /* 4 or 6 */
	__u8 protocol;  /* of what is at l4_at */
	__u8 fragment;  /* enum fragment */
	__u8 via;       /* a routing header goes on to another address than daddr */
};

static __always_inline void address_from_ipv4(struct address *address, __be32 ipv4)
{
	address->word[0] = 0;
	address->word[1] = 0;
	address->word[2] = bpf_htonl(0xffff);
	address->word[3] = ipv4;
}

static __always_inline int address_is_zero(const struct address *address)
{
	return !(address->word[0] | address->word[1] | address->word[2] | address->word[3]);
}

static __always_inline int address_same(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

static __always_inline int is_tag(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/* Looks behind VLAN tags; PARSED_UNREADABLE where there are more than MAX_TAGS. */
static __always_inline enum parsed parse_frame(struct __sk_buff *skb, struct frame *frame)
{
	__u32 i;

	frame->tags = 0;
	frame->at = sizeof(struct ethhdr);
	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_proto), &frame->type, sizeof(frame->type)))
		return PARSED_UNREADABLE;
#pragma unroll
	for (i = 0; i < MAX_TAGS; i++) {
		if (!is_tag(frame->type))
			return PARSED;
		/* A tag is two bytes of its own, and the type of what follows. */
		if (bpf_skb_load_bytes(skb, frame->at + 2, &frame->type, sizeof(frame->type)))
			return PARSED_UNREADABLE;
		frame->at += 4;
		frame->tags++;
	}
	return is_tag(frame->type) ? PARSED_UNREADABLE : PARSED;
}

static __always_inline enum parsed parse_ipv4(struct __sk_buff *skb, const struct frame *frame, struct ip_packet *packet)
{
	__u32 header_len, total_len;
	__u16 fragment;
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, frame->at, &ip, sizeof(ip)))
		return PARSED_UNREADABLE;
	header_len = ip.ihl * 4;
	total_len = bpf_ntohs(ip.tot_len);
	if (!total_len && skb->gso_size)
		total_len = skb->len - frame->at; /* BIG TCP: longer than the field can say */
	if (ip.version != 4 || ip.ihl < IPV4_MIN_WORDS || total_len < header_len || frame->at + total_len > skb->len)
		return PARSED_UNREADABLE;

	fragment = bpf_ntohs(ip.frag_off);
	packet->family = 4;
	packet->protocol = ip.protocol;
	packet->via = 0;
	packet->fragment = fragment & IPV4_OFFSET_MASK    ? FRAGMENT_LATER :
			   fragment & IPV4_MORE_FRAGMENTS ? FRAGMENT_FIRST :
							    FRAGMENT_NONE;
	address_from_ipv4(&packet->saddr, ip.saddr);
	address_from_ipv4(&packet->daddr, ip.daddr);
	packet->l4_at = frame->at + header_len;
	packet->l4_len = total_len - header_len;
	return PARSED;
}

static __always_inline int is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING || protocol == IPPROTO_FRAGMENT ||
	       protocol == IPPROTO_AH || protocol == IPPROTO_DSTOPTS || protocol == EXT_MOBILITY;
}

/* The first 4 bytes of every extension header (RFC 8200, 4; of AH RFC 4302, 2). */
struct extension {
	__u8 next;
	__u8 len;      /* in 8 bytes, the first not counted; of AH in 4, the first two not counted */
	__be16 varies; /* of a fragment: offset and flags; of routing: type and segments left */
};

/*
 * From the IPv6 header to the transport header. Where it got to is kept in the packet and in no variable: a caller whose
 * packet is in a map, and not on its stack, has the verifier forget by which of all the ways it came.
 */
static __always_inline enum parsed parse_extensions(struct __sk_buff *skb, struct ip_packet *packet)
{
	struct extension extension;
	__u32 i, len;

	for (i = 0; i < MAX_EXTENSIONS; i++) {
		KEEP_AS_WRITTEN(i);
		if (!is_extension(packet->protocol) || packet->fragment == FRAGMENT_LATER)
			return PARSED;
		if (bpf_skb_load_bytes(skb, packet->l4_at, &extension, sizeof(extension)))
			return PARSED_UNREADABLE;
		len = (extension.len + 1) * 8;
		if (packet->protocol == IPPROTO_FRAGMENT) {
			len = 8;
			if (extension.varies & bpf_htons(IPV6_OFFSET_MASK))
				packet->fragment = FRAGMENT_LATER;
			else if (extension.varies & bpf_htons(IPV6_MORE_FRAGMENTS))
				packet->fragment = FRAGMENT_FIRST;
		} else if (packet->protocol == IPPROTO_AH) {
			len = (extension.len + 2) * 4;
		} else if (packet->protocol == IPPROTO_ROUTING && (extension.varies & bpf_htons(0x00ff))) {
			packet->via = 1;
		}
		if (len > packet->l4_len)
			return PARSED_UNREADABLE;
		packet->protocol = extension.next;
		packet->l4_at += len;
		packet->l4_len -= len;
	}
	return is_extension(packet->protocol) && packet->fragment != FRAGMENT_LATER ? PARSED_UNREADABLE : PARSED;
}

static __always_inline enum parsed parse_ipv6(struct __sk_buff *skb, const struct frame *frame, struct ip_packet *packet)
{
	struct ipv6hdr ip;
	__u32 payload_len;

	if (bpf_skb_load_bytes(skb, frame->at, &ip, sizeof(ip)))
		return PARSED_UNREADABLE;
	payload_len = bpf_ntohs(ip.payload_len);
	if (!payload_len && skb->gso_size)
		payload_len = skb->len - frame->at - sizeof(ip); /* BIG TCP */
	if (ip.version != 6 || frame->at + sizeof(ip) + payload_len > skb->len)
		return PARSED_UNREADABLE;

	packet->family = 6;
	packet->protocol = ip.nexthdr;
	packet->fragment = FRAGMENT_NONE;
	packet->via = 0;
	__builtin_memcpy(&packet->saddr, &ip.saddr, sizeof(packet->saddr));
	__builtin_memcpy(&packet->daddr, &ip.daddr, sizeof(packet->daddr));
	packet->l4_at = frame->at + sizeof(ip);
	packet->l4_len = payload_len;
	return parse_extensions(skb, packet);
}

/* PARSED_NOT_OURS where the frame has neither IPv4 nor IPv6. */
static __always_inline enum parsed parse_ip(struct __sk_buff *skb, const struct frame *frame, struct ip_packet *packet)
{
	if (frame->type == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, frame, packet);
	if (frame->type == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, frame, packet);
	return PARSED_NOT_OURS;
}

/* Ports, where the protocol has them and they are in this packet; else zeros. */
static __always_inline void parse_ports(struct __sk_buff *skb, const struct ip_packet *packet, __be16 *sport, __be16 *dport)
{
	__be16 ports[2] = {};
	__u8 protocol = packet->protocol;

	if (packet->fragment != FRAGMENT_LATER &&
	    (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP))
		bpf_skb_load_bytes(skb, packet->l4_at, ports, sizeof(ports));
	*sport = ports[0];
	*dport = ports[1];
}

#endif
