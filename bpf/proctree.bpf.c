/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * One short program per kernel hook. A program collects what is true at this instant and hands it
 * over; it decides nothing. Whatever cannot be handed over is counted.
 */
#include "loader.bpf.h"
#include "proctree.h"
#include "task.bpf.h"
#include "draft.bpf.h"
#include "path.bpf.h"
#include "arguments.bpf.h"
#include "told.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/*
 * Lifecycle events have this ring to themselves, unless the configuration says otherwise. Its size
 * is set before loading.
 */
RING(events, 8 << 20);

/* Changes have another, so that a flood of them leaves lifecycle events alone. */
RING(changes, 1 << 20);

/* Records that found no room, by enum pt_kind. Mapped by the reader: looking costs nothing. */
TABLE(lost, BPF_MAP_TYPE_ARRAY, PT_KINDS, __u32, __u64, BPF_F_MMAPABLE);

#ifndef PT_BCC /* What it loads is not pinned. */
/* The reader's own notes, for whoever reads after it: src/proctree_ds/sources/resumption.py. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} reader SEC(".maps");

/* What the reader has learnt of cgroups, for whoever reads after it, when some may be gone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PT_KEPT_CGROUPS);
	__type(key, __u64);
	__type(value, char[PT_KEPT_PATH_BYTES]);
} cgroup_paths SEC(".maps");
#endif

/* Cgroup ids whose path has been sent. One that was forgotten is sent again. */
TABLE(cgroups_sent, BPF_MAP_TYPE_LRU_HASH, 8192, __u64, __u8, 0);

static __always_inline void count_lost(__u32 kind)
{
	__u64 *count = bpf_map_lookup_elem(MAP(lost), &kind);

	if (count)
		__sync_fetch_and_add(count, 1);
}

/* Room for a lifecycle event in the first ring that gets them, or else in the other. */
static __always_inline void *reserve(__u64 size)
{
	void *record = 0;

	if (config->rings & PT_RING_EVENTS)
		record = bpf_ringbuf_reserve(MAP(events), size, 0);
	if (!record && config->rings & PT_RING_CHANGES)
		record = bpf_ringbuf_reserve(MAP(changes), size, 0);
	return record;
}

static __always_inline void submit(void *record, __u64 size)
{
	/* The copy first: whoever has read the one finds the other. */
	if (config->rings == (PT_RING_EVENTS | PT_RING_CHANGES))
		bpf_ringbuf_output(MAP(changes), record, size, 0);
	bpf_ringbuf_submit(record, 0);
}

/* The same for a record that has been put together elsewhere. Returns whether a ring has it. */
static __always_inline bool output(void *record, __u64 size)
{
	bool kept = 0;

	if (config->rings & PT_RING_CHANGES)
		kept = !bpf_ringbuf_output(MAP(changes), record, size, 0);
	if (config->rings & PT_RING_EVENTS && !bpf_ringbuf_output(MAP(events), record, size, 0))
		kept = 1;
	return kept;
}

static __always_inline void put_header(struct pt_header *out, __u16 kind, __u64 now)
{
	out->kind = kind;
	out->version = PT_WIRE_VERSION;
	out->flags = 0;
	out->time = now;
}

/* Sends the path of the task's cgroup ahead of the first event that names its id. */
static __always_inline __u64 announce_cgroup(struct task_struct *task, __u64 now)
{
	struct kernfs_node *node = cgroup_of(task);
	__u64 id = LOAD(node, id);
	struct pt_cgroup *cgroup;
	struct draft *draft;
	__u8 sent = 1;
	__u32 slot, size;

	if (bpf_map_lookup_elem(MAP(cgroups_sent), &id))
		return id;
	slot = event_slot();
	draft = draft_of(slot);
	if (!draft)
		return id;
	/* The record ends where the data begins, so that both are one run of bytes. */
	cgroup = (void *)draft->data - sizeof(*cgroup);
	draft->used = 0;
	put_header(&cgroup->header, PT_CGROUP, now);
	draft->leaf = (__u64)node;
	if (!append_cgroup(slot))
		cgroup->header.flags = PT_CUT_CGROUP;
	cgroup->cgroup_id = id;
	cgroup->zero = 0;
	size = draft->used;
	if (size > PT_PATH_BYTES)
		return id;
	cgroup->path_length = size;
	/* Into both rings, for each is read on its own: nobody may meet the id before its path. */
	if (bpf_ringbuf_output(MAP(events), cgroup, sizeof(*cgroup) + size, 0) ||
	    bpf_ringbuf_output(MAP(changes), cgroup, sizeof(*cgroup) + size, 0))
		count_lost(PT_CGROUP);
	else
		bpf_map_update_elem(MAP(cgroups_sent), &id, &sent, BPF_ANY);
	return id;
}

