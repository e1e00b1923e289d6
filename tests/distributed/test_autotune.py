"""The fastest implementation is measured once for each kind of processor."""

import json

import jax.numpy as jnp
import pytest

from vasae_jax.distributed import autotune
from vasae_jax.distributed.autotune import MIN_REPEATS, fastest


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("VASAE_CACHE", str(tmp_path))
    return tmp_path / "measured"


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Seconds on the clock, which only the implementations below advance."""
    seconds = [0.0]
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: seconds[0])
    return seconds


def implementations(taken, clock, calls):
    """Implementations that take these seconds."""

    def implementation(name):
        def call():
            calls.append(name)
            clock[0] += taken[name]
            return jnp.zeros(())

        return call

    return {name: implementation(name) for name in taken}


def test_the_fastest_wins_and_is_not_measured_again(clock):
    calls = []
    first = fastest("a task", lambda: implementations({"slow": 0.25, "fast": 0.125}, clock, calls))
    assert first.name == "fast" and first.seconds == {"slow": 0.25, "fast": 0.125}
    assert calls.count("slow") == calls.count("fast") > MIN_REPEATS
    assert fastest("a task", lambda: pytest.fail("measured twice")) == first
    assert str(first) == "fast (slow 250.0 ms, fast 125.0 ms)"


def test_two_tasks_are_kept_in_one_file(home, clock):
    fastest("one", lambda: implementations({"a": 0.5}, clock, []))
    fastest("two", lambda: implementations({"b": 0.5}, clock, []))
    (file,) = home.iterdir()
    assert [key.split(",")[0] for key in json.loads(file.read_text(encoding="utf-8"))] == [
        "one",
        "two",
    ]


@pytest.mark.parametrize("content", ["[]", "{", '{"one": 3}'])
def test_a_damaged_file_is_replaced(home, clock, content):
    fastest("one", lambda: implementations({"a": 0.5}, clock, []))
    (file,) = home.iterdir()
    file.write_text(content, encoding="utf-8")
    assert fastest("one", lambda: implementations({"b": 0.5}, clock, [])).name == "b"
    assert fastest("one", lambda: pytest.fail("measured twice")).name == "b"


def test_without_a_writable_directory_it_is_measured_each_time(home, clock):
    home.write_text("no directory", encoding="utf-8")
    for name in ("a", "b"):
        assert (
            fastest("one", lambda name=name: implementations({name: 0.5}, clock, [])).name == name
        )
