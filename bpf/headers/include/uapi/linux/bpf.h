/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* bcc brings its own copy of this header and includes it first: only the guard is needed here. */
#ifndef __LINUX_BPF_H__
#define __LINUX_BPF_H__
#endif
