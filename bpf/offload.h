/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is said about a packet's checksum besides its bytes: skb->ip_summed, which no helper hands out.
 *
 * IP_SUMMED_BYTE and IP_SUMMED_SHIFT say where the running kernel keeps it; dataplane/programs/btf.py reads them in the
 * kernel's BTF and passes them on the command line. Where there is no BTF they are not defined, and PARTIAL has to be
 * inferred from the packet: see looks_partial().
 */
#ifndef DATAPLANE_OFFLOAD_H
#define DATAPLANE_OFFLOAD_H

#include "csum.h"

/* The kernel's CHECKSUM_*, by its own numbers (include/linux/skbuff.h, "Checksumming of transmitted packets"). */
enum summed {
	SUMMED_NONE = 0,     /* the field holds a sum that nobody checked */
	SUMMED_VERIFIED = 1, /* UNNECESSARY: a device checked it and found it right */
	SUMMED_COMPLETE = 2, /* the field holds a sum, and skb->csum one of the whole packet */
	SUMMED_PARTIAL = 3,  /* the field holds the pseudo header's sum: a device is to do the rest, or nobody has to */
};

#define IP_SUMMED_MASK 3
#define KERNEL_ENOTSUPP 524 /* of the kernel's own, not in errno.h */

/*
 * By number, for bcc takes the name for bpf_probe_read(), which this kind of program must not call, where it does not find
 * it in /proc/kallsyms: so for whoever lacks CAP_SYSLOG.
 */
static long (*read_kernel)(void *to, __u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel;

/* Without BTF, SUMMED_NONE says "NONE or PARTIAL". */
static __always_inline enum summed summed(struct __sk_buff *skb)
{
#ifdef IP_SUMMED_BYTE
	__u8 bits = 0;

	if (skb->gso_size)
		return SUMMED_PARTIAL;
	read_kernel(&bits, sizeof(bits), (char *)skb + IP_SUMMED_BYTE);
	return (bits >> IP_SUMMED_SHIFT) & IP_SUMMED_MASK;
#else
	if (skb->gso_size)
		return SUMMED_PARTIAL;
	if ((__s64)bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
		return SUMMED_VERIFIED;
	/* Else it returns skb->csum, any 32 bits. */
	return (__s32)bpf_csum_update(skb, 0) == -KERNEL_ENOTSUPP ? SUMMED_NONE : SUMMED_COMPLETE;
#endif
}

/* Without BTF: whether a packet that is said to be SUMMED_NONE must be taken for a partial one. */
static __always_inline int looks_partial(const struct segment *segment)
{
#ifdef IP_SUMMED_BYTE
	return 0;
#else
	return segment->check == csum_pseudo_header(segment);
#endif
}

#endif
