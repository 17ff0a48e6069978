/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What was told last of a task, so that a change is told once and its absence costs next to
 * nothing. A task's circumstances (names, ids, credentials, directories, namespaces, cgroup) are
 * remembered as one number, by tid. Where two tasks share a place the later one has it, and the
 * other is told once more than needed: a change may be told twice, and is never kept back.
 */
#ifndef TOLD_BPF_H
#define TOLD_BPF_H

struct told {
	__u64 task;			/* which one: start and tid */
	__u64 circumstances;
};

TABLE(told_tasks, BPF_MAP_TYPE_ARRAY, PT_TOLD_TASKS, __u32, struct told, 0);

/* How many changes of a process were told lately, so that it cannot drown those of others. */
struct pace {
	__u64 leader;			/* which one: start and tid */
	__u32 second;			/* of 2^30 ns, in which they are counted */
	__u32 changes;
};

TABLE(paces, BPF_MAP_TYPE_ARRAY, PT_TOLD_TASKS, __u32, struct pace, 0);

static __always_inline struct told *told_of(struct task_struct *task)
{
	__u32 place = LOAD(task, pid) & (PT_TOLD_TASKS - 1);

	return bpf_map_lookup_elem(MAP(told_tasks), &place);
}

static __always_inline __u64 key_of(struct task_struct *task)
{
	return LOAD(task, start_boottime) << 22 ^ LOAD(task, pid);
}

/*
 * Whether one more change of the process of `task` is told now, and in `flags` whether it is the
 * last for a while. Those that are not come with an event, or with a change later on.
 */
static __always_inline bool keeps_pace(struct task_struct *task, __u64 time, __u32 *flags)
{
	struct task_struct *leader = LOAD(task, group_leader);
	__u32 place = LOAD(leader, pid) & (PT_TOLD_TASKS - 1), second = time >> 30;
	struct pace *pace = bpf_map_lookup_elem(MAP(paces), &place);
	__u64 key = key_of(leader);

	if (!pace)
		return 0;
	if (pace->leader != key || pace->second != second) {
		pace->leader = key;
		pace->second = second;
		pace->changes = 0;
	}
	if (pace->changes >= PT_CHANGES)
		return 0;
	if (++pace->changes == PT_CHANGES)
		*flags |= PT_PACED;
	return 1;
}

/* One round of a multiplicative hash; the odd constant is 2^64 divided by the golden ratio. */
static __always_inline __u64 mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 32;
}

#define PAIR(high, low) ((__u64)(high) << 32 | (__u32)(low))

#define CRED_WORDS 10			/* from uid to the last capability set, struct cred */
#define NSPROXY_WORDS 8			/* its namespaces */
#define FS_WORDS 4			/* root and pwd, each a mount and a dentry */

/* Mixes `count` words of kernel memory: one read is cheaper than a load for each. */
#define MIX_WORDS(hash, count, address)                                      \
	({                                                                    \
		__u64 words[count];                                           \
		__u64 mixed = hash;                                           \
		bpf_probe_read_kernel(words, sizeof(words), address);         \
		_Pragma("unroll") for (int i = 0; i < (count); i++)           \
			mixed = mix(mixed, words[i]);                         \
		mixed;                                                        \
	})

/*
 * What an event may tell of `task`, were it named `name`, as a number. A child has its creator's.
 * Namespaces, mounts and dentries go by address: for one to be missed it has to be left, freed and
 * another one of the same kind made in its place and entered, with no event of the task in between.
 */
LOCAL_FUNCTION(__u64, circumstances, (struct task_struct *task, __u64 name[2]))
{
	const struct cred *cred = LOAD(task, real_cred);
	struct signal_struct *signal = LOAD(task, signal);
	struct nsproxy *nsproxy = LOAD(task, nsproxy);
	struct fs_struct *fs = LOAD(task, fs);
	__u64 hash = config->secret;

	hash = mix(hash, name[0]);
	hash = mix(hash, name[1]);
	hash = MIX_WORDS(hash, CRED_WORDS,
			 (void *)cred + bpf_core_field_offset(struct cred, uid));
	hash = MIX_WORDS(hash, NSPROXY_WORDS,
			 (void *)nsproxy + bpf_core_field_offset(struct nsproxy, uts_ns));
	hash = MIX_WORDS(hash, FS_WORDS, (void *)fs + bpf_core_field_offset(struct fs_struct, root));
	hash = mix(hash, LOAD(LOAD(LOAD(&fs->pwd, dentry), d_inode), i_ino));
	hash = mix(hash, PAIR(LOAD(LOAD(signal, pids[PIDTYPE_SID]), numbers[0].nr),
			      LOAD(LOAD(signal, pids[PIDTYPE_PGID]), numbers[0].nr)));
	hash = mix(hash, PAIR(tty_of(signal), login_uid_of(task)));
	hash = mix(hash, LOAD(cgroup_of(task), id));
	return mix(hash, PAIR(LOAD(LOAD(cred, user_ns), ns.inum),
			      LOAD_BIT(signal, is_child_subreaper)));
}

/* Everything about `task`, whose circumstances these are, has just been told. */
static __always_inline void remember(struct task_struct *task, __u64 circumstances)
{
	struct told *told = told_of(task);

	if (told) {
		told->task = key_of(task);
		told->circumstances = circumstances;
	}
}

#endif
