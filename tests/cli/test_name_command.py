"""`geocache name`: given, shown, used in place of a key, taken away."""

from __future__ import annotations

import json
from typing import Any


def test_names_are_shown_and_used(build: Any, run: Any) -> None:
    assert "No caches" in run("name").out
    build()
    (listed,) = json.loads(run("ls", "--json").out)
    key = listed["key"][:8]
    assert (listed["name"], listed["note"], listed["pinned"]) == (None, "", False)
    assert run("name", key, "digits-r8", "--note", "a first try", "--pin").code == 0
    for command in (("name",), ("name", key), ("ls",), ("show", "digits-r8")):
        assert "digits-r8 (pinned) a first try" in run(*command).out
    assert json.loads(run("show", "digits-r8", "--json").out)["key"] == listed["key"]
    (held,) = json.loads(run("name", "digits-r8", "--json").out)
    assert held["note"] == "a first try" and held["pinned"] is True
    assert run("name", "digits-r8", "--unpin", "--note", "").code == 0
    assert "digits-r8\n" in run("name", key).out
    assert run("name", "digits-r8", "--remove").code == 0
    assert run("show", "digits-r8").code == 1
    assert run("name", key, "x", "--remove").code == 2


def test_what_cannot_be_a_name_or_note(build: Any, run: Any) -> None:
    build()
    key = json.loads(run("ls", "--json").out)[0]["key"][:8]
    for words in (("../up",), ("ok", "--note", "\x1b[2Jgone"), ("a\nb",)):
        result = run("name", key, *words)
        assert result.code == 1 and result.error.isprintable()
    assert json.loads(run("ls", "--json").out)[0]["name"] is None


def test_what_a_cache_says_of_itself_cannot_steer_the_terminal(run: Any) -> None:
    result = run("show", "\x1b[2Jabcd")
    assert result.code == 1 and result.error.isprintable() and "\\x1b[2Jabcd" in result.error
