/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * One short program per kernel hook. A program collects what is true at this instant and hands it
 * over; it decides nothing. Whatever cannot be handed over is counted.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "proctree.h"
#include "task.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Lifecycle events have this ring to themselves. Its size is set before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} events SEC(".maps");

/* Records that found no room, by enum pt_kind. Mapped by the reader: looking costs nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PT_KINDS);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

/* Cgroup ids whose path has been sent. One that was forgotten is sent again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, __u8);
} cgroups_sent SEC(".maps");

#define DATA_BYTES (32768 - sizeof(struct pt_exec) - 8)

/* A record of variable length while it is put together. 32 KiB: the most a per-CPU value can be. */
struct draft {
	struct pt_exec exec;
	char data[DATA_BYTES];
	__u32 used;
	__u32 zero;
};

/* A copy of what the search for environment variables looks at. */
struct search {
	union {
		char bytes[PT_ENV_SCAN_BYTES + 8 * PT_ENV_NAME_WORDS + 8];
		__u64 words[PT_ENV_SCAN_BYTES / 8 + PT_ENV_NAME_WORDS + 1];
	};
	__u64 auxv[32];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct draft);
} drafts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct search);
} searches SEC(".maps");

/* The iterator may sleep in the middle of a record, so it has its own. One reader at a time. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct draft);
} pictures SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct search);
} picture_searches SEC(".maps");

/*
 * Loops are functions of their own that take only numbers: the verifier then looks at each once,
 * not once for every way to get there. They find the draft again by whom it belongs to.
 */
enum owner {
	OWNER_EVENT,
	OWNER_PICTURE,
};

static __always_inline struct draft *draft_of(enum owner owner)
{
	__u32 zero = 0;

	if (owner == OWNER_EVENT)
		return bpf_map_lookup_elem(&drafts, &zero);
	return bpf_map_lookup_elem(&pictures, &zero);
}

static __always_inline struct search *search_of(enum owner owner)
{
	__u32 zero = 0;

	if (owner == OWNER_EVENT)
		return bpf_map_lookup_elem(&searches, &zero);
	return bpf_map_lookup_elem(&picture_searches, &zero);
}

static __always_inline void count_lost(__u32 kind)
{
	__u64 *count = bpf_map_lookup_elem(&lost, &kind);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void put_header(struct pt_header *out, __u16 kind, __u64 now)
{
	out->kind = kind;
	out->version = PT_WIRE_VERSION;
	out->flags = 0;
	out->time = now;
}

/* --------------------------------------------------------------------------------- fork, exit */

static __always_inline __u64 announce_cgroup(struct task_struct *task, __u64 now);

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	__u64 now = bpf_ktime_get_boot_ns();
	__u64 cgroup_id = announce_cgroup(child, now);
	struct pt_fork *fork = bpf_ringbuf_reserve(&events, sizeof(*fork), 0);

	if (!fork) {
		count_lost(PT_FORK);
		return 0;
	}
	put_header(&fork->header, PT_FORK, now);
	put_identity(&fork->identity, child);
	put_task(&fork->creator, parent);
	__builtin_memcpy(fork->comm, child->comm, PT_COMM_BYTES);
	put_context(&fork->context, child, cgroup_id);
	bpf_ringbuf_submit(fork, 0);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	struct pt_exit *exit = bpf_ringbuf_reserve(&events, sizeof(*exit), 0);
	struct signal_struct *signal = LOAD(task, signal);

	if (!exit) {
		count_lost(PT_EXIT);
		return 0;
	}
	put_header(&exit->header, PT_EXIT, bpf_ktime_get_boot_ns());
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
	bpf_ringbuf_submit(exit, 0);
	return 0;
}

/* -------------------------------------------------------------------------------------- paths */

/* Appends the NUL-terminated kernel string at `source`. False when there is no room. */
static __always_inline bool append_name(struct draft *draft, const void *source)
{
	__u32 used = draft->used;
	long size;

	if (used > PT_PATHS_BYTES - PT_NAME_BYTES)
		return 0;
	size = bpf_probe_read_kernel_str(&draft->data[used], PT_NAME_BYTES, source);
	if (size <= 0)
		return 0;
	draft->used = used + size;
	return 1;
}

