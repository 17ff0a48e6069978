/*
 * Processes that change everything that a process can change, in a random order that a seed
 * fixes: changes SEED LIVES DIRECTORY CGROUP. Bounded in number, depth and time; an alarm ends whoever
 * hangs. "changes rest MS" only waits, for it is what the others execute.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIFE_SECONDS 20
#define DEPTH 3
#define ACTIONS 5

extern char **environ;

static unsigned int seed;
static int depth;
static const char *self, *directory, *cgroup;

static unsigned int draw(unsigned int below)
{
	seed = seed * 1103515245 + 12345;
	return (seed >> 16) % below;
}

static void rest(unsigned int ms)
{
	usleep(1000 * ms);
}

static void live(int actions);

/* A child that goes on like its parent, one level deeper. */
static pid_t child(void)
{
	pid_t pid = fork();

	if (!pid) {
		alarm(LIFE_SECONDS);
		depth++;
		seed ^= getpid();
		live(depth < DEPTH ? ACTIONS - depth : 1);
		_exit(draw(3) ? 0 : draw(256));
	}
	return pid;
}

static void rename_self(void)
{
	char name[16];

	snprintf(name, sizeof(name), "n%u) R (%u", draw(1000), draw(10));
	prctl(PR_SET_NAME, name);
}

static void rename_for_ever(void)
{
	for (int i = 0; i < 200; i++)
		rename_self();
}

static void change_user(void)
{
	uid_t uid = 1000 + draw(5), same = -1;

	if (draw(2))
		(void)!setresuid(draw(2) ? uid : same, uid, draw(2) ? uid : same);
	else
		(void)!setuid(uid);
}

static void change_group(void)
{
	gid_t gid = 1000 + draw(5), same = -1;

	(void)!setresgid(draw(2) ? gid : same, gid, draw(2) ? gid : same);
}

static void drop_capabilities(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data))
		return;
	data[0].effective &= ~(1u << draw(32));
	data[1].permitted &= ~(1u << draw(8));
	data[1].effective &= data[1].permitted;
	syscall(SYS_capset, &header, data);
}

static void change_session(void)
{
	if (draw(2))
		setsid();
	else
		setpgid(0, 0);
}

static void take_terminal(void)
{
	int fd = posix_openpt(O_RDWR | O_NOCTTY);

	if (fd < 0)
		return;
	grantpt(fd);
	unlockpt(fd);
	setsid();
	fd = open(ptsname(fd), O_RDWR);
	if (fd >= 0)
		ioctl(fd, TIOCSCTTY, 0);
}

static void change_directory(void)
{
	static const char *const places[] = { "/", "/usr/lib", "/tmp", "/proc/self" };
	char made[64];

	if (draw(2)) {
		(void)!chdir(places[draw(4)]);
		return;
	}
	(void)!chdir(directory);
	snprintf(made, sizeof(made), "made-%d", getpid());
	if (!mkdir(made, 0777)) {
		(void)!chdir(made);
		rest(5);
		snprintf(made, sizeof(made), "../made-%d", getpid());
		rmdir(made);
	}
}

static void change_root(void)
{
	(void)!chroot(directory);
}

static void become_subreaper(void)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1 + draw(2) - draw(2));
	child();
	child();
}

static void orphan(void)
{
	pid_t middle = fork();

	if (!middle) {
		alarm(LIFE_SECONDS);
		child();
		_exit(0);
	}
	waitpid(middle, 0, 0);
}

static void as_daemon(void)
{
	pid_t middle = fork();

	if (!middle) {
		setsid();
		if (!fork()) {
			alarm(LIFE_SECONDS);
			(void)!chdir("/");
			rename_self();
			rest(50 + draw(200));
			_exit(0);
		}
		_exit(0);
	}
	waitpid(middle, 0, 0);
}

static void *thread_rests(void *name)
{
	prctl(PR_SET_NAME, name);
	rest(20 + (unsigned long)pthread_self() % 150);
	return 0;
}

static void threads(void)
{
	static char *const names[] = { "reader", "writer", "(odd) S 1" };
	pthread_t thread[3];

	for (int i = 0; i < 3; i++)
		pthread_create(&thread[i], 0, thread_rests, names[i]);
	if (draw(2))
		for (int i = 0; i < 3; i++)
			pthread_join(thread[i], 0);
}

