"""Tests of how commands tell errors."""

import io
import sys

from sseg_jax.errors import InputError, reported


def test_an_error_is_one_line_whatever_its_names_hold(capsys):
  @reported
  def main():
    raise InputError("a\nb.png: no such picture")

  assert main() == 2
  assert capsys.readouterr().err == "error: a b.png: no such picture\n"


def test_names_that_are_no_text_are_printed(monkeypatch):
  @reported
  def main():
    print("caf\udce9 猫")

  out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
  monkeypatch.setattr(sys, "stdout", out)
  assert main() == 0
  out.flush()
  assert out.buffer.getvalue() == b"caf\\udce9 \\u732b\n"
