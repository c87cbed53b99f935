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

#include "parse.h"

/* The helper's scratch space was 512 bytes before Linux 6.13; chunks of an even size keep the sum's byte order. */
#define CSUM_CHUNK 512
#define CSUM_MAX_CHUNKS 18
#define CSUM_MAX_LEN (CSUM_MAX_CHUNKS * CSUM_CHUNK) /* 9,216: a jumbo frame. Beyond, a packet is not verified */

struct chunk {
	__u8 bytes[CSUM_CHUNK];
	__u8 padding[4]; /* to fill the last word of an odd length with zeros */
};
BPF_TABLE("percpu_array", __u32, struct chunk, chunks, 1);

/* Hides a value from the optimiser: a loop keeps the exit that is written, with the bound that the verifier can see. */
#define KEEP_AS_WRITTEN(variable) asm volatile("" : "+r"(variable))

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

/* Of the two zeros, 0xffff: what folding a number that is not 0 gives. */
static __always_inline __u16 csum_canonical(__u16 sum)
{
	return sum ? sum : 0xffff;
}

static __always_inline int csum_is_zero(__u16 sum)
{
	return csum_canonical(sum) == 0xffff;
}

static __always_inline int csum_same(__u16 a, __u16 b)
{
	return csum_canonical(a) == csum_canonical(b);
}

static __always_inline __u16 csum_pseudo_header(const struct packet *packet)
{
	__u64 sum = (__u64)packet->saddr + packet->daddr;

	return csum_fold16(sum + bpf_htons(packet->protocol) + bpf_htons(packet->l4_len));
}

/* What the checksum field holds once `delta` was taken out of the sum; UDP writes 0xffff for 0, which means "none". */
static __always_inline __be16 csum_corrected(const struct packet *packet, __u16 delta)
{
	__u16 check = ~csum_fold16((__u64)(__u16)~packet->check + delta);

	return check == 0 && packet->protocol == IPPROTO_UDP ? 0xffff : check;
}

/* The error of a whole packet; -1 where it is longer than CSUM_MAX_LEN or cannot be read. */
static __always_inline int csum_error(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 zero = 0, at = packet->l4_at, left = packet->l4_len, i;
	__s64 sum = csum_pseudo_header(packet);
	struct chunk *chunk;

	chunk = chunks.lookup(&zero);
	if (!chunk || left > CSUM_MAX_LEN)
		return -1;

	for (i = 0; i < CSUM_MAX_CHUNKS; i++) {
		KEEP_AS_WRITTEN(i);
		if (left < CSUM_CHUNK)
			break;
		if (bpf_skb_load_bytes(skb, at, chunk->bytes, CSUM_CHUNK))
			return -1;
		sum = bpf_csum_diff(0, 0, (__be32 *)chunk->bytes, CSUM_CHUNK, sum);
		at += CSUM_CHUNK;
		left -= CSUM_CHUNK;
	}

	left &= CSUM_CHUNK - 1; /* already so; tells the verifier */
	if (left) {
		if (bpf_skb_load_bytes(skb, at, chunk->bytes, left))
			return -1;
		chunk->bytes[left] = 0;
		chunk->bytes[left + 1] = 0;
		chunk->bytes[left + 2] = 0;
		sum = bpf_csum_diff(0, 0, (__be32 *)chunk->bytes, (left + 3) & ~3U, sum);
	}
	return csum_fold16(sum);
}

#endif
