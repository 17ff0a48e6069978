/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * One accessor per fact of a task. This file alone knows where the kernel keeps it.
 *
 * LOAD reads a field of a pointer whose type the verifier knows: one machine load, and 0 where
 * the address is not there (the JIT gives BTF-typed loads an exception table entry), so a chain
 * through a NULL is a chain of zeros. LOAD_AT, LOAD_BYTES and LOAD_BIT do the same for an element
 * of an array, for all of one and for a bit-field. PROBE reads through a pointer of unknown provenance, for
 * the price of a helper call. Every read of kernel memory is one of the two, or a probe of bytes.
 */
#ifndef TASK_BPF_H
#define TASK_BPF_H

#define LOAD(pointer, field) ((pointer)->field)
#define PROBE(pointer, field) BPF_CORE_READ(pointer, field)
#define LOAD_AT(pointer) (*(pointer))
#define LOAD_BYTES(to, pointer, field) __builtin_memcpy(to, (pointer)->field, sizeof(to))
#define LOAD_BIT(pointer, field) BPF_CORE_READ_BITFIELD(pointer, field)
#define PROBE_BIT(pointer, field) BPF_CORE_READ_BITFIELD_PROBED(pointer, field)

#define PF_EXITING 0x00000004		/* include/linux/sched.h */
#define PF_KTHREAD 0x00200000
#define SIGNAL_GROUP_EXIT 0x00000004	/* include/linux/sched/signal.h */
#define OVERLAYFS_MAGIC 0x794c7630	/* include/uapi/linux/magic.h */
#define NSEC_PER_SEC 1000000000LL

static __always_inline void put_task(struct pt_task *out, struct task_struct *task)
{
	out->start_time = LOAD(task, start_boottime);
	out->tid = LOAD(task, pid);
	out->zero = 0;
}

/*
 * The number that a pid has in its own namespace, and that namespace: ns_of_pid(),
 * include/linux/pid.h, 6.18. Level 0 is the initial namespace, where most tasks are.
 */
static __always_inline struct upid innermost(struct pid *pid)
{
	__u32 level = LOAD(pid, level);
	struct upid upid = {};

	if (level)
		bpf_probe_read_kernel(&upid, sizeof(upid),
				      (void *)pid + bpf_core_field_offset(struct pid, numbers) +
					      level * sizeof(struct upid));
	return upid;
}

static __always_inline __u32 own_number(struct pid *pid)
{
	__u32 number = LOAD(pid, numbers[0].nr);

	barrier_var(number);	/* or the two reads become one, of two kinds of memory */
	if (LOAD(pid, level))
		number = innermost(pid).nr;
	return number;
}

static __always_inline void put_identity(struct pt_identity *out, struct task_struct *task)
{
	struct task_struct *leader = LOAD(task, group_leader);

	put_task(&out->task, task);
	put_task(&out->leader, leader);
	put_task(&out->parent, LOAD(LOAD(task, real_parent), group_leader));
	out->ns_tid = own_number(LOAD(task, thread_pid));
	out->ns_pid = leader == task ? out->ns_tid : own_number(LOAD(leader, thread_pid));
}

/* kernel_cap_t is a u64 since 6.3; before, two u32 with the low word first. */
#define LOAD_CAPS(cred, set)                                                                 \
	({                                                                                   \
		__u64 caps;                                                                  \
		if (bpf_core_field_exists(struct cred, set.val)) {                           \
			caps = LOAD(cred, set.val);                                          \
		} else {                                                                     \
			const struct cred___old *old = (const void *)(cred);                 \
			caps = (__u64)LOAD(old, set.cap[1]) << 32 | LOAD(old, set.cap[0]);   \
		}                                                                            \
		caps;                                                                        \
	})

/* As tty_devnum() in drivers/tty/tty_io.c, 6.18. */
static __always_inline __u32 tty_of(struct signal_struct *signal)
{
	struct tty_struct *tty = LOAD(signal, tty);
	struct tty_driver *driver;

	if (!tty)
		return 0;
	driver = LOAD(tty, driver);
	return LOAD(driver, major) << 20 | (LOAD(driver, minor_start) + LOAD(tty, index));
}

/* task_struct::loginuid needs CONFIG_AUDIT. */
static __always_inline __u32 login_uid_of(struct task_struct *task)
{
	return bpf_core_field_exists(struct task_struct, loginuid) ? LOAD(task, loginuid.val) : 0xffffffff;
}

CONSTANTS(struct pt_config, config);

static __always_inline struct cgroup *subsystem_cgroup(struct css_set *set, __u64 index)
{
	struct cgroup_subsys_state **state =
		(void *)set + bpf_core_field_offset(struct css_set, subsys) + index * sizeof(*state);

	return LOAD(LOAD_AT(state), cgroup);
}

