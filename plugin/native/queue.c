// A DEL that nobody can serve, kept for later: control/protocol/queue.py has the form, and takes it up again.
//
// A file appears whole or not at all: temporary file, fsync, rename, fsync of the directory.
#define _GNU_SOURCE
#include "shim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_FILES = 1000,      // as control/protocol/queue.py has it
    MAX_BYTES = 256 << 10, // of one, as there
};

static const char SUFFIX[] = ".json";

static bool is_full(const char *directory)
{
    DIR *listed = opendir(directory);
    int found = 0;
    if (!listed)
        return false; // the open below says why
    for (struct dirent *entry; (entry = readdir(listed));) {
        size_t length = strlen(entry->d_name);
        if (length > sizeof SUFFIX - 1 && strcmp(entry->d_name + length - (sizeof SUFFIX - 1), SUFFIX) == 0)
            found++;
    }
    closedir(listed);
    return found >= MAX_FILES;
}

static bool make_directory(const char *path, mode_t mode)
{
    return mkdir(path, mode) == 0 || errno == EEXIST;
}

static bool write_file(int directory, const char *temporary, const char *name, const struct text *body)
{
    int file = openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0)
        return false;
    bool written = write_all(file, body->bytes, body->length) && fsync(file) == 0;
    int cause = errno;
    close(file);
    if (written && renameat(directory, temporary, directory, name) == 0)
        return fsync(directory) == 0;
    if (written)
        cause = errno;
    unlinkat(directory, temporary, 0);
    errno = cause;
    return false;
}

const char *queue_put(const struct text *body)
{
    char parent[PATH_MAX], path[PATH_MAX], name[64], temporary[66];
    struct timespec time;
    if (body->failed || body->length > MAX_BYTES)
        return "the call is larger than one that is kept for later";
    if (!scoped(parent, sizeof parent, STATE_DIRECTORY, "") || !scoped(path, sizeof path, STATE_DIRECTORY, "/queue"))
        return strerror(errno);
    if (!make_directory(parent, 0750) || !make_directory(path, 0700))
        return strerror(errno);
    if (is_full(path))
        return "the queue is full";
    // By time, so that they are taken up in order; by process, so that no two are the same.
    clock_gettime(CLOCK_REALTIME, &time);
    snprintf(name, sizeof name, "%012lld%09ld-%ld%s", (long long)time.tv_sec, time.tv_nsec, (long)getpid(), SUFFIX);
    snprintf(temporary, sizeof temporary, ".%s", name);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (directory < 0)
        return strerror(errno);
    const char *cause = write_file(directory, temporary, name, body) ? NULL : strerror(errno);
    close(directory);
    return cause;
}
