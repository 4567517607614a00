"""The page that shows records, and the one that `prepare` writes."""

import json
import re

import numpy as np
import pytest
from webdata import jpeg

from sseg_jax import inspect_records, prepare
from sseg_jax.data import records


def _is_alone(page):
  """Whether a page refers to nothing outside of itself."""
  refers = re.findall(r'(?:src|href)="([^"]{0,40})', page)
  return all(r.startswith("data:image/jpeg;base64,") for r in refers)


def test_a_page_of_records(tmp_path, capsys):
  masks = records.encode_png(np.arange(64, dtype=np.uint8).reshape(8, 8) // 16)
  with records.RecordWriter(str(tmp_path / "r"), shard_size=4) as writer:
    for i in range(10):
      writer.write(
        records.Record(
          key=b"%d" % i,
          image=jpeg(i) if i != 7 else b"rubbish",
          captions=(b"a <b>cat</b> & a cat", b"two"),
          pseudo_labels=masks,
        )
      )
    writer.reject("too_small", "x.jpg")
  out = tmp_path / "page.html"
  argv = [str(tmp_path / "r"), f"--out={out}", "--pictures=3"]
  assert inspect_records.main(argv) == 0
  told = capsys.readouterr().out
  assert told.startswith("10 records, 10 looked at: 1.8 captions")
  assert "with stored masks: 9" in told and "unreadable: 1 (record 3" in told
  page = out.read_text()
  assert _is_alone(page)
  assert page.count("<figure>") == 3 and page.count("<img") == 6
  assert "a &lt;b&gt;cat&lt;/b&gt; &amp; a cat" in page
  assert "too_small" in page
  assert '<td class="n">4</td><td class="n">9</td>' in page  # masks a picture
  assert '<td class="n">a</td><td class="n">18</td>' in page


@pytest.mark.parametrize(
  ("flags", "message"),
  [(["none"], "no such folder"), (["r", "--scan=0"], "--scan=0: must be")],
)
def test_what_cannot_be_shown(tmp_path, flags, message, capsys):
  argv = [str(tmp_path / flags[0]), *flags[1:], f"--out={tmp_path}/x.html"]
  assert inspect_records.main(argv) == 2
  assert message in capsys.readouterr().err


def test_prepare_reports_what_survived(tmp_path):
  source = tmp_path / "s"
  (source / "eval").mkdir(parents=True)
  rows = []
  for i in range(12):
    (source / f"{i}.jpg").write_bytes(jpeg(i, (80, 64)))
    rows.append({"file_name": f"{i}.jpg", "caption": f"A dog, number {i}."})
  rows[3]["caption"] = "dog"
  rows[4]["caption"] = "dog " * 30
  rows[5]["captions"] = ["a dog", "dog"]
  (source / "6.jpg").write_bytes(jpeg(6, (300, 60)))
  (source / "7.jpg").write_bytes(jpeg(7, (40, 30)))
  (source / "8.jpg").write_bytes((source / "0.jpg").read_bytes())
  # The same to the eye: another size, encoded again.
  (source / "9.jpg").write_bytes(jpeg(1, (160, 128), quality=60))
  other = tmp_path / "val"
  other.mkdir()
  (other / "e.jpg").write_bytes(jpeg(2, (120, 96), quality=70))
  (source / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
  report = prepare.prepare(
    str(source),
    str(tmp_path / "out"),
    captions="captions.jsonl",
    min_size=32,
    max_aspect=3,
    min_words=2,
    max_words=20,
    duplicates="near",
    exclude_pictures=str(other),
    limit=4,
  )
  counts = {r: e["examples"] for r, e in report.rejected.items()}
  assert counts == {
    "caption_too_short": ["3.jpg"],
    "caption_too_long": ["4.jpg"],
    "too_narrow": ["6.jpg"],
    "too_small": ["7.jpg"],
    "duplicate_picture": ["8.jpg"],
    "near_duplicate": ["9.jpg"],
    "excluded_picture": ["2.jpg"],
    "over_limit": ["11.jpg"],
  }
  assert report.train == 4 and report.read == 12
  assert report.captions_left_out["caption_too_short"]["count"] == 1
  told = json.loads((tmp_path / "out/report.json").read_text())
  assert told["excluded_pictures"] == [["2.jpg", str(other / "e.jpg")]]
  assert told["rejected"] == report.rejected
  assert told["short_sides"] == {"64": 7, "128": 1}  # of all that converted
  assert told["words"]["dog"] == 8 and told["caption_words"] == {"2": 1, "4": 7}
  page = (tmp_path / "out/report.html").read_text()
  assert _is_alone(page) and page.count("<figure>") == 4
  assert "near_duplicate" in page and "A dog, number 1." in page
