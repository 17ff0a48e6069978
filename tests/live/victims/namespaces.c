/*
 * Pid namespaces. argv[1] names a life. /proc stays that of the host, so that everybody can find
 * out by which pid the host knows it.
 */
#include "said.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>

static pid_t host_pid(void)
{
	char number[32] = "";

	if (readlink("/proc/self", number, sizeof(number) - 1) < 0)
		_exit(96);
	return atoi(number);
}

static void say_namespace(const char *name)
{
	struct stat status;

	if (stat("/proc/self/ns/pid", &status))
		_exit(95);
	say(name, status.st_ino);
}

static _Noreturn void sleep_on(void)
{
	for (;;)
		pause();
}

/* A child that is the first process of a new pid namespace. */
static pid_t fork_inside(void)
{
	pid_t child;

	if (unshare(CLONE_NEWPID))
		_exit(94);
	child = fork();
	if (child < 0)
		_exit(93);
	return child;
}

/*
 * In a namespace: an orphan, a sleeper, and a namespace further down with a sleeper of its own.
 * When the first process ends, the kernel kills them all.
 */
static int dies(char **argv)
{
	struct rope ready = rope();
	pid_t init;

	(void)argv;
	init = fork_inside();
	if (!init) {
		pid_t middle = fork(), sleeper;

		if (!middle) {
			pid_t parent = getpid(), orphan = fork();

			if (!orphan) {
				while (getppid() == parent)
					usleep(200);
				say("orphan", host_pid());
				say("orphans_parent", getppid());
				stamp("adopted");
				close(ready.held);
				sleep_on();
			}
			say("middle", host_pid());
			_exit(0);
		}
		waitpid(middle, 0, 0);
		sleeper = fork();
		if (!sleeper) {
			say("sleeper", host_pid());
			if (!fork_inside()) {
				say("inner_init", host_pid());
				say_namespace("inner");
				if (!fork()) {
					say("inner_sleeper", host_pid());
					close(ready.held);
				}
			}
			close(ready.held);
			sleep_on();
		}
		say("init", host_pid());
		say_namespace("namespace");
		wait_at(ready);
		stamp("full");
		_exit(3);
	}
	close(ready.held);
	wait_for_all();
	stamp("dead");
	return 0;
}

/* Two namespaces at once, each with its own first process. */
static int two(char **argv)
{
	static const char *const names[][2] = { { "one", "one_namespace" }, { "two", "two_namespace" } };
	struct rope here = rope(), ready = rope();

	(void)argv;
	say_namespace("host_namespace");
	for (int i = 0; i < 2; i++) {
		pid_t child = fork();

		if (!child) {
			pid_t init = fork_inside();

			if (!init) {
				say(names[i][0], host_pid());
				say_namespace(names[i][1]);
				close(ready.held);
				wait_at(here);
				_exit(0);
			}
			close(ready.held);
			close(here.held);
			wait_for_all();
			_exit(0);
		}
	}
	wait_at(ready);
	stamp("both");
	let_go(here);
	wait_for_all();
	stamp("neither");
	return 0;
}

/* Somebody from outside enters a namespace, forks there, and that one forks and executes argv[0]. */
static int enter(char **argv)
{
	struct rope here = rope(), ready = rope();
	pid_t *init = mmap(0, sizeof(*init), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			   -1, 0);
	char path[64];

	if (init == MAP_FAILED)
		return 1;
	if (!fork()) {
		if (!fork_inside()) {
			*init = host_pid();
			say("init", *init);
			say_namespace("namespace");
			close(ready.held);
			wait_at(here);
			_exit(0);
		}
		close(here.held);
		close(ready.held);
		wait_for_all();
		_exit(0);
	}
	wait_at(ready);
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", *init);
	if (!fork()) {
		int namespace = open(path, O_RDONLY | O_CLOEXEC);

		say("enters", host_pid());
		if (setns(namespace, CLONE_NEWPID))
			_exit(1);
		if (!fork()) {
			say("entered", host_pid());
			say("entered_inside", getpid());
			say("its_parent_inside", getppid());
			stamp("inside");
			if (!fork()) {
				say("below", host_pid());
				say("below_inside", getpid());
				say("belows_parent_inside", getppid());
				execv(argv[0], argv);
				_exit(127);
			}
			wait_for_all();
			_exit(0);
		}
		close(here.held);
		wait_for_all();
		_exit(0);
	}
	close(here.held);
	wait_for_all();
	return 0;
}

int main(int argc, char **argv)
{
	static const struct life lives[] = {
		{ "dies", dies }, { "two", two }, { "enter", enter }, { 0, 0 },
	};

	return run_life(lives, argc, argv);
}
