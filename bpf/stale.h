/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The proof that NAT of ours left a sum stale: which tuple, before that NAT, the stored sum is right for.
 *
 * A sum tells by how much it is wrong (its error) and nothing else, so the question is always put the other way round:
 * "which sum must the replaced address have had?", and that is looked up. No loop goes over addresses.
 *
 *     translation    what was replaced                   candidates                               believed
 *     PUBLISHED      destination: address, port, both    3 for each publication of this very      at once
 *                                                        port; 1 + 2n where on every address
 *     REPLY          source: address, port, both         3: the port's container                  at once
 *     MASQUERADE     source: address                     c; of the host itself 1, loopback        the second time
 *     UNMASQUERADE   destination: address                n                                        the second time
 *     BOTH           PUBLISHED with MASQUERADE, or       2c, or 2, for each publication           the second time
 *                    REPLY with UNMASQUERADE             2n                                       the second time
 *
 * n: addresses of the host; c: containers of the network that the packet came in from. A random error is one of k
 * candidates by chance k times in 65,535; that it is the same one in the next packet of the flow, too, k times in 2^32.
 * "At once" is for what a mapping names; where any of many addresses would do, a second packet has to say the same.
 *
 * An error that two flipped bits can make (MAX_FLIPS) proves nothing, whatever it fits: damage is likelier.
 *
 * Be aware: on purpose not looked for are ports that masquerade changed, the address of an outside client that was
 * masqueraded ("masqAll"), and hairpin by another address of the host than the network's own where a port is published
 * on all of them: there everything would fit.
 */
#ifndef DATAPLANE_STALE_H
#define DATAPLANE_STALE_H

#include "csum.h"

#define MAX_FLIPS 2

/* The tuple that a stored sum is right for. */
struct proof {
	struct address saddr;
	struct address daddr;
	__be16 sport;
	__be16 dport;
	enum translation translation;
};

/* What is known about a packet whose sum is wrong, and what is concluded. In a map for the reason that scratch has. */
struct inquiry {
	struct proof proof;
	struct address usual; /* where it was sent, if anywhere: its masqueraded source, the network's own; or loopback */
	__u32 network;       /* of the device it leaves by */
	__u32 from;          /* network it came in from */
	__u16 error;         /* of its sum: not zero */
	__u8 local;          /* it is the host's own */
	__u8 masquerades;    /* what comes `from` there may be masqueraded */
	__u8 unmasquerades;  /* so may what its containers sent, of which this may be the answer */
	__u8 from_host;      /* its source is an address of the host */
	__u8 to_container;   /* its destination is a container of `network` that is masqueraded */
	__u8 said_before;    /* the packet before of its flow had the same error */
};
BPF_TABLE("percpu_array", __u32, struct inquiry, inquiries, 1);

static __always_inline void proof_begin(struct proof *proof, const struct segment *segment)
{
	proof->saddr = segment->ip.saddr;
	proof->daddr = segment->ip.daddr;
	proof->sport = segment->sport;
	proof->dport = segment->dport;
	proof->translation = TRANSLATION_NONE;
}

static __always_inline struct address *host_address(__u8 family, __u16 sum)
{
	struct host_address_key key = { .sum = csum_canonical(sum), .family = family };

	return host_addresses.lookup(&key);
}

static __always_inline int is_host_address(__u8 family, const struct address *address)
{
	struct address *found = host_address(family, csum_address(address));

	return found && address_same(found, address);
}

static __always_inline struct address *container_address(__u32 network, __u8 family, __u16 sum)
{
	struct container_key key = { .network = network, .sum = csum_canonical(sum), .family = family };

	return containers.lookup(&key);
}

/* Whether a source that a masquerade replaced can have had this sum; which one it was. */
static __always_inline int masqueraded(const struct segment *segment, struct inquiry *inquiry, __u16 sum)
{
	struct address *found;

	if (inquiry->local) {
		inquiry->proof.saddr = inquiry->usual;
		return csum_same(csum_address(&inquiry->usual), sum);
	}
	if (!inquiry->masquerades)
		return 0;
	found = container_address(inquiry->from, segment->ip.family, sum);
	if (!found)
		return 0;
	inquiry->proof.saddr = *found;
	return 1;
}

