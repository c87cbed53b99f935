/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * checksum: finds TCP and UDP checksums that NAT left stale, proves it, and repairs them; leaves corruption alone.
 *
 * Hook     egress of a container-facing device: after DNAT, before the container
 * Reads    networks, origins, host_addresses
 * Writes   flows, checksum_counts, events, events_lost; of the packet the checksum field, in mode repair, if proved
 * Verdict  CONTINUE, always: a receiver drops a wrong sum by itself
 *
 *     flow known good, no SYN ................................ nothing to do: one lookup in networks, one in flows
 *     fragment, truncated, longer than CSUM_MAX_LEN .......... unreadable
 *     not summed yet, or verified by a device ................ offloaded
 *     error zero ............................................. good: the flow is not looked at again
 *     error = (present address and port) - (those published) . stale: repaired with that delta
 *     any other error ........................................ corrupt: reported, not touched
 *
 * The proof of "stale" is that the sum is right for the tuple that one of our own port mappings replaced: its address,
 * its port, or both. A repair takes that delta out of the sum (RFC 1624) and never recomputes it from the payload, which
 * would declare corruption good. The proof is asked of each packet of a stale flow, not of its first alone: a packet
 * that is right already, or damaged besides, keeps the sum it has.
 *
 * Be aware: a corruption that changes the sum by just the delta of a mapping cannot be told from a stale one by any
 * means; and a complete sum that equals the pseudo header's (1 in 65,536) is taken for one that is not computed yet.
 */
#include "csum.h"
#include "events.h"

/* The destination that a stale sum is right for. */
struct proof {
	struct address addr;
	__be16 port;
};

static __always_inline struct checksum_counts *counts_of(struct __sk_buff *skb)
{
	struct checksum_counts none = {};
	__u32 ifindex = skb->ifindex;

	return checksum_counts.lookup_or_try_init(&ifindex, &none);
}

/* Whether the sum is somebody else's to judge: computed later (PARTIAL), or verified by a device (UNNECESSARY). */
enum summed { SUMMED, SUMMED_PARTIAL, SUMMED_VERIFIED };

