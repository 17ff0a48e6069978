/* SPDX-License-Identifier: Apache-2.0 */
/* loop N: N times vfork + exec of itself + exit + wait; prints the ns that one took. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec begin, end;
	int i, n;

	if (argc < 2)
		return 0;
	n = atoi(argv[1]);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (i = 0; i < n; i++) {
		pid_t pid = vfork();

		if (pid == 0) {
			execl(argv[0], argv[0], (char *)NULL);
			_exit(127);
		}
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			return 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%.0f\n", ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / n);
	return 0;
}
