/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The wire: what the kernel programs write and src/proctree_ds/wire.py reads. Nothing else is here.
 *
 * Rules. Every record opens with struct pt_header. Numbers are in host byte order, naturally
 * aligned, padding is spelled out and always zero. An offset, a size or the meaning of a value
 * that changes raises PT_WIRE_VERSION; a reader counts what it does not know and goes on.
 * tests/test_wire.py holds the Python layout against the BTF of the compiled object.
 */
#ifndef PROCTREE_H
#define PROCTREE_H

#pragma clang diagnostic push
#pragma clang diagnostic error "-Wpadded"

#define PT_WIRE_VERSION 2

/* Limits of what one record carries. What was cut is flagged, see enum pt_flag. */
#define PT_COMM_BYTES 16
#define PT_NAME_BYTES 256		/* NAME_MAX and the NUL */
#define PT_PATH_BYTES 4096		/* one path, leaf first */
#define PT_PATH_COMPONENTS 96
#define PT_PATHS_BYTES (5 * PT_PATH_BYTES) /* all paths of a record */
#define PT_ARGV_BYTES 7168
#define PT_ENV_BYTES 4096		/* selected variables, all of them */
#define PT_ENV_VALUE_BYTES 2048		/* one "NAME=value" and its NUL */
#define PT_ENV_SCAN_BYTES 16384		/* how far the environment is searched */
#define PT_ENV_NAMES 16
#define PT_ENV_NAME_WORDS 4		/* a name and its '=' in 8-byte words */
#define PT_REAPER_DEPTH 64		/* ancestors searched for a subreaper */
#define PT_KEPT_CGROUPS 8192		/* whose paths are kept for the next reader */
#define PT_KEPT_PATH_BYTES 512		/* the longest that is */
#define PT_TOLD_TASKS 65536		/* tasks whose circumstances are remembered, by tid */
#define PT_CHANGES 256			/* of one process that are told in 2^30 ns */

enum pt_kind {
	PT_FORK = 1,
	PT_EXEC = 2,
	PT_EXIT = 3,
	PT_SNAPSHOT = 4,		/* from the task iterator, laid out as PT_EXEC */
	PT_CGROUP = 5,			/* the path of a cgroup id, before its first use */
	PT_RENAME = 6,			/* a task changed its name */
	PT_CHANGE = 7,			/* a task's circumstances are not what was told last */
	PT_KINDS = 8,
};

/* What was cut is told twice: here for whoever counts, and next to the path for whoever reads. */
enum pt_flag {
	PT_CUT_EXECUTABLE = 1 << 0,	/* the path lost its beginning */
	PT_CUT_INTERPRETER = 1 << 1,
	PT_CUT_CWD = 1 << 2,
	PT_CUT_ROOT = 1 << 3,
	PT_CUT_SCRIPT = 1 << 4,
	PT_CUT_CGROUP = 1 << 5,
	PT_CUT_ARGV = 1 << 6,		/* the list lost its end */
	PT_CUT_ENV = 1 << 7,		/* not all was searched, or a value was cut */
	PT_HAS_ARGV = 1 << 8,		/* argv was readable, even if empty */
	PT_HAS_ENV = 1 << 9,
	PT_HAS_SCRIPT = 1 << 10,	/* the executable runs the file "script" */
	PT_GROUP_EXIT = 1 << 11,	/* the last thread of its process */
	PT_SUBREAPER = 1 << 12,
	PT_KERNEL_THREAD = 1 << 13,
	PT_LEADERLESS = 1 << 14,	/* a picture of a process whose leader has ended */
	PT_PACED = 1 << 15,		/* no more changes of this process are told in these 2^30 ns */
};

enum pt_file_flag {
	PT_FILE_PRESENT = 1 << 0,	/* the other fields of the file mean something */
	PT_FILE_MEMFD = 1 << 1,
	PT_FILE_DELETED = 1 << 2,
	PT_FILE_UPPER = 1 << 3,		/* on overlayfs, in the upper layer */
	PT_FILE_LAYER_UNKNOWN = 1 << 4,	/* on overlayfs, and this kernel does not tell */
	PT_FILE_CUT = 1 << 5,		/* the path lost its beginning */
};

enum pt_directories_flag {
	PT_DIRECTORIES_KNOWN = 1 << 0,	/* cwd and root were there: the task is not dying */
	PT_DIRECTORIES_CWD_CUT = 1 << 1,
	PT_DIRECTORIES_ROOT_CUT = 1 << 2,
};

struct pt_header {
	__u16 kind;			/* enum pt_kind */
	__u16 version;			/* PT_WIRE_VERSION */
	__u32 flags;			/* enum pt_flag */
	__u64 time;			/* boot clock, ns */
};

/* A task as the library names it. tid 0: none. */
struct pt_task {
	__u64 start_time;		/* task_struct::start_boottime, boot clock, ns */
	__u32 tid;			/* in the initial pid namespace */
	__u32 zero;
};

struct pt_identity {
	struct pt_task task;
	struct pt_task leader;		/* of its thread group */
	struct pt_task parent;		/* leader of the real parent */
	__u32 ns_tid;			/* in the task's own pid namespace */
	__u32 ns_pid;
};

