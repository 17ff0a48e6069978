/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Paths of files, directories and cgroups, leaf first, appended to a draft.
 */
#ifndef PATH_BPF_H
#define PATH_BPF_H

/* Appends the NUL-terminated kernel string at `source`. False when there is no room. */
static __always_inline bool append_name(struct draft *draft, const void *source)
{
	CHECKED(used, draft->used);
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
GLOBAL_FUNCTION(int, append_path, (__u32 slot))
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

GLOBAL_FUNCTION(int, append_cgroup, (__u32 slot))
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

CALLBACK(long, put_loader, (struct task_struct *task, struct vm_area_struct *vma, struct loader_search *search))
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

/* Where a task is: cwd and root. */
static __always_inline void append_directories(struct draft *draft, __u32 slot,
					       struct pt_directories *out, struct fs_struct *fs,
					       __u32 *cuts)
{
	__u32 start = draft->used;

	out->flags = PT_DIRECTORIES_KNOWN;
	if (!APPEND_PATH(draft, &fs->pwd, slot)) {
		out->flags |= PT_DIRECTORIES_CWD_CUT;
		*cuts |= PT_CUT_CWD;
	}
	out->cwd_length = draft->used - start;
	start = draft->used;
	if (!APPEND_PATH(draft, &fs->root, slot)) {
		out->flags |= PT_DIRECTORIES_ROOT_CUT;
		*cuts |= PT_CUT_ROOT;
	}
	out->root_length = draft->used - start;
}

static __always_inline void append_places(struct draft *draft, __u32 slot,
					  struct task_struct *task, struct mm_struct *mm)
{
	struct pt_places *places = &draft->exec.places;
	struct fs_struct *fs = LOAD(task, fs);
	struct file *file = LOAD(mm, exe_file);

	draft->used = 0;
	draft->last_mount = 0;
	__builtin_memset(places, 0, sizeof(*places));
	if (file && !append_file(draft, slot, &places->executable, file))
		draft->exec.header.flags |= PT_CUT_EXECUTABLE;
	if (mm)
		append_loader(draft, slot, task, mm);
	if (fs)
		append_directories(draft, slot, &places->directories, fs,
				   &draft->exec.header.flags);
}

#endif
