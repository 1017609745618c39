/* A command that does nothing but exist, and a stopwatch for commands that end by themselves. */
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

/* load hold TOKEN: keep a namespace alive; TOKEN lets others find this process. */
int cmd_hold(int argc, char **argv)
{
	(void)argv;
	if (argc != 2)
		return 2;
	for (;;)
		pause();
}

static pid_t spawn_quietly(char **command)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	pid_t pid;
	int error;

	sigemptyset(&none);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setpgroup(&attributes, 0);
	posix_spawnattr_setsigmask(&attributes, &none);
	error = posix_spawnp(&pid, command[0], &actions, &attributes, command, environ);
	if (error) {
		errno = error;
		die(command[0]);
	}
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return pid;
}

/* Wait for *pid* to exit with status 0, at most *limit_ns*; SIGCHLD is blocked. */
static void wait_for_success(pid_t pid, uint64_t limit_ns)
{
	struct timespec limit = { .tv_sec = (time_t)(limit_ns / 1000000000u),
				  .tv_nsec = (long)(limit_ns % 1000000000u) };
	sigset_t child;
	int status;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	if (sigtimedwait(&child, NULL, &limit) < 0) {
		kill(-pid, SIGKILL);
		fprintf(stderr, "load: the command had not ended after %.1f s\n", (double)limit_ns / 1e9);
		exit(1);
	}
	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		fprintf(stderr, "load: the command ended with wait status 0x%x\n", (unsigned int)status);
		exit(1);
	}
}

/* load spawn-time COUNT LIMIT COMMAND...: run COMMAND COUNT times, one after the other, each at
 * most LIMIT seconds, and print the times from the spawn to the exit. */
int cmd_spawn_time(int argc, char **argv)
{
	static struct hist hist;
	uint64_t start, before, limit_ns;
	sigset_t child;
	int count;

	if (argc < 4)
		return 2;
	count = (int)parse_number(argv[1], "COUNT", 1, 10000);
	limit_ns = (uint64_t)(parse_number(argv[2], "LIMIT", 0.001, 600) * 1e9);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	start = now_ns();
	while (count--) {
		before = now_ns();
		wait_for_success(spawn_quietly(argv + 3), limit_ns);
		hist_add(&hist, now_ns() - before);
	}
	hist_print(&hist, now_ns() - start, 0);
	return 0;
}
