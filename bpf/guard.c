/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * guard: lets a container speak for itself, and for nobody else.
 *
 * Hook     ingress of a container's host veth: what comes from it, before the bridge or the host sees it
 * Reads    ports, port_addresses
 * Writes   guard_drops, guard_offenders, events, events_lost; never the packet
 * Verdict  DROP for the first of these reasons that is found, CONTINUE where none is; and CONTINUE, after one lookup,
 *          where the device has no entry or its guard is off.
 *
 *     GUARD_MAC and GUARD_FULL
 *       SOURCE_MAC ..... the frame is from another MAC than the port's, where that is known
 *     GUARD_FULL
 *       BRIDGE ......... to 01:80:c2:00:00:0x, which bridges do not pass on: spanning tree, pause, 802.1X, LLDP
 *       UNREADABLE ..... more than two tags or six extension headers; IP or ARP in name that is none; UDP, ICMP or
 *                        IGMP, or its first fragment, without the 8 bytes that say what it is
 *       LOOPBACK ....... from or to 127.0.0.0/8 or ::1, or ::ffff:0:0/96, which is IPv4 in disguise (RFC 4291, 2.5.5.2)
 *       DHCP_SERVER .... UDP to port 68 over IPv4 or 546 over IPv6, whatever its source port: clients do not ask
 *       ROUTER ......... router advertisement, redirect, or renumbering (ICMPv6 134, 137, 138; ICMP 9, 5)
 *       NEIGHBOUR ...... neighbour discovery in fragments (RFC 6980) or malformed; that gives another MAC than the
 *                        frame's; that advertises, or claims in duplicate address detection, an address not its own
 *       ARP ............ the same said by ARP; operations that are neither request nor reply; RARP
 *       SOURCE_ADDRESS . IP from an address not its own
 *
 * Its own are the addresses in port_addresses, and fe80::/64 with the modified EUI-64 of its MAC. Nobody's, 0.0.0.0 and
 * ::, may send what one sends who has no address yet: a DHCP client's requests, reports of group membership (IGMP,
 * MLD), ARP probes, duplicate address detection, router solicitations.
 *
 * Tags hide nothing: behind a tag the same rules hold. Later fragments pass by their address, for what they belong to
 * is told by the first. Other Ethernet protocols pass by their MAC.
 *
 * Be aware: what travels inside of tunnels (IP in IP, GRE, MPLS, PPPoE) is not looked into: a host or a neighbour that
 * unwraps such packets from containers has to guard itself.
 */
#include <linux/igmp.h>

#include "events.h"
#include "parse.h"

#define PERMITTED 0 /* in the place of an enum guard_reason */

#define MAX_ND_OPTIONS 8
#define ND_OPTION_SOURCE_MAC 1 /* RFC 4861, 4.6.1 */
#define ND_OPTION_TARGET_MAC 2
#define ND_ROUTER_SOLICITATION 133
#define ND_ROUTER_ADVERTISEMENT 134
#define ND_NEIGHBOUR_SOLICITATION 135
#define ND_NEIGHBOUR_ADVERTISEMENT 136
#define ND_REDIRECT 137
#define ROUTER_RENUMBERING 138 /* RFC 2894 */
#define ICMPV4_REDIRECT 5
#define ICMPV4_ROUTER_ADVERTISEMENT 9 /* RFC 1256 */

#define ARP_HARDWARE_ETHERNET 1
#define ARP_REQUEST 1
#define ARP_REPLY 2

#define DHCP_SERVER_PORT 67
#define DHCP_CLIENT_PORT 68
#define DHCPV6_CLIENT_PORT 546

#define IPV4_LOOPBACK 0x7f000000
#define IPV4_LOOPBACK_MASK 0xff000000

/* A frame, as far as it was read. */
struct sent {
	struct ethhdr eth;
	struct frame frame;
	struct ip_packet packet; /* family 0: no IP; of ARP, its protocol addresses */
};

/* How UDP, ICMP, ICMPv6 and IGMP begin: by ports, or by a type. */
union l4_head {
	struct {
		__be16 sport;
		__be16 dport;
	};
	__u8 type;
	__u8 bytes[8];
};

/* ARP for Ethernet and IPv4 (RFC 826). */
struct arp_ipv4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
};
_Static_assert(sizeof(struct arp_ipv4) == 28, "struct arp_ipv4");

/* The first 8 bytes of an option, which is all of one that gives a MAC (RFC 4861, 4.6). */
struct nd_option {
	__u8 type;
	__u8 len; /* in 8 bytes */
	__u8 mac[6];
};

