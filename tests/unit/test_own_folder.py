"""Only a folder that we made is ever emptied."""

from pathlib import Path

import pytest

from deploy.local import own_folder
from deploy.local.own_folder import ForeignFolderError
from drills import __main__ as drills


def test_what_we_made_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "demo"
    own_folder.make_anew(folder)
    (folder / "left").write_text("by an earlier run")
    own_folder.make_anew(folder)
    assert [path.name for path in folder.iterdir()] == [own_folder.MARK]


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    own_folder.make_anew(tmp_path)
    assert own_folder.is_ours(tmp_path)


def test_what_others_made_stays(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "precious").write_text("data")
    with pytest.raises(ForeignFolderError, match="is left as it is"):
        own_folder.make_anew(folder)
    assert (folder / "precious").read_text() == "data"


def test_a_link_to_a_folder_of_ours_is_not_followed(tmp_path: Path) -> None:
    own_folder.make_anew(tmp_path / "ours")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "ours")
    with pytest.raises(ForeignFolderError):
        own_folder.make_anew(link)
    assert (tmp_path / "ours" / own_folder.MARK).exists()


def test_a_file_in_the_way_stays(tmp_path: Path) -> None:
    file = tmp_path / "demo"
    file.write_text("data")
    with pytest.raises(ForeignFolderError):
        own_folder.make_anew(file)
    assert file.read_text() == "data"


def test_a_drill_empties_no_folder_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("data")
    with pytest.raises(SystemExit) as ended:
        drills.main(["mixed", "--folder", str(tmp_path)])
    assert ended.value.code == 2
    assert "was not made by Tokenrelay" in capsys.readouterr().err
    assert (tmp_path / "precious").exists()
