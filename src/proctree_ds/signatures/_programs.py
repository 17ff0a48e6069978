"""What well-known programs are called, and how one is recognised by its name.

A process is what its executable is, as far as that is known: its own name (comm) is the last
resort, because anybody can set it, and because a script has the name of its file: the comm of
`/etc/init.d/nginx` is "nginx".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from proctree_ds.answers import ProcessInfo

__all__ = [
    "INTERPRETERS",
    "LOGIN_SERVICES",
    "SHELLS",
    "family",
    "file_name",
    "is_login_service",
    "is_shell",
    "served_by",
    "words",
]


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


SHELLS: Final = words(
    "sh bash dash ash zsh ksh ksh93 mksh lksh pdksh fish csh tcsh rbash rksh rzsh yash posh "
    "bash-static zsh-static mksh-static static-sh"
)

INTERPRETERS: Final = words("python pypy perl ruby node php lua java")

LOGIN_SERVICES: Final = words(
    "sshd sshd-session dropbear telnetd in.telnetd rlogind in.rlogind rshd in.rshd"
)

_WEB_SERVERS: Final = words(
    "nginx apache apache2 httpd lighttpd caddy traefik haproxy openresty litespeed lshttpd "
    "openlitespeed php-fpm php-cgi php-fcgi uwsgi uwsgi-core unit unitd tomcat jsvc w3wp"
)
_DATABASES: Final = words(
    "mysqld mariadbd postgres postmaster redis-server valkey-server mongod mongos memcached "
    "sqlservr oracle influxd couchdb clickhouse-server"
)
_INTERPRETED: Final = words("gunicorn uwsgi uvicorn hypercorn puma unicorn")
_JAVA_SERVERS: Final = (
    "org.apache.catalina",
    "catalina.base",
    "org.eclipse.jetty",
    "jetty.home",
    "org.jboss",
    "jboss.home.dir",
    "weblogic.server",
    "com.ibm.ws",
    "org.elasticsearch",
    "org.apache.solr",
)
_VERSION: Final = "0123456789.-_"


def file_name(path: str | None) -> str | None:
    """The last component of a path."""
    return None if path is None else path.rpartition("/")[2]


def family(name: str) -> str:
    """A program's name without its version or flavour: python3.11, php8.2, nc.openbsd."""
    return name.partition(".")[0].rstrip(_VERSION)


def is_shell(info: ProcessInfo) -> bool:
    """Whether the process runs a shell."""
    file = info.execution_binary
    name = info.name if file is None or file.path is None else file_name(file.path)
    return name in SHELLS


def is_login_service(info: ProcessInfo) -> bool:
    """Whether the process lets people log in over the network."""
    file = info.execution_binary
    name = info.name if file is None or file.path is None else file_name(file.path)
    return name in LOGIN_SERVICES


def served_by(info: ProcessInfo) -> str | None:
    """What kind of server the process is: "web server", "database", or None for neither."""
    file = info.execution_binary
    path = info.name if file is None or file.path is None else file.path
    kind = None if path is None else _kind_of(path)
    if kind == "java":
        command = " ".join(info.cmd or ()).lower()
        return "web server" if any(mark in command for mark in _JAVA_SERVERS) else None
    if kind == "interpreter":
        # Such a server is a script, or has renamed itself to "gunicorn: master [app]".
        called = (info.name or "").partition(":")[0]
        started = {file_name(word) for word in (info.cmd or ())[:3]}
        return "web server" if called in _INTERPRETED or started & _INTERPRETED else None
    return kind


@lru_cache(maxsize=4_096)
def _kind_of(path: str) -> str | None:
    name = path.rpartition("/")[2]
    plain = name.rstrip(_VERSION)
    if name in _WEB_SERVERS or plain in _WEB_SERVERS:
        return "web server"
    if name in _DATABASES or plain in _DATABASES:
        return "database"
    kind = family(name)
    if kind == "java":
        return kind
    return "interpreter" if kind in INTERPRETERS else None
