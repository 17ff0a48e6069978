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

#define DATA_BYTES (PT_PATHS_BYTES + PT_ARGV_BYTES + PT_ENV_BYTES)

/* A record of variable length while it is put together, and what that takes. */
struct draft {
	union {
		struct pt_exec exec;
		/* Never used: they keep the rest of the wire in BTF, where a test looks for it. */
		struct pt_fork fork;
		struct pt_exit exit;
		struct pt_cgroup cgroup;
		struct {
			enum pt_kind kind;
			enum pt_flag flag;
			enum pt_file_flag file_flag;
			enum pt_places_flag places_flag;
			enum pt_hierarchy hierarchy;
		} numbers;
	};
	char data[DATA_BYTES];
	/* A copy of the environment, behind a word of NULs and before some more. */
	union {
		char env[8 + PT_ENV_SCAN_BYTES + 8 * PT_ENV_NAME_WORDS];
		__u64 env_words[1 + PT_ENV_SCAN_BYTES / 8 + PT_ENV_NAME_WORDS];
	};
	__u64 auxv[32];
	/* Where a walk begins. A number may not be made of a pointer, unless it lay in memory. */
	__u64 leaf;
	__u64 vfsmount;
	/* The mount that the last walk ended in, and its root: the next one mostly ends there too. */
	__u64 last_mount;
	__u64 last_top;
	__u32 used;
	__u32 zero;
};

/*
 * Slot 0 belongs to the iterator, which may sleep in the middle of a record and has one reader at
 * a time; the others to the CPUs, for events. The number of slots is set before loading.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct draft);
} drafts SEC(".maps");

#define PICTURE_SLOT 0

static __always_inline __u32 event_slot(void)
{
	return 1 + bpf_get_smp_processor_id();
}

/*
 * Loops are functions of their own that take only numbers: the verifier then looks at each once,
 * not once for every way to get there. They find the draft again by its slot.
 */
