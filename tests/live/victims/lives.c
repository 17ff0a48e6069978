/*
 * Lives and deaths. argv[1] names one; pids and tids of interest go to stdout, a number a line.
 * The process that the test started waits for all that it makes, so that when it has ended, so
 * have they.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(long number)
{
	printf("%ld\n", number);
	fflush(stdout);
}

static long clone_with(unsigned long flags)
{
	return syscall(SYS_clone, flags, 0, 0, 0, 0);
}

static void wait_for_all(void)
{
	while (wait(0) > 0)
		;
}

static int killed(void)
{
	pid_t child = fork();

	if (!child)
		for (;;)
			pause();
	say(child);
	kill(child, SIGKILL);
	wait_for_all();
	return 0;
}

static int core(void)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	pid_t child = fork();

	if (!child) {
		setrlimit(RLIMIT_CORE, &unlimited);
		raise(SIGSEGV);
	}
	say(child);
	wait_for_all();
	return 0;
}

static void *thread_of(void *unused)
{
	say(gettid());
	return unused;
}

static int thread(void)
{
	pthread_t thread;

	pthread_create(&thread, 0, thread_of, 0);
	pthread_join(thread, 0);
	return 0;
}

static void *after_the_leader(void *leader)
{
	/* The leader is a zombie once it cannot be signalled as a thread that runs. */
	char path[64], line[256];

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)(long)leader);
	for (;;) {
		FILE *file = fopen(path, "r");

		if (!file || !fgets(line, sizeof(line), file) || strstr(line, ") Z"))
			break;
		fclose(file);
		usleep(1000);
	}
	say(gettid());
	exit(5);
}

static int leader_first(void)
{
	pthread_t thread;

	pthread_create(&thread, 0, after_the_leader, (void *)(long)getpid());
	pthread_exit(0);
}

static int clone_parent(void)
{
	pid_t child = fork();

	if (!child) {
		long sibling = clone_with(CLONE_PARENT | SIGCHLD);

		if (!sibling)
			_exit(0);
		say(sibling);
		_exit(0);
	}
	say(child);
	wait_for_all();
	return 0;
}

static void *forks(void *unused)
{
	pid_t child = fork();

	if (!child)
		_exit(0);
	say(gettid());
	say(child);
	wait_for_all();
	return unused;
}

static int thread_forks(void)
{
	pthread_t thread;

	pthread_create(&thread, 0, forks, 0);
	pthread_join(thread, 0);
	return 0;
}

/* middle forks orphan and ends; orphan ends once it has been handed over. */
static int double_fork(void)
{
	pid_t middle = fork();

	if (!middle) {
		pid_t before = getpid(), orphan = fork();

		if (!orphan) {
			while (getppid() == before)
				usleep(1000);
			_exit(0);
		}
		say(orphan);
		_exit(0);
	}
	say(middle);
	wait_for_all();
	return 0;
}

static int subreaper(void)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	return double_fork();
}

static int pid_namespace(void)
{
	pid_t init;

	unshare(CLONE_NEWPID);
	init = fork();
	if (!init) {
		pid_t second = fork();

		if (!second)
			_exit(0);
		wait_for_all();
		_exit(0);
	}
	say(init);
	wait_for_all();
	return 0;
}

static int session(void)
{
	pid_t child = fork();

	if (!child) {
		pid_t grandchild;

		setsid();
		grandchild = fork();
		if (!grandchild)
			_exit(0);
		wait_for_all();
		_exit(0);
	}
	say(child);
	wait_for_all();
	return 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} lives[] = {
		{ "killed", killed },
		{ "core", core },
		{ "thread", thread },
		{ "leader_first", leader_first },
		{ "clone_parent", clone_parent },
		{ "thread_forks", thread_forks },
		{ "double_fork", double_fork },
		{ "subreaper", subreaper },
		{ "pid_namespace", pid_namespace },
		{ "session", session },
	};

	for (unsigned i = 0; argc > 1 && i < sizeof(lives) / sizeof(*lives); i++)
		if (!strcmp(argv[1], lives[i].name))
			return lives[i].run();
	return 2;
}
