/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The same source for two loaders. libbpf takes an object in which types, maps and functions are
 * named, and puts the kernel's addresses in. BCC compiles on the machine where the programs run and
 * names nothing: there the types come as this kernel has them, and whatever is to be put in later
 * is a number, which src/proctree_ds/sources/bcc/linker.py finds again in the instructions.
 *
 * Maps and functions that are called are therefore declared by the macros below. Python reads the
 * declarations too: each begins a line and stands on one.
 */
#ifndef LOADER_BPF_H
#define LOADER_BPF_H

#ifdef PT_BCC
#include "bcc.bpf.h"
#else
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

/* Functions of their own. The verifier looks at a global one once, for any numbers it may be given. */
#define GLOBAL_FUNCTION(type, name, arguments) __noinline type name arguments
#define LOCAL_FUNCTION(type, name, arguments) static __noinline type name arguments
#define CALLBACK(type, name, arguments) static type name arguments

#define RING(name, bytes)                          \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, bytes);        \
	} name SEC(".maps")

#define TABLE(name, kind, entries, key_type, value_type, flags) \
	struct {                                                \
		__uint(type, kind);                             \
		__uint(map_flags, flags);                       \
		__uint(max_entries, entries);                   \
		__type(key, key_type);                          \
		__type(value, value_type);                      \
	} name SEC(".maps")

#define MAP(name) (&name)

/* What the reader decides before the programs are loaded. */
#define CONSTANTS(type, name)                        \
	const volatile type name##_constants = {};   \
	static const volatile type *const name = &name##_constants

/* A number that is checked, and then used as a size or a place. */
#define CHECKED(name, value) __u32 name = (value)

#endif
#endif
