"""Both layouts of control groups, as folders that look like the kernel's."""

import os
from pathlib import Path

import pytest

from agents.runtimes import cgroups


def _v2(root: Path) -> Path:
    """Lay out a v2 tree in which this process is where it says it is; return its parent."""
    here = root / _own_v2_path().lstrip("/")
    here.mkdir(parents=True)
    (root / "cgroup.controllers").write_text("memory pids\n")
    (here.parent / "cgroup.subtree_control").write_text("\n")
    return here.parent


def _own_v2_path() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next((line.split(":", 2)[2] for line in lines if line.startswith("0::")), "")


class TestCreate:
    def test_what_systemd_did_not_delegate_is_left_alone(self, tmp_path):
        parent = _v2(tmp_path / "tree" / "cgroup")

        assert cgroups.create("hearth-x", 1 << 30, root=tmp_path / "tree" / "cgroup") is None
        assert (parent / "cgroup.subtree_control").read_text() == "\n"

    def test_in_a_delegated_parent_one_is_made_beside_the_agents(self, tmp_path):
        parent = _v2(tmp_path / "tree" / "cgroup")
        os.setxattr(parent, "user.delegate", b"1")

        group = cgroups.create("hearth-x", 1 << 30, root=tmp_path / "tree" / "cgroup")

        assert group is not None
        assert group.path == parent / "hearth-x"
        assert (parent / "cgroup.subtree_control").read_text() == "+memory"

    def test_where_there_is_no_such_tree_none_is_made(self, tmp_path):
        assert cgroups.create("hearth-x", 1 << 30, root=tmp_path / "absent") is None

    def test_on_this_machine_the_limit_is_the_kernels(self):
        if os.geteuid() != 0:
            pytest.fail("run the tests as root: nobody else may make control groups")
        group = cgroups.create("hearth-test-limit", 64 << 20)
        assert group is not None
        try:
            names = ("memory.max", "memory.limit_in_bytes")
            limits = [
                (group.path / name).read_text() for name in names if (group.path / name).exists()
            ]
            assert limits == [f"{64 << 20}\n"]
        finally:
            group.remove()

        assert not group.path.exists()


class TestMemory:
    @pytest.mark.parametrize(
        ("usage", "idle"),
        [
            ("memory.current", "inactive_file"),
            ("memory.usage_in_bytes", "total_inactive_file"),
        ],
        ids=["v2", "v1"],
    )
    def test_cache_that_nobody_reads_does_not_count(self, tmp_path, usage, idle):
        (tmp_path / usage).write_text("1000\n")
        (tmp_path / "memory.stat").write_text(f"anon 500\n{idle} 300\n")

        assert cgroups.Group(tmp_path).memory_bytes() == 700

    def test_a_group_that_is_gone_tells_nothing(self, tmp_path):
        assert cgroups.Group(tmp_path / "absent").memory_bytes() is None


class TestOfProcess:
    def test_finds_the_group_that_bounds_a_process(self):
        group = cgroups.of_process(os.getpid())

        assert group is not None
        assert group.path.is_dir()

    def test_a_process_that_is_gone_has_none(self):
        assert cgroups.of_process(2**22 + 1) is None
