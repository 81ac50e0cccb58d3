"""A journal on another machine's disk is refused, by the type of its file system."""

from pathlib import Path

import pytest

from relay.errors import JournalRemoteError
from relay.journal.disk import mounts

#: One line of the kernel's table, as proc(5) has it.
LINE = "{number} 1 0:{number} / {point} rw,relatime shared:1 - {kind} source rw"


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table to be written; give its place."""
    monkeypatch.setattr(mounts, "TABLE", tmp_path / "mountinfo")
    return tmp_path / "mountinfo"


def table(place: Path, *rows: tuple[str, str]) -> None:
    lines = (
        LINE.format(number=number, point=point, kind=kind)
        for number, (point, kind) in enumerate(rows, 20)
    )
    place.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "kind",
    ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "glusterfs", "fuse.sshfs", "fuse.s3fs"],
)
def test_network_file_systems_are_refused(kind: str, mounted: Path, tmp_path: Path) -> None:
    """What is not there yet would be made there."""
    table(mounted, ("/", "ext4"), (str(tmp_path), kind))
    for path in (tmp_path / "journal.db", tmp_path / "not" / "yet" / "journal.db"):
        with pytest.raises(JournalRemoteError, match=rf"network file system \({kind}\)") as caught:
            mounts.refuse_remote(path)
        assert str(path) in str(caught.value)
        assert "RELAY_JOURNAL__NETWORK_VOLUME" in str(caught.value)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuse.ntfs-3g"]
)
def test_local_file_systems_are_taken(kind: str, mounted: Path, tmp_path: Path) -> None:
    table(mounted, ("/", "nfs4"), (str(tmp_path), kind))
    mounts.refuse_remote(tmp_path / "journal.db")


def test_innermost_and_latest_mount_counts(mounted: Path, tmp_path: Path) -> None:
    """A name that begins alike is another directory; a mount may hide an earlier one."""
    disk = tmp_path / "disk"
    table(mounted, (str(disk), "ext4"), ("/", "ext4"), (f"{disk}-2", "nfs"), (str(disk), "nfs4"))
    assert mounts.remote_type(disk / "journal.db") == "nfs4"
    assert mounts.remote_type(tmp_path / "journal.db") == ""


def test_mount_points_are_read_as_they_are_written(mounted: Path, tmp_path: Path) -> None:
    """The kernel writes a space as a number; a link leads where it leads."""
    place = tmp_path / "a disk"
    place.mkdir()
    table(mounted, ("/", "ext4"), (str(place).replace(" ", "\\040"), "cifs"))
    assert mounts.remote_type(place / "journal.db") == "cifs"
    link = tmp_path / "link"
    link.symlink_to(place)
    assert mounts.remote_type(link / "journal.db") == "cifs"


def test_where_the_kernel_has_no_table_nothing_is_known(mounted: Path, tmp_path: Path) -> None:
    assert not mounted.exists()
    mounts.refuse_remote(tmp_path / "journal.db")


def test_this_machines_own_table_is_read(tmp_path: Path) -> None:
    assert mounts._type(tmp_path) != ""