static __always_inline int mac_same(const __u8 *a, const __u8 *b)
{
	__u16 one[3], other[3];

	__builtin_memcpy(one, a, sizeof(one));
	__builtin_memcpy(other, b, sizeof(other));
	return one[0] == other[0] && one[1] == other[1] && one[2] == other[2];
}

/* IEEE 802.1Q, 8.6.3: 01:80:c2:00:00:00 to :0f end at the next bridge; one without spanning tree floods the first. */
static __always_inline int is_for_bridges(const __u8 *mac)
{
	return mac[0] == 0x01 && mac[1] == 0x80 && mac[2] == 0xc2 && !mac[3] && !mac[4] && mac[5] < 0x10;
}

static __always_inline int is_loopback_ipv4(const struct address *address)
{
	return (address->word[3] & bpf_htonl(IPV4_LOOPBACK_MASK)) == bpf_htonl(IPV4_LOOPBACK);
}

/* In a header of IPv6, whose addresses are taken as they are: this is not how struct address keeps IPv4. */
static __always_inline int is_mapped_ipv4(const struct address *address)
{
	return !address->word[0] && !address->word[1] && address->word[2] == bpf_htonl(0xffff);
}

static __always_inline int is_loopback_ipv6(const struct address *address)
{
	return is_mapped_ipv4(address) ||
	       (!address->word[0] && !address->word[1] && !address->word[2] && address->word[3] == bpf_htonl(1));
}

/* RFC 4291, appendix A. */
static __always_inline int is_link_local_of(const struct address *address, const __u8 *mac)
{
	return address->word[0] == bpf_htonl(0xfe800000) && !address->word[1] &&
	       address->word[2] == bpf_htonl((mac[0] ^ 2) << 24 | mac[1] << 16 | mac[2] << 8 | 0xff) &&
	       address->word[3] == bpf_htonl(0xfe000000 | mac[3] << 16 | mac[4] << 8 | mac[5]);
}

static __always_inline int is_igmp_report(__u8 type)
{
	return type == IGMP_HOST_MEMBERSHIP_REPORT || type == IGMPV2_HOST_MEMBERSHIP_REPORT ||
	       type == IGMPV3_HOST_MEMBERSHIP_REPORT || type == IGMP_HOST_LEAVE_MESSAGE;
}

static __always_inline int is_own_ipv4(struct __sk_buff *skb, const struct address *address)
{
	struct port_address_key key = { .ifindex = skb->ifindex, .addr = *address };

	return port_addresses.lookup(&key) != 0;
}

static __always_inline int is_own_ipv6(struct __sk_buff *skb, const struct sent *sent, const struct address *address)
{
	struct port_address_key key = { .ifindex = skb->ifindex, .addr = *address };

	if (is_mapped_ipv4(address))
		return 0; /* it would be found as IPv4 */
	return port_addresses.lookup(&key) || is_link_local_of(address, sent->eth.h_source);
}

static __always_inline int read_l4_head(struct __sk_buff *skb, const struct ip_packet *packet, union l4_head *head)
{
	return packet->l4_len >= sizeof(*head) && !bpf_skb_load_bytes(skb, packet->l4_at, head, sizeof(*head));
}

static __always_inline __u32 judge_arp(struct __sk_buff *skb, struct sent *sent)
{
	struct ip_packet *packet = &sent->packet;
	const struct address *claimed;
	struct arp_ipv4 arp;
	__be32 ipv4;
	int asks;

	if (bpf_skb_load_bytes(skb, sent->frame.at, &arp, sizeof(arp)))
		return REASON_UNREADABLE;
	if (arp.hardware != bpf_htons(ARP_HARDWARE_ETHERNET) || arp.protocol != bpf_htons(ETH_P_IP) ||
	    arp.hardware_len != sizeof(arp.sender_mac) || arp.protocol_len != sizeof(arp.sender))
		return REASON_UNREADABLE;

	packet->family = 4;
	__builtin_memcpy(&ipv4, arp.sender, sizeof(ipv4));
	address_from_ipv4(&packet->saddr, ipv4);
	__builtin_memcpy(&ipv4, arp.target, sizeof(ipv4));
	address_from_ipv4(&packet->daddr, ipv4);

	asks = arp.operation == bpf_htons(ARP_REQUEST);
	if (!asks && arp.operation != bpf_htons(ARP_REPLY))
		return REASON_ARP;
	if (!mac_same(arp.sender_mac, sent->eth.h_source))
		return REASON_ARP;
	/* A probe is from nobody, for the address that the sender is about to take (RFC 5227, 2.1.1). */
	claimed = asks && !packet->saddr.word[3] ? &packet->daddr : &packet->saddr;
	return is_own_ipv4(skb, claimed) ? PERMITTED : REASON_ARP;
}

