// The call, handed on to plugin/shim.py: standard input in a memory file, and the namespace that is open already.
//
// Which interpreter and which package, `dpctl install` wrote behind this program:
//
//     # The CNI plugin dataplane, installed by dpctl.
//     /opt/dataplane/bin/python3
//     /opt/dataplane/lib/python3.11/site-packages
//
// It is read from the file that runs, and only where it is needed.
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u // Linux 6.3; a host may insist on it (vm.memfd_noexec)
#endif

static const char MARKER[] = "\n# The CNI plugin dataplane, installed by dpctl.\n"; // plugin/install.py has it, too
static const char CODE[] = "import sys; sys.path.append(sys.argv[1]); from plugin.shim import resume; resume()";

enum { TRAILER = 2 * 4096 + 256 }; // bytes: two paths (PATH_MAX) and the marker

static char trailer[TRAILER + 1];
static char reason[2 * TRAILER];

struct installation {
    char *interpreter, *package;
};

static bool read_trailer(void)
{
    int program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (program < 0)
        return false;
    off_t size = lseek(program, 0, SEEK_END);
    off_t from = size > TRAILER ? size - TRAILER : 0;
    ssize_t length = size < 0 ? -1 : pread(program, trailer, TRAILER, from);
    close(program);
    if (length <= 0)
        return false;
    // The lines are read as strings.
    for (ssize_t i = 0; i < length; i++)
        if (!trailer[i])
            trailer[i] = ' ';
    trailer[length] = '\0';
    return true;
}

static bool read_installation(struct installation *found)
{
    char *marker = NULL;
    if (!read_trailer())
        return false;
    for (char *next = trailer; (next = strstr(next, MARKER)); next++)
        marker = next;
    if (!marker)
        return false;
    char *rest = marker + sizeof MARKER - 1;
    found->interpreter = strsep(&rest, "\n");
    found->package = strsep(&rest, "\n");
    return rest && found->interpreter[0] == '/' && found->package[0] == '/';
}

static bool hand_on_input(const struct text *input)
{
    int file = memfd_create("stdin", MFD_NOEXEC_SEAL);
    if (file < 0 && errno == EINVAL)
        file = memfd_create("stdin", 0);
    if (file < 0)
        return false;
    bool done = write_all(file, input->bytes, input->length) && lseek(file, 0, SEEK_SET) == 0 && dup2(file, 0) == 0;
    if (file != 0)
        close(file);
    return done;
}

static const char *because(const char *what, const char *cause)
{
    snprintf(reason, sizeof reason, "could not start %s: %s; run dpctl install again", what, cause);
    return reason;
}

const char *python_call(const struct call *call, bool declined)
{
    struct installation installed;
    static char module[TRAILER + 32]; // its path
    char netns[16] = "";
    if (!read_installation(&installed))
        return because("Python", "the executable does not say where it is: it was not installed by dpctl");
    snprintf(module, sizeof module, "%s/plugin/shim.py", installed.package);
    if (access(module, R_OK) != 0)
        return because(module, strerror(errno));
    if (access(installed.interpreter, X_OK) != 0)
        return because(installed.interpreter, strerror(errno));
    if (*call->verb && !hand_on_input(&call->input))
        return because(installed.interpreter, strerror(errno));
    if (call->netns >= 0) {
        snprintf(netns, sizeof netns, "%d", call->netns);
        if (fcntl(call->netns, F_SETFD, 0) != 0)
            return because(installed.interpreter, strerror(errno));
    }
    // The options are those of the script in plugin/install.py: isolated, and without site.
    char *arguments[] = {
        installed.interpreter, "-IS", "-c", (char *)(uintptr_t)CODE, installed.package,
        (char *)(uintptr_t)call->plugin, netns, (char *)(uintptr_t)call->netns_error, declined ? "declined" : "", NULL,
    };
    execv(installed.interpreter, arguments);
    return because(installed.interpreter, strerror(errno));
}
