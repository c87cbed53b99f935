/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps that programs and user space share. Layouts are in abi.h; who writes and who reads is in README.md.
 *
 * User space writes the first group and programs only read it. Nothing that decides about a packet depends on an entry
 * that an LRU map may evict: losing one costs a verification or a count, never a packet.
 */
#ifndef DATAPLANE_MAPS_H
#define DATAPLANE_MAPS_H

#include "abi.h"

#define MAX_NETWORKS 16384
#define MAX_ORIGINS 262144
#define MAX_ORIGIN_SLOTS 16
#define MAX_PUBLISHED 262144
#define MAX_HOST_ADDRESSES 4096
#define MAX_CONTAINERS 65536
#define MAX_PORTS 16384
#define MAX_PORT_ADDRESSES 65536
#define MAX_FILL_PORTS 4096
#define MAX_FLOWS 65536
#define MAX_PAIRS 4096
#define MAX_PEERS 16384
#define EVENT_PAGES 128 /* of 4 KiB: a ring of 512 KiB, 4,000 events */

/* -- written by user space ------------------------------------------------------------------------------------------ */

/* ifindex of a container-facing device -> its network */
BPF_TABLE("hash", __u32, struct network, networks, MAX_NETWORKS);

/* 0 -> what holds for the whole host */
BPF_TABLE("array", __u32, struct settings, settings, 1);

/* a port of a container -> where its traffic was sent before DNAT; allocated as it grows, for most hosts need few */
BPF_F_TABLE("hash", struct origin_key, struct origin, origins, MAX_ORIGINS, BPF_F_NO_PREALLOC);

/* a port of the host -> the container's that DNAT makes of it */
BPF_F_TABLE("hash", struct published_key, struct target, published, MAX_PUBLISHED, BPF_F_NO_PREALLOC);

/* what an address folds to -> an address of the host that does */
BPF_F_TABLE("hash", struct host_address_key, struct address, host_addresses, MAX_HOST_ADDRESSES, BPF_F_NO_PREALLOC);

/* a network and what an address folds to -> an address of its containers that does */
BPF_F_TABLE("hash", struct container_key, struct address, containers, MAX_CONTAINERS, BPF_F_NO_PREALLOC);

/* ifindex of a container's host veth -> what its container may send */
BPF_F_TABLE("hash", __u32, struct port, ports, MAX_PORTS, BPF_F_NO_PREALLOC);

/* a host veth and an address -> 1: its container's own; 2: that of another interface of the container */
BPF_F_TABLE("hash", struct port_address_key, __u32, port_addresses, MAX_PORT_ADDRESSES, BPF_F_NO_PREALLOC);

/* a network and a UDP destination port -> 1: partial sums are completed */
BPF_F_TABLE("hash", struct fill_key, __u32, fill_ports, MAX_FILL_PORTS, BPF_F_NO_PREALLOC);

/* -- written by programs -------------------------------------------------------------------------------------------- */

/* a flow towards a container -> what the checksum program found out about it */
BPF_TABLE("lru_hash", struct flow_key, struct flow, flows, MAX_FLOWS);

/* ifindex of a container-facing device -> packets, by finding */
BPF_F_TABLE("percpu_hash", __u32, struct checksum_counts, checksum_counts, MAX_NETWORKS, BPF_F_NO_PREALLOC);

/* network -> packets whose partial sum was completed */
BPF_TABLE("lru_percpu_hash", __u32, __u64, filled, MAX_PAIRS);

/* source and destination network -> packets dropped, and the last of them */
BPF_TABLE("lru_percpu_hash", struct network_pair, __u64, isolation_drops, MAX_PAIRS);
BPF_TABLE("lru_hash", struct network_pair, struct offender, offenders, MAX_PAIRS);

/* port and reason -> packets dropped, and the last of them */
BPF_TABLE("lru_percpu_hash", struct guard_drop_key, __u64, guard_drops, MAX_PAIRS);
BPF_TABLE("lru_hash", struct guard_drop_key, struct offender, guard_offenders, MAX_PAIRS);

/* a socket that talks to a container by a loopback address -> that address */
BPF_TABLE("lru_hash", struct peer_key, struct peer, peers, MAX_PEERS);

/* findings, for whoever listens; those that found the ring full are counted in events_lost */
BPF_RINGBUF_OUTPUT(events, EVENT_PAGES);
BPF_TABLE("percpu_array", __u32, __u64, events_lost, 1);

#endif
