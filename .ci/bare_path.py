"""Fill a folder with links to every program on PATH but the named ones: ``bare_path.py FOLDER NAME...``."""

import os
import sys
from pathlib import Path

folder, hidden = Path(sys.argv[1]), set(sys.argv[2:])
for place in os.environ["PATH"].split(os.pathsep):
    for program in sorted(Path(place).iterdir()) if Path(place).is_dir() else ():
        link = folder / program.name
        if program.name not in hidden and not link.is_symlink() and os.access(program, os.X_OK):
            link.symlink_to(program)
