"""The pure parts of the benchmark: bounds, medians, model, tables, schema."""

import json
import math
import os

import common
import crowd
import dataplane
import lazy
import memory
import model
import pytest
import results
import run
import startup
import tables
import tasks
import update
import ways
from common import Bound

LINK = 50e6
CORES = 2
NODES = (2, 4, 8, 16)


def flat(receivers):
    """A distribution that takes the line's time whatever the nodes."""
    return 1.0


@pytest.fixture
def truth():
    return model.Parameters(
        cores=CORES,
        link=LINK,
        image=170e6,
        archive=160e6,
        start=0.4,
        imports={
            "direct": 15.0,
            "sbcast-untar": 1.2,
            "sbcast-mount": 2.0,
            "vine-cold": 2.1,
            "vine-warm": 1.4,
        },
        direct_start=0.3,
        direct_ops=6000.0,
        direct_bytes=110e6,
        direct_factor=1.1,
        untar=3.0,
        sbcast_copy=1.1,
        sbcast_once=1.6,
        steps=0.5,
        mount_steps=0.6,
        stage=0.7,
        receive=0.2,
    )


def sample(way, nodes, seconds, **more):
    figures = dict.fromkeys(results.FIGURES, 0)
    base = {"way": way, "nodes": nodes, "workload": "stack", "phases": {}}
    return base | figures | {"seconds": seconds} | more


def samples_of(p):
    """What a machine would show on which the model were true to the letter."""
    predict = model.ways(p, flat)
    for nodes in NODES:
        busy = model.shared(CORES, nodes)
        for way, seconds in predict.items():
            more = {"import_seconds": p.imports[way] * busy, "phases": {}}
            if way == "direct":
                more["seconds_to_first_task"] = p.direct_start
                more["pfs_ops"] = nodes * p.direct_ops
                more["pfs_bytes"] = nodes * p.direct_bytes
            if way.startswith("sbcast"):
                size = p.archive if way == "sbcast-untar" else p.image
                sent = model.sbcast(p, nodes, size)
                more["phases"] = {"sbcast": sent, "untar": sent + p.untar * busy}
            yield sample(way, nodes, seconds(nodes, CORES), **more)


def found_from(p):
    return results.empty() | {
        "samples": list(samples_of(p)),
        "link_bytes_per_s": [LINK],
        "machine": {"cores": CORES},
        "environment": {
            "files": 17000,
            "bytes": 550e6,
            "image_bytes": p.image,
            "archive_bytes": p.archive,
        },
    }


def test_bound_knows_both_directions_and_no_number_is_a_miss():
    assert Bound("a", 1.0, 1.0).ok
    assert not Bound("a", 1.01, 1.0).ok
    assert Bound("rate", 2.0, 1.0, at_least=True).ok
    assert not Bound("rate", 0.5, 1.0, at_least=True).ok
    assert not Bound("a", math.nan, 1.0).ok
    assert not Bound("a", math.nan, 1.0, at_least=True).ok


def test_bounds_survive_their_file(tmp_path):
    bounds = [Bound("a b", 2.0, 1.0, "s"), Bound("rate", 2.0, 1.0, "MB/s", True)]
    path = common.write_json("x", {"bounds": bounds}, tmp_path)
    again = common.as_bounds(json.loads(path.read_text()))
    assert again == bounds
    table = common.bounds_table(again).splitlines()
    assert len(table) == 4
    assert "**NO**" in table[2] and "at most 1.00 s" in table[2]
    assert "yes" in table[3] and "at least 1.00 MB/s" in table[3]
    assert len({len(line) for line in table}) == 1


def test_median_of_rounds_and_how_far_apart_they_are():
    rounds = [sample("direct", 2, s, phases={"x": s / 2}) for s in (3.0, 1.0, 7.0)]
    row = results.medians(rounds)["direct", 2, "stack"]
    assert (row["seconds"], row["seconds_min"], row["seconds_max"]) == (3.0, 1.0, 7.0)
    assert row["rounds"] == 3
    assert row["phase_x"] == 1.5


