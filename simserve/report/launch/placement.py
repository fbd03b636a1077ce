"""Where the servers of a deployment run: nodes, GPUs, ports; shared by everything that launches them by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome

FIRST_PORT, ROUTER_PORT = 8000, 9000


@dataclass(frozen=True)
class Server:
    """One replica of one pool (name '' without pools).

    run: the run as if that pool were all of it; node: the first of `nodes` nodes; devices: GPUs on each; place: which
    server of its first node it is; alone: it has the whole deployment's GPUs.
    """

    pool: str
    run: Outcome
    index: int
    port: int
    node: int
    nodes: int
    devices: tuple[int, ...]
    place: int
    alone: bool

    @property
    def visible(self) -> str:
        """The assignment in front of the command that gives it its GPUs, '' where it has all."""
        return "" if self.alone else f"CUDA_VISIBLE_DEVICES={','.join(map(str, self.devices))} "


def pools(run: Outcome) -> list[tuple[str, Outcome]]:
    """(name, the run as if that pool were all of it); the run itself under no name without pools."""
    if not run.pools:
        return [("", run)]
    blocks = {pool["name"]: pool["num_gpu_blocks"] for pool in run.pools}
    return [
        (name, replace(run, deployment=engine, num_gpu_blocks=blocks[name]))
        for name, engine in run.deployment.engines()
    ]


def gpus_per_node(run: Outcome) -> int:
    """Of the run's GPU type."""
    from simserve.spec.hardware import load_gpu

    return load_gpu(run.deployment.gpu).gpus_per_node


def servers(run: Outcome) -> list[Server]:
    """Every server on GPUs of its own, filling nodes one after the other; a new GPU type begins a new node."""
    found: list[Server] = []
    node, used, place, gpu = -1, 0, 0, ""
    alone = run.num_gpus == run.deployment.gpus_per_replica
    for name, pool in pools(run):
        whole, room = pool.deployment.gpus_per_replica, gpus_per_node(pool)
        width = min(whole, room)
        for index in range(pool.deployment.replicas):
            if pool.deployment.gpu != gpu or used + width > room:
                node, used, place, gpu = node + 1, 0, 0, pool.deployment.gpu
            nodes = -(-whole // room)
            devices = tuple(range(used, used + width))
            found.append(Server(name, pool, index, FIRST_PORT + len(found), node, nodes, devices, place, alone))
            used, place, node = used + width, place + 1, node + nodes - 1
    return found


def node_count(found: list[Server]) -> int:
    """Nodes of all servers."""
    return max(server.node + server.nodes for server in found)


def address(server: Server, count: int) -> str:
    """Where others reach the server: this machine, or the node's variable of the shell."""
    return f"127.0.0.1:{server.port}" if count == 1 else f"${{NODE{server.node}}}:{server.port}"


def script(nodes: list[list[str]], remarks: list[str], *, name: str, before: tuple[str, ...] = ()) -> str:
    """A shell script of the commands of each node; over several nodes it takes the number of the node that it runs on.

    before: lines that run on every node first.
    """
    if len(nodes) == 1:
        return "\n".join(["#!/bin/sh", *remarks, *before, *_side_by_side(nodes[0])]) + "\n"
    lines = ["#!/bin/sh", f"# on every node: {name} NODE, where NODE is 0 to {len(nodes) - 1}", *remarks, *before]
    lines.append('case "$1" in')
    for node, commands in enumerate(nodes):
        lines += [f"{node})", *(f"  {line}" for line in _side_by_side(commands)), "  ;;"]
    usage = f"usage: {name} NODE, where NODE is 0 to {len(nodes) - 1}"
    lines += ["*)", f'  echo "{usage}" >&2', "  exit 2", "  ;;", "esac"]
    return "\n".join(lines) + "\n"


def _side_by_side(commands: list[str]) -> list[str]:
    """Several servers of one machine run in the background."""
    return commands if len(commands) < 2 else [*(f"{command} &" for command in commands), "wait"]
