"""The progress line: late, with the time left where it can be counted, and never in a pipe."""

import os
import pty
import re
import subprocess
import sys

BODY = """
import time
from porter.cli import output
output.PATIENCE = {patience}
with output.progress() as say:
    for i in range(12):
        say("passes", i, 12)
        time.sleep({pause})
    say("end to end", 0, 0)
    time.sleep({pause})
print("done")
"""


def shown(patience: float, pause: float) -> str:
    """What a terminal of the usual kind sees on stderr."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    body = BODY.format(patience=patience, pause=pause)
    child = subprocess.Popen([sys.executable, "-c", body], stderr=theirs, stdout=subprocess.PIPE, env=env)
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        text += part
    assert child.wait() == 0
    os.close(ours)
    return text.decode()


def test_a_terminal_sees_what_is_done_and_the_time_left():
    text = shown(0.2, 0.15)
    assert "passes" in text and re.search(r"\d+/12", text)
    left = re.findall(r"\d:\d\d:\d\d[^\n\r]*?(\d\d:\d\d)", text)
    assert left and {"00:00", "00:01"} & set(left), text[-400:]
    assert "end to end" in text


def test_what_is_soon_over_shows_nothing():
    assert shown(2.0, 0.01) == ""


def test_a_pipe_sees_nothing():
    body = BODY.format(patience=0.0, pause=0.02)
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")
