/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a process was started with: script, arguments and selected environment variables, appended
 * to a draft.
 */
#ifndef ARGUMENTS_BPF_H
#define ARGUMENTS_BPF_H

/* The file named to execve, where the kernel went on to run another one for it. */
static __always_inline void append_script(struct draft *draft, struct linux_binprm *bprm)
{
	const char *filename = LOAD(bprm, filename);
	CHECKED(used, draft->used);
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
	CHECKED(used, draft->used);

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
GLOBAL_FUNCTION(int, take_variable, (__u32 position, __u32 slot))
{
	struct draft *draft = draft_of(slot);
	const __u64 *word;
	CHECKED(place, position);

	if (!draft || place > PT_ENV_SCAN_BYTES)
		return 0;
	word = (const void *)&draft->env[place];
	for (__u32 i = 0; i < PT_ENV_NAMES && i < config->env_name_count; i++) {
		const volatile struct pt_variable *name = &config->env_names[i];
		CHECKED(used, draft->used);
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
GLOBAL_FUNCTION(int, take_more, (__u32 position, __u64 nuls, __u32 slot))
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
GLOBAL_FUNCTION(int, search_block, (__u32 start, __u32 end, __u32 slot))
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
			    config->env_letters >>
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

#endif
