"""What kind of file system a journal lies on: one of another machine's is none to rest a 200 on.

SQLite's log needs memory that all its users share, and locks that hold; relay needs an fsync that
is one.
"""

import re
from pathlib import Path

from relay.errors import JournalRemoteError

#: The kernel's list of what is mounted where; macOS has none.
TABLE = Path("/proc/self/mountinfo")
#: Types as the kernel names them.
REMOTE = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gfs2", "gpfs"),
    *("lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs"),
}
#: The same behind `fuse.`, which is how the kernel names what a program of the user's serves.
REMOTE_BY_FUSE = {
    *("blobfuse", "blobfuse2", "ceph", "ceph-fuse", "curlftpfs", "davfs", "gcsfuse", "glusterfs"),
    *("goofys", "juicefs", "mount-s3", "rclone", "s3fs", "seaweedfs", "smbnetfs", "sshfs"),
}


def remote_type(path: Path) -> str:
    """Give the type of the network file system that a path is on, or will be; empty for none."""
    found = _type(path)
    if found in REMOTE or found.removeprefix("fuse.") in REMOTE_BY_FUSE:
        return found
    return ""


def refuse_remote(path: Path) -> None:
    """Raise JournalRemoteError where a path is on a network file system."""
    if found := remote_type(path):
        raise JournalRemoteError(
            f"{path}: lies on a network file system ({found}): its locks and fsync may not hold "
            "what a 200 promises; use a local or block volume, or accept it with "
            "journal.network_volume (RELAY_JOURNAL__NETWORK_VOLUME=true)"
        )


def _type(path: Path) -> str:
    """Give the type of the innermost mount that has a path; of two at one place, the later one."""
    try:
        lines = TABLE.read_text().splitlines()
    except OSError:
        return ""
    place = path.resolve()
    mounts = [
        (len(point.parts), number, kind)
        for number, (point, kind) in enumerate(map(_mount, lines))
        if point == place or point in place.parents
    ]
    return max(mounts)[2] if mounts else ""


def _mount(line: str) -> tuple[Path, str]:
    """Read `36 35 98:0 /root /point rw shared:1 - ext4 /dev/sda rw`: the point and the type."""
    before, _, after = line.partition(" - ")
    point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split(" ")[4])
    return Path(point), after.split(" ")[0]
