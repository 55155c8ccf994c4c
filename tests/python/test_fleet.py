"""The simulation of docs/FLEET.md: what it must say whatever its numbers are, and that the document says what it says."""

import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

FLEET = Path(__file__).parents[2] / "bench/fleet"
sys.path.insert(0, str(FLEET))

from engines import ENGINES, Nodes, Site, run, shared, swarm  # noqa: E402

EVEN = Site(slow_share=0.0, rollout=0.0)


def test_one_source_is_shared_out_to_the_last_byte():
    ends = shared(2.0, 24.0, [0.0] * 100, [10.0] * 100)
    assert ends == pytest.approx([1200.0] * 100)
    # Two that are slow by themselves leave their share to the third.
    assert shared(3.0, 24.0, [0.0] * 3, [0.5, 0.5, 10.0]) == pytest.approx([48.0, 48.0, 12.0])
    # The second begins when the first has half, and both end with what is theirs.
    assert shared(1.0, 24.0, [0.0, 12.0], [1.0, 1.0]) == pytest.approx([36.0, 48.0])
    # However the starts lie, a source that is never idle has sent everything when the last one ends.
    chance = random.Random(1)
    starts = [chance.uniform(0, 10) for _ in range(500)]
    ends = shared(1.0, 24.0, starts, [chance.choice([0.1, 1.0]) for _ in starts])
    assert max(ends) == pytest.approx(500 * 24.0 + min(starts), rel=1e-3)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("count", [1, 10, 333])
def test_no_engine_is_faster_than_its_parts(name, count):
    site = Site()
    outcome = run(name, count, site)
    assert len(outcome.ready) == count
    assert min(outcome.ready) >= site.model / site.node_rate
    assert outcome.all_ready >= site.model / (site.node_rate * site.slow_factor), "there is a slow node"
    assert outcome.from_source >= site.model
    capacity = {"hub alone": site.uplink, "bucket": site.bucket}.get(name)
    if capacity:
        assert outcome.all_ready >= count * site.model / capacity


def test_a_swarm_is_near_the_least_time_that_there_can_be():
    # Nodes take at their own rate from the first second on: nobody can be ready sooner, and a swarm that works is not much
    # later, at any size.
    least = EVEN.model / EVEN.node_rate
    for count in (2, 50, 1500):
        nodes = Nodes([0.0] * count, [1.0] * count)
        ready, crossed = swarm(EVEN, nodes, EVEN.seeds * EVEN.node_rate, random.Random(count))
        assert least <= max(ready) <= 1.6 * least, count
        assert 0 < crossed <= count * EVEN.pieces
    # A seed that is slower than the nodes is what they wait for.
    ready, _ = swarm(EVEN, Nodes([0.0] * 50, [1.0] * 50), 0.1, random.Random(0))
    assert max(ready) == pytest.approx(EVEN.model / 0.1, rel=0.05)


def test_a_tree_waits_for_a_slow_inner_node_and_a_swarm_does_not():
    slow = {name: run(name, 1000).all_ready for name in ENGINES}
    even = {name: run(name, 1000, EVEN).all_ready for name in ENGINES}
    alone = 1 / Site.slow_factor * Site.model / Site.node_rate
    assert slow["mirror tree"] > 1.5 * alone
    assert slow["P2P, bucket"] < 1.3 * alone
    assert even["P2P, bucket"] < even["bucket"] < even["hub alone"]


def test_the_limit_of_the_hub_lets_nodes_begin_window_by_window():
    windows = math.ceil(1200 / (Site.hub_api // Site.node_api))
    assert run("P2P, hub", 1200).all_ready >= (windows - 1) * Site.hub_window
    assert run("P2P, hub", 1200, Site(hub_api=10**9)).all_ready < Site.hub_window


def test_the_document_has_these_figures():
    command = [sys.executable, FLEET / "simulate.py", "--check", "--sizes", "10,100,1000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    other = subprocess.run([*command, "--set", "uplink=1.0"], capture_output=True, text=True)
    assert other.returncode != 0 and "| 1,000 | hub alone |" in other.stderr, other.stderr


def test_numbers_that_are_none_are_refused():
    for words in (["--set", "uplnk=1"], ["--set", "seeds=2.5"], ["--set", "uplink"], ["--sizes", "ten"]):
        done = subprocess.run([sys.executable, FLEET / "simulate.py", *words], capture_output=True, text=True)
        assert done.returncode != 0 and words[1].split("=")[0] in done.stderr and "Traceback" not in done.stderr, done.stderr
