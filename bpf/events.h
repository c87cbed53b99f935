/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Telling user space about a finding. A verdict never waits for it: an event that finds the ring full is counted.
 */
#ifndef DATAPLANE_EVENTS_H
#define DATAPLANE_EVENTS_H

#include "maps.h"

/* What every event says: when, where, what. Addresses and the rest are the caller's. */
static __always_inline void event_begin(struct event *event, struct __sk_buff *skb, enum event_kind kind)
{
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_ns();
	event->kind = kind;
	event->ifindex = skb->ifindex;
	event->ingress_ifindex = skb->ingress_ifindex;
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