/*
 * Whose authority and where. Nothing here is unique to a task, so that readers can share one
 * decoded copy: tasks in the same circumstances have the same bytes.
 */
struct pt_context {
	__u32 uid;
	__u32 euid;
	__u32 suid;
	__u32 gid;
	__u32 egid;
	__u32 sgid;
	__u64 cap_effective;
	__u64 cap_permitted;
	__u64 cap_inheritable;
	__u64 cap_bounding;
	__u64 cap_ambient;
	__u32 session_id;		/* in the initial pid namespace, as all ids here */
	__u32 process_group;
	__u32 tty;			/* major << 20 | minor, 0: none */
	__u32 login_uid;		/* 0xffffffff: never set */
	__u64 cgroup_id;
	__u32 ns_pid;			/* inode numbers of the namespaces, 0: unknown */
	__u32 ns_mnt;
	__u32 ns_net;
	__u32 ns_user;
	__u32 ns_uts;
	__u32 ns_ipc;
	__u32 ns_cgroup;
	__u32 ns_time;
};

struct pt_file {
	__u64 inode;
	__u64 size;
	__s64 ctime;			/* epoch ns */
	__s64 mtime;
	__u32 device;			/* major << 20 | minor, as in the kernel */
	__u32 mode;
	__u32 owner;
	__u32 link_count;
	__u32 flags;			/* enum pt_file_flag */
	__u32 path_length;
};

/* cwd and root: their path bytes follow the record, see pt_places. */
struct pt_directories {
	__u32 cwd_length;
	__u32 root_length;
	__u32 flags;			/* enum pt_directories_flag */
	__u32 zero;
};

/*
 * Followed by the path bytes of executable, interpreter, cwd and root, in this order. A path is
 * its components leaf first, each with its NUL; no component is "/". As with pt_context, readers
 * share what has the same bytes.
 */
struct pt_places {
	struct pt_file executable;
	struct pt_file interpreter;
	struct pt_directories directories;
};

struct pt_fork {
	struct pt_header header;
	struct pt_identity identity;
	struct pt_task creator;		/* the thread that called clone */
	char comm[PT_COMM_BYTES];
	struct pt_context context;
};

/* Followed by: paths (see pt_places), script, cgroup path (leaf first), argv, env. */
struct pt_exec {
	struct pt_header header;
	struct pt_identity identity;
	char comm[PT_COMM_BYTES];
	struct pt_context context;
	__u32 old_tid;			/* the exec'ing thread's former tid; 0 in a snapshot */
	__u32 paths_length;
	__u32 script_length;		/* as passed to execve, with its NUL */
	__u32 cgroup_length;		/* snapshots only */
	__u32 argv_length;		/* strings, each with its NUL */
	__u32 env_length;		/* "NAME=value" strings, each with its NUL */
	struct pt_places places;
};

struct pt_exit {
	struct pt_header header;
	struct pt_identity identity;
	struct pt_task reaper;		/* leader of the process that takes over the children */
	__u32 status;			/* as wait(2) gives it: code << 8 | core << 7 | signal */
	__u32 zero;
};

struct pt_rename {
	struct pt_header header;
	struct pt_identity identity;
	char comm[PT_COMM_BYTES];
};

/* Everything but the image. Followed by the path bytes of cwd and root. */
struct pt_change {
	struct pt_header header;
	struct pt_identity identity;
	char comm[PT_COMM_BYTES];
	struct pt_context context;
	struct pt_directories directories;
};

/* Followed by path_length bytes, leaf first. */
struct pt_cgroup {
	struct pt_header header;
	__u64 cgroup_id;
	__u32 path_length;
	__u32 zero;
};

/* "NAME=" in words of eight bytes, and which of their bits count. */
struct pt_variable {
	__u64 word[PT_ENV_NAME_WORDS];
	__u64 mask[PT_ENV_NAME_WORDS];
};

/* Which hierarchy names a task's cgroup. One for all, so that ids never come from two. */
enum pt_hierarchy {
	PT_HIERARCHY_DEFAULT = 0,	/* cgroup v2 */
	PT_HIERARCHY_MEMORY = 1,	/* of v1 */
	PT_HIERARCHY_PIDS = 2,
};

/* Sorts a variable into one of 64 by the first two bytes of "NAME=". */
#define PT_LETTERS(first, second) (((first) + 5 * (second)) & 63)

/* What the reader decides before the programs are loaded. */
/* The rings that get lifecycle events. Of more than one, a record that one has is not lost. */
enum pt_rings {
	PT_RING_EVENTS = 1 << 0,	/* their own */
	PT_RING_CHANGES = 1 << 1,	/* with everything else */
};

struct pt_config {
	__u32 hierarchy;		/* enum pt_hierarchy */
	__u32 env_name_count;
	__u64 env_letters;		/* 1 << PT_LETTERS() of every name */
	__u64 secret;			/* so that nobody can choose circumstances that look the same */
	__u32 rings;			/* enum pt_rings */
	__u32 zero;
	struct pt_variable env_names[PT_ENV_NAMES];
};

#pragma clang diagnostic pop

#endif
