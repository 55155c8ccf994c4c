"""Four ways to bring one model to many nodes, as models with few numbers: who has the bytes, who may send how fast, and
what a node can take. Rates are GB/s, sizes GB, times seconds after the rollout began. Each engine returns, for every node,
when it has the whole model, verified.

What the models leave out is in docs/FLEET.md, "What the simulation leaves out".
"""

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass

GIGABIT = 0.125  # GB/s


@dataclass(frozen=True)
class Site:
    """A site, its hub and its bucket. docs/FLEET.md's table of assumptions says where each number comes from."""

    model: float = 24.0
    files: int = 6
    node_rate: float = 0.87  # What a node receives, hashes and writes: bench/README.md, four files.
    node_upload: float = 25 * GIGABIT
    slow_share: float = 0.01  # Nodes that do everything at `slow_factor`.
    slow_factor: float = 0.2
    rollout: float = 30.0  # Nodes begin at random within it.
    rack: int = 32
    uplink: float = 10 * GIGABIT  # From the site to the internet.
    hub_client: float = 0.5  # What the hub's CDN gives to one node.
    hub_window: float = 300.0  # Windows in which the hub counts requests of one user.
    hub_api: int = 1000  # Requests to its API in a window.
    hub_resolve: int = 5000  # Requests for files in a window.
    node_api: int = 2  # The revision and the listing.
    node_resolve: int = 12  # Six shards and six small files.
    bucket: float = 200 * GIGABIT
    fan_out: int = 8  # Children of a mirror.
    cluster: int = 5000  # Peers of one P2P cluster.
    seeds: int = 3  # Seed peers of a cluster.
    pieces: int = 64  # Coarser than Dragonfly's, so that 100,000 nodes can be simulated.
    parents: int = 4  # Peers that a node is told of at a time.
    scheduler: float = 1000.0  # Downloads that one cluster's scheduler takes on in a second; a file is one.


