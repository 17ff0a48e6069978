/* Moves between cgroups. argv[1] names a life, the other arguments are directories of cgroups. */
#include "said.h"

#include <fcntl.h>

/* Moves a process, 0 for the one that calls, and tells when. */
static void move(const char *directory, pid_t who)
{
	char path[4096], number[16];
	int file, length = snprintf(number, sizeof(number), "%d", who);

	snprintf(path, sizeof(path), "%s/cgroup.procs", directory);
	file = open(path, O_WRONLY);
	stamp("before");
	if (write(file, number, length) != length)
		_exit(1);
	stamp("after");
	close(file);
}

/* Moves itself from one to the next, and forks a child in each. */
static int moves(char **argv)
{
	for (; *argv; argv++) {
		pid_t child;

		move(*argv, 0);
		child = fork();
		if (!child)
			_exit(0);
		say("child", child);
		wait_for_all();
	}
	return 0;
}

/* Moves a child that does nothing. */
static int is_moved(char **argv)
{
	struct rope held = rope();
	pid_t child = fork();

	if (!child) {
		wait_at(held);
		_exit(0);
	}
	say("child", child);
	for (; *argv; argv++)
		move(*argv, child);
	let_go(held);
	wait_for_all();
	return 0;
}

int main(int argc, char **argv)
{
	static const struct life lives[] = {
		{ "moves", moves }, { "is_moved", is_moved }, { 0, 0 },
	};

	return run_life(lives, argc, argv);
}
