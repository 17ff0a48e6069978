/*
 * Lets the kernel make a thread in this process, to which no clone(2) leads: the poller of an
 * io_uring. Its tid goes to stdout.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 1000 };
	struct dirent *entry;
	DIR *tasks;

	if (syscall(SYS_io_uring_setup, 4, &params) < 0)
		return 1;
	tasks = opendir("/proc/self/task");
	while ((entry = readdir(tasks)))
		if (atoi(entry->d_name) > 0 && atoi(entry->d_name) != getpid())
			printf("%s\n", entry->d_name);
	return 0;
}
