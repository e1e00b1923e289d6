"""The fastest way is measured once for a kind of processor, and kept."""

import json
import time

import jax.numpy as jnp
import pytest

from vasae_jax.distributed.autotune import LEAST_TURNS, fastest


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("VASAE_CACHE", str(tmp_path))
    return tmp_path / "measured"


def ways(taken, calls):
    """Ways that take so many seconds."""

    def way(name):
        def run():
            calls.append(name)
            time.sleep(taken[name])
            return jnp.zeros(())

        return run

    return {name: way(name) for name in taken}


def test_the_faster_way_wins_and_is_not_measured_again(home):
    calls = []
    first = fastest("a question", lambda: ways({"slow": 0.02, "fast": 0.0}, calls))
    assert first.name == "fast" and set(first.seconds) == {"slow", "fast"}
    assert calls.count("slow") == calls.count("fast") > LEAST_TURNS
    assert fastest("a question", lambda: pytest.fail("measured twice")) == first
    assert str(first).startswith("fast (slow 2")


def test_another_question_keeps_the_first_ones_answer(home):
    fastest("one", lambda: ways({"a": 0.0}, []))
    fastest("two", lambda: ways({"b": 0.0}, []))
    (file,) = home.iterdir()
    assert [key.split(",")[0] for key in json.loads(file.read_text())] == ["one", "two"]


@pytest.mark.parametrize("content", ["[]", "{", '{"one": 3}'])
def test_a_damaged_file_is_measured_over(home, content):
    fastest("one", lambda: ways({"a": 0.0}, []))
    (file,) = home.iterdir()
    file.write_text(content)
    assert fastest("one", lambda: ways({"b": 0.0}, [])).name == "b"
    assert fastest("one", lambda: pytest.fail("measured twice")).name == "b"


def test_where_nothing_can_be_written_it_is_measured_each_time(home):
    home.write_text("no directory")
    for name in ("a", "b"):
        assert fastest("one", lambda name=name: ways({name: 0.0}, [])).name == name
