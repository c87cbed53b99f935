/* What the programs here have in common: how they fail, what time it is, where they run. No program uses all of it. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull   /* nanoseconds */
#define MILLISECOND 1000000ull /* nanoseconds */

static inline void die(const char *what) {
    fprintf(stderr, "%s: could not %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

static inline uint64_t clock_of(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * SECOND + at.tv_nsec;
}

static inline uint64_t now(void) {
    return clock_of(CLOCK_MONOTONIC);
}

static inline void sleep_until(uint64_t due) {
    struct timespec until = {.tv_sec = due / SECOND, .tv_nsec = due % SECOND};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

static inline void pin(int cpu) {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(cpu, &only);
    if (sched_setaffinity(0, sizeof only, &only))
        die("pin to a CPU");
}

/* The network namespace that this thread is in, to return to. */
static inline int own_netns(void) {
    int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        die("open its network namespace");
    return fd;
}

/* Into a network namespace by its path; "-" is that of `own`. */
static inline void enter(const char *netns, int own) {
    int here = !strcmp(netns, "-"), fd = here ? own : open(netns, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET))
        die("enter a network namespace");
    if (!here)
        close(fd);
}

/* Ends a connection at once: no port is left in TIME_WAIT. */
static inline void reset(int tcp) {
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    setsockopt(tcp, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close(tcp);
}

static inline uint64_t at_most(uint64_t most, uint64_t value) {
    return value < most ? value : most;
}

/* For qsort(). */
static inline int ascending(const void *one, const void *other) {
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

#endif