def test_more_work_than_the_cores_can_do_is_shown_beside():
    def bounds(busy, cold):
        rows = [
            sample("direct", 8, 20.0),
            sample("sbcast-untar", 8, 60.0),
            sample("vine-cold", 8, cold, busy_seconds=busy * common.cores()),
        ]
        return startup.start_bounds(results.medians(rows))

    assert [bound.ok for bound in bounds(9.0, 9.5)] == [True, True]
    assert [bound.ok for bound in bounds(9.0, 10.5)] == [False, True]
    # more than the 10 s that half of direct allows, less than a fifth of 60 s
    direct, untar = bounds(11.0, 13.0)
    assert direct.ok and "1.10 of all cores' time" in direct.verdict
    assert not untar.ok and not untar.beside


def test_times_count_from_start_to_the_last_import():
    tasks = [
        {"node": f"n{i}", "began": 101.0 + i, "ended": 103.0 + 2 * i} for i in range(3)
    ]
    lines = ["phase start 100.0", "phase sbcast 100.5", *map(json.dumps, tasks)]
    found = startup.times("\n".join(lines), 3)
    assert found["seconds"] == 7.0
    assert found["seconds_to_first_task"] == 1.0
    assert found["seconds_to_last_task"] == 3.0
    assert found["import_seconds"] == 3.0
    assert found["phases"] == {"sbcast": 0.5}
    with pytest.raises(common.BenchError, match="3 tasks of 4"):
        startup.times("\n".join(lines), 4)


def test_each_way_names_the_nodes_and_the_modules():
    for way in ways.WAYS:
        script = way.script(4)
        assert script.startswith("echo phase start $(date")
        assert script.count("-w n[1-4]") == 1
        assert "sklearn.ensemble" in script
        assert "{" not in script
        assert ("--vine-env=" in script) == way.vine
        assert ("--vine-fallback=fail" in script) == way.vine


def test_plan_brings_what_a_way_needs_before():
    points = startup.plan(ways.WAYS, [2, 8], ["vine-update"])
    here = next(p for p in points if p.nodes == 2)
    names = [way.name for way in here.ways]
    assert names == ["vine-cold", "vine-warm", "vine-update"]


def test_a_slow_way_is_measured_twice_and_a_fast_one_each_round():
    point = startup.Point(
        8, "stack", (ways.BY_NAME["direct"], ways.BY_NAME["vine-cold"])
    )
    taken = [sample("direct", 8, 60.0)] * 2 + [sample("vine-cold", 8, 10.0)] * 2
    left = startup.still_wanted(point, taken, 3)
    assert [way.name for way in left] == ["vine-cold"]
    assert len(startup.still_wanted(point, taken[:1], 3)) == 2


def test_copies_of_a_block_sbcast_sends_one_after_another():
    assert [model.copies(n) for n in (1, 2, 8, 16)] == [0, 1, 7, 15]
    assert model.copies(100) == 50  # 50 groups of two: one more step
    assert model.copies(256) == 54  # 50 groups of up to six
    assert model.copies(16, width=8) == 8


def test_simulator_is_asked_once_and_its_ratio_counts_from_the_line():
    output = '[{"shape": "equal", "nodes": 7, "pieces": 512, "over_optimum": 1.1}]'
    assert model.over_line_rate(output, 7) == pytest.approx(1.1 * (1 + 2 / 512))
    with pytest.raises(ValueError, match="not enough values"):
        model.over_line_rate("[]", 8)
    asked = []
    spread = model.Simulator(lambda n: asked.append(n) or 1.0)
    assert spread(3) == spread(3) == 1.0
    assert asked == [3]


def test_calibration_finds_the_parameters_again(truth):
    found = found_from(truth)
    again = model.calibrate(found, results.medians(found["samples"]), flat)
    for name, value in vars(truth).items():
        if name != "receive":  # hidden behind the links here
            assert getattr(again, name) == pytest.approx(value, rel=0.02), name


