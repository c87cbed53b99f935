/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * isolation: keeps container networks apart, and the containers of an isolated network from each other.
 *
 * Hook     egress of a container-facing device (the bridge, or the host veth of a routed network)
 * Reads    networks, settings
 * Writes   isolation_drops, events, events_lost; never the packet
 * Verdict  DROP where both networks are known, no published port explains the packet, and
 *            - they differ and neither is open, or
 *            - they are the same, it is isolated, and the packet was routed back into it.
 *          CONTINUE in every other case: from the host itself, from outside, or not understood.
 *
 * The source network is that of the device the packet came in by, the destination network that of the device it is
 * about to leave by. nftables marks both directions of connections to published ports (ct status dnat): those pass. No
 * address is looked at to decide, so no address can be forged to get through; headers are read for the event alone.
 *
 * Be aware: frames that a bridge switches between two of its ports never reach this hook; bridge port isolation keeps
 * those apart.
 */
#include "events.h"
#include "parse.h"

static __always_inline void read_ports(struct __sk_buff *skb, struct event *event, __u32 at)
{
	__be16 ports[2];

	if (event->protocol != IPPROTO_TCP && event->protocol != IPPROTO_UDP && event->protocol != IPPROTO_SCTP)
		return;
	if (bpf_skb_load_bytes(skb, at, ports, sizeof(ports)))
		return;
	event->sport = ports[0];
	event->dport = ports[1];
}

/* Who spoke to whom, as far as it can be read; the verdict does not depend on it. */
static __always_inline void read_tuple(struct __sk_buff *skb, struct event *event)
{
	__be16 type = ethertype(skb);

	if (type == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip)))
			return;
		event->family = 4;
		event->protocol = ip.protocol;
		__builtin_memcpy(event->saddr, &ip.saddr, sizeof(ip.saddr));
		__builtin_memcpy(event->daddr, &ip.daddr, sizeof(ip.daddr));
		if (!(ip.frag_off & bpf_htons(IPV4_OFFSET_MASK)))
			read_ports(skb, event, sizeof(struct ethhdr) + ip.ihl * 4);
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip)))
			return;
		event->family = 6;
		event->protocol = ip.nexthdr;
		__builtin_memcpy(event->saddr, &ip.saddr, sizeof(ip.saddr));
		__builtin_memcpy(event->daddr, &ip.daddr, sizeof(ip.daddr));
		read_ports(skb, event, sizeof(struct ethhdr) + sizeof(ip));
	}
}

static __always_inline int drop(struct __sk_buff *skb, const struct network_pair *networks_of)
{
	struct network_pair pair = *networks_of;
	__u64 zero = 0, *drops;
	struct event event;

	drops = isolation_drops.lookup_or_try_init(&pair, &zero);
	if (drops)
		(*drops)++;

	event_begin(&event, skb, EVENT_ISOLATED);
	event.source_network = pair.source;
	event.destination_network = pair.destination;
	event.action = ACTION_DROPPED;
	read_tuple(skb, &event);
	event_send(&event);
	return DROP;
}

int dp_isolation(struct __sk_buff *skb)
{
	__u32 zero = 0, from = skb->ingress_ifindex, to = skb->ifindex;
	struct network *source, *destination;
	struct network_pair pair = {};
	struct settings *host;

	if (!from)
		return CONTINUE; /* the host's own */
	source = networks.lookup(&from);
	if (!source)
		return CONTINUE; /* from outside: published ports and routes are nftables' business */
	destination = networks.lookup(&to);
	if (!destination)
		return CONTINUE; /* not one of our devices */

	host = settings.lookup(&zero);
	if (host && (skb->mark & host->mark))
		return CONTINUE; /* a published port, or a reply from one */

	if (source->id != destination->id) {
		if (source->policy == POLICY_OPEN || destination->policy == POLICY_OPEN)
			return CONTINUE;
	} else if (destination->policy != POLICY_ISOLATED) {
		return CONTINUE; /* routed back into its own network */
	}

	pair.source = source->id;
	pair.destination = destination->id;
	return drop(skb, &pair);
}
