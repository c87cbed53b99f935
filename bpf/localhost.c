/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * localhost: processes of the host reach published ports by 127.0.0.0/8 and by ::1, without route_localnet.
 *
 * Hook     root of the cgroups: connect, sendmsg, recvmsg and getpeername of sockets, of IPv4 and of IPv6
 * Reads    settings, published, peers
 * Writes   peers; the address that a process names (connect, sendmsg), and the one it is told (recvmsg, getpeername)
 * Verdict  REFUSE (EPERM) where a published port is asked for by a socket that is bound to an address that cannot
 *          send there, such as a loopback address; PROCEED in every other case
 *
 *     connect(127.0.0.1:8080)  ->  10.88.0.2:80       sendto, of a datagram socket that is not connected, the same
 *     recvfrom: 10.88.0.2:80   ->  127.0.0.1:8080     getpeername the same
 *
 * No packet is rewritten: the process talks to the container from the start, so there is no NAT, no checksum that could
 * be left stale, and nothing of 127.0.0.0/8 leaves lo (CVE-2020-8558). The container sees the host's address in its
 * network. A socket belongs to the host when it is in the host's network namespace, whichever cgroup made it: that of a
 * container asks for its own loopback, and gets it.
 *
 * No address (0.0.0.0, ::) is loopback to the kernel, and so it is here; the process is told so.
 *
 * An address of IPv6 is given to IPv4, which an IPv6 socket reaches as ::ffff:a.b.c.d, where no container is published
 * at it.
 *
 * Be aware:
 *   - sendmsg to ::1 cannot lead to IPv4: the kernel refuses it (ENOTSUPP, udpv6_sendmsg() in Linux 6.18). A datagram
 *     socket that is connected does lead there.
 *   - getsockname() tells the address that the host has in the container's network.
 *   - Where one socket asks the same container port by two loopback addresses, answers are from the last.
 *   - What a socket was told to believe is in an LRU map. Losing it changes what is said, and never where packets go,
 *     but a process may discard an answer that comes from an address it did not ask. Nothing else could tell it: the
 *     same container port may be asked directly, by the same process, and its answers are to keep their address.
 */
#include "maps.h"
#include "parse.h"

#define REFUSE 0 /* EPERM */
#define PROCEED 1

static __always_inline int is_loopback4(__be32 ipv4)
{
	return (ipv4 & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
}

static __always_inline int is_mapped(const struct address *address)
{
	return !address->word[0] && !address->word[1] && address->word[2] == bpf_htonl(0xffff);
}

static __always_inline int is_loopback(const struct address *address)
{
	if (is_mapped(address))
		return is_loopback4(address->word[3]);
	return !address->word[0] && !address->word[1] && !address->word[2] && address->word[3] == bpf_htonl(1);
}

/* Whether the socket is in the host's network namespace, and localhost is served by these programs at all. */
static __always_inline int is_hosts(struct bpf_sock_addr *ctx)
{
	struct settings *host;
	__u32 zero = 0;

	host = settings.lookup(&zero);
	return host && host->netns_cookie && bpf_get_netns_cookie(ctx) == host->netns_cookie;
}

/*
 * Whether the socket is bound to an address that cannot send to this container: a loopback address, or one of IPv6 where
 * the container is reached by IPv4. In src_ip4 of a socket that is bound to IPv6 the kernel keeps a loopback address, too
 * (LOOPBACK4_IPV6), so each family is asked for its own.
 */
static __always_inline int is_bound_elsewhere(struct bpf_sock_addr *ctx, const struct target *target)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return 0;
	if (is_mapped(&target->addr))
		return is_loopback4(sk->src_ip4);
	return !sk->src_ip6[0] && !sk->src_ip6[1] && !sk->src_ip6[2] && sk->src_ip6[3] == bpf_htonl(1);
}

/* What the kernel makes of 0.0.0.0: the address that the socket is bound to, or loopback. */
static __always_inline __be32 anywhere4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	__be32 bound = sk ? sk->src_ip4 : 0;

	return bound ? bound : bpf_htonl(INADDR_LOOPBACK);
}

/* Where a call by this loopback address leads: the address itself is looked up first, then every one of its family. */
static __always_inline struct target *target_of(struct bpf_sock_addr *ctx, const struct peer *named)
{
	struct published_key key = {};
	struct target *target;

	if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP)
		return 0;
	if (!is_loopback(&named->addr) || !is_hosts(ctx))
		return 0;
	key.addr = named->addr;
	key.port = named->port;
	key.protocol = ctx->protocol;
	key.family = is_mapped(&named->addr) ? 4 : 6;
	target = published.lookup(&key);
	if (!target) {
		__builtin_memset(&key.addr, 0, sizeof(key.addr));
		target = published.lookup(&key);
	}
	if (!target && key.family == 6) {
		address_from_ipv4(&key.addr, 0); /* on every address of both families, of a container without IPv6 */
		target = published.lookup(&key);
	}
	return target && target->localhost ? target : 0;
}