/*
 * Appends the components of a path from the leaf up to the root of the mount tree, across mount
 * points: prepend_path(), fs/d_path.c, 6.18, but never stopping at a task's own root. False when
 * the beginning of the path is missing.
 */
__noinline int append_path(__u64 leaf, __u64 vfsmount, enum owner owner)
{
	struct dentry *dentry = (void *)leaf;
	struct mount *mount = (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
	struct dentry *top = PROBE(mount, mnt.mnt_root);
	struct draft *draft = draft_of(owner);
	__u32 start;

	if (!draft)
		return 0;
	start = draft->used;

	for (int i = 0; i < PT_PATH_COMPONENTS; i++) {
		struct dentry *parent;

		if (dentry == top) {
			struct mount *below = PROBE(mount, mnt_parent);

			if (below == mount)
				return 1;
			dentry = PROBE(mount, mnt_mountpoint);
			mount = below;
			top = PROBE(mount, mnt.mnt_root);
			continue;
		}
		parent = PROBE(dentry, d_parent);
		if (draft->used - start > PT_PATH_BYTES - PT_NAME_BYTES)
			return 0;
		if (!append_name(draft, PROBE(dentry, d_name.name)))
			return 0;
		if (parent == dentry)	/* hangs on nothing: a memfd, for one */
			return 1;
		dentry = parent;
	}
	return 0;
}

__noinline int append_cgroup(__u64 leaf, enum owner owner)
{
	struct kernfs_node *node = (void *)leaf;
	struct draft *draft = draft_of(owner);
	__u32 start;

	if (!draft)
		return 0;
	start = draft->used;

	for (int i = 0; i < PT_PATH_COMPONENTS; i++) {
		struct kernfs_node *parent = kernfs_parent(node);

		if (!parent)
			return 1;
		if (draft->used - start > PT_PATH_BYTES - PT_NAME_BYTES)
			return 0;
		if (!append_name(draft, PROBE(node, name)))
			return 0;
		node = parent;
	}
	return 0;
}

/* Sends the path of the task's cgroup ahead of the first event that names its id. */
static __always_inline __u64 announce_cgroup(struct task_struct *task, __u64 now)
{
	struct kernfs_node *node = cgroup_of(task);
	__u64 id = PROBE(node, id);
	struct pt_cgroup *cgroup;
	struct draft *draft;
	__u8 sent = 1;
	__u32 size;

	if (bpf_map_lookup_elem(&cgroups_sent, &id))
		return id;
	draft = draft_of(OWNER_EVENT);
	if (!draft)
		return id;
	/* The record ends where the data begins, so that both are one run of bytes. */
	cgroup = (void *)draft->data - sizeof(*cgroup);
	draft->used = 0;
	put_header(&cgroup->header, PT_CGROUP, now);
	if (!append_cgroup((__u64)node, OWNER_EVENT))
		cgroup->header.flags = PT_CUT_CGROUP;
	cgroup->cgroup_id = id;
	cgroup->zero = 0;
	size = draft->used;
	if (size > PT_PATH_BYTES)
		return id;
	cgroup->path_length = size;
	if (bpf_ringbuf_output(&events, cgroup, sizeof(*cgroup) + size, 0))
		count_lost(PT_CGROUP);
	else
		bpf_map_update_elem(&cgroups_sent, &id, &sent, BPF_ANY);
	return id;
}

/* --------------------------------------------------------------------------------- exec: files */

#define APPEND_PATH(path, owner) \
	append_path((__u64)PROBE(path, dentry), (__u64)PROBE(path, mnt), owner)

static __always_inline bool append_file(struct draft *draft, enum owner owner,
					struct pt_file *out, struct file *file)
{
	__u32 start = draft->used;
	bool whole;

	put_file(out, file);
	whole = APPEND_PATH(&file->f_path, owner);
	if (!whole)
		out->flags |= PT_FILE_CUT;
	out->path_length = draft->used - start;
	return whole;
}

struct loader_search {
	struct draft *draft;
	enum owner owner;
	__u32 zero;
};

static long put_loader(struct task_struct *task, struct vm_area_struct *vma,
		       struct loader_search *search)
{
	struct file *file = LOAD(vma, vm_file);
	struct draft *draft = search->draft;

	if (file && !append_file(draft, search->owner, &draft->exec.places.interpreter, file))
		draft->exec.header.flags |= PT_CUT_INTERPRETER;
	return 0;
}

#define AT_BASE 7	/* include/uapi/linux/auxvec.h */

/*
 * The dynamic loader is the file mapped at AT_BASE: create_elf_tables(), fs/binfmt_elf.c, 6.18.
 * bpf_find_vma() is there since 5.17; before, the loader stays unknown. It does not wait for the
 * mmap lock, so it finds nothing when another task holds it.
 */
static __always_inline void append_loader(struct draft *draft, enum owner owner,
					  struct task_struct *task, struct mm_struct *mm)
{
	struct loader_search context = { .draft = draft, .owner = owner };
	struct search *search = search_of(owner);
	__u64 base = 0;

	if (!search || !bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_find_vma))
		return;
	if (bpf_probe_read_kernel(search->auxv, sizeof(search->auxv),
				  (void *)mm + bpf_core_field_offset(struct mm_struct, saved_auxv)))
		return;
	for (int i = 0; i < 32; i += 2) {
		if (search->auxv[i] == AT_BASE) {
			base = search->auxv[i + 1];
			break;
		}
	}
	if (base)
		bpf_find_vma(task, base, put_loader, &context, 0);
}

