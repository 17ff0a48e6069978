/*
 * One program after the other. argv[1] names a life; copies of this program under other names are
 * the programs that it executes, so that each tells its own steps.
 */
#include "said.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <sys/resource.h>

#include <linux/sched.h>

/* A child executes argv[0], that one argv[1], and that one ends. */
static int ages(char **argv)
{
	pid_t child = fork();

	if (!child) {
		stamp("forked");
		execl(argv[0], argv[0], "age", argv[1], NULL);
		_exit(127);
	}
	say("child", child);
	wait_for_all();
	return 0;
}

static int age(char **argv)
{
	stamp("first");
	execl(argv[0], argv[0], "last_age", NULL);
	return 127;
}

static int last_age(char **argv)
{
	(void)argv;
	stamp("second");
	return 0;
}

/* Executes itself as often as argv[1] says; argv[0] is the program. */
static int again(char **argv)
{
	char left[16];

	if (!atoi(argv[1]))
		return 0;
	snprintf(left, sizeof(left), "%d", atoi(argv[1]) - 1);
	execl(argv[0], argv[0], "again", argv[0], left, NULL);
	return 127;
}

static pid_t child_at(struct rope rope, const char *name)
{
	pid_t child = fork();

	if (!child) {
		wait_at(rope);
		_exit(0);
	}
	say(name, child);
	return child;
}

/* A child before an exec and one after it; both live on until their parent has executed. */
static int family(char **argv)
{
	struct rope held = rope();
	char number[16];

	child_at(held, "before");
	snprintf(number, sizeof(number), "%d", held.held);
	stamp("old");
	if (chdir("/") || setgid(1000) || setuid(1000))
		return 1;
	execl(argv[0], argv[0], "family_goes_on", number, NULL);
	return 127;
}

static int family_goes_on(char **argv)
{
	struct rope held = rope();

	stamp("new");
	child_at(held, "after");
	let_go(held);
	close(atoi(argv[0]));
	wait_for_all();
	return 0;
}

/* The child ends, or executes and ends, before its parent goes on. */
static int by_vfork(char **argv)
{
	pid_t child = vfork();

	if (!child)
		_exit(4);
	say("ended", child);
	stamp("returned");
	child = vfork();
	if (!child) {
		execv(argv[0], argv);
		_exit(127);
	}
	say("executed", child);
	wait_for_all();
	stamp("after");
	return 0;
}

static void expect(int failed, int error)
{
	if (!failed || errno != error) {
		say("unexpected", errno);
		_exit(1);
	}
	say("failed", error);
}

static long clone_with(unsigned long flags)
{
	return syscall(SYS_clone, flags, 0, 0, 0, 0);
}

/*
 * Attempts that come to nothing. argv[0] cannot be executed, argv[1] is no program, argv[2] is a
 * script of an interpreter that is not there.
 */
static int fails(char **argv)
{
	struct rlimit none = { 0, 0 };
	pid_t self = getpid();
	struct clone_args taken = {
		.exit_signal = SIGCHLD,
		.set_tid = (uintptr_t)&self,
		.set_tid_size = 1,
	};

	expect(execl("/nowhere/at/all", "x", NULL), ENOENT);
	expect(execl("/", "x", NULL), EACCES);
	expect(execl(argv[0], "x", NULL), EACCES);
	expect(execl(argv[1], "x", NULL), ENOEXEC);
	expect(execl(argv[2], "x", NULL), ENOENT);
	expect(clone_with(CLONE_THREAD | SIGCHLD) < 0, EINVAL);
	expect(clone_with(CLONE_FS | CLONE_NEWNS | SIGCHLD) < 0, EINVAL);
	expect(syscall(SYS_clone3, &taken, sizeof(taken)) < 0, EEXIST);
	if (setresgid(4321, 4321, 4321) || setresuid(4321, 4321, 4321))
		return 1;
	setrlimit(RLIMIT_NPROC, &none);
	expect(fork() < 0, EAGAIN);
	expect(vfork() < 0, EAGAIN);
	stamp("done");
	return 5;
}

int main(int argc, char **argv)
{
	static const struct life lives[] = {
		{ "ages", ages }, { "age", age }, { "last_age", last_age },
		{ "again", again },
		{ "family", family }, { "family_goes_on", family_goes_on },
		{ "vfork", by_vfork },
		{ "fails", fails },
		{ 0, 0 },
	};

	return run_life(lives, argc, argv);
}
