/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * fill: completes the partial checksums of UDP packets to named ports, for receivers that read frames and not sockets.
 *
 * Hook     egress of a container's host veth, opt-in
 * Reads    ports, fill_ports
 * Writes   filled; of the packet the checksum field, and that it is summed
 * Verdict  DROP where the kernel ran out of memory halfway; else CONTINUE
 *
 * What a local sender puts on a veth is not summed: nobody would check it. A DHCP client reads it from a packet socket,
 * checks it all the same, and drops it. This does what iptables' "CHECKSUM --checksum-fill" does and nft has no word for.
 * A partial sum is no evidence of anything yet, so to complete it hides nothing; but one that is not the pseudo header's
 * is left as it is.
 *
 * A sum that is stored while the packet is still PARTIAL would be summed again by the next device that computes sums. So
 * the packet is made NONE first, which the kernel does by itself when data is pulled off that sums were to start in
 * (skb_postpull_rcsum()): from behind the Ethernet header as much as reaches behind the start of the sum is taken away
 * and put back. If the packet is PARTIAL still, nothing else is done to it.
 *
 * Be aware: without BTF, nothing is filled. Neither are frames with VLAN tags in them, fragments, GSO packets, and those
 * longer than CSUM_MAX_LEN or whose headers are longer than MAX_ROOM.
 */
#include "csum.h"
#include "events.h"
#include "offload.h"

/* By how much what is taken away reaches behind the start of the sum. */
#define MORE 2

/* Bytes of headers that are taken away and put back: of IPv4 up to 60, of IPv6 40 and some extensions, and MORE. */
#define MAX_ROOM 128

/* What bpf_skb_adjust_room() wants to be left of a packet. */
#define MIN_REST sizeof(struct ipv6hdr)

#ifdef IP_SUMMED_BYTE

/* Makes a PARTIAL packet NONE: 0. A negative number where it is as it was, DROP where the packet is lost. */
static __always_inline int forget_partial(struct __sk_buff *skb, struct scratch *scratch)
{
	__u32 room = scratch->segment.ip.l4_at + MORE, len = skb->len;
	__u32 needed = sizeof(struct ethhdr) + room + MIN_REST;

	if (room < MORE || room > MAX_ROOM)
		return -1;
	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), scratch->bytes, room))
		return -1;
	if (len < needed && bpf_skb_change_tail(skb, needed, 0))
		return -1;
	if (bpf_skb_adjust_room(skb, -(__s32)room, BPF_ADJ_ROOM_MAC, 0))
		return len < needed && bpf_skb_change_tail(skb, len, 0) ? DROP : -1;
	if (bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC, 0))
		return DROP;
	if (bpf_skb_store_bytes(skb, sizeof(struct ethhdr), scratch->bytes, room, 0))
		return DROP;
	return len < needed && bpf_skb_change_tail(skb, len, 0) ? DROP : 0;
}

static __always_inline int fill(struct __sk_buff *skb, struct scratch *scratch, __u32 network)
{
	struct segment *segment = &scratch->segment;
	__u64 zero = 0, *filled_here;
	int error, failed;
	__be16 check;

	if (segment->check != csum_pseudo_header(segment))
		return CONTINUE;
	error = csum_error(skb, scratch);
	if (error < 0)
		return CONTINUE;
	check = csum_corrected(segment, error);

	failed = forget_partial(skb, scratch);
	if (failed)
		return failed == DROP ? DROP : CONTINUE;
	if (summed(skb) != SUMMED_NONE)
		return CONTINUE;
	if (bpf_skb_store_bytes(skb, segment->check_at, &check, sizeof(check), 0))
		return DROP;
	filled_here = filled.lookup_or_try_init(&network, &zero);
	if (filled_here)
		(*filled_here)++;
	return CONTINUE;
}

#endif

int dp_fill(struct __sk_buff *skb)
{
#ifdef IP_SUMMED_BYTE
	__u32 ifindex = skb->ifindex;
	struct fill_key key = {};
	struct scratch *space;
	struct port *port;

	if (skb->gso_size || summed(skb) != SUMMED_PARTIAL)
		return CONTINUE;
	port = ports.lookup(&ifindex);
	space = scratch();
	if (!port || !space || parse_segment(skb, &space->segment) != PARSED)
		return CONTINUE;
	if (space->segment.ip.protocol != IPPROTO_UDP)
		return CONTINUE;
	key.network = port->network;
	key.port = space->segment.dport;
	if (!fill_ports.lookup(&key))
		return CONTINUE;
	return fill(skb, space, port->network);
#else
	return CONTINUE;
#endif
}
