"""Project 5: read a .pth without running it.

Run it as: python mine.py INPUT OUTPUT
"""

import sys
import zipfile

source, output = sys.argv[1:]
with zipfile.ZipFile(source) as archive:
    name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
    pickle = archive.read(name)

lines: list[str] = []
at = 0
while at < len(pickle):
    opcode = pickle[at : at + 1]
    at += 1
    if opcode == b"\x80":  # PROTO, and a byte
        at += 1
    elif opcode == b".":  # STOP
        break
    else:
        sys.exit(f"opcode {opcode!r} at {at - 1}: your turn, or the file asks for something that it must not have")

with open(output, "w", encoding="utf-8") as stream:
    stream.writelines(f"{line}\n" for line in lines)
