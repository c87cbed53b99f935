/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Internet checksums (RFC 1071, RFC 1624): sums as 16-bit ones' complement numbers, in the byte order of the packet.
 *
 * Ones' complement has two zeros, 0x0000 and 0xffff, so sums are compared with csum_same() and never with ==. "Error" is
 * what pseudo header, header, payload and checksum field add up to: zero means that the checksum is right; and if it
 * was computed for other addresses or ports, then the error is (sum of the present ones) - (sum of those), exactly.
 */
#ifndef DATAPLANE_CSUM_H
#define DATAPLANE_CSUM_H

#include "maps.h"
#include "parse.h"

/* The helper's scratch space was 512 bytes before Linux 6.13; chunks of an even size keep the sum's byte order. */
#define CSUM_CHUNK 512
#define CSUM_MAX_CHUNKS 18
#define CSUM_MAX_LEN (CSUM_MAX_CHUNKS * CSUM_CHUNK) /* 9,216: a jumbo frame. Beyond, a packet is not verified */

#define TCP_FLAGS_OFFSET 13
#define TCP_FLAG_BIT_SYN 0x02

/* A whole TCP, UDP or ICMPv6 packet, with the field and the range that its checksum is about. */
struct segment {
	struct ip_packet ip; /* l4_len: bytes that the sum covers */
	__be16 sport;        /* 0 for ICMPv6 */
	__be16 dport;
	__be16 check;   /* as it stands in the packet */
	__u16 syn;      /* TCP: the flow begins with this packet */
	__u32 check_at; /* offset of the checksum field */
};

static __always_inline enum parsed parse_tcp(struct __sk_buff *skb, struct segment *segment)
{
	struct tcphdr tcp;
	__u8 flags;

	if (segment->ip.l4_len < sizeof(tcp))
		return PARSED_UNREADABLE;
	if (bpf_skb_load_bytes(skb, segment->ip.l4_at, &tcp, sizeof(tcp)))
		return PARSED_UNREADABLE;

	flags = ((__u8 *)&tcp)[TCP_FLAGS_OFFSET];
	segment->sport = tcp.source;
	segment->dport = tcp.dest;
	segment->check = tcp.check;
	segment->check_at = segment->ip.l4_at + offsetof(struct tcphdr, check);
	segment->syn = !!(flags & TCP_FLAG_BIT_SYN);
	return PARSED;
}

/* RFC 768: the sum covers what the UDP header says, which may be less than what IP carries. */
static __always_inline enum parsed parse_udp(struct __sk_buff *skb, struct segment *segment)
{
	struct udphdr udp;
	__u32 len;

	if (segment->ip.l4_len < sizeof(udp))
		return PARSED_UNREADABLE;
	if (bpf_skb_load_bytes(skb, segment->ip.l4_at, &udp, sizeof(udp)))
		return PARSED_UNREADABLE;
	if (!udp.check)
		return PARSED_NOT_OURS; /* sent without a checksum */

	len = bpf_ntohs(udp.len);
	if (len < sizeof(udp) || len > segment->ip.l4_len)
		return PARSED_UNREADABLE;

	segment->sport = udp.source;
	segment->dport = udp.dest;
	segment->check = udp.check;
	segment->check_at = segment->ip.l4_at + offsetof(struct udphdr, check);
	segment->syn = 0;
	segment->ip.l4_len = len;
	return PARSED;
}

static __always_inline enum parsed parse_icmpv6(struct __sk_buff *skb, struct segment *segment)
{
	struct icmp6hdr icmp;

	if (segment->ip.l4_len < offsetof(struct icmp6hdr, icmp6_dataun))
		return PARSED_UNREADABLE;
	if (bpf_skb_load_bytes(skb, segment->ip.l4_at, &icmp, offsetof(struct icmp6hdr, icmp6_dataun)))
		return PARSED_UNREADABLE;

	segment->sport = 0;
	segment->dport = 0;
	segment->check = icmp.icmp6_cksum;
	segment->check_at = segment->ip.l4_at + offsetof(struct icmp6hdr, icmp6_cksum);
	segment->syn = 0;
	return PARSED;
}

/* PARSED_NOT_OURS where no Internet checksum with a pseudo header is to be had: ICMP of IPv4, SCTP, UDP with none ... */
static __always_inline enum parsed parse_segment(struct __sk_buff *skb, struct segment *segment)
{
	enum parsed parsed;
	struct frame frame;
	__u8 protocol;

	parsed = parse_frame(skb, &frame);
	if (parsed != PARSED)
		return parsed;
	parsed = parse_ip(skb, &frame, &segment->ip);
	if (parsed != PARSED)
		return parsed;
	protocol = segment->ip.protocol;
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP &&
	    (protocol != IPPROTO_ICMPV6 || segment->ip.family != 6))
		return PARSED_NOT_OURS;
	if (segment->ip.fragment != FRAGMENT_NONE || segment->ip.via)
		return PARSED_UNREADABLE; /* the sum covers bytes, or an address, that are not here */
	if (protocol == IPPROTO_TCP)
		return parse_tcp(skb, segment);
	return protocol == IPPROTO_UDP ? parse_udp(skb, segment) : parse_icmpv6(skb, segment);
}

