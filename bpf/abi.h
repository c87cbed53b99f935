/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the programs and user space agree on: the layout of every map key, map value and event.
 *
 * Each struct is mirrored in dataplane/abi.py; tests/unit/test_abi.py compares the sizes, and the _Static_asserts here
 * stop a build whose layout moved. Addresses and ports are in network byte order, everything else in the host's.
 */
#ifndef DATAPLANE_ABI_H
#define DATAPLANE_ABI_H

/* An address of either family: IPv6 as it is, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). All zeros is none, or any. */
struct address {
	__be32 word[4];
};
_Static_assert(sizeof(struct address) == 16, "struct address");

enum isolation_policy {
	POLICY_OPEN = 0,
	POLICY_SAME_BRIDGE = 1,
	POLICY_ISOLATED = 2,
};

enum checksum_mode {
	CHECKSUM_OFF = 0,
	CHECKSUM_OBSERVE = 1,
	CHECKSUM_REPAIR = 2,
	CHECKSUM_FILL = 3, /* repair, and complete partial sums of named UDP ports */
};

/* networks: ifindex of the container-facing device (bridge, or host veth of a routed network) -> its network. */
struct network {
	__u32 id;         /* the same for all devices of one network */
	__u8 policy;      /* enum isolation_policy */
	__u8 checksum;    /* enum checksum_mode */
	__u8 masquerades; /* what its containers send out leaves with the host's address */
	__u8 unused;
};
_Static_assert(sizeof(struct network) == 8, "struct network");

/* settings: one element, host-wide. */
struct settings {
	__u32 mark;         /* mark bits that nftables sets on packets of published ports */
	__u32 unused;
	__u64 netns_cookie; /* of the host's network namespace: whose processes reach published ports by loopback */
};
_Static_assert(sizeof(struct settings) == 16, "struct settings");

/*
 * origins: where traffic to a container's port may have been sent before our DNAT. One container port can be published
 * several times: slots 0, 1, 2 ... are filled without a gap, and readers stop at the first that is missing.
 */
struct origin_key {
	struct address addr; /* the container's */
	__be16 port;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 slot;
};
_Static_assert(sizeof(struct origin_key) == 20, "struct origin_key");

struct origin {
	struct address addr; /* the host address that was published, 0 for every local address (see host_addresses) */
	__be16 port;         /* the published port */
	__u16 unused;
};
_Static_assert(sizeof(struct origin) == 20, "struct origin");

/* published: the way that our DNAT goes, from a host port to a container. Ports under conditions are not in here. */
struct published_key {
	/*
	 * The host address; 0 for every local address; ::ffff:0.0.0.0 with family 6 for [::1] where the port is published
	 * on every local address of both families, and its container has none of IPv6.
	 */
	struct address addr;
	__be16 port;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 family;   /* 4 or 6: of the host address */
};
_Static_assert(sizeof(struct published_key) == 20, "struct published_key");

struct target {
	struct address addr; /* the container's */
	__be16 port;
	__u8 localhost; /* processes of the host reach it by a loopback address */
	__u8 unused;
};
_Static_assert(sizeof(struct target) == 20, "struct target");

/*
 * Addresses by what folding them gives, for "which address would explain this sum?" has one answer then. Two that fold
 * to the same number prove the same; the map keeps one of them.
 */
struct host_address_key { /* host_addresses -> struct address: the host's own, loopback excluded */
	__u16 sum;        /* of the address, ones' complement, 1 to 0xffff, as the packet has it in memory */
	__u8 family;
	__u8 unused;
};
_Static_assert(sizeof(struct host_address_key) == 4, "struct host_address_key");

struct container_key { /* containers -> struct address: those of one network */
	__u32 network;
	__u16 sum; /* as above */
	__u8 family;
	__u8 unused;
};
_Static_assert(sizeof(struct container_key) == 8, "struct container_key");

/* flows: what the checksum program found out about a flow. Losing an entry costs one more verification, no packet. */
struct flow_key {
	struct address saddr;
	struct address daddr;
	__be16 sport; /* 0 for ICMPv6 */
	__be16 dport;
	__u32 protocol;
	__u32 ifindex;
};
_Static_assert(sizeof(struct flow_key) == 44, "struct flow_key");

enum flow_verdict {
	FLOW_GOOD = 1,    /* a sum was verified and right: not looked at again */
	FLOW_STALE = 2,   /* NAT left the sum stale: the delta belongs to every packet */
	FLOW_SUSPECT = 3, /* NAT may have; the next packet has to say the same */
};

struct flow {
	__u16 verdict; /* enum flow_verdict */
	__u16 delta;   /* what a stale sum lacks: ones' complement, as bpf_l4_csum_replace() takes it */
};
_Static_assert(sizeof(struct flow) == 4, "struct flow");

/* checksum_counts: ifindex -> per-CPU packet counts. */
struct checksum_counts {
	__u64 good;       /* verified: right */
	__u64 stale;      /* proved stale, or of a flow proved stale */
	__u64 repaired;   /* of these: rewritten */
	__u64 corrupt;    /* wrong, and no NAT of ours explains it: left alone */
	__u64 partial;    /* of any protocol, not summed yet (CHECKSUM_PARTIAL): a device does it, or nobody has to */
	__u64 verified;   /* of any protocol, a device found it right (CHECKSUM_UNNECESSARY) */
	__u64 unreadable; /* fragment, truncated, longer than the bound: left alone */
};
_Static_assert(sizeof(struct checksum_counts) == 56, "struct checksum_counts");

/* fill_ports: UDP destination port of a network -> 1: partial sums of such packets are completed. */
struct fill_key {
	__u32 network;
	__be16 port;
	__u16 unused;
};
_Static_assert(sizeof(struct fill_key) == 8, "struct fill_key");

