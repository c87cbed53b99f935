/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* bcc includes this first, before anything of its own. */
#ifndef DATAPLANE_KCONFIG_H
#define DATAPLANE_KCONFIG_H

#define CONFIG_BPF_SYSCALL 1

#include <linux/types.h>

#define bool _Bool
#define true 1
#define false 0

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef unsigned long uintptr_t;
typedef unsigned long size_t;

#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#endif
