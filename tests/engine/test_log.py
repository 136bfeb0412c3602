"""The log: warnings go to it, and a folder that cannot be made stops nothing."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from engine.log import write_report


def test_warnings_go_to_the_file_and_not_to_the_screen(tmp_path: Path) -> None:
    code = (
        "import logging, sys, warnings\nfrom pathlib import Path\nfrom engine.log import log_to\n"
        "log_to(Path(sys.argv[1]))\nwarnings.warn('from a library')\nlogging.getLogger('reslab').warning('from us')\n"
    )
    for folder, logged in ((tmp_path / "home", True), (tmp_path / "file" / "home", False)):
        (tmp_path / "file").touch()
        log = folder / "reslab.log"
        result = subprocess.run([sys.executable, "-c", code, str(log)], capture_output=True, text=True, check=True)
        assert result.stderr == ""
        assert log.exists() is logged
    text = (tmp_path / "home" / "reslab.log").read_text()
    assert "from a library" in text
    assert "from us" in text
    assert logging.getLevelName(logging.WARNING) in text


def test_no_control_character_of_a_failure_reaches_the_file(tmp_path: Path) -> None:
    log = tmp_path / "reslab.log"
    assert write_report(log, ValueError("\x1b]0;title\x07 a class\x9b2J"), "run 1 failed")
    code = (
        "import logging, sys\nfrom pathlib import Path\nfrom engine.log import log_to\n"
        "log_to(Path(sys.argv[1]))\nlogging.getLogger('reslab').warning('one\\x1b[2J\\ntwo')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(log)], check=True)
    text = log.read_text(encoding="utf-8")
    assert not {char for char in text if not char.isprintable()} - {"\n"}
    assert "ValueError: ␛]0;title␇ a class\N{REPLACEMENT CHARACTER}2J\n" in text
    assert "one␛[2J\ntwo\n" in text


def test_a_log_that_cannot_be_opened_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "reslab.log").mkdir()
    code = (
        "import logging, sys\nfrom pathlib import Path\nfrom engine.log import log_to\n"
        "log_to(Path(sys.argv[1]))\nlogging.getLogger('reslab').warning('nobody hears')\nprint('went on')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "reslab.log")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("went on\n", "")
