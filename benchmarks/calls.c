/* SPDX-License-Identifier: Apache-2.0 */
/* calls NAME N: N times the same system call; prints the ns that one took. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec begin, end;
	int i, n;

	if (argc < 3)
		return 2;
	n = atoi(argv[2]);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (i = 0; i < n; i++) {
		if (!strcmp(argv[1], "getppid"))
			syscall(SYS_getppid);
		else if (!strcmp(argv[1], "rename"))
			prctl(PR_SET_NAME, i & 1 ? "one" : "two");
		else if (chdir(i & 1 ? "/usr" : "/"))
			return 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%.1f\n", ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / n);
	return 0;
}
