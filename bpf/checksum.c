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

/* The tuple that a stale sum is right for. */
struct proof {
	__be32 addr;
	__be16 port;
};

static __always_inline struct checksum_counts *counts_of(struct __sk_buff *skb)
{
	struct checksum_counts none = {};
	__u32 ifindex = skb->ifindex;

	return checksum_counts.lookup_or_try_init(&ifindex, &none);
}

/* Whether the sum is somebody else's to judge: computed later (PARTIAL), or verified by a device (UNNECESSARY). */
static __always_inline int is_offloaded(struct __sk_buff *skb, const struct packet *packet)
{
	if (skb->gso_size)
		return 1;
	if ((__s64)bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
		return 1; /* UNNECESSARY */
	if ((__s64)bpf_csum_update(skb, 0) >= 0)
		return 0; /* COMPLETE: the field holds a full sum */
	return packet->check == csum_pseudo_header(packet); /* PARTIAL, else NONE */
}

/* The other way round, for it is asked of many addresses: which sum must an address have to explain the error? */
struct wanted {
	__u16 if_addr; /* where the address alone is stale */
	__u16 if_both; /* where the port is, too */
};

static __always_inline int prove_address(const struct packet *packet, const struct wanted *wanted, __be32 addr,
					 __be16 port, struct proof *proof)
{
	__u16 sum = csum_fold16(addr); /* canonical: the address is not 0 */

	if (sum == wanted->if_addr)
		proof->port = packet->dport;
	else if (sum == wanted->if_both)
		proof->port = port;
	else
		return 0;
	proof->addr = addr;
	return 1;
}

static __always_inline int prove_origin(const struct packet *packet, __u16 error, const struct origin *origin,
					struct proof *proof)
{
	__be16 port = origin->port;
	__u16 by_port = csum_sub16(packet->dport, port);
	struct wanted wanted;
	__u32 i;

	if (csum_same(error, by_port)) {
		proof->addr = packet->daddr;
		proof->port = port;
		return 1;
	}

	wanted.if_addr = csum_canonical(csum_sub16(csum_fold16(packet->daddr), error));
	wanted.if_both = csum_canonical(csum_fold16((__u64)wanted.if_addr + by_port));
	if (origin->addr)
		return prove_address(packet, &wanted, origin->addr, port, proof);

	for (i = 0; i < MAX_HOST_ADDRESSES; i++) {
		__u32 index = i;
		__be32 *addr = host_addresses.lookup(&index);

		if (!addr || !*addr)
			return 0;
		if (prove_address(packet, &wanted, *addr, port, proof))
			return 1;
	}
	return 0;
}

/* Whether one of the port mappings that lead to this container port explains the error, which is not zero. */
static __always_inline int prove_stale(const struct packet *packet, __u16 error, struct proof *proof)
{
	struct origin_key key = { .addr = packet->daddr, .port = packet->dport, .protocol = packet->protocol };
	__u32 slot;

	for (slot = 0; slot < MAX_ORIGIN_SLOTS; slot++) {
		struct origin *origin;

		key.slot = slot;
		origin = origins.lookup(&key);
		if (!origin)
			return 0;
		if (prove_origin(packet, error, origin, proof))
			return 1;
	}
	return 0;
}

static __always_inline int repair(struct __sk_buff *skb, const struct packet *packet, __u16 delta)
{
	__u64 flags = BPF_F_PSEUDO_HDR;

	if (packet->protocol == IPPROTO_UDP)
		flags |= BPF_F_MARK_MANGLED_0; /* 0 would say that there is no sum */
	return bpf_l4_csum_replace(skb, packet->check_at, 0, delta, flags) == 0;
}

static __always_inline void report(struct __sk_buff *skb, const struct packet *packet, __u32 network_id,
				   enum event_kind kind, __u16 error, const struct proof *proof, enum event_action action)
{
	struct event event;

	event_begin(&event, skb, kind);
	event.destination_network = network_id;
	event.family = 4;
	event.protocol = packet->protocol;
	__builtin_memcpy(event.saddr, &packet->saddr, sizeof(packet->saddr));
	__builtin_memcpy(event.daddr, &packet->daddr, sizeof(packet->daddr));
	event.sport = packet->sport;
	event.dport = packet->dport;
	event.action = action;
	event.stored = packet->check;
	event.correct = csum_corrected(packet, error);
	event.origin_addr = proof->addr;
	event.origin_port = proof->port;
	event_send(&event);
}

int dp_checksum(struct __sk_buff *skb)
{
	struct flow *known, found = {};
	struct checksum_counts *counts;
	struct packet packet = {};
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

	switch (parse_packet(skb, &packet)) {
	case PARSED_NOT_OURS:
		return CONTINUE;
	case PARSED_UNREADABLE:
		goto unreadable;
	case PARSED:
		break;
	}

	key.ifindex = ifindex;
	key.saddr = packet.saddr;
	key.daddr = packet.daddr;
	key.sport = packet.sport;
	key.dport = packet.dport;
	key.protocol = packet.protocol;
	known = flows.lookup(&key);
	if (known && known->verdict == FLOW_GOOD && !packet.syn)
		return CONTINUE; /* verified before */

	if (is_offloaded(skb, &packet))
		goto offloaded;
	error = csum_error(skb, &packet);
	if (error < 0)
		goto unreadable;
	if (csum_is_zero(error))
		goto good;

	if (known && known->verdict == FLOW_STALE && !packet.syn && csum_same(error, known->delta))
		goto stale;
	if (!prove_stale(&packet, error, &proof))
		goto corrupt;

	found.verdict = FLOW_STALE;
	found.delta = error;
	flows.update(&key, &found);
	report(skb, &packet, network_id, EVENT_STALE, error, &proof,
	       mode == CHECKSUM_REPAIR ? ACTION_REPAIRED : ACTION_NONE);

stale:
	if (mode == CHECKSUM_REPAIR)
		repaired = repair(skb, &packet, error);
	counts = counts_of(skb);
	if (counts) {
		counts->stale++;
		counts->repaired += repaired;
	}
	return CONTINUE;

corrupt:
	report(skb, &packet, network_id, EVENT_CORRUPT, error, &proof, ACTION_NONE);
	counts = counts_of(skb);
	if (counts)
		counts->corrupt++;
	return CONTINUE;

good:
	if (!known || packet.syn) { /* one right packet does not acquit a stale flow, a new connection does */
		found.verdict = FLOW_GOOD;
		flows.update(&key, &found);
	}
	counts = counts_of(skb);
	if (counts)
		counts->good++;
	return CONTINUE;

offloaded:
	counts = counts_of(skb);
	if (counts)
		counts->offloaded++;
	return CONTINUE;

unreadable:
	counts = counts_of(skb);
	if (counts)
		counts->unreadable++;
	return CONTINUE;
}
