"""What INPUT names: paths, folders, globs; and names that cannot collide."""

from __future__ import annotations

from pathlib import Path

import pytest
from recordings import frames, write_image, write_raw, write_video

from irstd.data import inputs
from irstd.data.sequence import joined_sha256
from irstd.errors import InputError
from irstd.files import sha256_file


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def names(*given: str) -> list[str]:
    return [each.name for each in inputs.recordings(given)]


def test_folders_and_globs():
    for name in ("x/a.mkv", "x/Night 2/c.mkv", "y/b.mkv"):
        write_video(Path(name), frames(2))
    for folder in ("x/stills", "only"):
        for index in (2, 10):
            write_image(Path(folder) / f"{index}.png", frames(1)[0])
    assert names("x") == ["night-2-c", "a", "stills"]
    assert names("only") == ["only"] and inputs.alone(["only"])
    assert names("only/*.png") == ["10", "2"]  # each image by itself
    assert names("x/**/*.mkv", "y") == ["night-2-c", "a", "b"]
    assert names("x/a.mkv", "./x/a.mkv", "x/*.mkv") == ["a"]  # once each
    assert not inputs.alone(["x"]) and not inputs.alone(["x/*.mkv"]) and not inputs.alone(["x/a.mkv", "y/b.mkv"])
    assert inputs.alone(["x/a.mkv"])
    # Ray's workers, for whom they are, have another working directory.
    assert all(each.path.is_absolute() for each in inputs.recordings(["x", "y/*.mkv", "only"]))
    assert [each.shown for each in inputs.recordings(["x"])] == ["x/Night 2/c.mkv", "x/a.mkv", "x/stills"]


def test_a_path_that_looks_like_a_glob():
    write_video(Path("day[1]/a.mkv"), frames(2))
    assert names("day[1]/a.mkv") == ["a"]


def test_names_do_not_collide():
    for name in ("x/a b.mkv", "x/a-b.mkv", "x/A_B.avi", "y/a.mkv", "z/a.mkv", "x/видео.mkv", f"x/{'n' * 150}.mkv"):
        write_video(Path(name), frames(2))
    found = names("x", "y/a.mkv", "z/a.mkv")
    assert len(set(found)) == len(found) == 7
    assert sum(name.startswith("a-b-") for name in found) == 2 and "a_b" in found
    assert sum(name.startswith("a-") and len(name) == 10 for name in found) == 2
    assert any(name.startswith("recording-") for name in found) and max(map(len, found)) == 109
    assert names("x", "y/a.mkv", "z/a.mkv") == found  # and stay
    assert "a-b" in names("x/a b.mkv")


def test_sidecars_and_what_has_none():
    write_raw(Path("x/a.raw"), frames(3, bits=14))
    Path("x/a.yaml").write_text(Path("x/a.yaml").read_text() + "bit_depth: 14\nfps: 12.5\n")
    (found,) = inputs.recordings(["x"])
    assert (found.bit_depth, found.fps, found.name) == (14, 12.5, "a")
    assert inputs.recordings(["x/a.raw"])[0].bit_depth == 14
    assert inputs.expected_frames(Path("x/a.raw")) == 3
    before = inputs.content_sha256(Path("x/a.raw"))
    Path("x/a.yaml").write_text(Path("x/a.yaml").read_text().replace("12.5", "12"))
    assert inputs.content_sha256(Path("x/a.raw")) != before  # another layout would be other frames


def test_contents_and_lengths():
    video = write_video(Path("a.mkv"), frames(5))
    assert inputs.content_sha256(video) == sha256_file(video) and inputs.expected_frames(video) == 5
    files = [write_image(Path(f"f/{index}.png"), frames(1, seed=index)[0]) for index in (0, 1)]
    wanted = joined_sha256(["0.png", "1.png"], [sha256_file(file) for file in files])
    assert inputs.content_sha256(Path("f")) == wanted and inputs.expected_frames(Path("f")) == 2
    assert inputs.expected_frames(files[0]) is None
    Path("no.mkv").write_bytes(b"no")
    assert inputs.expected_frames(Path("no.mkv")) is None


@pytest.mark.parametrize("text", ["nowhere", "*.mkv", "x/*.txt", "x"])
def test_what_names_no_recording(text):
    Path("x").mkdir()
    Path("x/a.txt").touch()
    with pytest.raises(InputError, match="no such|matches|holds no"):
        inputs.recordings([text])