static __always_inline void append_places(struct draft *draft, enum owner owner,
					  struct task_struct *task, struct mm_struct *mm)
{
	struct pt_places *places = &draft->exec.places;
	struct fs_struct *fs = LOAD(task, fs);
	struct file *file = LOAD(mm, exe_file);
	__u32 start;

	draft->used = 0;
	__builtin_memset(places, 0, sizeof(*places));
	if (file && !append_file(draft, owner, &places->executable, file))
		draft->exec.header.flags |= PT_CUT_EXECUTABLE;
	if (mm)
		append_loader(draft, owner, task, mm);
	if (!fs)
		return;
	places->flags = PT_PLACES_KNOWN;
	start = draft->used;
	if (!APPEND_PATH(&fs->pwd, owner)) {
		places->flags |= PT_PLACES_CWD_CUT;
		draft->exec.header.flags |= PT_CUT_CWD;
	}
	places->cwd_length = draft->used - start;
	start = draft->used;
	if (!APPEND_PATH(&fs->root, owner)) {
		places->flags |= PT_PLACES_ROOT_CUT;
		draft->exec.header.flags |= PT_CUT_ROOT;
	}
	places->root_length = draft->used - start;
}

/* The file named to execve, where the kernel went on to run another one for it. */
static __always_inline void append_script(struct draft *draft, struct linux_binprm *bprm)
{
	const char *filename = LOAD(bprm, filename);
	__u32 used = draft->used;
	long size;

	draft->exec.script_length = 0;
	/* bprm_change_interp() puts another string there, fs/exec.c, 6.18. */
	if (LOAD(bprm, interp) == filename || used > PT_PATHS_BYTES - PT_PATH_BYTES)
		return;
	size = bpf_probe_read_kernel_str(&draft->data[used], PT_PATH_BYTES, filename);
	if (size <= 0)
		return;
	draft->exec.header.flags |= PT_HAS_SCRIPT;
	draft->exec.script_length = size;
	draft->used = used + size;
}

/* ------------------------------------------------------------------ exec: arguments, environment */

