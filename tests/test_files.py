import os
import pathlib

import pytest

from sseg_jax import files


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ("~/runs/a", "/home/me/runs/a"),
    ("~", "/home/me"),
    ("", ""),
    ("runs/~a", "runs/~a"),
    ("a~", "a~"),
    ("~nobody-of-this-name/a", "~nobody-of-this-name/a"),
    ("gs://bucket/~/a", "gs://bucket/~/a"),
    (pathlib.Path("~/a"), "/home/me/a"),
  ],
)
def test_the_home_folder_is_put_in(given, expected, monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  assert files.expand(given) == expected


def test_another_user_has_a_home_as_well():
  user = pathlib.Path("~root").expanduser()
  assert files.expand("~root/a") == os.path.join(user, "a")
