"""The services of a node: munge and Slurm, and the project's own daemons."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

from .commands import enter, run, tail
from .errors import MinislurmError
from .kernel import wait_until
from .layout import CONTROLLER, Layout

IDLE_SECONDS = 30.0

AS_MUNGE = "setpriv --reuid munge --regid munge --init-groups --"
MUNGED = f"{AS_MUNGE} /usr/sbin/munged --num-threads=2"

# In a node, as root. $1 program, $2 its log; the pid file is for stop and kill.
START_DAEMON = """
pidfile=/run/minislurm/vine.pid
pid=$(cat $pidfile 2>/dev/null)
if [ -n "$pid" ] && [ "$(cat /proc/$pid/comm 2>/dev/null)" = "${1##*/}" ]; then
    echo "${1##*/} is running already"; exit 1
fi
cd /
rm -f $pidfile
umask 077
setsid sh -c 'echo $$ >$2.new; mv $2.new $2; exec "$1"' \
    sh "$1" $pidfile >>"$2" 2>&1 </dev/null &
until [ -s $pidfile ]; do :; done
"""

# $1 program, $2 signal, $3 seconds it may take.
STOP_DAEMON = """
pidfile=/run/minislurm/vine.pid
pid=$(cat $pidfile 2>/dev/null)
if [ -z "$pid" ] || [ "$(cat /proc/$pid/comm 2>/dev/null)" != "${1##*/}" ]; then
    echo "${1##*/} is not running"; exit 1
fi
kill -"$2" "$pid"
timeout "$3" tail --pid="$pid" -s 0.02 -f /dev/null ||
    { echo "it still runs after $3 s"; exit 1; }
rm -f $pidfile
"""

DAEMON_ALIVE = 'kill -0 "$(cat /run/minislurm/vine.pid)" 2>/dev/null && echo yes'


def start_slurm(layout: Layout, nodes: Iterable[str]) -> None:
    """munged and Slurm's daemon in each of these nodes, all at once."""
    clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
    started = {}
    for node in nodes:
        daemon = "slurmctld" if node == CONTROLLER else "slurmd"
        script = f"{MUNGED} && /usr/sbin/{daemon}"
        started[node] = subprocess.Popen(
            [*enter(layout, node), *clean, "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    for node, process in started.items():
        said = process.communicate()[0]
        if process.returncode != 0:
            raise MinislurmError(
                f"cannot start Slurm on '{node}':\n{said}\n{last_words(layout, node)}"
            )


def last_words(layout: Layout, node: str) -> str:
    name = "slurmctld" if node == CONTROLLER else "slurmd"
    path = layout.log_dir(node) / f"slurm/{name}.log"
    text = path.read_text(errors="replace") if path.exists() else "(no log)"
    return f"--- {name}.log of {node}:\n{tail(text)}"


def slurm_states(layout: Layout) -> dict[str, str]:
    """As sinfo has them ("idle", "mixed", "down*"); empty if it does not answer."""
    said = run(
        [*enter(layout, CONTROLLER), "sinfo", "-h", "-N", "-o", "%N %T"], check=False
    )
    pairs = [line.split() for line in said.splitlines()]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def wait_idle(layout: Layout, nodes: list[str], seconds: float = IDLE_SECONDS) -> None:
    states: dict[str, str] = {}

    def all_idle() -> bool:
        states.clear()
        states.update(slurm_states(layout))
        return all(states.get(node) == "idle" for node in nodes)

    if wait_until(all_idle, seconds, step=0.05):
        return
    bad = [node for node in nodes if states.get(node) != "idle"]
    found = ", ".join(f"{node} {states.get(node, 'unknown')}" for node in bad)
    words = "\n".join(last_words(layout, node) for node in [CONTROLLER, *bad[:2]])
    raise MinislurmError(f"not idle after {seconds:.0f} s: {found}\n{words}")


def daemon_program(node: str) -> str:
    return "/usr/sbin/vine-managerd" if node == CONTROLLER else "/usr/sbin/vined"


def daemon_log(layout: Layout, node: str) -> str:
    name = "managerd" if node == CONTROLLER else "vined"
    path = layout.log_dir(node) / f"vine-env/{name}.log"
    return path.read_text(errors="replace") if path.exists() else ""


def capabilities(layout: Layout, program: str) -> list[str]:
    """A command prefix: no more of root than the program's systemd unit leaves it."""
    name = program.rpartition("/")[2]
    unit = layout.install / f"usr/lib/systemd/system/{name}.service"
    lines = unit.read_text().splitlines() if unit.exists() else []
    bounds = []
    for line in lines:
        key, _, value = line.partition("=")
        if key == "CapabilityBoundingSet":
            kept = [f"+{word.removeprefix('CAP_').lower()}" for word in value.split()]
            bounds.append(f"--bounding-set={','.join(['-all', *kept])}")
        elif (key, value) == ("NoNewPrivileges", "yes"):
            bounds.append("--no-new-privs")
    return ["setpriv", *bounds] if bounds else []


def daemon(layout: Layout, node: str, action: str) -> None:
    program = daemon_program(node)
    if not (layout.install / program[1:]).exists():
        raise MinislurmError(f"'{program}' is not installed in this cluster")
    log = f"/var/log/vine-env/{'managerd' if node == CONTROLLER else 'vined'}.log"
    arguments = {
        "start": [START_DAEMON, "sh", program, log],
        "stop": [STOP_DAEMON, "sh", program, "TERM", "15"],
        "kill": [STOP_DAEMON, "sh", program, "KILL", "15"],
    }[action]
    clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
    bounds = capabilities(layout, program) if action == "start" else []
    try:
        run([*enter(layout, node), *clean, *bounds, "sh", "-c", *arguments])
    except MinislurmError as error:
        raise MinislurmError(
            f"cannot {action} the daemon of '{node}': {last_line(error)}"
        ) from None


def last_line(error: Exception) -> str:
    return str(error).rstrip().splitlines()[-1]


def daemon_alive(layout: Layout, node: str) -> bool:
    return (
        run([*enter(layout, node), "sh", "-c", DAEMON_ALIVE], check=False).strip()
        == "yes"
    )