/* An event is about the current process; a picture is of another, whose pages may need a wait. */
static __always_inline long copy_user(void *to, __u32 size, __u64 from, struct task_struct *task,
				      enum owner owner)
{
	if (owner == OWNER_EVENT)
		return bpf_probe_read_user(to, size, (void *)from);
	return bpf_copy_from_user_task(to, size, (void *)from, task, 0);
}

static __always_inline void append_argv(struct draft *draft, enum owner owner,
					struct task_struct *task, struct mm_struct *mm)
{
	__u64 start = LOAD(mm, arg_start), size = LOAD(mm, arg_end) - start;
	__u32 used = draft->used;

	draft->exec.argv_length = 0;
	if (used > PT_PATHS_BYTES)
		return;
	if (size > PT_ARGV_BYTES) {
		size = PT_ARGV_BYTES;
		draft->exec.header.flags |= PT_CUT_ARGV;
	}
	if (copy_user(&draft->data[used], size, start, task, owner))
		return;
	draft->exec.header.flags |= PT_HAS_ARGV;
	draft->exec.argv_length = size;
	draft->used = used + size;
}

/* Appends the variable at `position` if its name is one of the selected. */
static __always_inline void take_variable(struct draft *draft, struct search *search,
					  __u32 position)
{
	const __u64 *word;

	if (position >= PT_ENV_SCAN_BYTES)
		return;
	word = (const void *)&search->bytes[position];
	for (__u32 i = 0; i < PT_ENV_NAMES && i < config.env_name_count; i++) {
		const volatile struct pt_variable *name = &config.env_names[i];
		__u32 used = draft->used;
		long size;

		if ((word[0] & name->mask[0]) != name->word[0] ||
		    (word[1] & name->mask[1]) != name->word[1] ||
		    (word[2] & name->mask[2]) != name->word[2] ||
		    (word[3] & name->mask[3]) != name->word[3])
			continue;
		if (used > PT_PATHS_BYTES + PT_ARGV_BYTES + PT_ENV_BYTES - PT_ENV_VALUE_BYTES) {
			draft->exec.header.flags |= PT_CUT_ENV;
			return;
		}
		size = bpf_probe_read_kernel_str(&draft->data[used], PT_ENV_VALUE_BYTES, word);
		if (size <= 0)
			return;
		if (size == PT_ENV_VALUE_BYTES)
			draft->exec.header.flags |= PT_CUT_ENV;
		draft->used = used + size;
		return;
	}
}

#define LOW_BITS 0x7f7f7f7f7f7f7f7fULL

/* A variable begins after every NUL among the eight bytes at `position`. */
__noinline int take_variables(__u32 position, __u64 ends, enum owner owner)
{
	struct draft *draft = draft_of(owner);
	struct search *search = search_of(owner);

	if (!draft || !search || position > PT_ENV_SCAN_BYTES)
		return 0;
	for (int i = 0; i < 8; i++) {
		if (ends & 0x80)
			take_variable(draft, search, position + i + 1);
		ends >>= 8;
	}
	return 0;
}

/*
 * Appends the selected ones of the variables in the first `size` bytes after the leading word.
 * The environment is one run of bytes, searched eight at a time, so that only what follows a NUL
 * is ever taken for a name.
 */
__noinline int take_environment(__u32 size, enum owner owner)
{
	struct search *search = search_of(owner);

	if (!search)
		return 0;
	for (__u32 i = 0; i <= PT_ENV_SCAN_BYTES / 8; i++) {
		__u64 word, ends;

		if (i * 8 >= size + 8)
			break;
		word = search->words[i];
		ends = ~(((word & LOW_BITS) + LOW_BITS) | word | LOW_BITS);
		if (ends)
			take_variables(i * 8, ends, owner);
	}
	return 0;
}

static __always_inline void append_env(struct draft *draft, enum owner owner,
				       struct task_struct *task, struct mm_struct *mm)
{
	__u64 start = LOAD(mm, env_start), size = LOAD(mm, env_end) - start;
	struct search *search = search_of(owner);
	__u32 before = draft->used;

