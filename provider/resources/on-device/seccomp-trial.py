"""Tries system calls without a seccomp profile and with it, each time in a process that ends then.

Arguments: the profile (podman's seccomp.json), and a list of [name, call, arguments] in JSON. Prints a line for each, `NAME ERRNO-WITHOUT ERRNO-WITH`, with 0 for a call that
succeeded. The calls are ones that change nothing where they are let through. The profile is loaded by libseccomp, as the container's runtime does it.
"""

import sys

try:
    import ctypes
    import json
    import os
    import platform
except ImportError:
    # python3-minimal has no ctypes.
    print("no python3")
    sys.exit(0)

with open(sys.argv[1], encoding="utf-8") as file:
    profile = json.load(file)
tried = json.loads(sys.argv[2])

try:
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
except OSError:
    print("no libseccomp")
    sys.exit(0)
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class Comparison(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


seccomp.seccomp_init.restype = ctypes.c_void_p
seccomp.seccomp_init.argtypes = [ctypes.c_uint32]
seccomp.seccomp_rule_add_array.argtypes = [
    ctypes.c_void_p,
    ctypes.c_uint32,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.POINTER(Comparison),
]
seccomp.seccomp_load.argtypes = [ctypes.c_void_p]

operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())


def number_of(name):
    return seccomp.seccomp_syscall_resolve_name(name.encode())


def action_of(name, errno):
    numbers = {
        "SCMP_ACT_ALLOW": 0x7FFF0000,
        "SCMP_ACT_LOG": 0x7FFC0000,
        "SCMP_ACT_ERRNO": 0x00050000 | (1 if errno is None else errno),
        "SCMP_ACT_TRAP": 0x00030000,
        "SCMP_ACT_KILL": 0x00000000,
        "SCMP_ACT_KILL_THREAD": 0x00000000,
        "SCMP_ACT_KILL_PROCESS": 0x80000000,
    }
    return numbers[name]


def concerns(entry):
    if architecture in entry.get("excludes", {}).get("arches", []):
        return False
    return architecture in entry.get("includes", {}).get("arches", [architecture])


def load():
    otherwise = action_of(profile["defaultAction"], profile.get("defaultErrnoRet"))
    filter_ = seccomp.seccomp_init(otherwise)
    for entry in profile["syscalls"]:
        action = action_of(entry["action"], entry.get("errnoRet"))
        # libseccomp takes no rule that says what holds anyway.
        if not concerns(entry) or action == otherwise:
            continue
        tests = [
            Comparison(
                each["index"],
                operators.index(each["op"].removeprefix("SCMP_CMP_")) + 1,
                each["value"],
                each.get("valueTwo", 0),
            )
            for each in entry.get("args") or []
        ]
        array = (Comparison * len(tests))(*tests)
        for name in entry.get("names") or [entry["name"]]:
            number = number_of(name)
            # A name of another architecture has a negative number.
            if number >= 0 and seccomp.seccomp_rule_add_array(filter_, action, number, len(tests), array) != 0:
                sys.exit(f"libseccomp does not take the rule for {name}")
    if seccomp.seccomp_load(filter_) != 0:
        sys.exit("the kernel does not take the filter")


def errors(before):
    """The errors of all calls, from a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        found = []
        before()
        for _, call, arguments in tried:
            words = [ctypes.c_long(each) for each in arguments]
            result = libc.syscall(ctypes.c_long(number_of(call)), *words)
            found.append(ctypes.get_errno() if result < 0 else 0)
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if not answer:
        sys.exit("the process under the profile ended before it could tell")
    return json.loads(answer)


sys.stdout.flush()
without, under = errors(lambda: None), errors(load)
for (name, _, _), first, second in zip(tried, without, under):
    print(name, first, second)
