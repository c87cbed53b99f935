/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Telling user space about a finding. A verdict never waits for it: an event that finds the ring full is counted.
 */
#ifndef DATAPLANE_EVENTS_H
#define DATAPLANE_EVENTS_H

#include "maps.h"
#include "parse.h"

/* What every event says: when, where, what. Addresses and the rest are the caller's. */
static __always_inline void event_begin(struct event *event, struct __sk_buff *skb, enum event_kind kind)
{
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_ns();
	event->kind = kind;
	event->ifindex = skb->ifindex;
	event->ingress_ifindex = skb->ingress_ifindex;
}

/* Who spoke to whom, as far as it can be read. */
static __always_inline void event_tuple(struct __sk_buff *skb, struct event *event)
{
	struct ip_packet packet = {};
	struct frame frame;

	if (parse_frame(skb, &frame) != PARSED || parse_ip(skb, &frame, &packet) != PARSED)
		return;
	event->family = packet.family;
	event->protocol = packet.protocol;
	event->saddr = packet.saddr;
	event->daddr = packet.daddr;
	parse_ports(skb, &packet, &event->sport, &event->dport);
}

/* What is kept of the last packet that was dropped. */
static __always_inline void offender_of(const struct event *event, struct offender *offender)
{
	__builtin_memset(offender, 0, sizeof(*offender));
	offender->time_ns = event->time_ns;
	offender->saddr = event->saddr;
	offender->daddr = event->daddr;
	offender->sport = event->sport;
	offender->dport = event->dport;
	offender->family = event->family;
	offender->protocol = event->protocol;
	__builtin_memcpy(offender->mac, event->mac, sizeof(offender->mac));
}

static __always_inline void event_send(struct event *event)
{
	__u32 zero = 0;
	__u64 *lost;

	if (!events.ringbuf_output(event, sizeof(*event), 0))
		return;
	lost = events_lost.lookup(&zero);
	if (lost)
		(*lost)++;
}

#endif
