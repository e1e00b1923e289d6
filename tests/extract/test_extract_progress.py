"""What a user sees while rows are extracted."""

import io

from vasae_jax.utils.progress import Progress, duration


class Screen(io.StringIO):
    def __init__(self, tty):
        super().__init__()
        self.tty = tty

    def isatty(self):
        return self.tty


def shown(tty, total=1000, done=0, counts=range(0, 1001, 100)):
    now = [0.0]
    screen = Screen(tty)
    progress = Progress(total, done, stream=screen, clock=lambda: now[0])
    for count in counts:
        progress.update(count)
        now[0] += 2.0
    progress.finish(counts[-1])
    return screen.getvalue()


def test_a_log_gets_a_line_every_few_seconds():
    lines = shown(tty=False).splitlines()
    assert lines == [
        "300 / 1,000 rows (30 %), 50 rows/s, 14 s left",
        "600 / 1,000 rows (60 %), 50 rows/s, 8 s left",
        "900 / 1,000 rows (90 %), 50 rows/s, 2 s left",
        "1,000 / 1,000 rows (100 %), 45 rows/s, 22 s taken",
    ]


def test_a_terminal_keeps_one_line():
    text = shown(tty=True)
    assert text.count("\n") == 1
    assert text.count("\r") == 11


def test_the_rate_after_a_restart_counts_new_rows_only():
    first = shown(tty=False, done=500, counts=range(500, 1001, 100)).splitlines()[0]
    assert first == "800 / 1,000 rows (80 %), 50 rows/s, 4 s left"


def test_an_error_begins_on_a_line_of_its_own():
    now = [0.0]
    screen = Screen(tty=True)
    try:
        with Progress(10, stream=screen, clock=lambda: now[0]) as progress:
            now[0] = 1.0
            progress.update(5)
            raise KeyError
    except KeyError:
        assert screen.getvalue().endswith("left\n")


def test_an_unknown_total_shows_no_time_left():
    assert shown(tty=False, total=None).splitlines()[-1] == "1,000 rows in 22 s"


def test_durations():
    assert [duration(s) for s in (0.4, 59, 61, 7261)] == ["0 s", "59 s", "1 min 01 s", "2 h 01 min"]