/* Whether a destination that un-masquerading replaced can have had this sum: an address of the host. */
static __always_inline int unmasqueraded(const struct segment *segment, struct inquiry *inquiry, __u16 sum)
{
	struct address *found = host_address(segment->ip.family, sum);

	if (!found)
		return 0;
	inquiry->proof.daddr = *found;
	return 1;
}

/* Whether a destination before DNAT can have had this sum: the published address, or one of the host's. */
static __always_inline int published_on(const struct segment *segment, struct inquiry *inquiry,
					const struct origin *origin, __u16 sum)
{
	if (address_is_zero(&origin->addr))
		return unmasqueraded(segment, inquiry, sum);
	inquiry->proof.daddr = origin->addr;
	return csum_same(csum_address(&origin->addr), sum);
}

/* The destination alone; `if_addr` is the sum that its address then had, if that alone was replaced. */
static __always_inline int prove_published(const struct segment *segment, struct inquiry *inquiry,
					   const struct origin *origin, __u16 now, __u16 if_addr)
{
	__u16 if_both = csum_fold16((__u64)if_addr + csum_sub16(segment->dport, origin->port));

	inquiry->proof.dport = origin->port;
	if (csum_same(if_both, now)) {
		inquiry->proof.daddr = segment->ip.daddr; /* the port alone */
		return 1;
	}
	if (published_on(segment, inquiry, origin, if_both))
		return 1;
	inquiry->proof.dport = segment->dport;
	return published_on(segment, inquiry, origin, if_addr);
}

/*
 * Both ends of a packet to a published port; `if_addrs` is what both addresses then added up to, if they alone were
 * replaced. Where the port is published on all addresses, the usual one was the destination.
 */
static __always_inline int prove_hairpin(const struct segment *segment, struct inquiry *inquiry,
					 const struct origin *origin, __u16 if_addrs)
{
	__u16 source;

	inquiry->proof.daddr = address_is_zero(&origin->addr) ? inquiry->usual : origin->addr;
	inquiry->proof.dport = segment->dport;
	source = csum_sub16(if_addrs, csum_address(&inquiry->proof.daddr));
	if (masqueraded(segment, inquiry, source))
		return 1;
	inquiry->proof.dport = origin->port;
	return masqueraded(segment, inquiry, csum_fold16((__u64)source + csum_sub16(segment->dport, origin->port)));
}

/* A publication of the port that the packet is for; the slots are filled without a gap. */
static __always_inline struct origin *origin_of(const struct segment *segment, __u32 slot)
{
	struct origin_key key = {
		.addr = segment->ip.daddr, .port = segment->dport, .protocol = segment->ip.protocol, .slot = slot
	};

	return origins.lookup(&key);
}

/* Whether publications of the port that the packet is for explain its error. */
static __always_inline int prove_destination(const struct segment *segment, struct inquiry *inquiry)
{
	__u16 now = csum_address(&segment->ip.daddr);
	__u16 if_addr = csum_sub16(now, inquiry->error);
	struct origin *origin;
	__u32 slot;

	inquiry->proof.translation = TRANSLATION_PUBLISHED;
	for (slot = 0; slot < MAX_ORIGIN_SLOTS; slot++) {
		KEEP_AS_WRITTEN(slot);
		origin = origin_of(segment, slot);
		if (!origin)
			break;
		if (prove_published(segment, inquiry, origin, now, if_addr))
			return 1;
	}

	if (!inquiry->from_host)
		return 0;
	inquiry->proof.translation = TRANSLATION_BOTH;
	if_addr = csum_fold16((__u64)if_addr + csum_address(&segment->ip.saddr));
	for (slot = 0; slot < MAX_ORIGIN_SLOTS; slot++) {
		KEEP_AS_WRITTEN(slot);
		origin = origin_of(segment, slot);
		if (!origin)
			break;
		if (prove_hairpin(segment, inquiry, origin, if_addr))
			return 1;
	}
	return 0;
}