/* isolation_drops: (source network, destination network) -> per-CPU packets dropped. */
struct network_pair {
	__u32 source;
	__u32 destination;
};
_Static_assert(sizeof(struct network_pair) == 8, "struct network_pair");

/* offenders, guard_offenders: the last packet that was dropped. */
struct offender {
	__u64 time_ns; /* bpf_ktime_get_ns(): CLOCK_MONOTONIC */
	struct address saddr;
	struct address daddr;
	__be16 sport;
	__be16 dport;
	__u8 family;   /* 4, 6, or 0 for neither */
	__u8 protocol; /* IP protocol number */
	__u8 mac[6];   /* source address of the frame */
	__u32 unused;
};
_Static_assert(sizeof(struct offender) == 56, "struct offender");

/* ports: ifindex of a container's host veth -> what its container may send. */
enum guard_level {
	GUARD_OFF = 0,
	GUARD_MAC = 1,  /* frames from its own MAC only (macspoofchk) */
	GUARD_FULL = 2, /* and packets from its own addresses only; no router, no DHCP server, no loopback */
};

struct port {
	__u32 network;
	__u8 guard; /* enum guard_level */
	__u8 has_mac;
	__u8 mac[6];
};
_Static_assert(sizeof(struct port) == 12, "struct port");

/* port_addresses: an address that a container may send from by a port -> 1; 2 where another port of it has it. */
struct port_address_key {
	__u32 ifindex;
	struct address addr;
};
_Static_assert(sizeof(struct port_address_key) == 20, "struct port_address_key");

/* guard_drops: (port, why) -> per-CPU packets dropped. */
enum guard_reason {
	REASON_SOURCE_MAC = 1,     /* the frame is not from its MAC */
	REASON_SOURCE_ADDRESS = 2, /* the packet is not from its address */
	REASON_ARP = 3,            /* ARP says that somebody else's address, or MAC, is here */
	REASON_NEIGHBOUR = 4,      /* neighbour discovery says so */
	REASON_ROUTER = 5,         /* router advertisement or redirect (CVE-2020-10749) */
	REASON_DHCP_SERVER = 6,    /* answer of a DHCP or DHCPv6 server */
	REASON_LOOPBACK = 7,       /* from or to 127.0.0.0/8 or ::1 */
	REASON_UNREADABLE = 8,     /* too many tags or headers to tell, or not what it claims to be */
	REASON_BRIDGE = 9,         /* to the bridge itself: spanning tree, pause, 802.1X, LLDP */
};

struct guard_drop_key {
	__u32 ifindex;
	__u32 reason; /* enum guard_reason */
};
_Static_assert(sizeof(struct guard_drop_key) == 8, "struct guard_drop_key");

/* peers: a socket and the container it talks to -> what its process believes to talk to. */
struct peer_key {
	__u64 cookie; /* bpf_get_socket_cookie() */
	struct address addr;
	__be16 port;
	__u16 unused[3];
};
_Static_assert(sizeof(struct peer_key) == 32, "struct peer_key");

struct peer {
	struct address addr;
	__be16 port;
	__u16 unused;
};
_Static_assert(sizeof(struct peer) == 20, "struct peer");

/* events: the ring buffer. */
enum event_kind {
	EVENT_ISOLATED = 1, /* isolation dropped a packet */
	EVENT_STALE = 2,    /* first proof that a flow's sum is stale */
	EVENT_CORRUPT = 3,  /* a wrong sum that NAT does not explain */
	EVENT_GUARDED = 4,  /* guard dropped a packet */
};

enum event_action {
	ACTION_NONE = 0,
	ACTION_DROPPED = 1,
	ACTION_REPAIRED = 2,
};

/* Which NAT of ours left a sum stale. */
enum translation {
	TRANSLATION_NONE = 0,
	TRANSLATION_PUBLISHED = 1,    /* destination: a published port's, on the way to its container */
	TRANSLATION_REPLY = 2,        /* source: of a published port's container, on the way back */
	TRANSLATION_MASQUERADE = 3,   /* source: a container's, on the way out */
	TRANSLATION_UNMASQUERADE = 4, /* destination: a masqueraded container's, on the way back */
	TRANSLATION_BOTH = 5,         /* both ends at once: hairpin, localhost */
};

struct event {
	__u64 time_ns; /* bpf_ktime_get_ns(): CLOCK_MONOTONIC */
	__u32 kind;    /* enum event_kind */
	__u32 ifindex; /* device the program runs on */
	__u32 ingress_ifindex;
	__u32 source_network;      /* 0: none */
	__u32 destination_network; /* 0: none */
	struct address saddr;
	struct address daddr;
	/* EVENT_STALE: the tuple that the stored sum is right for; what NAT left alone is as in the packet. */
	struct address origin_saddr;
	struct address origin_daddr;
	__be16 origin_sport;
	__be16 origin_dport;
	__be16 sport;
	__be16 dport;
	__be16 stored;  /* checksum in the packet */
	__be16 correct; /* checksum it should carry */
	__u16 delta;    /* EVENT_STALE, EVENT_CORRUPT: what the sum lacks, as bpf_l4_csum_replace() takes it */
	__u8 family;    /* 4, 6, or 0 for neither */
	__u8 protocol;  /* IP protocol number */
	__u8 action;    /* enum event_action */
	__u8 reason;    /* EVENT_STALE: enum translation; EVENT_GUARDED: enum guard_reason */
	__u8 mac[6];    /* EVENT_GUARDED: source address of the frame */
	__u32 unused;
};
_Static_assert(sizeof(struct event) == 120, "struct event");

#endif
