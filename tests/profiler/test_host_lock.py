"""Two that measure on one machine take turns."""

from __future__ import annotations

import threading

import pytest
from lock_kit import holder, own_lock  # noqa: F401

from tundish.ir.diagnostics import RunError
from tundish.profiler import host_lock
from tundish.profiler.host_lock import measuring_alone


def test_a_second_one_waits_and_says_so(holder):
    said: list[str] = []
    ends = threading.Timer(0.5, holder.communicate, ["\n"])

    def say(text: str) -> None:
        said.append(text)
        ends.start()  # it is let go only once this one is known to wait

    with measuring_alone(say) as waited_s:
        assert len(said) == 1 and "waiting" in said[0] and waited_s > 0
    ends.join()


def test_the_lock_of_one_that_was_killed_is_free(holder):
    holder.kill()
    holder.communicate()
    with measuring_alone(lambda text: pytest.fail(text)):
        pass


def test_it_is_free_again_after_an_error():
    with pytest.raises(KeyError), measuring_alone():
        raise KeyError
    with measuring_alone(lambda text: pytest.fail(text)):
        pass


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / host_lock.LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="cannot open the lock"), measuring_alone():
        pass
    assert not (tmp_path / "elsewhere").exists()
