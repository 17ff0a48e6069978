/*
 * How a victim tells the test what it did: lines of a name and a number on standard output, each
 * written at once, so that forked processes can tell as well. Whoever reads to the end of standard
 * output has waited for all who hold it, orphans included.
 */
#ifndef SAID_H
#define SAID_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static inline void say(const char *name, long long number)
{
	char line[96];
	int length = snprintf(line, sizeof(line), "%s %lld\n", name, number);

	if (write(1, line, length) != length)
		_exit(99);
}

/* An instant between two things that happen, on the clock of the events. */
static inline void stamp(const char *name)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	say(name, now.tv_sec * 1000000000LL + now.tv_nsec);
}

static inline void wait_for_all(void)
{
	while (wait(0) > 0)
		;
}

/* A pipe with a writer until `let_go`, or until the last process that holds it is gone. */
struct rope {
	int end, held;
};

static inline struct rope rope(void)
{
	int ends[2];

	if (pipe(ends))
		_exit(98);
	return (struct rope){ ends[0], ends[1] };
}

static inline void let_go(struct rope rope)
{
	close(rope.held);
}

/* Returns when all others have let go. */
static inline void wait_at(struct rope rope)
{
	char byte;

	close(rope.held);
	while (read(rope.end, &byte, 1) > 0)
		;
	close(rope.end);
}

/* What a victim can do, by the name in argv[1]; each gets the arguments after it. */
struct life {
	const char *name;
	int (*run)(char **argv);
};

static inline int run_life(const struct life *lives, int argc, char **argv)
{
	for (; argc > 1 && lives->name; lives++)
		if (!strcmp(argv[1], lives->name))
			return lives->run(argv + 2);
	return 2;
}

#endif
