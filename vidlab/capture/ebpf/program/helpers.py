"""The kernel's helper functions that programs call, by their numbers.

The numbers are fixed by the kernel's ABI (``enum bpf_func_id`` of its <linux/bpf.h>).
"""

from __future__ import annotations

MAP_LOOKUP = 1
MAP_UPDATE = 2
MAP_DELETE = 3
TIME_NS = 5
CPU = 8
TAIL_CALL = 12
PID_TGID = 14
COMM = 16
READ_USER = 112
READ_KERNEL = 113
READ_USER_STRING = 114
READ_KERNEL_STRING = 115
NAMESPACE_PID_TGID = 120
RING_RESERVE = 131
RING_SUBMIT = 132
RING_DISCARD = 133
RING_QUERY = 134
ATTACH_COOKIE = 174

#: The kernel's own names, for disassemblies.
NAMES = {
    MAP_LOOKUP: "bpf_map_lookup_elem",
    MAP_UPDATE: "bpf_map_update_elem",
    MAP_DELETE: "bpf_map_delete_elem",
    TIME_NS: "bpf_ktime_get_ns",
    CPU: "bpf_get_smp_processor_id",
    TAIL_CALL: "bpf_tail_call",
    PID_TGID: "bpf_get_current_pid_tgid",
    COMM: "bpf_get_current_comm",
    READ_USER: "bpf_probe_read_user",
    READ_KERNEL: "bpf_probe_read_kernel",
    READ_USER_STRING: "bpf_probe_read_user_str",
    READ_KERNEL_STRING: "bpf_probe_read_kernel_str",
    NAMESPACE_PID_TGID: "bpf_get_ns_current_pid_tgid",
    RING_RESERVE: "bpf_ringbuf_reserve",
    RING_SUBMIT: "bpf_ringbuf_submit",
    RING_DISCARD: "bpf_ringbuf_discard",
    RING_QUERY: "bpf_ringbuf_query",
    ATTACH_COOKIE: "bpf_get_attach_cookie",
}

#: Kernel functions of a program that runs as a call begins and as it returns (6.13 and later).
IS_RETURN = "bpf_session_is_return"
SESSION_COOKIE = "bpf_session_cookie"

# Flags of MAP_UPDATE.
ANY, NO_EXIST = 0, 1

# Flags of RING_SUBMIT, and what RING_QUERY is asked for.
NO_WAKEUP, FORCE_WAKEUP = 1, 2
UNREAD_BYTES = 0