def test_model_gives_measured_points_back_and_extends_them(truth):
    found = found_from(truth)
    made = model.build(found, results.medians(found["samples"]), flat)
    assert len(made["check"]) == 5 * len(NODES)
    for point in made["check"]:
        assert point["modelled"] == pytest.approx(point["measured"], rel=0.15), point
    at = {(p["way"], p["nodes"]): p for p in made["points"]}
    assert all(point["simulated"] for point in at.values())
    # The metadata server is the limit: four times the nodes, four times the seconds.
    direct = at["direct", 1024]["seconds"] / at["direct", 256]["seconds"]
    assert direct == pytest.approx(4, rel=0.01)
    assert at["direct", 1024]["pfs_ops"] == pytest.approx(1024 * 6000)
    # Nodes have cores of their own, and the distribution does not grow here.
    assert at["vine-cold", 1024]["seconds"] == at["vine-cold", 256]["seconds"]
    # Break-even: a file system so fast gives the same time.
    rate = made["break_even"][256]
    assert 256 * 6000 / rate == pytest.approx(
        at["vine-cold", 256]["seconds"] - truth.direct_start, rel=0.01
    )


def test_no_model_without_the_points_it_is_made_of(truth):
    found = found_from(truth)
    found["samples"] = [s for s in found["samples"] if s["way"] != "direct"]
    assert model.build(found, results.medians(found["samples"]), flat) is None


def test_tables_show_every_way_and_say_what_is_simulated(truth):
    found = found_from(truth)
    found["model"] = model.build(found, results.medians(found["samples"]), flat)
    # As read back from the file: JSON has no numbers for keys.
    found = json.loads(json.dumps(found))
    text = tables.document(found)
    for way in model.ways(truth, flat):
        assert f"| {way}: " in text
    assert "simulated" in text
    assert "1.48 x" in text and "1.79 x" in text
    found["environment"]["pack_seconds"] = 21.0
    found["samples"] += [
        sample("direct", 8, 0.4, workload="json"),
        sample("vine-cold", 8, 5.0, workload="json"),
    ]
    text = tables.readme(found, results.medians(found["samples"]))
    assert "N=16" in text
    assert "8 nodes: direct 0.400 s, vine-cold 5.00 s." in text


def test_what_is_shown_beside_says_why_and_misses_nothing():
    shown = Bound("x", 2.0, 1.0, beside="cores")
    assert shown.ok
    assert shown.row()[-1] == "beside: cores"


def test_a_link_is_no_bound_where_the_cores_are_too_few():
    result = {"nodes": 16, "bytes": 1 << 20, "rate": "400mbit", "ratio": 1.2}
    result |= {"ideal_seconds": 4.0, "cores": 2}
    few = dataplane.shaped_bound(result | {"busy_seconds": [11.0, 10.0, 9.3]})
    assert few.ok and few.beside
    enough = dataplane.shaped_bound(result | {"busy_seconds": [9.1, 11.0, 8.0]})
    assert not enough.ok


def test_a_start_is_no_bound_where_imports_fill_the_time():
    def samples(staged):
        kinds = {"staged": staged, "cold": 10.0, "first": 9.0, "again": 9.0}
        return [{"kind": kind, "seconds": value} for kind, value in kinds.items()]

    assert lazy.imports_fill(samples(7.0))
    assert not lazy.imports_fill(samples(5.0))


def test_bounds_of_the_start_compare_medians(truth):
    found = found_from(truth)
    for one in found["samples"]:
        if one["way"] == "vine-cold":
            one["pfs_bytes"] = 1.01 * truth.image + one["nodes"]
    bounds = {bound.name: bound for bound in startup.bounds(found)}
    cold = model.vine_cold(truth, 8, CORES, flat)
    ratio = bounds["8 nodes, packed image cold, seconds over direct"]
    assert ratio.measured == pytest.approx(cold / model.direct(truth, 8, CORES))
    assert ratio.limit == 0.5
    read = [b for name, b in bounds.items() if "bytes over the source's" in name]
    assert len(read) == len(NODES)
    assert bounds["vine-cold, shared file system bytes, 16 nodes over 2"].ok
    assert all(b.measured == pytest.approx(1.01) and b.ok for b in read)


def crowd_of(nodes, cpu, peak):
    return {
        "nodes": nodes,
        "seconds": 21.0,
        "ideal_seconds": 20.48,
        "sent": 100_000,
        "received": 50_000,
        "cpu_s": cpu,
        "cpu_rounds_s": [cpu, cpu],
        "peak_mib": peak,
    }