/* Whether the published port that the packet comes from, as far as its receiver can see, explains its error. */
static __always_inline int prove_reply(const struct segment *segment, struct inquiry *inquiry)
{
	struct published_key key = {
		.addr = segment->ip.saddr, .port = segment->sport, .protocol = segment->ip.protocol,
		.family = segment->ip.family
	};
	__u16 now, was, if_addr, if_both, destination;
	struct proof *proof = &inquiry->proof;
	struct target *target;

	target = published.lookup(&key);
	if (!target && inquiry->from_host) {
		__builtin_memset(&key.addr, 0, sizeof(key.addr));
		target = published.lookup(&key);
	}
	if (!target)
		return 0;

	now = csum_address(&segment->ip.saddr);
	was = csum_address(&target->addr);
	if_addr = csum_sub16(now, inquiry->error);
	if_both = csum_fold16((__u64)if_addr + csum_sub16(segment->sport, target->port));

	proof->translation = TRANSLATION_REPLY;
	proof->sport = target->port;
	if (csum_same(if_both, now))
		return 1; /* the port alone */
	proof->saddr = target->addr;
	if (csum_same(if_both, was))
		return 1;
	proof->sport = segment->sport;
	if (csum_same(if_addr, was))
		return 1;
	if (!inquiry->to_container)
		return 0;

	/* And the destination: the source's part of the error taken out, its address first. */
	proof->translation = TRANSLATION_BOTH;
	destination = csum_sub16(csum_address(&segment->ip.daddr), csum_sub16(inquiry->error, csum_sub16(now, was)));
	if (unmasqueraded(segment, inquiry, destination))
		return 1;
	proof->sport = target->port;
	destination = csum_fold16((__u64)destination + csum_sub16(segment->sport, target->port));
	return unmasqueraded(segment, inquiry, destination);
}

/* Whether masquerading alone explains the error. */
static __always_inline int prove_masquerade(const struct segment *segment, struct inquiry *inquiry)
{
	__u16 source = csum_sub16(csum_address(&segment->ip.saddr), inquiry->error);
	__u16 destination = csum_sub16(csum_address(&segment->ip.daddr), inquiry->error);

	if (inquiry->from_host) {
		inquiry->proof.translation = TRANSLATION_MASQUERADE;
		if (masqueraded(segment, inquiry, source))
			return 1;
		inquiry->proof.saddr = segment->ip.saddr;
	}
	inquiry->proof.translation = TRANSLATION_UNMASQUERADE;
	return inquiry->to_container && unmasqueraded(segment, inquiry, destination);
}

static __always_inline void look_around(const struct segment *segment, struct inquiry *inquiry)
{
	struct address *container;

	inquiry->from_host = is_host_address(segment->ip.family, &segment->ip.saddr);
	inquiry->to_container = 0;
	inquiry->usual = segment->ip.saddr;
	if (inquiry->local && segment->ip.family == 4) {
		inquiry->usual.word[3] = bpf_htonl(INADDR_LOOPBACK);
	} else if (inquiry->local) {
		__builtin_memset(&inquiry->usual, 0, sizeof(inquiry->usual));
		inquiry->usual.word[3] = bpf_htonl(1);
	}
	if (!inquiry->unmasquerades)
		return;
	container = container_address(inquiry->network, segment->ip.family, csum_address(&segment->ip.daddr));
	if (container && address_same(container, &segment->ip.daddr))
		inquiry->to_container = 1;
}

/* Whether NAT of ours explains the error; by which, and what the packet was before, is in the proof then. */
static __always_inline int prove_stale(const struct segment *segment, struct inquiry *inquiry)
{
	if (csum_flips(inquiry->error) <= MAX_FLIPS)
		return 0;
	look_around(segment, inquiry);
	if (segment->ip.protocol != IPPROTO_ICMPV6) {
		proof_begin(&inquiry->proof, segment);
		if (prove_destination(segment, inquiry))
			return 1;
		proof_begin(&inquiry->proof, segment);
		if (prove_reply(segment, inquiry))
			return 1;
	}
	proof_begin(&inquiry->proof, segment);
	return prove_masquerade(segment, inquiry);
}

/* Whether one packet is proof enough: a mapping names what was replaced. Else the next has to say the same. */
static __always_inline int proved(const struct inquiry *inquiry)
{
	__u32 translation = inquiry->proof.translation;

	return translation == TRANSLATION_PUBLISHED || translation == TRANSLATION_REPLY || inquiry->said_before;
}

#endif