	draft->exec.env_length = 0;
	if (!search)
		return;
	if (size > PT_ENV_SCAN_BYTES) {
		size = PT_ENV_SCAN_BYTES;
		draft->exec.header.flags |= PT_CUT_ENV;
	}
	/* The first variable begins after this NUL. */
	search->words[0] = 0;
	if (copy_user(&search->bytes[8], size, start, task, owner))
		return;
	draft->exec.header.flags |= PT_HAS_ENV;
	/* What an earlier search left behind must not be read as this environment. */
	__builtin_memset(&search->bytes[8 + size], 0, 8 * PT_ENV_NAME_WORDS);
	take_environment(size, owner);
	draft->exec.env_length = draft->used - before;
}

static __always_inline void put_task_facts(struct draft *draft, __u16 kind, __u64 now,
					   struct task_struct *task, __u64 cgroup_id)
{
	put_header(&draft->exec.header, kind, now);
	put_identity(&draft->exec.identity, task);
	__builtin_memcpy(draft->exec.comm, task->comm, PT_COMM_BYTES);
	put_context(&draft->exec.context, task, cgroup_id);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct mm_struct *mm = LOAD(task, mm);
	__u64 cgroup_id = announce_cgroup(task, now);
	struct draft *draft = draft_of(OWNER_EVENT);
	__u32 size;

	if (!draft)
		return 0;
	put_task_facts(draft, PT_EXEC, now, task, cgroup_id);
	draft->exec.old_tid = old_pid;
	append_places(draft, OWNER_EVENT, task, mm);
	draft->exec.paths_length = draft->used;
	append_script(draft, bprm);
	draft->exec.cgroup_length = 0;
	append_argv(draft, OWNER_EVENT, task, mm);
	append_env(draft, OWNER_EVENT, task, mm);
	size = draft->used;
	if (size > DATA_BYTES ||
	    bpf_ringbuf_output(&events, draft, sizeof(draft->exec) + size, 0))
		count_lost(PT_EXEC);
	return 0;
}

/* ------------------------------------------------------------------------------ first picture */

/* TASK_DEAD tasks wait for a parent or for nothing; a dead leader stands for its live threads. */
static __always_inline bool is_gone(struct task_struct *task)
{
	return LOAD(task, exit_state) && (LOAD(task, group_leader) != task ||
					  LOAD(LOAD(task, signal), live.counter) == 0);
}

static __always_inline int picture(struct bpf_iter__task *context, bool may_sleep)
{
	struct task_struct *task = context->task;
	struct draft *draft = draft_of(OWNER_PICTURE);
	__u32 size, start;
	struct kernfs_node *node;
	struct mm_struct *mm;

	if (!task || !draft || is_gone(task))
		return 0;
	mm = LOAD(task, mm);
	node = cgroup_of(task);
	put_task_facts(draft, PT_SNAPSHOT, bpf_ktime_get_boot_ns(), task, PROBE(node, id));
	if (LOAD(task, flags) & PF_KTHREAD)
		draft->exec.header.flags |= PT_KERNEL_THREAD;
	if (LOAD_BIT(LOAD(task, signal), is_child_subreaper))
		draft->exec.header.flags |= PT_SUBREAPER;
	draft->exec.old_tid = 0;
	draft->exec.script_length = 0;
	draft->exec.argv_length = 0;
	draft->exec.env_length = 0;
	append_places(draft, OWNER_PICTURE, task, mm);
	start = draft->used;
	draft->exec.paths_length = start;
	if (!append_cgroup((__u64)node, OWNER_PICTURE))
		draft->exec.header.flags |= PT_CUT_CGROUP;
	draft->exec.cgroup_length = draft->used - start;
	if (mm && may_sleep) {
		append_argv(draft, OWNER_PICTURE, task, mm);
		append_env(draft, OWNER_PICTURE, task, mm);
	}
	size = draft->used;
	/* Where its buffer is full, the iterator comes back to the same task with an empty one. */
	if (size <= DATA_BYTES)
		bpf_seq_write(context->meta->seq, draft, sizeof(draft->exec) + size);
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