static __always_inline struct draft *draft_of(__u32 slot)
{
	return bpf_map_lookup_elem(&drafts, &slot);
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

/* What a walk needs of a dentry. */
struct link {
	struct dentry *parent;
	__u64 hash_and_length;
	const void *name;
};

/* d_name has always followed d_parent, so one read serves; if that ends, two do. */
static __always_inline void read_link(struct link *link, struct dentry *dentry)
{
	__u32 parent_at = bpf_core_field_offset(struct dentry, d_parent);

	if (bpf_core_field_offset(struct dentry, d_name) == parent_at + sizeof(void *) &&
	    bpf_core_field_offset(struct qstr, name) == sizeof(__u64)) {
		bpf_probe_read_kernel(link, sizeof(*link), (void *)dentry + parent_at);
	} else {
		link->parent = PROBE(dentry, d_parent);
		link->name = PROBE(dentry, d_name.name);
	}
}

/*
 * Appends the components of a path from the leaf up to the root of the mount tree, across mount
 * points: prepend_path(), fs/d_path.c, 6.18, but never stopping at a task's own root. False when
 * the beginning of the path is missing.
 */
__noinline int append_path(__u32 slot)
{
	struct draft *draft = draft_of(slot);
	struct dentry *dentry, *top;
	struct mount *mount;
	__u32 start;

	if (!draft)
		return 0;
	dentry = (void *)draft->leaf;
	mount = (void *)draft->vfsmount - bpf_core_field_offset(struct mount, mnt);
	top = draft->last_mount == (__u64)mount ? (void *)draft->last_top :
						  PROBE(mount, mnt.mnt_root);
	start = draft->used;

	for (int i = 0; i < PT_PATH_COMPONENTS; i++) {
		struct link link;

		if (dentry == top) {
			struct mount *below;

			if (draft->last_mount == (__u64)mount)
				return 1;
			below = PROBE(mount, mnt_parent);
			if (below == mount) {
				draft->last_mount = (__u64)mount;
				draft->last_top = (__u64)top;
				return 1;
			}
			dentry = PROBE(mount, mnt_mountpoint);
			mount = below;
			top = PROBE(mount, mnt.mnt_root);
			continue;
		}
		read_link(&link, dentry);
		if (draft->used - start > PT_PATH_BYTES - PT_NAME_BYTES)
			return 0;
		if (!append_name(draft, link.name))
			return 0;
		if (link.parent == dentry)	/* hangs on nothing: a memfd, for one */
			return 1;
		dentry = link.parent;
	}
	return 0;
}

__noinline int append_cgroup(__u32 slot)
{
	struct draft *draft = draft_of(slot);
	struct kernfs_node *node;
	__u32 start;

	if (!draft)
		return 0;
	node = (void *)draft->leaf;
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
	__u64 id = LOAD(node, id);
	struct pt_cgroup *cgroup;
	struct draft *draft;
	__u8 sent = 1;
	__u32 slot, size;

	if (bpf_map_lookup_elem(&cgroups_sent, &id))
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
	if (bpf_ringbuf_output(&events, cgroup, sizeof(*cgroup) + size, 0))
		count_lost(PT_CGROUP);
	else
		bpf_map_update_elem(&cgroups_sent, &id, &sent, BPF_ANY);
	return id;
}

/* --------------------------------------------------------------------------------- exec: files */

#define APPEND_PATH(draft, path, slot)                       \
	({                                                    \
		(draft)->leaf = (__u64)LOAD(path, dentry);    \
		(draft)->vfsmount = (__u64)LOAD(path, mnt);   \
		append_path(slot);                           \
	})

static __always_inline bool append_file(struct draft *draft, __u32 slot,
					struct pt_file *out, struct file *file)
{
	__u32 start = draft->used;
	bool whole;

	put_file(out, file);
	whole = APPEND_PATH(draft, &file->f_path, slot);
	if (!whole)
		out->flags |= PT_FILE_CUT;
	out->path_length = draft->used - start;
	return whole;
}

struct loader_search {
	struct draft *draft;
	__u32 slot;
	__u32 zero;
};

static long put_loader(struct task_struct *task, struct vm_area_struct *vma,
		       struct loader_search *search)
{
	struct file *file = LOAD(vma, vm_file);
	struct draft *draft = search->draft;

	if (file && !append_file(draft, search->slot, &draft->exec.places.interpreter, file))
		draft->exec.header.flags |= PT_CUT_INTERPRETER;
	return 0;
}

#define AT_BASE 7	/* include/uapi/linux/auxvec.h */

/*
 * The dynamic loader is the file mapped at AT_BASE: create_elf_tables(), fs/binfmt_elf.c, 6.18.
 * bpf_find_vma() is there since 5.17; before, the loader stays unknown. It does not wait for the
 * mmap lock, so it finds nothing when another task holds it.
 */
static __always_inline void append_loader(struct draft *draft, __u32 slot,
					  struct task_struct *task, struct mm_struct *mm)
{
	struct loader_search context = { .draft = draft, .slot = slot };
	__u64 base = 0;

	if (!bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_find_vma))
		return;
	if (bpf_probe_read_kernel(draft->auxv, sizeof(draft->auxv),
				  (void *)mm + bpf_core_field_offset(struct mm_struct, saved_auxv)))
		return;
	for (int i = 0; i < 32; i += 2) {
		if (draft->auxv[i] == AT_BASE) {
			base = draft->auxv[i + 1];
			break;
		}
	}
	if (base)
		bpf_find_vma(task, base, put_loader, &context, 0);
}

static __always_inline void append_places(struct draft *draft, __u32 slot,
					  struct task_struct *task, struct mm_struct *mm)
{
	struct pt_places *places = &draft->exec.places;
	struct fs_struct *fs = LOAD(task, fs);
	struct file *file = LOAD(mm, exe_file);
	__u32 start;

	draft->used = 0;
	draft->last_mount = 0;
	__builtin_memset(places, 0, sizeof(*places));
	if (file && !append_file(draft, slot, &places->executable, file))
		draft->exec.header.flags |= PT_CUT_EXECUTABLE;
	if (mm)
		append_loader(draft, slot, task, mm);
	if (!fs)
		return;
	places->flags = PT_PLACES_KNOWN;
	start = draft->used;
	if (!APPEND_PATH(draft, &fs->pwd, slot)) {
		places->flags |= PT_PLACES_CWD_CUT;
		draft->exec.header.flags |= PT_CUT_CWD;
	}
	places->cwd_length = draft->used - start;
	start = draft->used;
	if (!APPEND_PATH(draft, &fs->root, slot)) {
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
				      bool may_sleep)
{
	if (may_sleep)
		return bpf_copy_from_user_task(to, size, (void *)from, task, 0);
	return bpf_probe_read_user(to, size, (void *)from);
}

static __always_inline void append_argv(struct draft *draft, struct task_struct *task,
					struct mm_struct *mm, bool may_sleep)
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
	if (copy_user(&draft->data[used], size, start, task, may_sleep))
		return;
	draft->exec.header.flags |= PT_HAS_ARGV;
	draft->exec.argv_length = size;
	draft->used = used + size;
}

