/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the programs and user space agree on: the layout of every map key, map value and event.
 *
 * Each struct is mirrored in dataplane/abi.py; tests/unit/test_abi.py compares the sizes, and the _Static_asserts here
 * stop a build whose layout moved. Addresses and ports are in network byte order, everything else in the host's.
 */
#ifndef DATAPLANE_ABI_H
#define DATAPLANE_ABI_H

enum isolation_policy {
	POLICY_OPEN = 0,
	POLICY_SAME_BRIDGE = 1,
	POLICY_ISOLATED = 2,
};

enum checksum_mode {
	CHECKSUM_OFF = 0,
	CHECKSUM_OBSERVE = 1,
	CHECKSUM_REPAIR = 2,
};

/* networks: ifindex of the container-facing device (bridge, or host veth of a routed network) -> its network. */
struct network {
	__u32 id;      /* the same for all devices of one network */
	__u8 policy;   /* enum isolation_policy */
	__u8 checksum; /* enum checksum_mode */
	__u16 unused;
};
_Static_assert(sizeof(struct network) == 8, "struct network");

/* settings: one element, host-wide. */
struct settings {
	__u32 mark; /* mark bits that nftables sets on packets of published ports */
};
_Static_assert(sizeof(struct settings) == 4, "struct settings");

/*
 * origins: where traffic to a container's port may have been sent before our DNAT. One container port can be published
 * several times: slots 0, 1, 2 ... are filled without a gap, and readers stop at the first that is missing.
 */
struct origin_key {
	__be32 addr; /* the container's */
	__be16 port;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 slot;
};
_Static_assert(sizeof(struct origin_key) == 8, "struct origin_key");

struct origin {
	__be32 addr; /* the host address that was published, 0 for every local address (see host_addresses) */
	__be16 port; /* the published port */
	__u16 unused;
};
_Static_assert(sizeof(struct origin) == 8, "struct origin");

/* flows: what the checksum program found out about a flow. Losing an entry costs one more verification, no packet. */
struct flow_key {
	__u32 ifindex;
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u32 protocol;
};
_Static_assert(sizeof(struct flow_key) == 20, "struct flow_key");

enum flow_verdict {
	FLOW_GOOD = 1,  /* a sum was verified and right: not looked at again */
	FLOW_STALE = 2, /* NAT left the sum stale: the delta belongs to every packet */
};

struct flow {
	__u32 verdict; /* enum flow_verdict */
	__u32 delta;   /* what a stale sum lacks: ones' complement, 16 bits, as bpf_l4_csum_replace() takes it */
};
_Static_assert(sizeof(struct flow) == 8, "struct flow");

/* checksum_counts: ifindex -> per-CPU packet counts. */
struct checksum_counts {
	__u64 good;       /* verified: right */
	__u64 stale;      /* proved stale, or of a flow proved stale */
	__u64 repaired;   /* of these: rewritten */
	__u64 corrupt;    /* wrong, and no NAT of ours explains it: left alone */
	__u64 offloaded;  /* not ours to judge: partial or already verified by a device */
	__u64 unreadable; /* fragment, truncated, longer than the bound: left alone */
};
_Static_assert(sizeof(struct checksum_counts) == 48, "struct checksum_counts");

/* isolation_drops: (source network, destination network) -> per-CPU packets dropped. */
struct network_pair {
	__u32 source;
	__u32 destination;
};
_Static_assert(sizeof(struct network_pair) == 8, "struct network_pair");

/* events: the ring buffer. */
enum event_kind {
	EVENT_ISOLATED = 1, /* isolation dropped a packet */
	EVENT_STALE = 2,    /* first proof that a flow's sum is stale */
	EVENT_CORRUPT = 3,  /* a wrong sum that NAT does not explain */
};

enum event_action {
	ACTION_NONE = 0,
	ACTION_DROPPED = 1,
	ACTION_REPAIRED = 2,
};

struct event {
	__u64 time_ns; /* bpf_ktime_get_ns(): CLOCK_MONOTONIC */
	__u32 kind;    /* enum event_kind */
	__u32 ifindex; /* device the program runs on */
	__u32 ingress_ifindex;
	__u32 source_network;      /* 0: none */
	__u32 destination_network; /* 0: none */
	__u8 saddr[16];            /* IPv4 in the first 4 bytes */
	__u8 daddr[16];
	__be16 sport;
	__be16 dport;
	__u8 family;   /* 4, 6, or 0 for neither */
	__u8 protocol; /* IP protocol number */
	__u8 action;   /* enum event_action */
	__u8 unused;
	__be16 stored;  /* checksum in the packet */
	__be16 correct; /* checksum it should carry */
	__be32 origin_addr; /* EVENT_STALE: the tuple that the stored sum is right for */
	__be16 origin_port;
	__u16 unused2;
};
_Static_assert(sizeof(struct event) == 80, "struct event");

#endif
