"""A hook of MkDocs: puts the pictures of examples/ where the pages look for them, `pictures/`."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
FOLDERS = ("examples/pictures", "examples/paper/pictures")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for folder in FOLDERS:
        for picture in sorted((ROOT / folder).glob("*.png")):
            name = f"pictures/{picture.name}"
            files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files
