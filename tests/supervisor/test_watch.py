"""The file watch: tells of changes once they have come to rest."""

import os
import time

import pytest

from gatewright.supervisor.watch import Watch

LATER = time.time() + 1e6  # whoever reads the files, does it after all that is done to them here


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "gateway.yaml"
    path.write_text("a: 1\n")
    return path


@pytest.fixture
def watch(file):
    watch = Watch()
    watch.set([file], LATER)
    return watch


def test_without_a_change_there_is_nothing_to_tell(watch):
    assert [watch.look() for _ in range(5)] == [False] * 5


def test_a_change_is_told_once_when_it_rests(watch, file):
    file.write_text("a: 22\n")
    assert [watch.look() for _ in range(4)] == [False, True, False, False]


def test_a_file_that_is_still_being_written_is_waited_for(watch, file):
    for length in range(10, 15):
        file.write_text("x" * length)
        assert not watch.look()
    assert watch.look()


def test_a_replaced_file_of_equal_size_and_time_is_a_change(watch, file, tmp_path):
    before = os.stat(file)
    other = tmp_path / "other"
    other.write_text("a: 2\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, file)
    assert [watch.look(), watch.look()] == [False, True]


def test_a_symbolic_link_that_is_swapped_is_a_change(tmp_path):
    """This is how Kubernetes changes mounted configuration."""
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "g.yaml").write_text(name)
    (tmp_path / "data").symlink_to("v1")
    watch = Watch()
    watch.set([tmp_path / "data" / "g.yaml"], LATER)
    (tmp_path / "new").symlink_to("v2")
    os.replace(tmp_path / "new", tmp_path / "data")
    assert [watch.look(), watch.look()] == [False, True]


def test_coming_and_going_are_changes(watch, file):
    file.unlink()
    assert [watch.look(), watch.look()] == [False, True]
    file.write_text("back\n")
    assert [watch.look(), watch.look()] == [False, True]


def test_what_is_watched_anew_goes_on_from_what_was_seen(watch, file, tmp_path):
    file.write_text("a: 333\n")
    watch.set([file, tmp_path / "more"], LATER)
    assert [watch.look(), watch.look()] == [False, True]


def test_what_was_accepted_is_no_change(watch, file):
    file.write_text("a: 333\n")
    watch.accept()
    assert [watch.look(), watch.look()] == [False, False]


def test_a_change_between_the_reading_and_the_watching_is_one(file):
    """Whoever read it may have seen what it held before."""
    os.utime(file, (1000, 1000))
    watch = Watch()
    watch.set([file], 999)
    assert [watch.look() for _ in range(3)] == [False, True, False]
    watch = Watch()
    watch.set([file], LATER)
    assert [watch.look() for _ in range(3)] == [False, False, False]


def test_permissions_are_a_change(watch, file):
    """What could not be read was refused, and can be read now."""
    file.chmod(0o600)
    assert [watch.look(), watch.look()] == [False, True]


def test_of_a_file_that_was_written_only_its_own_change_is_accepted(watch, file, tmp_path):
    other = tmp_path / "other"
    watch.set([file, other], LATER)
    file.write_text("a: 333\n")
    other.write_text("new\n")
    watch.accept(file)
    assert [watch.look(), watch.look()] == [False, True]
