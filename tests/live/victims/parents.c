/* Parents: who takes over whose children, and who only looks like a parent. argv[1] names a life. */
#include "said.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>

static void await_another_parent(pid_t parent)
{
	while (getppid() == parent)
		usleep(200);
}

static void say_of(const char *which, const char *name, long long number)
{
	char whole[64];

	snprintf(whole, sizeof(whole), "%s_%s", which, name);
	say(whole, number);
}

/* A middle process forks an orphan and ends; the orphan tells who took it over. */
static void orphan(const char *which)
{
	pid_t middle = fork();

	if (!middle) {
		pid_t parent = getpid(), child = fork();

		if (!child) {
			char handed[64];

			await_another_parent(parent);
			say_of(which, "heir", getppid());
			snprintf(handed, sizeof(handed), "%s_handed", which);
			stamp(handed);
			_exit(0);
		}
		say_of(which, "orphan", child);
		_exit(0);
	}
	say_of(which, "middle", middle);
	waitpid(middle, 0, 0);
}

static int double_fork(char **argv)
{
	(void)argv;
	orphan("only");
	return 0;
}

static void *set_the_flag(void *unused)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	return unused;
}

/*
 * The flag is set by a thread, and holds for the process. Then an orphan is made below a fork of
 * the process, which has not got the flag. Then the flag is given up.
 */
static int subreaper(char **argv)
{
	struct rope held = rope();
	pthread_t thread;
	pid_t between;

	(void)argv;
	if (pthread_create(&thread, 0, set_the_flag, 0))
		return 1;
	pthread_join(thread, 0);
	orphan("first");
	wait_for_all();
	between = fork();
	if (!between) {
		orphan("lower");
		wait_at(held);
		_exit(0);
	}
	say("between", between);
	/* The orphan has come here and ended; `between` waits. */
	wait(0);
	let_go(held);
	wait_for_all();
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	orphan("last");
	return 0;
}

/* The child of `second` is taken over by `first`, and when that ends as well, by somebody above. */
static int heirs(char **argv)
{
	struct rope held = rope();
	pid_t first = fork();

	(void)argv;
	if (!first) {
		pid_t second;

		prctl(PR_SET_CHILD_SUBREAPER, 1);
		second = fork();
		if (!second) {
			pid_t parent = getpid(), child = fork();

			if (!child) {
				close(held.end);
				await_another_parent(parent);
				say("first_heir", getppid());
				stamp("at_first");
				parent = getppid();
				let_go(held);
				await_another_parent(parent);
				say("second_heir", getppid());
				stamp("at_second");
				_exit(0);
			}
			say("child", child);
			close(held.held);
			_exit(0);
		}
		say("second", second);
		waitpid(second, 0, 0);
		wait_at(held);
		_exit(0);
	}
	say("first", first);
	close(held.held);
	wait_for_all();
	return 0;
}

/*
 * `tracer`, a child of the same parent as `traced`, attaches to it in the old way and lets it go,
 * then in the new way and keeps it to its end. Meanwhile `traced` forks and executes argv[0].
 * The test is waited for while it is attached.
 */
static int tracer(char **argv)
{
	struct rope attached = rope();
	pid_t traced = fork(), by;
	int status;

	if (!traced) {
		pid_t child;

		wait_at(attached);
		stamp("goes_on");
		child = fork();
		if (!child)
			_exit(0);
		say("child", child);
		wait_for_all();
		execv(argv[0], argv);
		_exit(127);
	}
	say("traced", traced);
	by = fork();
	if (!by) {
		if (ptrace(PTRACE_ATTACH, traced, 0, 0) || waitpid(traced, &status, __WALL) < 0)
			_exit(1);
		stamp("attached");
		if (ptrace(PTRACE_DETACH, traced, 0, 0) || ptrace(PTRACE_SEIZE, traced, 0, 0))
			_exit(2);
		stamp("seized");
		getchar();
		let_go(attached);
		while (waitpid(traced, &status, __WALL) == traced && WIFSTOPPED(status)) {
			/* A trap of the exec is not for it; any other signal is. */
			int signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);

			ptrace(PTRACE_CONT, traced, 0, signal);
		}
		_exit(0);
	}
	say("tracer", by);
	let_go(attached);
	waitpid(by, &status, 0);
	say("tracers_status", WEXITSTATUS(status));
	wait_for_all();
	return 0;
}

/* A chain of as many processes as argv[0] says; all live until the last one is there. */
static int chain(char **argv)
{
	int left = atoi(argv[0]);

	while (left--) {
		pid_t child = fork();

		if (child < 0)
			return 1;
		if (child) {
			wait_for_all();
			_exit(0);
		}
	}
	say("last", getpid());
	stamp("deepest");
	return 0;
}

/* As many children as argv[0] says, one after the other, and one more that lives. */
static int children(char **argv)
{
	struct rope held = rope();
	pid_t child;

	for (int i = atoi(argv[0]); i; i--) {
		child = fork();
		if (!child)
			_exit(0);
		waitpid(child, 0, 0);
	}
	child = fork();
	if (!child) {
		wait_at(held);
		_exit(0);
	}
	say("living", child);
	stamp("many");
	let_go(held);
	wait_for_all();
	return 0;
}

int main(int argc, char **argv)
{
	static const struct life lives[] = {
		{ "double_fork", double_fork }, { "subreaper", subreaper }, { "heirs", heirs },
		{ "tracer", tracer }, { "chain", chain }, { "children", children },
		{ 0, 0 },
	};

	return run_life(lives, argc, argv);
}
