/*
 * Ways to execute. argv[1] names one, argv[2] is the file to execute, the rest its arguments.
 * Where the process goes on to wait, pids of interest go to stdout, a number a line.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void by_vfork(char **argv)
{
	pid_t child = vfork();

	if (!child) {
		execv(argv[0], argv);
		_exit(127);
	}
	printf("%d\n", child);
	while (wait(0) > 0)
		;
	exit(0);
}

static void by_memfd(char **argv)
{
	struct stat status;
	int from = open(argv[0], O_RDONLY | O_CLOEXEC);
	int to = memfd_create("hidden", MFD_CLOEXEC);

	fstat(from, &status);
	if (sendfile(to, from, 0, status.st_size) == status.st_size)
		fexecve(to, argv, environ);
}

static void by_unlinked(char **argv)
{
	int fd = open(argv[0], O_RDONLY | O_CLOEXEC);

	unlink(argv[0]);
	fexecve(fd, argv, environ);
}

static void by_descriptor(char **argv)
{
	fexecve(open(argv[0], O_RDONLY | O_CLOEXEC), argv, environ);
}

static void by_empty_argv(char **argv)
{
	char *none[] = { 0 };

	execve(argv[0], none, environ);
}

static void *execute(void *argv)
{
	printf("%d\n", gettid());
	fflush(stdout);
	execv(((char **)argv)[0], argv);
	return 0;
}

static void *sleep_on(void *unused)
{
	printf("%d\n", gettid());
	fflush(stdout);
	for (;;)
		pause();
	return unused;
}

static void by_thread(char **argv)
{
	pthread_t sleeper, thread;

	pthread_create(&sleeper, 0, sleep_on, 0);
	usleep(10000); /* both lines in this order */
	pthread_create(&thread, 0, execute, argv);
	pthread_join(thread, 0);
}

static void by_user(char **argv)
{
	if (setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000))
		return;
	execv(argv[0], argv);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(char **argv);
	} ways[] = {
		{ "vfork", by_vfork },
		{ "memfd", by_memfd },
		{ "unlinked", by_unlinked },
		{ "descriptor", by_descriptor },
		{ "empty_argv", by_empty_argv },
		{ "thread", by_thread },
		{ "user", by_user },
	};

	for (unsigned i = 0; argc > 2 && i < sizeof(ways) / sizeof(*ways); i++)
		if (!strcmp(argv[1], ways[i].name))
			ways[i].run(argv + 2);
	return 2;
}