static __always_inline __u32 judge_nd(struct __sk_buff *skb, const struct sent *sent, __u8 type)
{
	__u32 i, at = sent->packet.l4_at + sizeof(union l4_head), left = sent->packet.l4_len - sizeof(union l4_head);
	struct nd_option option;
	struct address target;

	if (sent->packet.fragment != FRAGMENT_NONE)
		return REASON_NEIGHBOUR;
	if (type != ND_ROUTER_SOLICITATION) {
		if (left < sizeof(target) || bpf_skb_load_bytes(skb, at, &target, sizeof(target)))
			return REASON_NEIGHBOUR;
		at += sizeof(target);
		left -= sizeof(target);
		/* A solicitation from nobody is for the address that the sender is about to take (RFC 4862, 5.4.2). */
		if ((type == ND_NEIGHBOUR_ADVERTISEMENT || address_is_zero(&sent->packet.saddr)) &&
		    !is_own_ipv6(skb, sent, &target))
			return REASON_NEIGHBOUR;
	}
	for (i = 0; i < MAX_ND_OPTIONS; i++) {
		KEEP_AS_WRITTEN(i);
		if (!left)
			return PERMITTED;
		if (bpf_skb_load_bytes(skb, at, &option, sizeof(option)))
			return REASON_NEIGHBOUR;
		if (!option.len || option.len * 8 > left)
			return REASON_NEIGHBOUR;
		if ((option.type == ND_OPTION_SOURCE_MAC || option.type == ND_OPTION_TARGET_MAC) &&
		    (option.len != 1 || !mac_same(option.mac, sent->eth.h_source)))
			return REASON_NEIGHBOUR;
		at += option.len * 8;
		left -= option.len * 8;
	}
	return left ? REASON_NEIGHBOUR : PERMITTED;
}

static __always_inline __u32 judge_ipv4(struct __sk_buff *skb, const struct sent *sent)
{
	const struct ip_packet *packet = &sent->packet;
	int without_address = 0;
	union l4_head head;
	__u8 protocol = packet->protocol;

	if (is_loopback_ipv4(&packet->saddr) || is_loopback_ipv4(&packet->daddr))
		return REASON_LOOPBACK;
	if (packet->fragment != FRAGMENT_LATER &&
	    (protocol == IPPROTO_UDP || protocol == IPPROTO_ICMP || protocol == IPPROTO_IGMP)) {
		if (!read_l4_head(skb, packet, &head))
			return REASON_UNREADABLE;
		if (protocol == IPPROTO_UDP) {
			if (head.dport == bpf_htons(DHCP_CLIENT_PORT))
				return REASON_DHCP_SERVER;
			without_address = head.sport == bpf_htons(DHCP_CLIENT_PORT) &&
					  head.dport == bpf_htons(DHCP_SERVER_PORT);
		} else if (protocol == IPPROTO_ICMP) {
			if (head.type == ICMPV4_REDIRECT || head.type == ICMPV4_ROUTER_ADVERTISEMENT)
				return REASON_ROUTER;
		} else {
			without_address = is_igmp_report(head.type); /* RFC 3376, 4.2.13 */
		}
	}
	if (!packet->saddr.word[3])
		return without_address ? PERMITTED : REASON_SOURCE_ADDRESS;
	return is_own_ipv4(skb, &packet->saddr) ? PERMITTED : REASON_SOURCE_ADDRESS;
}

static __always_inline __u32 judge_ipv6(struct __sk_buff *skb, const struct sent *sent)
{
	const struct ip_packet *packet = &sent->packet;
	int without_address = 0;
	union l4_head head;
	__u8 protocol = packet->protocol;
	__u32 reason;

	if (is_loopback_ipv6(&packet->saddr) || is_loopback_ipv6(&packet->daddr))
		return REASON_LOOPBACK;
	if (packet->fragment != FRAGMENT_LATER && (protocol == IPPROTO_UDP || protocol == IPPROTO_ICMPV6)) {
		if (!read_l4_head(skb, packet, &head))
			return REASON_UNREADABLE;
		if (protocol == IPPROTO_UDP) {
			if (head.dport == bpf_htons(DHCPV6_CLIENT_PORT))
				return REASON_DHCP_SERVER;
		} else {
			switch (head.type) {
			case ND_ROUTER_ADVERTISEMENT:
			case ND_REDIRECT:
			case ROUTER_RENUMBERING:
				return REASON_ROUTER;
			case ND_ROUTER_SOLICITATION:
			case ND_NEIGHBOUR_SOLICITATION:
			case ND_NEIGHBOUR_ADVERTISEMENT:
				reason = judge_nd(skb, sent, head.type);
				if (reason)
					return reason;
				without_address = head.type != ND_NEIGHBOUR_ADVERTISEMENT;
				break;
			case ICMPV6_MGM_REPORT:
			case ICMPV6_MGM_REDUCTION:
			case ICMPV6_MLD2_REPORT:
				without_address = 1; /* RFC 3590 */
				break;
			}
		}
	}
	if (address_is_zero(&packet->saddr))
		return without_address ? PERMITTED : REASON_SOURCE_ADDRESS;
	return is_own_ipv6(skb, sent, &packet->saddr) ? PERMITTED : REASON_SOURCE_ADDRESS;
}

