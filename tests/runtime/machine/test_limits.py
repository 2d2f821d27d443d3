import resource

import pytest

from zoedge.runtime.machine.limits import limits
from zoedge.runtime.machine.memory import Held, Watch, memory_held

MIB = 1 << 20
NOW = Held(peak=90 * MIB, resident=80 * MIB, anonymous=50 * MIB, data=70 * MIB, address=200 * MIB)


def files(root, **contents):
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def allowed(root):
    return {limit.name: limit.allowed for limit in limits(NOW, root=root) if limit.kind == "anonymous"}


def test_without_accounts_there_is_no_limit(tmp_path):
    assert allowed(tmp_path) == {}


def test_available_memory_comes_on_top_of_what_is_held(tmp_path):
    files(tmp_path, **{"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    2048 kB\n"})
    assert allowed(tmp_path) == {"memory available on this machine": 52 * MIB}


def test_version_2_takes_the_tightest_group_and_counts_pages_of_files_as_free(tmp_path):
    group = "sys/fs/cgroup/outer/inner"
    stat = f"anon 1\ninactive_file {10 * MIB}\nactive_file {5 * MIB}\n"
    contents = {
        "proc/self/cgroup": "0::/outer/inner\n",
        f"{group}/memory.max": "max\n",
        f"{group}/memory.current": f"{60 * MIB}\n",
        "sys/fs/cgroup/outer/memory.max": f"{100 * MIB}\n",
        "sys/fs/cgroup/outer/memory.current": f"{70 * MIB}\n",
        "sys/fs/cgroup/outer/memory.stat": stat,
    }
    assert allowed(files(tmp_path, **contents)) == {"limit of the control group": (50 + 100 - 70 + 15) * MIB}


@pytest.mark.parametrize("inside", [False, True])  # a container mounts its own group as the root
def test_version_1_takes_the_limit_of_the_hierarchy(tmp_path, inside):
    folder = "sys/fs/cgroup/memory" + ("" if inside else "/docker/abc")
    stat = f"hierarchical_memory_limit {80 * MIB}\ntotal_inactive_file {MIB}\ntotal_active_file {MIB}\n"
    contents = {
        "proc/self/cgroup": "5:cpu:/\n4:memory:/docker/abc\n0::/\n",
        f"{folder}/memory.stat": stat,
        f"{folder}/memory.usage_in_bytes": f"{60 * MIB}\n",
    }
    assert allowed(files(tmp_path, **contents)) == {"limit of the control group": (50 + 80 - 60 + 2) * MIB}


def test_version_1_writes_a_huge_number_for_no_limit(tmp_path):
    contents = {
        "proc/self/cgroup": "4:memory:/\n",
        "sys/fs/cgroup/memory/memory.stat": "hierarchical_memory_limit 9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
    }
    assert allowed(files(tmp_path, **contents)) == {}


def test_limits_of_the_process_are_absolute(tmp_path, monkeypatch):
    soft = {resource.RLIMIT_DATA: 300 * MIB, resource.RLIMIT_AS: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda number: (soft[number], soft[number]))
    assert [tuple(limit) for limit in limits(NOW, root=tmp_path)] == [("RLIMIT_DATA", "data", 300 * MIB)]


def test_a_watch_sees_what_was_held_between_its_ends():
    before = memory_held().anonymous
    with Watch() as watch:
        block = bytearray(64 * MIB)
        block[::4096] = b"1" * len(block[::4096])
        while watch.most.anonymous < before + 60 * MIB:
            pass
        del block
    assert watch.most.anonymous >= before + 60 * MIB
