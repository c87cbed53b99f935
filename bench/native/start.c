/* Starts executables and says how long each took, from before the start until it was reaped.
 *
 *     start CPU|-        jobs on stdin, answers on stdout, until end of file; "-" pins nothing
 *
 *     job      u32 words, u32 variables, u32 bytes of strings, u32 bytes of input
 *              then argv and environment, each string with its zero, then what the executable reads on stdin
 *     answer   u64 nanoseconds, u64 microseconds of CPU (user and system, reaped children's), i32 wait status,
 *              u32 bytes of output, then what the executable wrote on stdout
 *
 * posix_spawn is vfork(2) in glibc, so that the size of whoever asks does not count, and nothing is forked by Python.
 * Input lies in the pipe before the clock starts. Standard error is this process's own.
 */
#define _GNU_SOURCE
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "common.h"

#define PIPE_SIZE (1 << 20) /* what an unprivileged pipe may hold: no job's input is larger */
#define MOST_OUTPUT (64 << 20) /* a listing of 60,000 rules as JSON is 16 MB; what is not used costs nothing */

struct job {
    uint32_t words, variables, strings, input;
};

struct answer {
    uint64_t nanoseconds, cpu;
    int32_t status;
    uint32_t output;
};

/* Returns 0 at the end of the file, if nothing of the block was there. */
static int read_all(int from, void *into, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t got = read(from, (char *)into + done, size - done);
        if (got == 0 && done == 0)
            return 0;
        if (got <= 0)
            die("read a job");
        done += got;
    }
    return 1;
}

static void write_all(int to, const void *from, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t put = write(to, (const char *)from + done, size - done);
        if (put <= 0)
            die("write");
        done += put;
    }
}

static char **pointers(char **at, uint32_t count) {
    char **list = calloc(count + 1, sizeof *list);
    for (uint32_t one = 0; one < count; one++) {
        list[one] = *at;
        *at += strlen(*at) + 1;
    }
    return list;
}

static void open_pipe(int ends[2]) {
    if (pipe2(ends, O_CLOEXEC))
        die("make a pipe");
}

static void run(const struct job *job, char *strings, const char *input) {
    char *at = strings;
    char **argv = pointers(&at, job->words);
    char **environment = pointers(&at, job->variables);
    int in[2], out[2];
    open_pipe(in);
    open_pipe(out);
    if (job->input > 60000 && fcntl(in[1], F_SETPIPE_SZ, PIPE_SIZE) < (int)job->input)
        die("make room for a job's input");
    write_all(in[1], input, job->input);
    close(in[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);

    static char output[MOST_OUTPUT];
    struct answer answer = {0};
    struct rusage used;
    pid_t child;
    uint64_t began = now();
    errno = posix_spawn(&child, argv[0], &actions, NULL, argv, environment);
    if (errno)
        die(argv[0]);
    close(out[1]);
    for (ssize_t got; (got = read(out[0], output + answer.output, sizeof output - answer.output)) > 0;)
        answer.output += got;
    if (answer.output == sizeof output)
        die("hold an executable's output");
    if (wait4(child, &answer.status, 0, &used) < 0)
        die("wait");
    answer.nanoseconds = now() - began;

    answer.cpu = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000ull + used.ru_utime.tv_usec +
                 used.ru_stime.tv_usec;
    close(in[0]);
    close(out[0]);
    posix_spawn_file_actions_destroy(&actions);
    free(argv);
    free(environment);
    write_all(1, &answer, sizeof answer);
    write_all(1, output, answer.output);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: start CPU|-\n");
        return 2;
    }
    if (strcmp(argv[1], "-"))
        pin(atoi(argv[1]));
    /* The executables get two pipes for 0 and 1; jobs and answers go by descriptors of their own. */
    int jobs = fcntl(0, F_DUPFD_CLOEXEC, 3);
    struct job job;
    while (read_all(jobs, &job, sizeof job)) {
        char *strings = malloc(job.strings + 1), *input = malloc(job.input + 1);
        if (!strings || !input || (job.strings && !read_all(jobs, strings, job.strings)) ||
            (job.input && !read_all(jobs, input, job.input)))
            die("read a job");
        run(&job, strings, input);
        free(strings);
        free(input);
    }
    return 0;
}