def test_bounds_of_a_crowd_are_those_of_the_largest():
    rows = [crowd_of(256, 9.0, 99.0), crowd_of(4096, 1.9, 30.0)]
    assert all(b.ok for b in crowd.bounds(rows))
    rows[-1]["cpu_s"] = 2.1
    assert [b.ok for b in crowd.bounds(rows)] == [False, True]
    rows[-1]["peak_mib"] = 64.5
    assert not any(b.ok for b in crowd.bounds(rows))
    assert "| 4,096 |" in crowd.table(rows)


def test_a_crowd_needs_a_file_a_node():
    crowd.check_files(os.getpid(), 1)
    with pytest.raises(common.BenchError, match="ulimit -Hn"):
        crowd.check_files(os.getpid(), 1 << 30)


def test_all_bounds_bear_their_parts_name_and_a_part_without_results_is_a_miss(
    tmp_path,
):
    common.write_json("results", {"bounds": [Bound("x", 1, 2, "s")]}, tmp_path)
    assert run.bounds_of("startup", tmp_path) == [Bound("startup: x", 1, 2, "s")]
    (missing,) = run.bounds_of("dataplane", tmp_path)
    assert not missing.ok and missing.name.startswith("dataplane")


def test_what_is_run_is_there():
    assert "startup" in run.present()
    for name in run.present():
        text = (run.HERE / f"{name}.py").read_text()
        assert f'common.main("{run.PARTS[name]}"' in text, name


def task_row(way, all_s, pfs_bytes):
    row = {"way": way, "first_s": 1.0, "all_s": all_s, "pfs_bytes": pfs_bytes}
    return row | {"pfs_ops": 2300, "link_bytes": 2e9}


def test_tasks_are_held_against_parsls_own_way_round_by_round():
    wanted = tasks.INPUTS * tasks.input_bytes()
    rows = [
        task_row("default", 20.0, 8 * wanted),
        task_row("vine", 10.0, wanted),
        task_row("default", 10.0, 8 * wanted),
        task_row("vine", 8.0, 1.06 * wanted),
        task_row("default", 10.0, 8 * wanted),
        task_row("vine", 11.0, wanted),
    ]
    read, time = tasks.bounds_of(rows)
    assert (read.measured, read.ok) == (pytest.approx(1.06), False)
    assert (time.measured, time.ok) == (0.8, True)
    assert "| default |" in tasks.table(rows)


def update_sample(rate, change, update_s, busy_s, bytes_moved=(30, 40)):
    return {
        "rate": rate,
        "change": change,
        "image_bytes": 1000,
        "cold_seconds": 10.0,
        "update_seconds": update_s,
        "update_busy_seconds": busy_s,
        "bytes_moved": list(bytes_moved),
    }


def test_update_compares_each_change_with_its_own_cold_start(monkeypatch):
    monkeypatch.setattr(update.common, "cores", lambda: 2)
    samples = [
        update_sample("100mbit", "package", 2.0, 3.0),
        update_sample("100mbit", "packed", 6.0, 11.0, (30, 60)),
        update_sample("400mbit", "package", 4.0, 4.9),
        update_sample("400mbit", "packed", 4.0, 5.1),
    ]

    def bounds(rate, change):
        return update.bounds_of(samples, rate, change)

    share, ratio = bounds("100mbit", "package")
    assert (share.measured, share.ok) == (0.04, True)
    assert (ratio.measured, ratio.ok) == (0.2, True)
    assert [b.ok for b in bounds("100mbit", "packed")] == [False, False]
    # Only what the cores cannot do in the allowed time is excused, and that only where
    # they are the limit; 0.25 x 10 s x 2 cores are 5 s.
    assert [b.ok for b in bounds("400mbit", "package")] == [True, False]
    assert [b.ok for b in bounds("400mbit", "packed")] == [True, True]
    assert bounds("400mbit", "packed")[1].beside
    assert not bounds("100mbit", "packed")[1].beside


# --- memory ---------------------------------------------------------------------------


def test_memory_is_touched_within_its_bounds():
    assert memory.available_bytes("MemTotal: 9 kB\nMemAvailable:  8 kB\n") == 8192
    with pytest.raises(ValueError, match="has no line 'MemAvailable'"):
        memory.available_bytes("MemTotal: 9 kB\n")
    assert memory.touch((1 << 20) + 1) == 1 << 20