/* Appends the variable at `position` if its name is one of the selected. */
__noinline int take_variable(__u32 position, __u32 slot)
{
	struct draft *draft = draft_of(slot);
	const __u64 *word;

	if (!draft || position > PT_ENV_SCAN_BYTES)
		return 0;
	word = (const void *)&draft->env[position];
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
			return 0;
		}
		size = bpf_probe_read_kernel_str(&draft->data[used], PT_ENV_VALUE_BYTES, word);
		if (size <= 0)
			return 0;
		if (size == PT_ENV_VALUE_BYTES)
			draft->exec.header.flags |= PT_CUT_ENV;
		draft->used = used + size;
		return 0;
	}
	return 0;
}

#define EVERY_BYTE 0x0101010101010101ULL
#define BLOCK_WORDS 64

/* `nuls` has the top bit of every NUL byte set: how many bytes up to and with the first. */
static __always_inline __u32 bytes_to_next(__u64 nuls)
{
	return ((((nuls - 1) & ~nuls) & EVERY_BYTE) * EVERY_BYTE) >> 56;
}

/* The variables that begin inside the word at `position`, after short ones such as "A=". */
__noinline int take_more(__u32 position, __u64 nuls, __u32 slot)
{
	for (int i = 0; i < 8 && nuls; i++) {
		take_variable(position + bytes_to_next(nuls), slot);
		nuls &= nuls - 1;
	}
	return 0;
}

/*
 * Searches one block of the environment, a word at a time, until byte `end`. A variable begins
 * after every NUL; its first two letters decide whether it is worth a closer look.
 */
__noinline int search_block(__u32 start, __u32 end, __u32 slot)
{
	struct draft *draft = draft_of(slot);
	const __u64 *words;

	if (!draft)
		return 0;
	start &= PT_ENV_SCAN_BYTES - 8 * BLOCK_WORDS;
	words = (const void *)&draft->env[start];
	for (__u32 i = 0; i < BLOCK_WORDS && start + i * 8 < end; i++) {
		__u64 word = words[i];
		__u64 nuls = ~(((word & 0x7f * EVERY_BYTE) + 0x7f * EVERY_BYTE) | word |
			       0x7f * EVERY_BYTE);

		if (nuls) {
			__u32 at = start + i * 8 + bytes_to_next(nuls);

			if (at < sizeof(draft->env) - 1 &&
			    config.env_letters >>
				    PT_LETTERS(draft->env[at], draft->env[at + 1]) & 1)
				take_variable(at, slot);
			if (nuls & (nuls - 1))
				take_more(start + i * 8, nuls & (nuls - 1), slot);
		}
	}
	return 0;
}

/*
 * Appends the selected variables. The environment is copied once and searched as one run of
 * bytes, so that only what follows a NUL is ever taken for a name.
 */
static __always_inline void append_env(struct draft *draft, __u32 slot,
				       struct task_struct *task, struct mm_struct *mm,
				       bool may_sleep)
{
	__u64 start = LOAD(mm, env_start), size = LOAD(mm, env_end) - start;
	__u32 before = draft->used;

	draft->exec.env_length = 0;
	if (size > PT_ENV_SCAN_BYTES) {
		size = PT_ENV_SCAN_BYTES;
		draft->exec.header.flags |= PT_CUT_ENV;
	}
	/* The first variable begins after this NUL. */
	draft->env_words[0] = 0;
	if (copy_user(&draft->env[8], size, start, task, may_sleep))
		return;
	draft->exec.header.flags |= PT_HAS_ENV;
	/* What an earlier search left behind must not be read as this environment. */
	__builtin_memset(&draft->env[8 + size], 0, 8 * PT_ENV_NAME_WORDS);
	for (__u32 i = 0; i < PT_ENV_SCAN_BYTES && i < size + 8; i += 8 * BLOCK_WORDS)
		search_block(i, size + 8, slot);
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
	__u32 slot = event_slot(), size;
	struct draft *draft = draft_of(slot);

	if (!draft)
		return 0;
	put_task_facts(draft, PT_EXEC, now, task, cgroup_id);
	draft->exec.old_tid = old_pid;
	append_places(draft, slot, task, mm);
	draft->exec.paths_length = draft->used;
	append_script(draft, bprm);
	draft->exec.cgroup_length = 0;
	append_argv(draft, task, mm, 0);
	append_env(draft, slot, task, mm, 0);
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
	struct draft *draft = draft_of(PICTURE_SLOT);
	__u32 size, start;
	struct kernfs_node *node;
	struct mm_struct *mm;

	if (!task || !draft || is_gone(task))
		return 0;
	mm = LOAD(task, mm);
	node = cgroup_of(task);
	put_task_facts(draft, PT_SNAPSHOT, bpf_ktime_get_boot_ns(), task, LOAD(node, id));
	if (LOAD(task, flags) & PF_KTHREAD)
		draft->exec.header.flags |= PT_KERNEL_THREAD;
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
