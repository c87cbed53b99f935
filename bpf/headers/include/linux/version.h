/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* No feature here depends on the version of a kernel: features are tried. Any recent number satisfies bcc. */
#define LINUX_VERSION_CODE 0x060600
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