static __always_inline struct peer_key peer_key_of(struct bpf_sock_addr *ctx, const struct address *addr, __be16 port)
{
	struct peer_key key = {};

	key.cookie = bpf_get_socket_cookie(ctx);
	key.addr = *addr;
	key.port = port;
	return key;
}

/* Keeps what the process named, for when it is told who answers. */
static __always_inline void remember(struct bpf_sock_addr *ctx, const struct target *target, struct peer *named)
{
	struct peer_key key = peer_key_of(ctx, &target->addr, target->port);

	peers.update(&key, named);
}

/* What the process named that this address and port of a container answer for; 0: the same. */
static __always_inline struct peer *remembered(struct bpf_sock_addr *ctx, const struct address *addr, __be16 port)
{
	struct peer_key key;

	if (!is_hosts(ctx))
		return 0;
	key = peer_key_of(ctx, addr, port);
	return peers.lookup(&key);
}

static __always_inline int lead4(struct bpf_sock_addr *ctx)
{
	__be32 asked = ctx->user_ip4;
	struct peer named = {};
	struct target *target;

	if (!asked)
		asked = anywhere4(ctx);
	if (!is_loopback4(asked))
		return PROCEED; /* nearly every call: said by two comparisons */
	address_from_ipv4(&named.addr, asked);
	named.port = ctx->user_port;
	target = target_of(ctx, &named);
	if (!target || !is_mapped(&target->addr))
		return PROCEED;
	if (is_bound_elsewhere(ctx, target))
		return REFUSE; /* now, and not when the process has given up waiting */
	remember(ctx, target, &named);
	ctx->user_ip4 = target->addr.word[3];
	ctx->user_port = target->port;
	return PROCEED;
}

static __always_inline int lead6(struct bpf_sock_addr *ctx, int takes_mapped)
{
	struct peer named = {};
	struct target *target;

	if (ctx->user_ip6[0] || ctx->user_ip6[1])
		return PROCEED; /* as above */
	named.addr.word[2] = ctx->user_ip6[2];
	named.addr.word[3] = ctx->user_ip6[3];
	if (address_is_zero(&named.addr))
		named.addr.word[3] = bpf_htonl(1); /* as the kernel has it */
	named.port = ctx->user_port;
	target = target_of(ctx, &named);
	if (!target || (is_mapped(&target->addr) && !takes_mapped))
		return PROCEED;
	if (is_bound_elsewhere(ctx, target))
		return REFUSE; /* now, and not when the process has given up waiting */
	remember(ctx, target, &named);
	ctx->user_ip6[0] = target->addr.word[0];
	ctx->user_ip6[1] = target->addr.word[1];
	ctx->user_ip6[2] = target->addr.word[2];
	ctx->user_ip6[3] = target->addr.word[3];
	ctx->user_port = target->port;
	return PROCEED;
}

static __always_inline int tell4(struct bpf_sock_addr *ctx)
{
	struct address addr;
	struct peer *named;

	if (is_loopback4(ctx->user_ip4))
		return PROCEED; /* a process of the host, and no container: most of what is said on localhost */
	address_from_ipv4(&addr, ctx->user_ip4);
	named = remembered(ctx, &addr, ctx->user_port);
	if (!named || !is_mapped(&named->addr))
		return PROCEED;
	ctx->user_ip4 = named->addr.word[3];
	ctx->user_port = named->port;
	return PROCEED;
}

static __always_inline int tell6(struct bpf_sock_addr *ctx)
{
	struct address addr;
	struct peer *named;

	addr.word[0] = ctx->user_ip6[0];
	addr.word[1] = ctx->user_ip6[1];
	addr.word[2] = ctx->user_ip6[2];
	addr.word[3] = ctx->user_ip6[3];
	if (is_loopback(&addr))
		return PROCEED; /* as above */
	named = remembered(ctx, &addr, ctx->user_port);
	if (!named)
		return PROCEED;
	ctx->user_ip6[0] = named->addr.word[0];
	ctx->user_ip6[1] = named->addr.word[1];
	ctx->user_ip6[2] = named->addr.word[2];
	ctx->user_ip6[3] = named->addr.word[3];
	ctx->user_port = named->port;
	return PROCEED;
}

int dp_connect4(struct bpf_sock_addr *ctx)
{
	return lead4(ctx);
}

int dp_connect6(struct bpf_sock_addr *ctx)
{
	return lead6(ctx, 1);
}

int dp_sendmsg4(struct bpf_sock_addr *ctx)
{
	return lead4(ctx);
}

int dp_sendmsg6(struct bpf_sock_addr *ctx)
{
	return lead6(ctx, 0);
}

int dp_recvmsg4(struct bpf_sock_addr *ctx)
{
	return tell4(ctx);
}

int dp_recvmsg6(struct bpf_sock_addr *ctx)
{
	return tell6(ctx);
}

int dp_getpeername4(struct bpf_sock_addr *ctx)
{
	return tell4(ctx);
}

int dp_getpeername6(struct bpf_sock_addr *ctx)
{
	return tell6(ctx);
}