/* ------------------------------------------------------------------------------------ changes */

/* Tells what `task`, named `name`, is like since `time`, and remembers its circumstances. */
static __always_inline void tell_change(struct task_struct *task, __u64 time, __u64 name[2],
					__u64 circumstances, __u32 flags)
{
	__u64 cgroup_id = announce_cgroup(task, time);
	__u32 slot = event_slot(), size;
	struct fs_struct *fs = LOAD(task, fs);
	struct draft *draft = draft_of(slot);
	struct pt_change *change;

	if (!draft)
		return;
	/* The record ends where the data begins, so that both are one run of bytes. */
	change = (void *)draft->data - sizeof(*change);
	put_header(&change->header, PT_CHANGE, time);
	put_identity(&change->identity, task);
	__builtin_memcpy(change->comm, name, sizeof(change->comm));
	put_context(&change->context, task, cgroup_id);
	__builtin_memset(&change->directories, 0, sizeof(change->directories));
	draft->used = 0;
	draft->last_mount = 0;
	if (LOAD_BIT(LOAD(task, signal), is_child_subreaper))
		flags |= PT_SUBREAPER;
	if (fs)
		append_directories(draft, slot, &change->directories, fs, &flags);
	change->header.flags = flags;
	size = draft->used;
	if (size > DATA_BYTES ||
	    bpf_ringbuf_output(MAP(changes), change, sizeof(*change) + size, 0))
		count_lost(PT_CHANGE);
	else
		remember(task, circumstances);
}

static __always_inline __u64 present_circumstances(struct task_struct *task)
{
	__u64 name[2];

	LOAD_BYTES(name, task, comm);
	return circumstances(task, name);
}

static __always_inline bool is_told(struct task_struct *task, __u64 circumstances)
{
	struct told *told = told_of(task);

	return told && told->circumstances == circumstances && told->task == key_of(task);
}

/*
 * Tells if the circumstances of `task` at `time` are not what was told last. Whatever no hook of
 * its own tells comes to light here, at the next event of the task.
 */
static __always_inline void catch_up(struct task_struct *task, __u64 time, bool at_any_pace)
{
	__u64 name[2], now;
	__u32 flags = 0;

	LOAD_BYTES(name, task, comm);
	now = circumstances(task, name);
	if (!is_told(task, now) && (at_any_pace || keeps_pace(task, time, &flags)))
		tell_change(task, time, name, now, flags);
}

/*
 * The same for the process of `task`, which has directories, session and subreaper flag. A leader
 * that has ended keeps few of them: do_exit(), kernel/exit.c, 6.18.
 */
static __always_inline void catch_up_both(struct task_struct *task, __u64 time, bool at_any_pace)
{
	struct task_struct *leader = LOAD(task, group_leader);

	if (leader != task && !(LOAD(leader, flags) & PF_EXITING))
		catch_up(leader, time, at_any_pace);
	catch_up(task, time, at_any_pace);
}