static __always_inline struct kernfs_node *cgroup_of(struct task_struct *task)
{
	struct css_set *set = LOAD(task, cgroups);

	if (config->hierarchy == PT_HIERARCHY_MEMORY)
		return LOAD(subsystem_cgroup(set, bpf_core_enum_value(enum cgroup_subsys_id,
								      memory_cgrp_id)), kn);
	if (config->hierarchy == PT_HIERARCHY_PIDS)
		return LOAD(subsystem_cgroup(set, bpf_core_enum_value(enum cgroup_subsys_id,
								      pids_cgrp_id)), kn);
	return LOAD(LOAD(set, dfl_cgrp), kn);
}

/* kernfs_node::parent became __parent, under RCU, in 6.15. */
static __always_inline struct kernfs_node *kernfs_parent(struct kernfs_node *node)
{
	if (bpf_core_field_exists(struct kernfs_node, __parent))
		return PROBE(node, __parent);
	return (void *)PROBE((struct kernfs_node___old *)node, parent);
}

static __always_inline void put_context(struct pt_context *out, struct task_struct *task,
					__u64 cgroup_id)
{
	const struct cred *cred = LOAD(task, real_cred);
	struct signal_struct *signal = LOAD(task, signal);
	struct nsproxy *nsproxy = LOAD(task, nsproxy);
	struct pid *pid = LOAD(task, thread_pid);
	__u32 inode;

	out->uid = LOAD(cred, uid.val);
	out->euid = LOAD(cred, euid.val);
	out->suid = LOAD(cred, suid.val);
	out->gid = LOAD(cred, gid.val);
	out->egid = LOAD(cred, egid.val);
	out->sgid = LOAD(cred, sgid.val);
	out->cap_effective = LOAD_CAPS(cred, cap_effective);
	out->cap_permitted = LOAD_CAPS(cred, cap_permitted);
	out->cap_inheritable = LOAD_CAPS(cred, cap_inheritable);
	out->cap_bounding = LOAD_CAPS(cred, cap_bset);
	out->cap_ambient = LOAD_CAPS(cred, cap_ambient);
	out->session_id = LOAD(LOAD(signal, pids[PIDTYPE_SID]), numbers[0].nr);
	out->process_group = LOAD(LOAD(signal, pids[PIDTYPE_PGID]), numbers[0].nr);
	out->tty = tty_of(signal);
	out->login_uid = login_uid_of(task);
	out->cgroup_id = cgroup_id;
	inode = LOAD(LOAD(pid, numbers[0].ns), ns.inum);
	barrier_var(inode);
	out->ns_pid = inode;
	if (LOAD(pid, level))
		out->ns_pid = PROBE(innermost(pid).ns, ns.inum);
	out->ns_mnt = LOAD(LOAD(nsproxy, mnt_ns), ns.inum);
	out->ns_net = LOAD(LOAD(nsproxy, net_ns), ns.inum);
	out->ns_user = LOAD(LOAD(cred, user_ns), ns.inum);
	out->ns_uts = LOAD(LOAD(nsproxy, uts_ns), ns.inum);
	out->ns_ipc = LOAD(LOAD(nsproxy, ipc_ns), ns.inum);
	out->ns_cgroup = LOAD(LOAD(nsproxy, cgroup_ns), ns.inum);
	/* Time namespaces: 5.6. */
	if (bpf_core_field_exists(struct nsproxy, time_ns))
		out->ns_time = LOAD(LOAD(nsproxy, time_ns), ns.inum);
	else
		out->ns_time = 0;
}

/* inode::i_ctime became __i_ctime in 6.6 and two numbers, i_ctime_sec and _nsec, in 6.11. */
static __always_inline __s64 inode_ctime(struct inode *inode)
{
	if (bpf_core_field_exists(struct inode, i_ctime_sec))
		return LOAD(inode, i_ctime_sec) * NSEC_PER_SEC + LOAD(inode, i_ctime_nsec);
	if (bpf_core_field_exists(struct inode___6_6, __i_ctime)) {
		struct inode___6_6 *older = (void *)inode;

		return LOAD(older, __i_ctime.tv_sec) * NSEC_PER_SEC +
		       LOAD(older, __i_ctime.tv_nsec);
	}
	struct inode___old *oldest = (void *)inode;

	return LOAD(oldest, i_ctime.tv_sec) * NSEC_PER_SEC + LOAD(oldest, i_ctime.tv_nsec);
}

