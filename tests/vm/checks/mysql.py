"""The hook `mariadb` against MySQL's own server and client: the same proof on a frozen copy as for the others, on a disk of its own."""
from lib import image, mysql
from lib.report import check, equal, holds
from .acceptance_devices import appears
from .databases import Sql, TMP, acknowledged, enabled, freeze_and_copy, look_at_sql, plugged, server, status_of, table_left_open, writing

ROOT = "/srv/mysql"
SOCKET = f"{TMP}/mysql.sock"
OPTION_FILE = "/root/mysql.cnf"
# Its libraries are newer than the guest's. Not by chroot: to the hook that would be a server in a container.
RUN = f'#!/bin/bash\nexec -a "${{0##*/}}" {ROOT}/usr/lib64/ld-linux-x86-64.so.2 --library-path {ROOT}/usr/lib/x86_64-linux-gnu {ROOT}/usr/%s "$@"\n'
PROGRAMS = {"/usr/local/bin/mysql": "bin/mysql", "/usr/local/bin/mysqld": "sbin/mysqld", "/usr/local/lib/myisamchk": "bin/myisamchk"}
MYSQL = Sql(f"mysqld --no-defaults --user=root --basedir={ROOT}/usr --plugin-dir={ROOT}/usr/lib/mysql/plugin --datadir={{root}}/var/lib/mysql "
            f"--lc-messages-dir={ROOT}/usr/share/mysql --secure-file-priv= --socket={TMP}/copy.sock --skip-networking --mysqlx=OFF "
            "--innodb-buffer-pool-size=64M --performance-schema=OFF --log-error-verbosity=3", f"{TMP}/copy.sock", "mysql",
            # MySQL's takes the table's name, not that of its file.
            "/usr/local/lib/myisamchk --check --read-only {root}/var/lib/mysql/shop/my")


@check("servers")
def mysql_under_load_loses_nothing_that_was_acknowledged(g):
    disk = g.work / "mysql.img"
    image.copy(mysql.disk(), disk)
    for path, program in PROGRAMS.items():
        g.oob.run(f"cat >{path} <<'END'\n{RUN % program}END\nchmod 755 {path}")
    # A host of MySQL has no client of MariaDB's.
    g.oob.run(f"mkdir -p {TMP} && chmod 1777 {TMP}; mv /usr/bin/mariadb /usr/bin/mariadb.away; "
              f"printf '[client]\\nsocket={SOCKET}\\n' >{OPTION_FILE}; chmod 600 {OPTION_FILE}")
    try:
        with plugged(g, disk, "mysql", ROOT):
            copy, known, log = take_under_load(g)
            with plugged(g, copy):
                look_at_sql(g, known, log, MYSQL)
    finally:
        g.oob.run(f"mv /usr/bin/mariadb.away /usr/bin/mariadb; rm -f {' '.join(PROGRAMS)} {OPTION_FILE}")


def take_under_load(g):
    client = f"mysql --defaults-file={OPTION_FILE}"
    command = MYSQL.server.format(root=ROOT).replace(MYSQL.socket, SOCKET)
    with server(g, command, f"{client} -e 'SELECT 1'"):
        version = g.oob.run(f"{client} -Ne 'SELECT VERSION()'").strip()
        g.oob.run(f"{client} -e '{MYSQL.tables}'")
        with enabled(g, "mariadb", ("OPTION_FILE=", f"OPTION_FILE={OPTION_FILE}")), writing(g, {"mysql": MYSQL.writer(f"--socket={SOCKET}")}):
            holds(table_left_open(g, ROOT, MYSQL), "the live MyISAM table is open (else the copy's proves nothing)")
            copy, known, log = freeze_and_copy(g, "mysql", "mysql", 3, ("mysql",))
            appears(lambda: acknowledged(g, known)["mysql"] > known["mysql"], "writes go on after the thaw")
        equal(status_of(log, "mariadb"), 0, f"status of the hook: {log}")
        holds(f"server: {version}" in log, f"the hook held MySQL {version}: {log}")
        print(f"     (MySQL {version}, acknowledged: {known['mysql']})", flush=True)
    return copy, known["mysql"], log