/*
 * Where a packet is parsed and summed: of the CPU that has it, and of one program run, for they do not interrupt each
 * other. In a map and not on the stack also because the verifier knows nothing about what is read from one: that makes
 * all ways of parsing one way to verify from there on, instead of one for each combination of tags and headers.
 */
struct scratch {
	struct segment segment;
	__u8 bytes[CSUM_CHUNK];
	__u8 padding[4]; /* to fill the last word of an odd length with zeros */
};
BPF_TABLE("percpu_array", __u32, struct scratch, scratches, 1);

static __always_inline struct scratch *scratch(void)
{
	__u32 zero = 0;

	return scratches.lookup(&zero);
}

static __always_inline __u16 csum_fold16(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static __always_inline __u16 csum_sub16(__u16 a, __u16 b)
{
	return csum_fold16((__u64)a + (__u16)~b);
}

/*
 * Of the two zeros, 0xffff: what folding a number that is not 0 gives. Written without a branch, for the verifier would
 * follow both ways of each of many.
 */
static __always_inline __u16 csum_canonical(__u16 sum)
{
	return sum + (((__u32)sum - 1) >> 16);
}

static __always_inline int csum_is_zero(__u16 sum)
{
	return csum_canonical(sum) == 0xffff;
}

static __always_inline int csum_same(__u16 a, __u16 b)
{
	return csum_canonical(a) == csum_canonical(b);
}

/* What an address adds to a sum; that IPv4 is mapped makes no difference, for 0xffff is a zero. Canonical: not 0. */
static __always_inline __u16 csum_address(const struct address *address)
{
	return csum_canonical(csum_fold16((__u64)address->word[0] + address->word[1] + address->word[2] + address->word[3]));
}

static __always_inline __u16 csum_pseudo_header(const struct segment *segment)
{
	__u64 sum = (__u64)csum_address(&segment->ip.saddr) + csum_address(&segment->ip.daddr);

	return csum_fold16(sum + bpf_htons(segment->ip.protocol) + bpf_htonl(segment->ip.l4_len));
}

/* What the checksum field holds once `delta` was taken out of the sum; UDP writes 0xffff for 0, which means "none". */
static __always_inline __be16 csum_corrected(const struct segment *segment, __u16 delta)
{
	__u16 check = ~csum_fold16((__u64)(__u16)~segment->check + delta);

	return check == 0 && segment->ip.protocol == IPPROTO_UDP ? 0xffff : check;
}

/*
 * The fewest flipped bits that make such an error: the nonzero digits of its non-adjacent form, which for a number x are
 * the bits in which x and 3x differ; round the end here, as everything is modulo 0xffff.
 */
static __always_inline __u32 csum_flips(__u16 error)
{
	__u32 bits = csum_canonical(error);

	bits ^= csum_canonical(csum_fold16((__u64)bits * 3));
	bits = (bits & 0x5555) + ((bits >> 1) & 0x5555);
	bits = (bits & 0x3333) + ((bits >> 2) & 0x3333);
	bits = (bits & 0x0f0f) + ((bits >> 4) & 0x0f0f);
	return (bits & 0xff) + (bits >> 8);
}

/* The error of the whole packet in the scratch space; -1 where it is longer than CSUM_MAX_LEN or cannot be read. */
static __always_inline int csum_error(struct __sk_buff *skb, struct scratch *scratch)
{
	__u32 at = scratch->segment.ip.l4_at, left = scratch->segment.ip.l4_len, i;
	__s64 sum = csum_pseudo_header(&scratch->segment);

	if (left > CSUM_MAX_LEN)
		return -1;

	for (i = 0; i < CSUM_MAX_CHUNKS; i++) {
		KEEP_AS_WRITTEN(i);
		if (left < CSUM_CHUNK)
			break;
		if (bpf_skb_load_bytes(skb, at, scratch->bytes, CSUM_CHUNK))
			return -1;
		sum = bpf_csum_diff(0, 0, (__be32 *)scratch->bytes, CSUM_CHUNK, sum);
		at += CSUM_CHUNK;
		left -= CSUM_CHUNK;
	}

	if (left) {
		/* At least 1 and at most CSUM_CHUNK; before Linux 6.8 the verifier learns nothing from "not 0". */
		left--;
		KEEP_AS_WRITTEN(left);
		left = (left & (CSUM_CHUNK - 1)) + 1;
		if (bpf_skb_load_bytes(skb, at, scratch->bytes, left))
			return -1;
		scratch->bytes[left] = 0;
		scratch->bytes[left + 1] = 0;
		scratch->bytes[left + 2] = 0;
		sum = bpf_csum_diff(0, 0, (__be32 *)scratch->bytes, (left + 3) & ~3U, sum);
	}
	return csum_fold16(sum);
}

#endif
