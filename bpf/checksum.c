/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * checksum: finds TCP, UDP and ICMPv6 checksums that NAT left stale, proves it, and repairs them; leaves corruption alone.
 *
 * Hook     egress of a container-facing device: after DNAT, before the container
 * Reads    networks, origins, published, host_addresses, containers
 * Writes   flows, checksum_counts, events, events_lost; of the packet the checksum field, in mode repair, if proved
 * Verdict  CONTINUE, always: a receiver drops a wrong sum by itself
 *
 *     PARTIAL, or to be segmented: not summed yet ............ partial
 *     UNNECESSARY: a device verified it ...................... verified
 *     fragment, truncated, longer than the bounds ............ unreadable
 *     flow known good, no SYN ................................ nothing to do: one lookup
 *     error zero ............................................. good: the flow is not looked at again
 *     error = what NAT of ours changed (stale.h) ............. stale: repaired by that delta; where that is weak evidence,
 *                                                              corrupt, and stale if the next packet says the same
 *     any other error ........................................ corrupt: reported, not touched
 *
 * The proof of "stale" is that the sum is right for the tuple that NAT of ours replaced. A repair takes that delta out of
 * the sum (RFC 1624) and never recomputes it from the payload, which would declare corruption good. The delta belongs to
 * the flow, but each packet is asked for the same proof: one that is right already, or damaged besides, keeps its sum.
 *
 * skb->csum of a COMPLETE packet goes along: the checksum field is all that changes, so BPF_F_PSEUDO_HDR is right for
 * both families, and BPF_F_IPV6, which is for addresses that change with it, is not.
 *
 * Be aware: a corruption that changes the sum by just the delta of a mapping cannot be told from a stale one by any
 * means; README.md has the odds. Where the kernel has no BTF, a complete sum that equals the pseudo header's (1 in
 * 65,536) is taken for one that is not computed yet. ICMP of IPv4 has no pseudo header, so NAT leaves nothing stale.
 */
#include "csum.h"
#include "events.h"
#include "offload.h"
#include "stale.h"

enum finding { FOUND_GOOD, FOUND_STALE, FOUND_REPAIRED, FOUND_CORRUPT, FOUND_PARTIAL, FOUND_VERIFIED, FOUND_UNREADABLE };

/* The network of the device, where its mode asks for anything. */
static __always_inline struct network *watched_network(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct network *network = networks.lookup(&ifindex);

	return network && network->checksum != CHECKSUM_OFF ? network : 0;
}

static __always_inline int count(struct __sk_buff *skb, enum finding finding)
{
	struct checksum_counts none = {}, *counts;
	__u32 ifindex = skb->ifindex;

	counts = checksum_counts.lookup_or_try_init(&ifindex, &none);
	if (!counts)
		return CONTINUE;
	switch (finding) {
	case FOUND_GOOD:
		counts->good++;
		break;
	case FOUND_REPAIRED:
		counts->repaired++;
		counts->stale++;
		break;
	case FOUND_STALE:
		counts->stale++;
		break;
	case FOUND_CORRUPT:
		counts->corrupt++;
		break;
	case FOUND_PARTIAL:
		counts->partial++;
		break;
	case FOUND_VERIFIED:
		counts->verified++;
		break;
	case FOUND_UNREADABLE:
		counts->unreadable++;
		break;
	}
	return CONTINUE;
}

/* What can have happened to the packet on its way to the network. */
static __always_inline struct inquiry *inquire(struct __sk_buff *skb, const struct network *network, __u16 error)
{
	__u32 zero = 0, ingress = skb->ingress_ifindex;
	struct inquiry *inquiry;
	struct network *from;

	inquiry = inquiries.lookup(&zero);
	if (!inquiry)
		return 0;
	inquiry->error = error;
	inquiry->network = network->id;
	inquiry->local = !ingress;
	inquiry->from = 0;
	inquiry->masquerades = 0;
	inquiry->unmasquerades = network->masquerades;
	from = networks.lookup(&ingress);
	if (from) {
		inquiry->from = from->id;
		inquiry->masquerades = from->masquerades || from->id == network->id; /* the latter: hairpin */
		inquiry->unmasquerades = network->masquerades || from->id == network->id;
	}
	return inquiry;
}

static __always_inline int repair(struct __sk_buff *skb, const struct segment *segment, __u16 delta)
{
	__u64 flags = BPF_F_PSEUDO_HDR;

	if (segment->ip.protocol == IPPROTO_UDP)
		flags |= BPF_F_MARK_MANGLED_0; /* 0 would say that there is no sum */
	return bpf_l4_csum_replace(skb, segment->check_at, 0, delta, flags) == 0;
}

