/*
 * Pids that are used again. argv[1] names a life. The kernel gives pids out in turn, so nobody else
 * gets one that has only just become free.
 */
#include "said.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>

/* A fork whose child has a pid of choice, -1 if somebody holds it. */
static pid_t fork_as(pid_t pid)
{
	struct clone_args args = {
		.exit_signal = SIGCHLD,
		.set_tid = (uintptr_t)&pid,
		.set_tid_size = 1,
	};

	return syscall(SYS_clone3, &args, sizeof(args));
}

/* The first holder leaves a child behind, which the rope ends; the second executes argv[0]. */
static int again(char **argv)
{
	struct rope rope_of_kept = rope();
	pid_t first = fork(), second;

	if (!first) {
		pid_t kept = fork();

		if (!kept) {
			wait_at(rope_of_kept);
			_exit(0);
		}
		say("kept", kept);
		prctl(PR_SET_NAME, "first");
		_exit(7);
	}
	say("pid", first);
	waitpid(first, 0, 0);
	stamp("between");
	second = fork_as(first);
	if (!second) {
		close(rope_of_kept.held);
		stamp("started");
		execv(argv[0], argv);
		_exit(127);
	}
	if (second != first)
		return 1;
	waitpid(second, 0, 0);
	stamp("after");
	let_go(rope_of_kept);
	return 0;
}

/* One pid, as often as argv[0] says, each time with another exit code. */
static int often(char **argv)
{
	int times = atoi(argv[0]);
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	waitpid(pid, 0, 0);
	for (int i = 1; i < times; i++) {
		pid_t holder = fork_as(pid);

		if (!holder)
			_exit(i);
		if (holder < 0)
			return 1;
		waitpid(holder, 0, 0);
	}
	say("pid", pid);
	return 0;
}

/* The same in a pid namespace, where the counter can be set. Its /proc is that of the host. */
static int inside(char **argv)
{
	pid_t init;

	(void)argv;
	if (unshare(CLONE_NEWPID))
		return 1;
	init = fork();
	if (!init) {
		for (int i = 0; i < 2; i++) {
			int last = open("/proc/sys/kernel/ns_last_pid", O_WRONLY);
			pid_t child;

			if (write(last, "41", 2) != 2)
				_exit(1);
			close(last);
			child = fork();
			if (!child)
				_exit(i + 1);
			say("ns_pid", child);
			waitpid(child, 0, 0);
			stamp(i ? "after" : "between");
		}
		_exit(0);
	}
	say("init", init);
	wait_for_all();
	return 0;
}

/* Says that it is there, and ends when its standard input does. */
static int wait_here(char **argv)
{
	(void)argv;
	stamp("there");
	while (getchar() != EOF)
		;
	return 0;
}

/*
 * Keeps a few children at any time, and makes a new one for the oldest again and again, until its
 * standard input has something, or argv[0] were made.
 */
static int churn(char **argv)
{
	struct pollfd input = { 0, POLLIN, 0 };
	pid_t children[8] = { 0 };
	int made = 0;

	while (!poll(&input, 1, 0) && made < atoi(argv[0])) {
		pid_t *oldest = &children[made % 8];

		if (*oldest) {
			kill(*oldest, SIGKILL);
			waitpid(*oldest, 0, 0);
		}
		*oldest = fork();
		if (!*oldest)
			for (;;)
				pause();
		if (++made == 20)
			stamp("busy");
	}
	for (int i = 0; i < 8; i++)
		if (children[i])
			kill(children[i], SIGKILL);
	wait_for_all();
	say("made", made);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct life lives[] = {
		{ "again", again }, { "often", often }, { "inside", inside },
		{ "wait", wait_here }, { "churn", churn }, { 0, 0 },
	};

	return run_life(lives, argc, argv);
}
