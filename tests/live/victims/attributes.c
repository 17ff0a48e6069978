/*
 * What a process changes of itself between its exec and its exit, and what a child has of it.
 * argv[1] names a life. Each change stands between the instants "before" and "after", and is
 * followed by a fork, whose child is "child".
 */
#include "said.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define CAP_OF_CHOICE 25 /* CAP_SYS_TIME */

static void forked(void)
{
	pid_t child = fork();

	if (!child)
		_exit(0);
	say("child", child);
	waitpid(child, 0, 0);
	stamp("end");
}

#define CHANGE(call)                \
	do {                        \
		stamp("before");    \
		if (call)           \
			return 1;   \
		stamp("after");     \
		forked();           \
		return 0;           \
	} while (0)

static int by_setuid(char **argv) { (void)argv; CHANGE(setuid(1000)); }
static int by_setresuid(char **argv) { (void)argv; CHANGE(setresuid(7, 8, 9)); }
static int by_setresgid(char **argv) { (void)argv; CHANGE(setresgid(7, 8, 9)); }
static int by_chdir(char **argv) { CHANGE(chdir(argv[0])); }
static int by_chroot(char **argv) { CHANGE(chroot(argv[0])); }

/* The leader of a process group may not begin a session, and this one may be one. */
static int by_setsid(char **argv)
{
	pid_t child = fork();

	(void)argv;
	if (!child) {
		say("self", getpid());
		CHANGE(setsid() < 0);
	}
	wait_for_all();
	return 0;
}

static int by_setpgid(char **argv) { (void)argv; CHANGE(setpgid(0, 0)); }

static int drop_a_capability(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data))
		return 1;
	data[0].effective &= ~(1u << CAP_OF_CHOICE);
	return syscall(SYS_capset, &header, data) != 0;
}

static int by_capset(char **argv) { (void)argv; CHANGE(drop_a_capability()); }

static int rename_to(const char *name) { return prctl(PR_SET_NAME, name); }

static int by_prctl(char **argv) { (void)argv; CHANGE(rename_to("renamed")); }
static int by_odd_name(char **argv) { (void)argv; CHANGE(rename_to(") R 1 (")); }

static void *rename_thread(void *unused)
{
	say("thread", gettid());
	stamp("before");
	prctl(PR_SET_NAME, "worker");
	stamp("after");
	forked();
	return unused;
}

static int by_thread(char **argv)
{
	pthread_t thread;

	(void)argv;
	if (pthread_create(&thread, 0, rename_thread, 0))
		return 1;
	pthread_join(thread, 0);
	return 0;
}

static void *wait_to_be_named(void *end)
{
	char byte;

	say("thread", gettid());
	while (read(*(int *)end, &byte, 1) > 0)
		;
	return 0;
}

/* By /proc, which is how pthread_setname_np() names another thread. */
static int by_another(char **argv)
{
	struct rope held = rope();
	pthread_t thread;

	(void)argv;
	if (pthread_create(&thread, 0, wait_to_be_named, &held.end))
		return 1;
	stamp("before");
	if (pthread_setname_np(thread, "by another"))
		return 1;
	stamp("after");
	forked();
	let_go(held);
	pthread_join(thread, 0);
	return 0;
}

/* Renames itself as often as argv[0] says. */
static int by_flood(char **argv)
{
	int times = atoi(argv[0]);
	char name[16];

	stamp("before");
	for (int i = 0; i < times; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		prctl(PR_SET_NAME, name);
		if (!i)
			stamp("first");
	}
	stamp("after");
	forked();
	return 0;
}

/* A name of its own, and then the test looks at /proc. */
static int stays(char **argv)
{
	prctl(PR_SET_NAME, argv[0]);
	stamp("there");
	getchar();
	return 0;
}

/* ------------------------------------------------------------------------------------- ends */

static int core(char **argv)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };

	(void)argv;
	setrlimit(RLIMIT_CORE, &unlimited);
	raise(SIGSEGV);
	return 1;
}

static int coreless(char **argv)
{
	struct rlimit none = { 0, 0 };

	(void)argv;
	setrlimit(RLIMIT_CORE, &none);
	raise(SIGSEGV);
	return 1;
}

static int killed(char **argv)
{
	(void)argv;
	kill(getpid(), SIGKILL);
	return 1;
}

/* Only the low byte of what is passed to exit(2) comes out. */
static int exits(char **argv) { _exit(atoi(argv[0])); }

int main(int argc, char **argv)
{
	static const struct life lives[] = {
		{ "setuid", by_setuid }, { "setresuid", by_setresuid },
		{ "setresgid", by_setresgid }, { "chdir", by_chdir }, { "chroot", by_chroot },
		{ "setsid", by_setsid }, { "setpgid", by_setpgid }, { "capset", by_capset },
		{ "prctl", by_prctl }, { "odd_name", by_odd_name }, { "thread", by_thread },
		{ "another", by_another }, { "flood", by_flood }, { "stays", stays },
		{ "core", core }, { "coreless", coreless }, { "killed", killed },
		{ "exits", exits },
		{ 0, 0 },
	};

	return run_life(lives, argc, argv);
}