/* Before the name is set: __set_task_comm(), fs/exec.c, 6.18. An exec tells its name itself. */
SEC("tp_btf/task_rename")
int BPF_PROG(on_rename, struct task_struct *task, const char *comm)
{
	__u64 time, now, old[2], name[2] = {};
	struct pt_rename *rename;
	__u32 flags = 0;

	if (LOAD_BIT(task, in_execve))
		return 0;
	LOAD_BYTES(old, task, comm);
	bpf_probe_read_kernel_str(name, sizeof(name), comm);
	if (name[0] == old[0] && name[1] == old[1])
		return 0;
	time = bpf_ktime_get_boot_ns();
	if (!keeps_pace(task, time, &flags))
		return 0;
	now = circumstances(task, name);
	if (!is_told(task, circumstances(task, old))) {
		tell_change(task, time, name, now, flags);
		return 0;
	}
	rename = bpf_ringbuf_reserve(MAP(changes), sizeof(*rename), 0);
	if (!rename) {
		count_lost(PT_RENAME);
		return 0;
	}
	put_header(&rename->header, PT_RENAME, time);
	rename->header.flags = flags;
	put_identity(&rename->identity, task);
	__builtin_memcpy(rename->comm, name, sizeof(rename->comm));
	bpf_ringbuf_submit(rename, 0);
	remember(task, now);
	return 0;
}

/* After the move; of a whole process it names the leader: cgroup_attach_task(), 6.18. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(on_cgroup_move, struct cgroup *to, const char *path, struct task_struct *task)
{
	if (!(LOAD(task, flags) & PF_EXITING))
		catch_up(task, bpf_ktime_get_boot_ns(), 0);
	return 0;
}

/* At the return of a system call that may have changed something of the caller. */
SEC("tracepoint")
int on_call(void *context)
{
	struct task_struct *task = bpf_get_current_task_btf();

	catch_up_both(task, bpf_ktime_get_boot_ns(), 0);
	return 0;
}

/* --------------------------------------------------------------------------------- fork, exit */

/*
 * sched_process_fork fires in kernel_clone(), which the kernel's own makers of threads in a process
 * go around: create_io_thread() for io_uring, vhost_task_create(). All tasks come out of copy_process(),
 * and so by here; kernel/fork.c, 6.18. Those with pid 0 idle on a CPU that is brought up.
 */
SEC("tp_btf/task_newtask")
int BPF_PROG(on_fork, struct task_struct *child)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct task_struct *creator = bpf_get_current_task_btf();
	__u64 cgroup_id, born;
	struct pt_fork *fork;

	if (!LOAD(child, pid))
		return 0;
	cgroup_id = announce_cgroup(child, now);
	/* A child that is as its creator was told to be shows that nothing has changed meanwhile. */
	born = present_circumstances(child);
	/* What the creator is like now, it was when the call began: the child is born of that. */
	if (!is_told(creator, born) || LOAD(creator, group_leader) != creator)
		catch_up_both(creator, LOAD(child, start_boottime) - 1, 1);
	fork = reserve(sizeof(*fork));
	if (!fork) {
		count_lost(PT_FORK);
		return 0;
	}
	put_header(&fork->header, PT_FORK, now);
	put_identity(&fork->identity, child);
	put_task(&fork->creator, creator);
	LOAD_BYTES(fork->comm, child, comm);
	put_context(&fork->context, child, cgroup_id);
	submit(fork, sizeof(*fork));
	remember(child, born);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct signal_struct *signal = LOAD(task, signal);
	struct pt_exit *exit;

	catch_up(task, now - 1, 1);
	exit = reserve(sizeof(*exit));
	if (!exit) {
		count_lost(PT_EXIT);
		return 0;
	}
	put_header(&exit->header, PT_EXIT, now);
	put_identity(&exit->identity, task);
	exit->zero = 0;
	/* do_exit() has lowered signal->live before it comes here, kernel/exit.c, 6.18. */
	if (LOAD(signal, live.counter) == 0) {
		exit->header.flags = PT_GROUP_EXIT;
		/* What wait(2) will report: wait_task_zombie(), kernel/exit.c, 6.18. */
		if (LOAD(signal, flags) & SIGNAL_GROUP_EXIT)
			exit->status = LOAD(signal, group_exit_code);
		else
			exit->status = LOAD(LOAD(task, group_leader), exit_code);
		put_reaper(&exit->reaper, task);
	} else {
		exit->status = LOAD(task, exit_code);
		__builtin_memset(&exit->reaper, 0, sizeof(exit->reaper));
	}
	submit(exit, sizeof(*exit));
	return 0;
}

