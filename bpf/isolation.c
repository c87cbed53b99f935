/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * isolation: keeps container networks apart, and the containers of an isolated network from each other.
 *
 * Hook     egress of a container-facing device (the bridge, or the host veth of a routed network)
 * Reads    networks, settings; the routes, where it is lost what device a packet came in by
 * Writes   isolation_drops, offenders, events, events_lost; never the packet
 * Verdict  DROP where both networks are known, no published port explains the packet, and
 *            - they differ and neither is open, or
 *            - they are the same, it is isolated, and the packet was routed back into it.
 *          CONTINUE in every other case: from the host itself, from outside, or not understood.
 *
 * The source network is that of the device the packet came in by, the destination network that of the device it is
 * about to leave by. nftables marks both directions of connections to published ports (ct status dnat), and ICMP errors
 * about them: those pass. It takes the mark off whatever else comes with it. No address is looked at to decide, so no
 * address can be forged to get through, whatever the packet holds: tags, options, extension headers, source routes.
 * Headers are read for the event, and in one case for the source: see came_in_by().
 *
 * Be aware:
 *  - Frames that a bridge switches between two of its ports never reach this hook; bridge port isolation keeps those
 *    apart, ARP and neighbour discovery included. Who is plugged into a bridge is of its network, a NIC too.
 *  - Where bridged packets go through netfilter (net.bridge.bridge-nf-call-iptables 1), the kernel rewrites those for a
 *    published port inside the bridge, and port isolation drops them there, too: neighbours of an isolated network do
 *    not reach each other's published ports then. Other networks and the outside do.
 *  - The device is what counts: traffic that comes out of a tunnel, a VRF or a VLAN device on top of a bridge came in by
 *    that, and is from outside. So is what a bridge's vlan gateway (bridge.ID) routes: its networks are not told apart.
 *  - What a process of the host sends is the host's: who can use a proxy there is not kept from what it reaches.
 *  - "dnat" is anybody's: a port that docker or kube-proxy publish counts as published. ICMP errors about a connection
 *    to one pass from wherever they say to come from.
 *  - A mark that is set behind our forward chain (a chain of a later priority, or any while our table is gone) lets
 *    through. Between namespaces the kernel takes marks off: containers cannot set it.
 *  - XDP and tc programs of others that redirect a packet into a container go around this one, and one before it on the
 *    hook that decides on its own (TCX_PASS, not TCX_NEXT) has it not run.
 */
#include "events.h"
#include "parse.h"

#define AF_INET6 10 /* of socket.h, which is no header for programs */

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

/*
 * The device that a packet came in by where the kernel forgot it, 0 for the host's own. IPv6 fragments are put together
 * for conntrack, and what ip6_fragment() makes of the whole again are, off its fast path, new buffers that know nothing of
 * where they are from; a packet socket that listens is enough to get there. They are from where an answer to their source
 * address would go: the one address that is believed here, and the guard program sees to it that it is the sender's.
 */
static __always_inline __u32 came_in_by(struct __sk_buff *skb)
{
	struct bpf_fib_lookup answer = {};
	struct frame frame;
	struct ipv6hdr ip;

	if (skb->sk)
		return 0; /* of a socket of the host */
	if (parse_frame(skb, &frame) != PARSED || frame.type != bpf_htons(ETH_P_IPV6))
		return 0;
	if (bpf_skb_load_bytes(skb, frame.at, &ip, sizeof(ip)))
		return 0;
	answer.family = AF_INET6;
	answer.ifindex = skb->ifindex;
	__builtin_memcpy(answer.ipv6_src, &ip.daddr, sizeof(ip.daddr));
	__builtin_memcpy(answer.ipv6_dst, &ip.saddr, sizeof(ip.saddr));
	switch (bpf_fib_lookup(skb, &answer, sizeof(answer), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return answer.ifindex;
	default:
		return 0; /* an address of the host, or nowhere */
	}
}

int dp_isolation(struct __sk_buff *skb)
{
	__u32 zero = 0, from = skb->ingress_ifindex, to = skb->ifindex;
	struct network *source, *destination;
	struct network_pair pair = {};
	struct settings *host;

	if (!from)
		from = came_in_by(skb);
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