/* Has the verifier forget what it knows of a value: the many ways through the headers become one behind them. */
#define UNTRACK(value, unknown)                                                              \
	do {                                                                                 \
		__u64 untracked = (value), with = (unknown);                                 \
		asm volatile("%0 ^= %1\n%0 ^= %1" : "+r"(untracked) : "r"(with));            \
		(value) = untracked;                                                         \
	} while (0)

static __always_inline void untrack(struct __sk_buff *skb, struct ip_packet *packet)
{
	__u32 unknown = skb->len;

	UNTRACK(packet->family, unknown);
	UNTRACK(packet->fragment, unknown);
	UNTRACK(packet->protocol, unknown);
	UNTRACK(packet->l4_at, unknown);
	UNTRACK(packet->l4_len, unknown);
}

/* PERMITTED, or why not. */
static __always_inline __u32 reason_to_drop(struct __sk_buff *skb, const struct port *port, struct sent *sent)
{
	struct frame *frame = &sent->frame;

	if (port->has_mac && !mac_same(port->mac, sent->eth.h_source))
		return REASON_SOURCE_MAC;
	if (port->guard == GUARD_MAC)
		return PERMITTED;
	if (is_for_bridges(sent->eth.h_dest))
		return REASON_BRIDGE;

	frame->type = sent->eth.h_proto;
	frame->at = sizeof(sent->eth);
	if (is_tag(frame->type) && parse_frame(skb, frame) != PARSED)
		return REASON_UNREADABLE;
	switch (bpf_ntohs(frame->type)) {
	case ETH_P_IP:
		return parse_ipv4(skb, frame, &sent->packet) == PARSED ? judge_ipv4(skb, sent) : REASON_UNREADABLE;
	case ETH_P_IPV6:
		if (parse_ipv6(skb, frame, &sent->packet) != PARSED)
			return REASON_UNREADABLE;
		untrack(skb, &sent->packet);
		return judge_ipv6(skb, sent);
	case ETH_P_ARP:
		return judge_arp(skb, sent);
	case ETH_P_RARP:
		return REASON_ARP;
	}
	return PERMITTED;
}

static __always_inline int refuse(struct __sk_buff *skb, const struct port *port, const struct sent *sent, __u32 reason)
{
	struct guard_drop_key key = { .ifindex = skb->ifindex, .reason = reason };
	const struct ip_packet *packet = &sent->packet;
	struct offender offender;
	__u64 zero = 0, *drops;
	struct event event;

	drops = guard_drops.lookup_or_try_init(&key, &zero);
	if (drops)
		(*drops)++;

	event_begin(&event, skb, EVENT_GUARDED);
	event.source_network = port->network;
	event.action = ACTION_DROPPED;
	event.reason = reason;
	event.family = packet->family;
	event.protocol = packet->protocol;
	event.saddr = packet->saddr;
	event.daddr = packet->daddr;
	__builtin_memcpy(event.mac, sent->eth.h_source, sizeof(event.mac));
	if (packet->family)
		parse_ports(skb, packet, &event.sport, &event.dport);
	offender_of(&event, &offender);
	guard_offenders.update(&key, &offender);
	event_send(&event);
	return DROP;
}

static __always_inline int guarded(struct __sk_buff *skb, const struct port *port)
{
	struct sent sent = {};
	__u32 reason;

	if (bpf_skb_load_bytes(skb, 0, &sent.eth, sizeof(sent.eth)))
		reason = REASON_UNREADABLE;
	else
		reason = reason_to_drop(skb, port, &sent);
	if (!reason)
		return CONTINUE;
	untrack(skb, &sent.packet);
	return refuse(skb, port, &sent, reason);
}

int dp_guard(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct port *port;

	port = ports.lookup(&ifindex);
	if (!port || port->guard == GUARD_OFF)
		return CONTINUE;
	return guarded(skb, port);
}
