/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* For the size of a ring buffer, given in pages. 4 KiB everywhere: a multiple of it where pages are larger. */
#define PAGE_SIZE 4096
