"""Locks that show that an owner of budget lives: killed processes, forks, and systems without locks."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from dynscale_dspy.budget.stores import owners
from dynscale_dspy.budget.stores.owners import OwnerLock, claim

OWNER = """
    import os, sys
    from pathlib import Path
    from dynscale_dspy.budget.stores.owners import OwnerLock, claim
    path = Path(sys.argv[1])
    lock = OwnerLock(path, lasting=len(sys.argv) > 2)
"""


def owner(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that makes a lock and runs the code."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", textwrap.dedent(OWNER) + textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_living_owner_cannot_be_claimed(tmp_path):
    path = tmp_path / "owner"
    lock = OwnerLock(path)
    assert claim(path) is None
    assert path.read_bytes() == b""
    lock.release()
    with pytest.raises(FileNotFoundError):
        claim(path)
    assert list(tmp_path.iterdir()) == []


def test_an_owner_in_another_process_lives_until_it_is_killed(tmp_path):
    path = tmp_path / "owner"
    process = owner("print(1); sys.stdin.read()", path)
    process.stdout.readline()
    assert claim(path) is None
    process.kill()
    process.communicate()
    lock = claim(path)
    assert lock is not None and lock.path == path
    assert claim(path) is None  # by one only
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_is_let_go_can_be_made_again(tmp_path):
    path = tmp_path / "owner"
    OwnerLock(path).release(keep=True)
    for _ in range(2):
        lock = claim(path)
        assert lock is not None
        lock.release(keep=True)
    claim(path)
    gc.collect()  # lost without a release
    assert claim(path) is not None


def test_a_second_release_does_nothing(tmp_path):
    lock = OwnerLock(tmp_path / "owner")
    lock.release()
    other = OwnerLock(tmp_path / "owner")
    lock.release()
    assert claim(tmp_path / "owner") is None
    other.release()


@pytest.mark.parametrize("end", ["", "del lock", "sys.exit()", "raise ValueError", "lock.release()"])
def test_an_owner_that_ends_well_leaves_nothing(end, tmp_path):
    owner(f"sys.stderr.close()\n{end}", tmp_path / "owner").communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_lasting_file_stays_until_it_is_released(tmp_path):
    path = tmp_path / "owner"
    owner("", path, "lasting").communicate()
    lock = claim(path)
    assert lock is not None
    lock.release()
    owner("lock.release()", path, "lasting").communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_ends_leaves_its_parents_lock_alone(tmp_path):
    path = tmp_path / "owner"
    process = owner(
        """
        for end in ("os._exit(0)", "sys.exit()", "lock.release(); del lock"):
            child = os.fork()
            if not child:
                print(claim(path))
                exec(end)
                sys.exit()
            os.waitpid(child, 0)
        print("done")
        sys.stdin.read()
        """,
        path,
    )
    assert [process.stdout.readline().strip() for _ in range(4)] == ["None", "None", "None", "done"]
    assert claim(path) is None
    process.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_child_does_not_keep_its_parents_lock(tmp_path):
    path = tmp_path / "owner"
    process = owner(
        """
        if os.fork():
            os.kill(os.getpid(), 9)
        print("child")
        sys.stdin.read()
        """,
        path,
    )
    assert process.stdout.readline() == "child\n"
    assert process.wait() == -signal.SIGKILL
    lock = claim(path)
    assert lock is not None
    lock.release()
    process.communicate()


def test_a_program_that_an_owner_starts_does_not_keep_its_lock(tmp_path):
    path = tmp_path / "owner"
    process = owner(
        """
        import subprocess
        subprocess.Popen(["sh", "-c", "echo started; cat"], close_fds=False)
        sys.stdin.readline()
        os.kill(os.getpid(), 9)
        """,
        path,
    )
    assert process.stdout.readline() == "started\n"
    assert claim(path) is None
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert claim(path) is not None
    process.communicate()


def test_without_locks_an_owner_counts_as_living(tmp_path, monkeypatch):
    path = tmp_path / "owner"
    monkeypatch.setattr(owners, "fcntl", None)
    lock = OwnerLock(path)
    assert list(tmp_path.iterdir()) == []
    lock.release()
    path.touch()
    assert claim(path) is None


def test_on_a_file_system_without_locks_there_is_no_file(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(owners.fcntl, "flock", refuse)
    OwnerLock(tmp_path / "owner").release()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "owner").touch()
    assert claim(tmp_path / "owner") is None


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_counts_as_living(tmp_path):
    path = tmp_path / "owner"
    path.touch(0o000)
    assert claim(path) is None


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        OwnerLock(tmp_path / "nowhere" / "owner")


def test_a_file_that_its_owner_deletes_meanwhile_is_gone(tmp_path, monkeypatch):
    path = tmp_path / "owner"
    OwnerLock(path).release(keep=True)
    lock_it = owners.fcntl.flock

    def late(*arguments: object) -> None:
        path.unlink()
        lock_it(*arguments)

    monkeypatch.setattr(owners.fcntl, "flock", late)
    with pytest.raises(FileNotFoundError):
        claim(path)