static __always_inline void report(struct __sk_buff *skb, const struct segment *segment, __u32 network_id,
				   __u16 error, const struct proof *proof, enum event_action action)
{
	enum event_kind kind = proof ? EVENT_STALE : EVENT_CORRUPT;
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
	if (proof) {
		event.reason = proof->translation;
		event.origin_saddr = proof->saddr;
		event.origin_daddr = proof->daddr;
		event.origin_sport = proof->sport;
		event.origin_dport = proof->dport;
	}
	event_send(&event);
}

/* A wrong sum: finds out whose fault it is, and remembers it for the flow. */
static __always_inline int judge(struct __sk_buff *skb, const struct segment *segment, const struct network *network,
				 struct flow_key *key, struct flow known, __u16 error)
{
	struct flow found = { .delta = error };
	struct inquiry *inquiry;

	inquiry = inquire(skb, network, error);
	if (!inquiry)
		return FOUND_CORRUPT;
	inquiry->said_before = known.verdict > FLOW_GOOD && csum_same(error, known.delta);
	if (!prove_stale(segment, inquiry)) {
		if (known.verdict == FLOW_SUSPECT)
			flows.delete(key); /* it takes two in a row */
		report(skb, segment, network->id, error, 0, ACTION_NONE);
		return FOUND_CORRUPT;
	}
	if (!proved(inquiry)) {
		found.verdict = FLOW_SUSPECT;
		flows.update(key, &found);
		report(skb, segment, network->id, error, 0, ACTION_NONE);
		return FOUND_CORRUPT;
	}
	found.verdict = FLOW_STALE;
	flows.update(key, &found);
	report(skb, segment, network->id, error, &inquiry->proof,
	       network->checksum >= CHECKSUM_REPAIR ? ACTION_REPAIRED : ACTION_NONE);
	return FOUND_STALE;
}

int dp_checksum(struct __sk_buff *skb)
{
	struct flow *remembered, known = {};
	struct flow_key key = {};
	struct network *network;
	struct segment *segment;
	struct scratch *space;
	enum parsed parsed;
	int error;

	switch (summed(skb)) {
	case SUMMED_PARTIAL:
		return watched_network(skb) ? count(skb, FOUND_PARTIAL) : CONTINUE;
	case SUMMED_VERIFIED:
		return watched_network(skb) ? count(skb, FOUND_VERIFIED) : CONTINUE;
	case SUMMED_COMPLETE:
	case SUMMED_NONE:
		break;
	}

	space = scratch();
	if (!space)
		return CONTINUE;
	segment = &space->segment;
	parsed = parse_segment(skb, segment);
	if (parsed == PARSED_NOT_OURS)
		return CONTINUE;
	if (parsed == PARSED_UNREADABLE)
		return watched_network(skb) ? count(skb, FOUND_UNREADABLE) : CONTINUE;

	key.ifindex = skb->ifindex;
	key.saddr = segment->ip.saddr;
	key.daddr = segment->ip.daddr;
	key.sport = segment->sport;
	key.dport = segment->dport;
	key.protocol = segment->ip.protocol;
	remembered = flows.lookup(&key);
	if (remembered)
		known = *remembered;
	if (known.verdict == FLOW_GOOD && !segment->syn)
		return CONTINUE; /* verified before */

	network = watched_network(skb);
	if (!network)
		return CONTINUE;
	if (looks_partial(segment) && summed(skb) == SUMMED_NONE)
		return count(skb, FOUND_PARTIAL);
	error = csum_error(skb, space);
	if (error < 0)
		return count(skb, FOUND_UNREADABLE);

	if (csum_is_zero(error)) {
		/* One right packet does not acquit a stale flow, a new connection does. */
		if (known.verdict != FLOW_STALE || segment->syn) {
			known.verdict = FLOW_GOOD;
			flows.update(&key, &known);
		}
		return count(skb, FOUND_GOOD);
	}

	if (known.verdict != FLOW_STALE || segment->syn || !csum_same(error, known.delta)) {
		if (judge(skb, segment, network, &key, known, error) == FOUND_CORRUPT)
			return count(skb, FOUND_CORRUPT);
	}
	if (network->checksum >= CHECKSUM_REPAIR && repair(skb, segment, error))
		return count(skb, FOUND_REPAIRED);
	return count(skb, FOUND_STALE);
}
