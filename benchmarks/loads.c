/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loads KIND N [RATE]: N times something that makes tasks; prints the ns that one took, and how many
 * tasks there were. With a RATE so many begin a second, and no more.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *self;

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int wait_for(pid_t pid)
{
	return pid > 0 && waitpid(pid, NULL, 0) == pid;
}

static int executes(void)
{
	pid_t pid = vfork();

	if (pid == 0) {
		execl(self, self, (char *)NULL);
		_exit(127);
	}
	return wait_for(pid);
}

static int forks(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	return wait_for(pid);
}

static void *ends(void *unused)
{
	return unused;
}

static int threads(void)
{
	pthread_t thread;

	return !pthread_create(&thread, NULL, ends, NULL) && !pthread_join(thread, NULL);
}

/* What a configure script does all the time: seven tasks, five of which execute something. */
static int configures(void)
{
	pid_t pid = vfork();

	if (pid == 0) {
		execl("/bin/sh", "sh", "-c",
		      "x=$(echo conftest.c | sed 's/conf/CONF/'); expr $x : '.*' >/dev/null;"
		      " cat /dev/null; uname >/dev/null", (char *)NULL);
		_exit(127);
	}
	return wait_for(pid);
}

static const struct {
	const char *name;
	int (*once)(void);
	int tasks;
} kinds[] = {
	{ "vfork+exec", executes, 1 },
	{ "fork", forks, 1 },
	{ "threads", threads, 1 },
	{ "configure", configures, 7 },
};

int main(int argc, char **argv)
{
	int kind = 0, count, rate;
	long long began;

	if (argc < 3)
		return 0;
	self = argv[0];
	count = atoi(argv[2]);
	rate = argc > 3 ? atoi(argv[3]) : 0;
	while (strcmp(kinds[kind].name, argv[1]))
		if (++kind == sizeof(kinds) / sizeof(*kinds))
			return 2;
	began = now();
	for (int i = 0; i < count; i++) {
		if (rate) {
			long long due = began + i * (1000000000LL / rate) - now();
			struct timespec pause = { due / 1000000000LL, due % 1000000000LL };

			if (due > 0)
				nanosleep(&pause, NULL);
		}
		if (!kinds[kind].once())
			return 1;
	}
	printf("%.0f %d\n", (double)(now() - began) / count, count * kinds[kind].tasks);
	return 0;
}