@dataclass
class Outcome:
    """When each node is ready, and what that cost others."""

    ready: list[float]
    from_source: float  # GB that left the hub or the bucket.
    hub_requests: int = 0
    across_racks: float = math.nan  # Share of the bytes that left their rack.

    @property
    def all_ready(self) -> float:
        return max(self.ready)

    @property
    def half_ready(self) -> float:
        return sorted(self.ready)[(len(self.ready) - 1) // 2]


@dataclass(frozen=True)
class Nodes:
    """Where chance has put the slow nodes, and when each begins."""

    starts: list[float]
    speeds: list[float]  # 1.0, or `slow_factor`.


def draw_nodes(site: Site, count: int, chance: random.Random) -> Nodes:
    """At least one node is slow, so that ten nodes tell something of a slow one, too."""
    slow = set(chance.sample(range(count), max(1, round(count * site.slow_share))))
    starts = sorted(chance.uniform(0, site.rollout) for _ in range(count))
    return Nodes(starts, [site.slow_factor if node in slow else 1.0 for node in range(count)])


def shared(capacity: float, size: float, starts: list[float], caps: list[float]) -> list[float]:
    """When each of the downloads ends that one source with `capacity` serves at once, each at an equal share or its cap.

    Downloads of one cap are a class: they advance alike, so the one that began first ends first, and only what a member of
    the class has received by now has to be kept.
    """
    ends = [0.0] * len(starts)
    arrivals = sorted(range(len(starts)), key=starts.__getitem__)
    received = dict.fromkeys(sorted(set(caps)), 0.0)
    running: dict[float, deque[tuple[int, float]]] = {cap: deque() for cap in received}
    now, arrived = 0.0, 0
    while arrived < len(arrivals) or any(running.values()):
        rates, left, over = {}, sum(map(len, running.values())), capacity
        for cap, members in running.items():  # The lowest cap first: what it leaves is for the others.
            if members:
                rates[cap] = min(cap, over / left)
                over -= rates[cap] * len(members)
                left -= len(members)
        next_end = min(
            ((running[cap][0][1] + size - received[cap]) / rate + now for cap, rate in rates.items()), default=math.inf
        )
        next_start = starts[arrivals[arrived]] if arrived < len(arrivals) else math.inf
        then = min(next_end, next_start)
        for cap, rate in rates.items():
            received[cap] += rate * (then - now)
        now = then
        if next_start <= next_end:
            node = arrivals[arrived]
            running[caps[node]].append((node, received[caps[node]]))
            arrived += 1
            continue
        for cap in rates:
            members = running[cap]
            while members and received[cap] - members[0][1] >= size - 1e-9:
                ends[members.popleft()[0]] = now
    return ends


def admitted(site: Site, nodes: Nodes, in_window: int, first: int = 0, step: int = 1) -> Nodes:
    """The same nodes, where the hub lets `in_window` of them begin in each of its windows. They are number `first`, `first +
    step`, and so on, of all nodes of the site."""
    starts = [
        max(start, site.hub_window * ((first + place * step) // in_window)) for place, start in enumerate(nodes.starts)
    ]
    return Nodes(starts, nodes.speeds)


def hub_alone(site: Site, count: int, chance: random.Random) -> Outcome:
    """Every node downloads from the hub, through the site's uplink, under one account."""
    in_window = min(site.hub_api // site.node_api, site.hub_resolve // site.node_resolve)
    nodes = admitted(site, draw_nodes(site, count, chance), in_window)
    caps = [min(site.hub_client, site.node_rate * speed) for speed in nodes.speeds]
    return Outcome(
        shared(site.uplink, site.model, nodes.starts, caps),
        from_source=site.model * count,
        hub_requests=count * (site.node_api + site.node_resolve),
    )


def bucket(site: Site, count: int, chance: random.Random) -> Outcome:
    """Every node downloads from a bucket in its own region."""
    nodes = draw_nodes(site, count, chance)
    caps = [site.node_rate * speed for speed in nodes.speeds]
    return Outcome(shared(site.bucket, site.model, nodes.starts, caps), from_source=site.model * count)


def mirror_tree(site: Site, count: int, chance: random.Random) -> Outcome:
    """One node downloads from the hub, and each node serves `fan_out` others. A file is passed on when it is whole."""
    nodes = draw_nodes(site, count, chance)
    size = site.model / site.files
    whole: list[list[float]] = []  # For each node, when it has each file.
    for node in range(count):
        rate = site.node_rate * nodes.speeds[node]
        if node == 0:
            rate, there = min(rate, site.hub_client, site.uplink), [0.0] * site.files
        else:
            parent = (node - 1) // site.fan_out
            children = min(site.fan_out, count - 1 - parent * site.fan_out)
            rate = min(rate, site.node_upload * nodes.speeds[parent] / children)
            there = whole[parent]
        now, times = nodes.starts[node], []
        for file in range(site.files):
            now = max(now, there[file]) + size / rate
            times.append(now)
        whole.append(times)
    return Outcome(
        [times[-1] for times in whole], from_source=site.model, hub_requests=site.node_api + site.node_resolve
    )


def p2p_hub(site: Site, count: int, chance: random.Random) -> Outcome:
    """Nodes in clusters of peers, whose seeds bring the model from the hub, through the uplink. Every node asks the hub's API
    what the model is, under one account."""
    clusters = math.ceil(count / site.cluster)
    source = min(site.uplink, clusters * site.seeds * site.hub_client)
    outcome = p2p(site, count, chance, source, site.hub_api // site.node_api)
    outcome.hub_requests = clusters * site.node_resolve + site.node_api * count
    return outcome


def p2p_bucket(site: Site, count: int, chance: random.Random) -> Outcome:
    """As `p2p_hub`, but everything is asked of a bucket."""
    return p2p(site, count, chance, site.bucket, count)


def p2p(site: Site, count: int, chance: random.Random, source: float, in_window: int) -> Outcome:
    """Clusters of peers. `source` is the rate for the seeds of all of them together, and `in_window` nodes may begin in a
    window of the hub's."""
    clusters = math.ceil(count / site.cluster)
    seed_rate = min(source / clusters, site.seeds * site.node_rate)
    ready: list[float] = []
    crossed = 0
    for cluster in range(clusters):
        peers = count // clusters + (cluster < count % clusters)
        nodes = admitted(site, draw_nodes(site, peers, chance), in_window, cluster, clusters)
        times, left_rack = swarm(site, nodes, seed_rate, chance)
        ready += times
        crossed += left_rack
    return Outcome(ready, site.model * clusters, across_racks=crossed / (count * site.pieces))


def swarm(site: Site, nodes: Nodes, seed_rate: float, chance: random.Random) -> tuple[list[float], int]:
    """One cluster, in rounds in which a node of usual speed takes one piece. Half of the parents that a node is told of are in
    its rack. Returns when each node is ready, and how many pieces left their rack."""
    count, whole = len(nodes.starts), (1 << site.pieces) - 1
    piece = site.model / site.pieces
    round_time = piece / site.node_rate
    slots = max(1, int(site.node_upload / site.node_rate))
    every = round(1 / site.slow_factor)  # A slow node takes, and sends, in one of so many rounds.
    begins = [max(start, node * site.files / site.scheduler) for node, start in enumerate(nodes.starts)]
    have, ready = [0] * count, [0.0] * count
    waiting = [(begin, node) for node, begin in enumerate(begins)]
    heapq.heapify(waiting)
    active: list[int] = []
    number, crossed, done = 0, 0, 0
    while done < count:
        if not active:  # Nothing happens before the next node begins.
            number = max(number, math.ceil(waiting[0][0] / round_time))
        now = number * round_time
        while waiting and waiting[0][0] <= now:
            active.append(heapq.heappop(waiting)[1])
        seeded = (1 << min(site.pieces, int(seed_rate * now / piece))) - 1
        seed_slots = site.seeds * slots
        free: dict[int, int] = {}
        came: list[tuple[int, int]] = []
        chance.shuffle(active)
        for node in active:
            if nodes.speeds[node] < 1 and number % every:
                continue
            lacks = ~have[node] & whole
            rack = node // site.rack * site.rack
            size = min(site.rack, count - rack)
            parent, offered = -1, 0
            for candidate in range(site.parents):
                if candidate % 2:
                    other = int(chance.random() * count)
                else:
                    other = rack + int(chance.random() * size)
                offered = have[other] & lacks
                sends = nodes.speeds[other] == 1 or number % every == 0
                if offered and sends and free.get(other, slots) > 0:
                    parent = other
                    break
            if parent >= 0:
                free[parent] = free.get(parent, slots) - 1
                crossed += not rack <= parent < rack + size
            elif seeded & lacks and seed_slots > 0:
                offered = seeded & lacks
                seed_slots -= 1
                crossed += 1
            else:
                continue
            # One of the pieces that are offered, at random.
            offset = int(chance.random() * site.pieces)
            above = offered >> offset
            came.append((node, (above & -above) << offset if above else offered & -offered))
        for node, bit in came:  # What came in this round is passed on from the next one.
            have[node] |= bit
            if have[node] == whole:
                ready[node] = now + round_time
                done += 1
        if came:
            active = [node for node in active if have[node] != whole]
        number += 1
    return ready, crossed


ENGINES = {
    "hub alone": hub_alone,
    "bucket": bucket,
    "mirror tree": mirror_tree,
    "P2P, hub": p2p_hub,
    "P2P, bucket": p2p_bucket,
}


def runs(count: int) -> int:
    """How many draws of chance are looked at. Of many nodes one draw is enough: they have slow ones in every place."""
    return 9 if count <= 1000 else 1


def run(name: str, count: int, site: Site | None = None) -> Outcome:
    """One engine at one size: of several draws the one whose last node is ready at the median time. The same numbers give the
    same outcome, on every machine."""
    engine = ENGINES[name]
    drawn = [engine(site or Site(), count, random.Random(f"{name} {count} {draw}")) for draw in range(runs(count))]
    return sorted(drawn, key=lambda outcome: outcome.all_ready)[len(drawn) // 2]
