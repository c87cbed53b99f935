/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps that programs and user space share. Layouts are in abi.h; who writes and who reads is in README.md.
 *
 * User space writes the first four and programs only read them. Nothing that decides about a packet depends on an entry
 * that an LRU map may evict: losing one costs a verification or a count, never a packet.
 */
#ifndef DATAPLANE_MAPS_H
#define DATAPLANE_MAPS_H

#include "abi.h"

#define MAX_NETWORKS 16384
#define MAX_ORIGINS 262144
#define MAX_ORIGIN_SLOTS 16
#define MAX_HOST_ADDRESSES 64
#define MAX_FLOWS 65536
#define MAX_PAIRS 4096
#define EVENT_PAGES 64 /* of 4 KiB: a ring of 256 KiB, 2,900 events */

/* ifindex of a container-facing device -> its network */
BPF_TABLE("hash", __u32, struct network, networks, MAX_NETWORKS);

/* 0 -> what holds for the whole host */
BPF_TABLE("array", __u32, struct settings, settings, 1);

/* a port of a container -> where its traffic was sent before DNAT; allocated as it grows, for most hosts need few */
BPF_F_TABLE("hash", struct origin_key, struct origin, origins, MAX_ORIGINS, BPF_F_NO_PREALLOC);

/* 0, 1, 2 ... -> the host's own IPv4 addresses, loopback excluded; address 0 ends the list */
BPF_TABLE("array", __u32, __be32, host_addresses, MAX_HOST_ADDRESSES);

/* a flow towards a container -> what the checksum program found out about it */
BPF_TABLE("lru_hash", struct flow_key, struct flow, flows, MAX_FLOWS);

/* ifindex of a container-facing device -> packets, by finding */
BPF_F_TABLE("percpu_hash", __u32, struct checksum_counts, checksum_counts, MAX_NETWORKS, BPF_F_NO_PREALLOC);

/* source and destination network -> packets dropped */
BPF_TABLE("lru_percpu_hash", struct network_pair, __u64, isolation_drops, MAX_PAIRS);

/* findings, for whoever listens; those that found the ring full are counted in events_lost */
BPF_RINGBUF_OUTPUT(events, EVENT_PAGES);
BPF_TABLE("percpu_array", __u32, __u64, events_lost, 1);

#endif
