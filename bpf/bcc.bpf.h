/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What libbpf's headers give, for BCC, which needs none of them and no kernel headers either.
 * "vmlinux-here.h" is made of vmlinux.h and this kernel's BTF: every field lies where this kernel
 * has it, and one that it does not have lies at NOWHERE or beyond, where nothing ever reads.
 */
#ifndef BCC_BPF_H
#define BCC_BPF_H

#include "vmlinux-here.h"

#define __always_inline inline __attribute__((always_inline))
/* BCC passes functions over that begin in an included file, unless a macro begins them. */
#define SEC(name) __attribute__((used))
#define barrier_var(variable) asm volatile("" : "+r"(variable))

/* BCC makes the old helper of these where it may not look into /proc/kallsyms. */
#undef bpf_probe_read_user
#undef bpf_probe_read_kernel
#undef bpf_probe_read_kernel_str

/* include/uapi/linux/bpf.h, 6.18. */
#define HELPER(number) = (void *)(number)
static void *(*bpf_map_lookup_elem)(void *map, const void *key) HELPER(1);
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) HELPER(2);
static __u32 (*bpf_get_smp_processor_id)(void) HELPER(8);
static long (*bpf_probe_read_user)(void *to, __u32 size, const void *from) HELPER(112);
static long (*bpf_probe_read_kernel)(void *to, __u32 size, const void *from) HELPER(113);
static long (*bpf_probe_read_kernel_str)(void *to, __u32 size, const void *from) HELPER(115);
static __u64 (*bpf_ktime_get_boot_ns)(void) HELPER(125);
static long (*bpf_seq_write)(struct seq_file *to, const void *data, __u32 size) HELPER(127);
static long (*bpf_ringbuf_output)(void *ring, void *data, __u64 size, __u64 flags) HELPER(130);
static void *(*bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) HELPER(131);
static void (*bpf_ringbuf_submit)(void *data, __u64 flags) HELPER(132);
static struct task_struct *(*bpf_get_current_task_btf)(void) HELPER(158);
static long (*bpf_find_vma)(struct task_struct *task, __u64 address, void *callback, void *context, __u64 flags) HELPER(180);
static long (*bpf_copy_from_user_task)(void *to, __u32 size, const void *from, struct task_struct *task, __u64 flags) HELPER(191);

/* Numbers that stand for what the linker puts in; NUMBER_name comes from the command line. */
#define PLACEHOLDER(kind, number) ((void *)((0x50540000ULL + (kind)) << 32 | (number)))
#define A_MAP 1
#define THE_CONSTANTS 2
#define A_CALLBACK 3
#define A_CALL 0x50540000
#define A_DEFINITION 0x5054ffff

#define GLOBAL_FUNCTION(type, name, arguments)                                 \
	static type(*const name) arguments = (void *)(A_CALL + NUMBER_##name); \
	type body_##name arguments
#define LOCAL_FUNCTION GLOBAL_FUNCTION
#define CALLBACK(type, name, arguments)                                     \
	static void *const name = PLACEHOLDER(A_CALLBACK, NUMBER_##name); \
	type body_##name arguments

/* Never run: the linker reads what a map is like from the arguments of this call. */
#define DEFINE(name, kind, entries, key_bytes, value_bytes, flags)                                 \
	void define_##name(void)                                                                  \
	{                                                                                         \
		((void (*)(__u32, __u32, __u32, __u32, __u32))A_DEFINITION)(                       \
			kind, key_bytes, value_bytes, entries, flags);                            \
	}                                                                                         \
	struct definition_##name
#define RING(name, bytes) DEFINE(name, BPF_MAP_TYPE_RINGBUF, bytes, 0, 0, 0)
#define TABLE(name, kind, entries, key, value, flags) \
	DEFINE(name, kind, entries, sizeof(key), sizeof(value), flags)
#define MAP(name) PLACEHOLDER(A_MAP, NUMBER_##name)

#define CONSTANTS(type, name) static const volatile type *const name = PLACEHOLDER(THE_CONSTANTS, 0)

/*
 * BCC compiles for the first machine, which has no 32-bit registers: a __u32 is extended in a copy,
 * and the verifier does not connect the copy that was checked with the one that is used.
 */
#define CHECKED(name, value)   \
	__u64 name = (value);  \
	barrier_var(name)

/* A program's arguments are an array of words. */
#define CAST_1 (void *)context[0]
#define CAST_2 CAST_1, (void *)context[1]
#define CAST_3 CAST_2, (void *)context[2]
#define THIRD(first, second, third, cast, ...) cast
#define BPF_PROG(name, ...)                                                                       \
	name(unsigned long long *context);                                                        \
	static __always_inline int program_##name(__VA_ARGS__);                                   \
	int name(unsigned long long *context)                                                     \
	{                                                                                         \
		_Pragma("clang diagnostic ignored \"-Wint-conversion\"")                          \
		return program_##name(THIRD(__VA_ARGS__, CAST_3, CAST_2, CAST_1));                \
	}                                                                                         \
	static __always_inline int program_##name(__VA_ARGS__)

#define bpf_core_field_exists(type, field) (__builtin_offsetof(type, field) < NOWHERE)
#define bpf_core_field_offset(type, field) __builtin_offsetof(type, field)
#define bpf_core_enum_value(type, value) (value)
#define bpf_core_enum_value_exists(type, value) ((value) < NOWHERE)

#define BPF_CORE_READ(pointer, field)                                                     \
	({                                                                                \
		__typeof__((pointer)->field) read;                                        \
		bpf_probe_read_kernel(&read, sizeof(read), &(pointer)->field);            \
		read;                                                                     \
	})
/* All the bit-fields that are read have one bit. */
#define BPF_CORE_READ_BITFIELD(pointer, field) \
	((pointer)->byte_of_##field >> bit_of_##field & 1)
#define BPF_CORE_READ_BITFIELD_PROBED(pointer, field) \
	(BPF_CORE_READ(pointer, byte_of_##field) >> bit_of_##field & 1)

#endif