/* --------------------------------------------------------------------------------------- exec */

static __always_inline void put_task_facts(struct draft *draft, __u16 kind, __u64 now,
					   struct task_struct *task, __u64 cgroup_id)
{
	put_header(&draft->exec.header, kind, now);
	put_identity(&draft->exec.identity, task);
	LOAD_BYTES(draft->exec.comm, task, comm);
	put_context(&draft->exec.context, task, cgroup_id);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct mm_struct *mm = LOAD(task, mm);
	__u64 cgroup_id = announce_cgroup(task, now);
	__u64 told = present_circumstances(task);
	__u32 slot = event_slot(), size;
	struct draft *draft = draft_of(slot);

	if (!draft) {
		count_lost(PT_EXEC);
		return 0;
	}
	put_task_facts(draft, PT_EXEC, now, task, cgroup_id);
	draft->exec.old_tid = old_pid;
	append_places(draft, slot, task, mm);
	draft->exec.paths_length = draft->used;
	append_script(draft, bprm);
	draft->exec.cgroup_length = 0;
	append_argv(draft, task, mm, 0);
	append_env(draft, slot, task, mm, 0);
	size = draft->used;
	if (size > DATA_BYTES || !output(draft, sizeof(draft->exec) + size))
		count_lost(PT_EXEC);
	else
		remember(task, told);
	return 0;
}

/* ---------------------------------------------------------------------------------- pictures */

/*
 * A task that is on its way out has had its exit event, or has it right away; a picture of it that
 * is newer would bring it back. But a leader that ended first stands for its living threads.
 */
static __always_inline bool is_gone(struct task_struct *task)
{
	return LOAD(task, flags) & PF_EXITING &&
	       (LOAD(task, group_leader) != task || LOAD(LOAD(task, signal), live.counter) == 0);
}

static __always_inline int picture(struct bpf_iter__task *context, bool may_sleep)
{
	struct task_struct *task = context->task;
	struct draft *draft = draft_of(PICTURE_SLOT);
	__u32 size, start;
	struct kernfs_node *node;
	struct mm_struct *mm;
	__u64 told;

	if (!task || !draft || is_gone(task))
		return 0;
	/* Before anything is read, which may take long: what changes meanwhile is told later on. */
	told = present_circumstances(task);
	mm = LOAD(task, mm);
	node = cgroup_of(task);
	put_task_facts(draft, PT_SNAPSHOT, bpf_ktime_get_boot_ns(), task, LOAD(node, id));
	if (LOAD(task, flags) & PF_KTHREAD)
		draft->exec.header.flags |= PT_KERNEL_THREAD;
	if (LOAD(task, flags) & PF_EXITING)
		draft->exec.header.flags |= PT_LEADERLESS;
	if (LOAD_BIT(LOAD(task, signal), is_child_subreaper))
		draft->exec.header.flags |= PT_SUBREAPER;
	draft->exec.old_tid = 0;
	draft->exec.script_length = 0;
	draft->exec.argv_length = 0;
	draft->exec.env_length = 0;
	append_places(draft, PICTURE_SLOT, task, mm);
	start = draft->used;
	draft->exec.paths_length = start;
	draft->leaf = (__u64)node;
	if (!append_cgroup(PICTURE_SLOT))
		draft->exec.header.flags |= PT_CUT_CGROUP;
	draft->exec.cgroup_length = draft->used - start;
	if (mm && may_sleep) {
		append_argv(draft, task, mm, 1);
		append_env(draft, PICTURE_SLOT, task, mm, 1);
	}
	size = draft->used;
	/* Where its buffer is full, the iterator comes back to the same task with an empty one. */
	if (size <= DATA_BYTES)
		bpf_seq_write(context->meta->seq, draft, sizeof(draft->exec) + size);
	remember(task, told);
	return 0;
}

/* bpf_copy_from_user_task() is there since 5.18, sleeping iterators since 6.0. */
SEC("iter.s/task")
int picture_sleeping(struct bpf_iter__task *context)
{
	return picture(context, 1);
}

SEC("iter/task")
int picture_plain(struct bpf_iter__task *context)
{
	return picture(context, 0);
}
