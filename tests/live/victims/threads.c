/* Threads: who ends when, who executes, and who forks. argv[1] names a life. */
#include "said.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#define MANY 64

static struct rope held;
static char program[4096];

static void start(pthread_t *thread, void *(*run)(void *), void *argument)
{
	if (pthread_create(thread, 0, run, argument))
		_exit(97);
}

static _Noreturn void sleep_on(void)
{
	for (;;)
		pause();
}

/* ------------------------------------------------------------------------ whose end is whose */

static pthread_barrier_t all_there;

static void *one_of_many(void *number)
{
	say("thread", gettid());
	pthread_barrier_wait(&all_there);
	pthread_barrier_wait(&all_there);
	return number;
}

static int many(char **argv)
{
	pthread_t threads[MANY];

	(void)argv;
	pthread_barrier_init(&all_there, 0, MANY + 1);
	for (int i = 0; i < MANY; i++)
		start(&threads[i], one_of_many, 0);
	pthread_barrier_wait(&all_there);
	stamp("together");
	pthread_barrier_wait(&all_there);
	for (int i = 0; i < MANY; i++)
		pthread_join(threads[i], 0);
	stamp("alone");
	return 0;
}

/* The leader is a zombie while others of its threads live. */
static void wait_until_it_ended(pid_t leader)
{
	char path[64], line[256];

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", leader);
	for (;;) {
		FILE *file = fopen(path, "r");

		if (!file || !fgets(line, sizeof(line), file) || strstr(line, ") Z"))
			break;
		fclose(file);
		usleep(500);
	}
}

static void *outlives_the_leader(void *unused)
{
	pid_t child;

	wait_until_it_ended(getpid());
	say("thread", gettid());
	stamp("without");
	child = fork();
	if (!child)
		_exit(0);
	say("child", child);
	wait_for_all();
	stamp("still");
	exit(5);
	return unused;
}

static int leader_first(char **argv)
{
	pthread_t thread;

	(void)argv;
	start(&thread, outlives_the_leader, 0);
	pthread_exit(0);
}

/* The leader has ended, and the thread waits for the end of standard input. */
static void *stays_without_the_leader(void *unused)
{
	char byte;

	wait_until_it_ended(getpid());
	say("thread", gettid());
	stamp("without");
	while (read(0, &byte, 1) > 0)
		;
	exit(5);
	return unused;
}

static int leader_left(char **argv)
{
	pthread_t thread;

	(void)argv;
	start(&thread, stays_without_the_leader, 0);
	pthread_exit(0);
}

static void *pauses(void *ready)
{
	say("sibling", gettid());
	pthread_barrier_wait(ready);
	sleep_on();
}

static void *ends_all(void *unused)
{
	say("thread", gettid());
	exit(9);
	return unused;
}

/* A thread ends the process while the leader and another thread sleep. */
static int exit_group(char **argv)
{
	pthread_barrier_t ready;
	pthread_t sibling, thread;

	(void)argv;
	pthread_barrier_init(&ready, 0, 2);
	start(&sibling, pauses, &ready);
	pthread_barrier_wait(&ready);
	start(&thread, ends_all, 0);
	sleep_on();
}

/* ------------------------------------------------------------------------------ who executes */

static void *forks_and_pauses(void *barrier)
{
	pid_t child = fork();

	if (!child) {
		wait_at(held);
		_exit(0);
	}
	say("child", child);
	say("sibling", gettid());
	pthread_barrier_wait(barrier);
	sleep_on();
}

static void go_on(void)
{
	char number[16];

	snprintf(number, sizeof(number), "%d", held.held);
	stamp("old");
	execl(program, program, "after_exec", number, NULL);
	_exit(127);
}

static void *executes(void *unused)
{
	say("thread", gettid());
	go_on();
	return unused;
}

/* One thread has forked a child, another one executes, and the leader waits for neither. */
static int exec(char **argv)
{
	pthread_barrier_t ready;
	pthread_t sibling, thread;

	snprintf(program, sizeof(program), "%s", argv[0]);
	held = rope();
	pthread_barrier_init(&ready, 0, 2);
	start(&sibling, forks_and_pauses, &ready);
	pthread_barrier_wait(&ready);
	start(&thread, executes, 0);
	sleep_on();
}

static int after_exec(char **argv)
{
	stamp("new");
	close(atoi(argv[0]));
	wait_for_all();
	stamp("alone");
	return 4;
}

static void *executes_without_a_leader(void *unused)
{
	wait_until_it_ended(getpid());
	say("thread", gettid());
	stamp("without");
	go_on();
	return unused;
}

static int leaderless_exec(char **argv)
{
	pthread_t thread;

	snprintf(program, sizeof(program), "%s", argv[0]);
	held = rope();
	start(&thread, executes_without_a_leader, 0);
	pthread_exit(0);
}

/* ---------------------------------------------------------------------------------- who forks */

static void *forks(void *unused)
{
	pid_t child;

	held = rope();
	child = fork();
	if (!child) {
		wait_at(held);
		_exit(0);
	}
	say("thread", gettid());
	say("child", child);
	stamp("forked");
	let_go(held);
	wait_for_all();
	return unused;
}

static int thread_forks(char **argv)
{
	pthread_t thread;

	(void)argv;
	start(&thread, forks, 0);
	pthread_join(thread, 0);
	stamp("joined");
	return 0;
}

static void *makes_a_sibling_of_its_process(void *name)
{
	long sibling = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);

	if (!sibling) {
		wait_at(held);
		_exit(0);
	}
	say("creator", gettid());
	say(name, sibling);
	return 0;
}

/* A child makes two siblings of itself: its leader one, and a thread of it another. */
static int clone_parent(char **argv)
{
	pid_t caller;

	(void)argv;
	held = rope();
	caller = fork();
	if (!caller) {
		pthread_t thread;

		makes_a_sibling_of_its_process("by_leader");
		start(&thread, makes_a_sibling_of_its_process, "by_thread");
		pthread_join(thread, 0);
		stamp("made");
		_exit(0);
	}
	say("caller", caller);
	waitpid(caller, 0, 0);
	stamp("after");
	let_go(held);
	wait_for_all();
	return 0;
}

int main(int argc, char **argv)
{
	static const struct life lives[] = {
		{ "many", many }, { "leader_first", leader_first }, { "exit_group", exit_group },
		{ "leader_left", leader_left },
		{ "exec", exec }, { "after_exec", after_exec },
		{ "leaderless_exec", leaderless_exec },
		{ "thread_forks", thread_forks }, { "clone_parent", clone_parent },
		{ 0, 0 },
	};

	return run_life(lives, argc, argv);
}