static void execute(void)
{
	char ms[16], *argv[] = { "changes \n\xff", "rest", ms, "", "a b", 0 };

	snprintf(ms, sizeof(ms), "%u", 20 + draw(200));
	execve(self, argv, environ);
	execve("/changes", argv, environ); /* below another root */
}

static void execute_memfd(void)
{
	struct stat status;
	char ms[16], *argv[] = { "hidden", "rest", ms, 0 };
	int from = open(self, O_RDONLY | O_CLOEXEC), to = memfd_create("hidden", MFD_CLOEXEC);

	snprintf(ms, sizeof(ms), "%u", 20 + draw(200));
	if (!fstat(from, &status) && sendfile(to, from, 0, status.st_size) == status.st_size)
		fexecve(to, argv, environ);
}

static void execute_in_vain(void)
{
	char *argv[] = { "nothing", 0 };

	execve("/nonexistent", argv, environ);
	execve("/etc/passwd", argv, environ);
}

static void *thread_executes(void *unused)
{
	rest(20);
	execute();
	return unused;
}

static void execute_from_thread(void)
{
	static char name[] = "bystander";
	pthread_t thread, other;

	pthread_create(&other, 0, thread_rests, name);
	pthread_create(&thread, 0, thread_executes, 0);
	if (draw(2))
		pthread_exit(0);
	pthread_join(thread, 0);
}

static void *thread_outlives(void *unused)
{
	rest(50 + draw(200));
	if (draw(2))
		exit(draw(256));
	return unused;
}

static void leader_first(void)
{
	pthread_t thread;

	pthread_create(&thread, 0, thread_outlives, 0);
	pthread_exit(0);
}

static void by_vfork(void)
{
	char *argv[] = { "changes", "rest", "30", 0 };
	pid_t pid = vfork();

	if (!pid) {
		execve(self, argv, environ);
		_exit(127);
	}
	if (draw(2))
		waitpid(pid, 0, 0);
}

static void make_sibling(void)
{
	if (!syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0)) {
		alarm(LIFE_SECONDS);
		rest(20 + draw(100));
		_exit(0);
	}
}

static void new_namespaces(void)
{
	static const int kinds[] = { CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWCGROUP,
				     CLONE_NEWUSER, CLONE_NEWTIME };

	unshare(kinds[draw(6)]);
}

static void pid_namespace(void)
{
	if (unshare(CLONE_NEWPID))
		return;
	if (!fork()) {	/* process 1 of it, which takes all the others with it */
		alarm(LIFE_SECONDS);
		orphan();
		child();
		rest(50 + draw(150));
		_exit(0);
	}
}

static void change_cgroup(void)
{
	char path[4200];
	int fd;

	snprintf(path, sizeof(path), "%s/%s/cgroup.procs", cgroup, draw(2) ? "a" : "b");
	fd = open(path, O_WRONLY | O_CLOEXEC);
	(void)!write(fd, "0", 1);
	close(fd);
}

static void die(void)
{
	static const int signals[] = { SIGKILL, SIGTERM, SIGSEGV, SIGABRT, SIGHUP };

	raise(signals[draw(5)]);
}

static void wait_for_some(void)
{
	while (waitpid(-1, 0, draw(2) ? WNOHANG : 0) > 0)
		;
}

static void (*const actions[])(void) = {
	rename_self, rename_self, rename_for_ever, change_user, change_group, drop_capabilities, change_session,
	change_session, take_terminal, change_directory, change_directory, change_root,
	become_subreaper, orphan, as_daemon, threads, threads, execute, execute_memfd,
	execute_in_vain, execute_from_thread, leader_first, by_vfork, make_sibling,
	new_namespaces, pid_namespace, change_cgroup, change_cgroup, wait_for_some, die,
};

static void live(int count)
{
	while (count--) {
		unsigned int which = draw(sizeof(actions) / sizeof(*actions));

		actions[which]();
		rest(draw(40));
	}
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "rest")) {
		alarm(LIFE_SECONDS);
		rest(atoi(argv[2]));
		return 0;
	}
	if (argc < 5)
		return 2;
	self = argv[0];
	seed = atoi(argv[1]);
	directory = argv[3];
	cgroup = argv[4];
	if (draw(2))	/* or else process 1 gets the orphans */
		prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (int i = 0; i < atoi(argv[2]); i++) {
		draw(2);
		child();
		if (i % 4 == 3)
			while (wait(0) > 0)
				;
	}
	while (wait(0) > 0)
		;
	return 0;
}
