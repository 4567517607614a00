"""The progress bar: what a terminal shows, and that nothing else shows it."""

import contextlib
import io

from sseg_jax.runtime import progress_bar


class _Terminal(io.StringIO):
  def isatty(self):
    return True


# No fixture: pytest replaces standard error once more before the test begins.
def _terminal():
  return contextlib.redirect_stderr(_Terminal())


def test_a_terminal_shows_count_time_left_and_rate():
  with (
    _terminal() as terminal,
    progress_bar.progress_bar(4, "pictures", title="voc") as bar,
  ):
    bar.update(3)
    bar.refresh()
  text = terminal.getvalue()
  assert "voc:  75%" in text and "| 3/4 [" in text
  assert "left" in text and "pictures/s]" in text


def test_a_bar_without_total_counts():
  with (
    _terminal() as terminal,
    progress_bar.progress_bar(None, "pictures", title="voc") as bar,
  ):
    bar.update(3)
    bar.refresh()
  assert "voc: 3 pictures [" in terminal.getvalue()


def test_nothing_is_printed_where_no_terminal_is(capsys):
  assert list(progress_bar.tracked("abc", "letters")) == ["a", "b", "c"]
  assert capsys.readouterr() == ("", "")


def test_other_processes_print_nothing():
  with _terminal() as terminal:
    items = list(progress_bar.tracked("abc", "letters", show=False))
  assert items == ["a", "b", "c"] and not terminal.getvalue()


def test_an_item_counts_when_it_is_done():
  with _terminal() as terminal:
    items = progress_bar.tracked(iter("ab"), "letters", total=2)
    next(items)
    assert "0/2" in terminal.getvalue() and "1/2" not in terminal.getvalue()
    list(items)
  assert "2/2" in terminal.getvalue()


def test_a_line_is_printed_above_the_bar():
  with _terminal() as terminal, progress_bar.progress_bar(2, "pictures"):
    progress_bar.print_above("note: small")
  assert "note: small\n" in terminal.getvalue()


def test_a_line_is_printed_where_no_terminal_is(capsys):
  progress_bar.print_above("note: small")
  assert capsys.readouterr() == ("", "note: small\n")


def test_a_counter_is_told_how_many_are_done():
  with (
    _terminal() as terminal,
    progress_bar.counter("pictures", title="voc") as count,
  ):
    assert not terminal.getvalue()  # the total is not known yet
    count(1, 4)
    count(4, 4)
  assert "4/4" in terminal.getvalue() and "5/4" not in terminal.getvalue()
