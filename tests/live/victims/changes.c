/*
 * A task changes itself, and nothing else happens. argv[1] says how, letter by letter, in order:
 * n a new name, c chdir, u user ids, s a session, r subreaper on, R off, h a hostname namespace,
 * f a child that ends at once, t a thread that does the rest and ends, l the same, and the leader
 * ends before; F a hundred names, T two hundred threads with sixty names each.
 * Before each letter the time on the boot clock goes to stdout, and once more at the end.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void say_time(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	printf("%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
	fflush(stdout);
}

static void rename_often(void)
{
	char name[16];

	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "name%d", i);
		prctl(PR_SET_NAME, name);
	}
}

static void *rename_a_little(void *unused)
{
	for (int i = 0; i < 30; i++) {
		prctl(PR_SET_NAME, "one");
		prctl(PR_SET_NAME, "other");
	}
	return unused;
}

static void many_threads(void)
{
	for (int i = 0; i < 200; i++) {
		pthread_t thread;

		pthread_create(&thread, 0, rename_a_little, 0);
		pthread_join(thread, 0);
	}
}

static void *follow(void *letters);
static void *outlive(void *letters);

static void change(const char *letters)
{
	for (; *letters; letters++) {
		int failed = 0;

		say_time();
		switch (*letters) {
		case 'n': failed = prctl(PR_SET_NAME, "renamed"); break;
		case 'c': failed = chdir("/usr"); break;
		case 'u': failed = setresgid(1, 2, 3) || setresuid(1000, 1001, 1002); break;
		case 's': failed = setsid() < 0; break;
		case 'r': failed = prctl(PR_SET_CHILD_SUBREAPER, 1); break;
		case 'R': failed = prctl(PR_SET_CHILD_SUBREAPER, 0); break;
		case 'h': failed = unshare(CLONE_NEWUTS); break;
		case 'F': rename_often(); break;
		case 'T': many_threads(); break;
		case 'l': {
			pthread_t thread;

			pthread_create(&thread, 0, outlive, (void *)(letters + 1));
			pthread_exit(0);
		}
		case 'f':
			if (!fork())
				_exit(0);
			wait(0);
			break;
		case 't': {
			pthread_t thread;

			pthread_create(&thread, 0, follow, (void *)(letters + 1));
			pthread_join(thread, 0);
			return;
		}
		}
		if (failed)
			exit(1);
	}
	say_time();
}

static void *follow(void *letters)
{
	change(letters);
	return 0;
}

/* Goes on once the leader is a zombie. */
static void *outlive(void *letters)
{
	char path[64], line[256];

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", getpid());
	for (;;) {
		FILE *file = fopen(path, "r");

		if (!file || !fgets(line, sizeof(line), file) || strstr(line, ") Z"))
			break;
		fclose(file);
		usleep(1000);
	}
	change(letters);
	exit(0);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		change(argv[1]);
	return 0;
}