static __always_inline enum summed summed(struct __sk_buff *skb, const struct segment *segment)
{
	if (skb->gso_size)
		return SUMMED_PARTIAL;
	if ((__s64)bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
		return SUMMED_VERIFIED; /* UNNECESSARY */
	if ((__s64)bpf_csum_update(skb, 0) >= 0)
		return SUMMED; /* COMPLETE: the field holds a full sum */
	return segment->check == csum_pseudo_header(segment) ? SUMMED_PARTIAL : SUMMED;
}

static __always_inline int prove_origin(const struct segment *segment, __u16 error, const struct origin *origin,
					struct proof *proof)
{
	__u16 by_port = csum_sub16(segment->dport, origin->port);
	__u16 if_addr, if_both, sum;

	if (csum_same(error, by_port)) {
		proof->addr = segment->ip.daddr;
		proof->port = origin->port;
		return 1;
	}

	/* The other way round: which sum must an address have to explain the error? */
	if_addr = csum_canonical(csum_sub16(csum_address(&segment->ip.daddr), error));
	if_both = csum_canonical(csum_fold16((__u64)if_addr + by_port));
	if (!address_is_zero(&origin->addr)) {
		sum = csum_address(&origin->addr);
		proof->addr = origin->addr;
		proof->port = sum == if_addr ? segment->dport : origin->port;
		return sum == if_addr || sum == if_both;
	} else {
		struct host_address_key key = { .sum = if_addr, .family = segment->ip.family };
		struct address *addr = host_addresses.lookup(&key);

		proof->port = segment->dport;
		if (!addr) {
			key.sum = if_both;
			addr = host_addresses.lookup(&key);
			proof->port = origin->port;
		}
		if (!addr)
			return 0;
		proof->addr = *addr;
		return 1;
	}
}

/* Whether one of the port mappings that lead to this container port explains the error, which is not zero. */
static __always_inline int prove_stale(const struct segment *segment, __u16 error, struct proof *proof)
{
	struct origin_key key = {
		.addr = segment->ip.daddr, .port = segment->dport, .protocol = segment->ip.protocol
	};
	__u32 slot;

	for (slot = 0; slot < MAX_ORIGIN_SLOTS; slot++) {
		struct origin *origin;

		key.slot = slot;
		origin = origins.lookup(&key);
		if (!origin)
			return 0;
		if (prove_origin(segment, error, origin, proof))
			return 1;
	}
	return 0;
}

static __always_inline int repair(struct __sk_buff *skb, const struct segment *segment, __u16 delta)
{
	__u64 flags = BPF_F_PSEUDO_HDR;

	if (segment->ip.protocol == IPPROTO_UDP)
		flags |= BPF_F_MARK_MANGLED_0; /* 0 would say that there is no sum */
	return bpf_l4_csum_replace(skb, segment->check_at, 0, delta, flags) == 0;
}

static __always_inline void report(struct __sk_buff *skb, const struct segment *segment, __u32 network_id,
				   enum event_kind kind, __u16 error, const struct proof *proof, enum event_action action)
{
	struct event event;

	event_begin(&event, skb, kind);
	event.destination_network = network_id;
	event.family = segment->ip.family;
	event.protocol = segment->ip.protocol;
	event.saddr = segment->ip.saddr;
	event.daddr = segment->ip.daddr;
	event.sport = segment->sport;
	event.dport = segment->dport;
	event.action = action;
	event.stored = segment->check;
	event.correct = csum_corrected(segment, error);
	event.delta = error;
	if (kind == EVENT_STALE) {
		event.reason = TRANSLATION_PUBLISHED;
		event.origin_saddr = segment->ip.saddr;
		event.origin_daddr = proof->addr;
		event.origin_sport = segment->sport;
		event.origin_dport = proof->port;
	}
	event_send(&event);
}

int dp_checksum(struct __sk_buff *skb)
{
	struct flow *known, found = {};
	struct checksum_counts *counts;
	struct segment segment = {};
	struct flow_key key = {};
	struct network *network;
	struct proof proof = {};
	__u32 ifindex = skb->ifindex, network_id;
	__u8 mode;
	int error, repaired = 0;

	network = networks.lookup(&ifindex);
	if (!network || network->checksum == CHECKSUM_OFF)
		return CONTINUE;
	mode = network->checksum;
	network_id = network->id;

	switch (parse_segment(skb, &segment)) {
	case PARSED_NOT_OURS:
		return CONTINUE;
	case PARSED_UNREADABLE:
		goto unreadable;
	case PARSED:
		break;
	}

	key.ifindex = ifindex;
	key.saddr = segment.ip.saddr;
	key.daddr = segment.ip.daddr;
	key.sport = segment.sport;
	key.dport = segment.dport;
	key.protocol = segment.ip.protocol;
	known = flows.lookup(&key);
	if (known && known->verdict == FLOW_GOOD && !segment.syn)
		return CONTINUE; /* verified before */

	switch (summed(skb, &segment)) {
	case SUMMED_PARTIAL:
		goto partial;
	case SUMMED_VERIFIED:
		goto verified;
	case SUMMED:
		break;
	}
	error = csum_error(skb, &segment);
	if (error < 0)
		goto unreadable;
	if (csum_is_zero(error))
		goto good;

	if (known && known->verdict == FLOW_STALE && !segment.syn && csum_same(error, known->delta))
		goto stale;
	if (!prove_stale(&segment, error, &proof))
		goto corrupt;

	found.verdict = FLOW_STALE;
	found.delta = error;
	flows.update(&key, &found);
	report(skb, &segment, network_id, EVENT_STALE, error, &proof,
	       mode >= CHECKSUM_REPAIR ? ACTION_REPAIRED : ACTION_NONE);

stale:
	if (mode >= CHECKSUM_REPAIR)
		repaired = repair(skb, &segment, error);
	counts = counts_of(skb);
	if (counts) {
		counts->stale++;
		counts->repaired += repaired;
	}
	return CONTINUE;

corrupt:
	report(skb, &segment, network_id, EVENT_CORRUPT, error, &proof, ACTION_NONE);
	counts = counts_of(skb);
	if (counts)
		counts->corrupt++;
	return CONTINUE;

good:
	if (!known || segment.syn) { /* one right packet does not acquit a stale flow, a new connection does */
		found.verdict = FLOW_GOOD;
		flows.update(&key, &found);
	}
	counts = counts_of(skb);
	if (counts)
		counts->good++;
	return CONTINUE;

partial:
	counts = counts_of(skb);
	if (counts)
		counts->partial++;
	return CONTINUE;

verified:
	counts = counts_of(skb);
	if (counts)
		counts->verified++;
	return CONTINUE;

unreadable:
	counts = counts_of(skb);
	if (counts)
		counts->unreadable++;
	return CONTINUE;
}
