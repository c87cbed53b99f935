/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * isolation: keeps container networks apart, and the containers of an isolated network from each other.
 *
 * Hook     egress of a container-facing device (the bridge, or the host veth of a routed network)
 * Reads    networks, settings
 * Writes   isolation_drops, offenders, events, events_lost; never the packet
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

static __always_inline int drop(struct __sk_buff *skb, const struct network_pair *networks_of)
{
	struct network_pair pair = *networks_of;
	struct offender offender;
	__u64 zero = 0, *drops;
	struct event event;

	drops = isolation_drops.lookup_or_try_init(&pair, &zero);
	if (drops)
		(*drops)++;

	event_begin(&event, skb, EVENT_ISOLATED);
	event.source_network = pair.source;
	event.destination_network = pair.destination;
	event.action = ACTION_DROPPED;
	bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), event.mac, sizeof(event.mac));
	event_tuple(skb, &event);
	offender_of(&event, &offender);
	offenders.update(&pair, &offender);
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
