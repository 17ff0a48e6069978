/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The draft: where a record of variable length is put together. Whoever appends to it checks that
 * there is room, and says in the record what found none.
 */
#ifndef DRAFT_BPF_H
#define DRAFT_BPF_H

#define DATA_BYTES (PT_PATHS_BYTES + PT_ARGV_BYTES + PT_ENV_BYTES)

/* A record of variable length while it is put together, and what that takes. */
struct draft {
	union {
		struct pt_exec exec;
		/* Never used: they keep the rest of the wire in BTF, where a test looks for it. */
		struct pt_fork fork;
		struct pt_exit exit;
		struct pt_rename rename;
		struct pt_change change;
		struct pt_cgroup cgroup;
		struct {
			enum pt_kind kind;
			enum pt_flag flag;
			enum pt_file_flag file_flag;
			enum pt_directories_flag directories_flag;
			enum pt_hierarchy hierarchy;
			enum pt_rings rings;
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
TABLE(drafts, BPF_MAP_TYPE_ARRAY, 2, __u32, struct draft, 0);

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
	return bpf_map_lookup_elem(MAP(drafts), &slot);
}

#endif
