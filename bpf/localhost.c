/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#include "maps.h"

#define PROCEED 1

int dp_connect4(struct bpf_sock_addr *ctx)
{
	return PROCEED;
}

int dp_connect6(struct bpf_sock_addr *ctx)
{
	return PROCEED;
}

int dp_sendmsg4(struct bpf_sock_addr *ctx)
{
	return PROCEED;
}

int dp_sendmsg6(struct bpf_sock_addr *ctx)
{
	return PROCEED;
}

int dp_recvmsg4(struct bpf_sock_addr *ctx)
{
	return PROCEED;
}

int dp_recvmsg6(struct bpf_sock_addr *ctx)
{
	return PROCEED;
}

int dp_getpeername4(struct bpf_sock_addr *ctx)
{
	return PROCEED;
}

int dp_getpeername6(struct bpf_sock_addr *ctx)
{
	return PROCEED;
}