/* inode::i_mtime took the same way, its first step in 6.7. */
static __always_inline __s64 inode_mtime(struct inode *inode)
{
	if (bpf_core_field_exists(struct inode, i_mtime_sec))
		return LOAD(inode, i_mtime_sec) * NSEC_PER_SEC + LOAD(inode, i_mtime_nsec);
	if (bpf_core_field_exists(struct inode___6_7, __i_mtime)) {
		struct inode___6_7 *older = (void *)inode;

		return LOAD(older, __i_mtime.tv_sec) * NSEC_PER_SEC +
		       LOAD(older, __i_mtime.tv_nsec);
	}
	struct inode___old *oldest = (void *)inode;

	return LOAD(oldest, i_mtime.tv_sec) * NSEC_PER_SEC + LOAD(oldest, i_mtime.tv_nsec);
}

/*
 * A memfd's dentry has no parent, was never hashed and is named "memfd:..." (mm/memfd.c and
 * alloc_file_pseudo(), 6.18). A real file may have that name, but it has a parent.
 */
static __always_inline bool is_memfd(struct dentry *dentry)
{
	char name[8] = {};

	if (LOAD(dentry, d_parent) != dentry)
		return 0;
	bpf_probe_read_kernel(name, 6, LOAD(dentry, d_name.name));
	return name[0] == 'm' && name[1] == 'e' && name[2] == 'm' && name[3] == 'f' &&
	       name[4] == 'd' && name[5] == ':';
}

static __always_inline void put_file(struct pt_file *out, struct file *file)
{
	struct inode *inode = LOAD(file, f_inode);
	struct super_block *super = LOAD(inode, i_sb);
	struct dentry *dentry = LOAD(file, f_path.dentry);
	__u32 flags = PT_FILE_PRESENT;

	out->inode = LOAD(inode, i_ino);
	out->size = LOAD(inode, i_size);
	out->ctime = inode_ctime(inode);
	out->mtime = inode_mtime(inode);
	out->device = LOAD(super, s_dev);
	out->mode = LOAD(inode, i_mode);
	out->owner = LOAD(inode, i_uid.val);
	out->link_count = LOAD(inode, i_nlink);
	if (is_memfd(dentry))
		flags |= PT_FILE_MEMFD;
	else if (!LOAD(dentry, d_hash.pprev))	/* d_unhashed(), include/linux/dcache.h */
		flags |= PT_FILE_DELETED;
	/* OVL_I_E() and ovl_upperdentry_dereference(), fs/overlayfs, 6.18. */
	if (LOAD(super, s_magic) == OVERLAYFS_MAGIC) {
		if (!bpf_core_field_exists(struct ovl_inode, __upperdentry)) {
			flags |= PT_FILE_LAYER_UNKNOWN;
		} else {
			struct ovl_inode *overlay =
				(void *)inode - bpf_core_field_offset(struct ovl_inode, vfs_inode);

			if (PROBE(overlay, __upperdentry))
				flags |= PT_FILE_UPPER;
		}
	}
	out->flags = flags;
}

/*
 * The leader of the process that takes over the children when the last thread of `task`'s process
 * ends: find_new_reaper(), kernel/exit.c, 6.18. tid 0 when a pid namespace's init ends, for then
 * nothing in it lives on, and when the search was cut.
 */
static __always_inline void put_reaper(struct pt_task *out, struct task_struct *task)
{
	struct pid *pid = LOAD(task, thread_pid);
	__u32 level = LOAD(pid, level);
	struct task_struct *init, *ancestor = task;
	__u64 heir;

	out->start_time = 0;
	out->tid = 0;
	out->zero = 0;
	init = PROBE(LOAD(pid, numbers[0].ns), child_reaper);
	if (level)
		init = PROBE(innermost(pid).ns, child_reaper);
	heir = (__u64)PROBE(init, group_leader);
	if (heir == (__u64)LOAD(task, group_leader))
		return;
	if (LOAD_BIT(LOAD(task, signal), has_child_subreaper)) {
		for (int i = 0; i < PT_REAPER_DEPTH; i++) {
			struct signal_struct *signal;

			ancestor = PROBE(ancestor, real_parent);
			pid = PROBE(ancestor, thread_pid);
			if (!PROBE(ancestor, tgid) || PROBE(pid, level) != level)
				goto found;
			signal = PROBE(ancestor, signal);
			if (PROBE_BIT(signal, is_child_subreaper) &&
			    PROBE(signal, live.counter) > 0) {
				heir = (__u64)PROBE(ancestor, group_leader);
				goto found;
			}
		}
		return;
	}
found:
	out->start_time = PROBE((struct task_struct *)heir, start_boottime);
	out->tid = PROBE((struct task_struct *)heir, pid);
}

#endif
